//! Which path of a tree an operator means.
//!
//! What `ls` prints has every byte that is not UTF-8, every control character and `%` as `%XX`; a name that is typed by
//! hand or by a script is the name itself. Both are accepted. Where both exist there is no guessing.

use crate::format::codec::{escape, unescape};
use crate::format::record::{Snapshot, SnapshotKind};
use crate::format::tree::Entry;
use crate::orchestrate::error::OrchestrateError;
use crate::repo::{RepoError, Repository};

/// The path meant by `typed`: that of an entry, or `typed` itself where there is none. Without slashes at its ends.
pub fn locate(repository: &Repository, snapshot: &Snapshot, typed: &[u8]) -> Result<Vec<u8>, OrchestrateError> {
    if snapshot.kind == SnapshotKind::Stream || !typed.contains(&b'%') {
        return Ok(typed.to_vec());
    }
    let Some(meant) = str::from_utf8(typed).ok().and_then(|text| unescape(text).ok()) else {
        return Ok(typed.to_vec());
    };
    match (exists(repository, snapshot, typed)?, exists(repository, snapshot, &meant)?) {
        (true, true) => {
            let text = |path: &[u8]| format!("/{}", String::from_utf8_lossy(path));
            Err(OrchestrateError::AmbiguousPath { typed: text(typed), escaped: format!("/{}", escape(typed)) })
        }
        (false, true) => Ok(meant),
        (_, false) => Ok(typed.to_vec()),
    }
}

/// Whether a tree has an entry of just this path, without slashes at its ends.
pub fn exists(repository: &Repository, snapshot: &Snapshot, path: &[u8]) -> Result<bool, RepoError> {
    Ok(entry(repository, snapshot, path)?.is_some())
}

/// A tree's entry of just this path, without slashes at its ends.
pub fn entry(repository: &Repository, snapshot: &Snapshot, path: &[u8]) -> Result<Option<Entry>, RepoError> {
    let mut tree = repository.tree(&snapshot.content)?;
    tree.seek(path)?;
    Ok(tree.next_entry()?.filter(|entry| entry.path == path))
}
