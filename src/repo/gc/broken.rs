//! Packs whose footer cannot be used, so that nobody knows what is in them.
//!
//! Invariant: such a pack goes only if its bytes are wrong for good, and everything that the snapshots need is found in
//! other packs. It goes by a tombstone like any other, in which all of it is dead: a writer whose index still knows the
//! pack from better days treats its chunks as absent, or the sweep waits for that writer.

use crate::backend::ByteRange;
use crate::format::pack::MAX_PACK;
use crate::format::record::CondemnedPack;
use crate::format::{Kind, ObjectId};
use crate::repo::Repository;
use crate::repo::error::RepoError;
use crate::repo::gc::keep::Keep;
use crate::repo::gc::{Fate, PlannedPack};

/// A footer has at least this many bytes for each chunk: its id, which does not compress.
const LEAST_FOOTER_BYTES: u64 = 16;

/// A pack whose bytes are not what its name says.
pub struct BrokenPack {
    /// Data or metadata.
    pub kind: Kind,
    /// The pack.
    pub id: ObjectId,
    /// Its present length.
    pub len: u64,
}

/// The unusable packs of the last refresh. One that may be right after all is an error: what is in it is needed, perhaps.
pub fn find(repository: &Repository) -> Result<Vec<BrokenPack>, RepoError> {
    let mut broken = Vec::new();
    for (kind, id, message) in repository.unusable_packs() {
        let stored = match repository.backend().read(kind, &id, ByteRange::All { limit: MAX_PACK }) {
            Err(error) if error.is_not_found() => continue,
            result => result?,
        };
        if ObjectId::of(&stored) == id {
            let why =
                format!("{kind} {id} cannot be read ({message}), so what is needed is not known; run `cairn check`");
            return Err(RepoError::Refused { why });
        }
        broken.push(BrokenPack { kind, id, len: stored.len() as u64 });
    }
    Ok(broken)
}

/// As [`find`], once `keep` has found all that is needed elsewhere; an error if something was not found.
pub fn unneeded(repository: &Repository, keep: &Keep) -> Result<Vec<BrokenPack>, RepoError> {
    let broken = find(repository)?;
    match broken.first() {
        Some(BrokenPack { kind, id, .. }) if keep.lacks_base() => {
            let why = format!(
                "{kind} {id} is damaged and may hold what others are a difference to: put it back from a copy of the \
                 repository, or store the same sources again with `cairn backup --force`, then forget what `cairn check` \
                 still names"
            );
            Err(RepoError::Refused { why })
        }
        _ => Ok(broken),
    }
}

/// How a tombstone names them: every chunk that may be in them is dead.
pub fn condemn(broken: &[BrokenPack]) -> Vec<CondemnedPack> {
    let all_dead = |pack: &BrokenPack| "ff".repeat((pack.len / LEAST_FOOTER_BYTES / 8 + 1) as usize);
    broken
        .iter()
        .map(|pack| CondemnedPack { id: pack.id, meta: pack.kind == Kind::MetaPack, dead: all_dead(pack) })
        .collect()
}

/// How a report names one.
pub fn planned(pack: &BrokenPack) -> PlannedPack {
    PlannedPack { id: pack.id, kind: pack.kind.word(), bytes: pack.len, dead_bytes: pack.len, fate: Fate::Remove }
}

/// Says which pack a missing chunk may be in, and how to go on.
pub fn explain(repository: &Repository, snapshot: &ObjectId, error: RepoError) -> RepoError {
    let RepoError::MissingChunk { id: chunk } = &error else { return error };
    let snapshot = snapshot.short();
    let whose = match repository.unusable_packs().first() {
        Some((kind, id, message)) => format!("{kind} {id} cannot be read ({message}), and "),
        None => String::new(),
    };
    let why = format!(
        "{whose}snapshot {snapshot} needs chunk {chunk}, which is in no readable pack: store the same sources again with \
         `cairn backup --force`, or forget what `cairn check` names"
    );
    RepoError::Refused { why }
}
