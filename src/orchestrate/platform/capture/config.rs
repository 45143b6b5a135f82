//! Configuration files and keys: one tree.

use super::{Captured, Scene, unread};
use crate::format::codec::escape;
use crate::format::set::{ConfigFacts, Facts, KeyFile};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::backup::TreeOptions;
use crate::orchestrate::platform::discover::{Discovery, State};
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::store::Role;
use crate::source::files::Patterns;

const STEP: &str = "capture-config";

pub fn capture(scene: &Scene<'_>, notes: &Notes<'_>) -> Result<Captured, OrchestrateError> {
    let (executor, discovery) = (scene.executor, &scene.executor.plan.discovery);
    let groups = &executor.profile.config.groups;
    executor.step(STEP, None, || {
        let tree = TreeOptions {
            roots: discovery.roots(),
            exclude: Patterns::new(groups.values().flat_map(|group| &group.exclude).map(|glob| glob.as_bytes()))?,
            changing: groups.values().flat_map(|group| &group.changing).cloned().collect(),
            ..TreeOptions::default()
        };
        let (part, missed) = scene.store.tree(Role::TREE, tree, STEP, notes)?;
        let gaps = discovery.gaps.iter().map(|gap| format!("{}: {}", escape(&gap.file.0), gap.text));
        let captured = Captured {
            lacks: unread(missed).into_iter().chain(gaps).collect(),
            facts: Some(Facts::Config(facts(discovery))),
            parts: vec![part],
            ..Captured::default()
        };
        Ok((String::new(), captured))
    })
}

fn facts(discovery: &Discovery) -> ConfigFacts {
    let absent = discovery.findings().filter(|found| found.state == State::Absent);
    let key = |key: &crate::orchestrate::platform::discover::KeyFinding| KeyFile {
        path: key.found.path.clone(),
        named_by: key.named_by.as_ref().map(|naming| naming.file.clone()),
        present: !matches!(key.found.state, State::Absent),
    };
    ConfigFacts {
        absent: absent.map(|found| found.path.clone()).collect(),
        keys: discovery.keys.iter().map(key).collect(),
    }
}
