//! What is on the way to what was backed up.
//!
//! Invariant: only what was backed up, and what is below it, is ever replaced. The directories above the roots are in a
//! tree so that it hangs together; on the machine that gets it, one of them may be a link (`/lib`, `/bin`) without which
//! no program starts any more.

use super::{Restore, is_below};
use crate::format::tree::Entry;
use crate::source::files::State;

impl Restore<'_> {
    /// Whether a directory above the roots is something else here: a link, most probably (`/lib`), on which the whole
    /// machine depends. Only what was backed up is ever replaced.
    pub(super) fn leads_elsewhere(&self, entry: &Entry) -> bool {
        let roots = || self.snapshot.paths.iter().map(|root| root.0.strip_prefix(b"/").unwrap_or(&root.0));
        let path = entry.path.as_slice();
        let is_above = self.options.path.is_empty()
            && !path.is_empty()
            && roots().any(|root| is_below(root, path))
            && !roots().any(|root| root.is_empty() || root == path || is_below(path, root));
        let there = self.target.as_ref().filter(|_| is_above).map(|target| target.existing(entry));
        matches!(there, Some(Ok(State::Different | State::Obstructed)))
    }
}
