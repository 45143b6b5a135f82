//! Redis: elements of queues that a set holds, pushed back. It cannot be undone, and is done only on request.

use crate::format::ObjectId;
use crate::format::set::{self, Part};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::profile::Component;
use crate::orchestrate::platform::rest::in_words;
use crate::orchestrate::platform::restore::plan::{Draft, Intent, Look, Work, step};
use crate::orchestrate::platform::restore::told::Told;
use crate::orchestrate::platform::restore::{Back, Scene};
use crate::orchestrate::platform::store::Role;
use crate::source::redis::Client;

const STAGE: &str = "stage-redis";
const PUSH: &str = "push-redis";

/// What is done.
#[derive(Clone, Debug)]
pub struct QueueWork {
    parts: Vec<(ObjectId, u64)>,
}

/// Looks what there is.
pub fn draft(look: &Look<'_>, found: &set::Component) -> Result<Draft, OrchestrateError> {
    let ours = |part: &&Part| [Role::QUEUES.name(), Role::PURGED.name()].contains(&part.role.as_str());
    let parts: Vec<&Part> = found.parts.iter().filter(ours).collect();
    for part in &parts {
        look.snapshot(part)?;
    }
    let component = Component::Redis;
    let intent = Intent {
        component,
        into: vec![look.profile.redis.shown()],
        replaces: Vec::new(),
        bytes: parts.iter().map(|part| part.bytes).sum(),
        notes: vec![
            "what is in the queues stays there; elements that were pushed back stay, whatever else fails".to_owned(),
        ],
        steps: vec![
            step(component, STAGE, "read the elements of queues through: all of them are there", false),
            step(component, PUSH, "push the elements of queues back", false),
        ],
        work: Work::Queues(QueueWork { parts: parts.iter().map(|part| (part.snapshot, part.bytes)).collect() }),
    };
    Ok(Draft { intent, obstacles: Vec::new(), space: Vec::new() })
}

/// Reads everything through.
pub fn stage(scene: &Scene<'_>, work: &QueueWork, notes: &Notes<'_>) -> Result<(), OrchestrateError> {
    scene.executor.step(STAGE, None, || {
        let mut read = 0;
        for (snapshot, bytes) in &work.parts {
            let stream = scene.order.repository.stream(&scene.snapshot(snapshot)?.snapshot.content)?;
            read += Told::new(stream, STAGE, *bytes, notes).read_through()?;
        }
        Ok((format!("{read} bytes"), ()))
    })
}

/// Pushes them.
pub fn put_in(scene: &Scene<'_>, work: &QueueWork) -> Result<Back, OrchestrateError> {
    let compared = scene.executor.step(PUSH, None, || {
        let mut client = Client::connect(&scene.executor.profile.redis)?;
        let mut all = std::collections::BTreeMap::new();
        for (snapshot, _) in &work.parts {
            let stream = scene.order.repository.stream(&scene.snapshot(snapshot)?.snapshot.content)?;
            for (key, elements) in client.push_back(stream)? {
                *all.entry(key).or_insert(0) += elements;
            }
        }
        let seen = format!("pushed back: {}", in_words(&all));
        Ok((seen.clone(), seen))
    })?;
    Ok(Back { compared: Some(compared), aside: Vec::new() })
}
