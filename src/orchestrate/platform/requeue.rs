//! Elements that a backup set holds back into the queues of Redis.
//!
//! Invariant: no queue is touched before the whole stream was read from the repository and found right. What is in a
//! queue stays there, and what comes back is consumed before it. Done twice, it pushes twice: whoever asks is told.

use std::collections::BTreeMap;

use crate::format::set::BackupSet;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::orchestrate::platform::restore::plan::snapshot;
use crate::orchestrate::platform::store::Role;
use crate::repo::Repository;
use crate::source::redis::Client;

/// Pushes back what a part of a set holds; elements by key.
pub fn requeue(
    repository: &Repository,
    profile: &Profile,
    set: &BackupSet,
    role: Role,
) -> Result<BTreeMap<String, u64>, OrchestrateError> {
    let redis = set.components.iter().find(|component| component.name == Component::Redis.name());
    let parts = redis.into_iter().flat_map(|component| &component.parts);
    let none = || OrchestrateError::Unfit(format!("the set has no part `{}` of redis: see its report", role.name()));
    let part = parts.into_iter().find(|part| part.role == role.name()).ok_or_else(none)?;
    let snapshots = repository.readable_snapshots()?;
    let info = snapshot(&snapshots.found, &part.snapshot)?;
    Ok(Client::connect(&profile.redis)?.push_back(repository.stream(&info.snapshot.content)?)?)
}
