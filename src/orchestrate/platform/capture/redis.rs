//! What is in the queues, and Redis' own dump where it is wanted.

use super::{Captured, Scene, unread};
use crate::format::set::{Facts, RedisFacts};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::backup::TreeOptions;
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::store::Role;
use crate::source::redis::Client;
use crate::source::redis::read::QueueReader;

const STEP: &str = "capture-redis";

pub fn capture(scene: &Scene<'_>, notes: &Notes<'_>) -> Result<Captured, OrchestrateError> {
    let settings = &scene.executor.profile.redis;
    scene.executor.step(STEP, None, || {
        let mut client = Client::connect(settings)?;
        let info = client.info()?;
        let queues: Vec<String> = settings.all_queues().cloned().collect();
        let lengths = client.lengths(&queues)?;
        let mut keys: Vec<String> = queues.iter().flat_map(|queue| settings.keys(queue)).collect();
        keys.extend(settings.unacked_keys());
        let reader = client.read_keys(&keys)?;
        let (part, saved) = scene.store.stream(Role::QUEUES, reader, QueueReader::finish, STEP, notes)?;
        let elements: u64 = saved.iter().map(|saved| saved.elements).sum();
        let mut captured = Captured { parts: vec![part], ..Captured::default() };
        if settings.dump {
            dump(scene, &mut client, &mut captured, notes)?;
        }
        let purged = scene.purged.map(|purged| {
            captured.parts.push(purged.part.clone());
            purged.elements()
        });
        captured.versions.insert("redis".to_owned(), info.version);
        captured.facts = Some(Facts::Redis(RedisFacts { queues: lengths, purged: purged.unwrap_or_default() }));
        Ok((format!("{elements} elements"), captured))
    })
}

fn dump(
    scene: &Scene<'_>,
    client: &mut Client,
    captured: &mut Captured,
    notes: &Notes<'_>,
) -> Result<(), OrchestrateError> {
    let saved = client.bgsave(&scene.executor.stop())?;
    let Some(file) = saved.file else {
        captured.lacks.push("the dump of Redis is not on this machine, or Redis does not tell where".to_owned());
        return Ok(());
    };
    let tree = TreeOptions { roots: vec![file], ..TreeOptions::default() };
    let (part, missed) = scene.store.tree(Role::RDB, tree, STEP, notes)?;
    captured.parts.push(part);
    captured.lacks.extend(unread(missed));
    Ok(())
}
