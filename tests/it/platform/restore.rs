//! What becomes of what a restore has replaced.

use cairn::orchestrate::platform::profile::Component;
use cairn::orchestrate::platform::restore::{Restored, State, may_discard};

#[test]
fn what_was_moved_aside_goes_only_where_everything_was_found_equal() {
    let one = |component, state| Restored {
        component,
        state,
        detail: String::new(),
        aside: Vec::new(),
        notes: Vec::new(),
        milliseconds: 1,
    };
    let restored = one(Component::Postgres, State::Restored);
    assert!(may_discard(std::slice::from_ref(&restored)));
    for other in [State::Failed, State::Uncompared] {
        assert!(!may_discard(&[restored.clone(), one(Component::Neo4j, other)]), "{other:?}");
    }
}
