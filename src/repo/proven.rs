//! Which backup sets drills have proven.
//!
//! The rule: a component is proven when every part of it has a proof by a drill of this component of this set, and every
//! part is still there. A set is proven when every component is that it holds complete, in one drill or in several. It
//! is proven as of the oldest of the proofs that it needs, each taken at its newest: no component was looked at longer
//! ago.
//!
//! Invariant: what cannot be read proves nothing, be it a proof or a snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::backend::remove_if_there;
use crate::format::record::Proof;
use crate::format::set::{Component, Status};
use crate::format::{Kind, ObjectId};
use crate::repo::Repository;
use crate::repo::error::RepoError;
use crate::repo::records::Snapshots;
use crate::repo::sets::SetInfo;

/// What drills have proven of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SetProof {
    /// Since when all of it counts as proven; `None` if not all of it does.
    pub proven: Option<Timestamp>,
    /// Each component that is proven.
    pub components: BTreeMap<String, ComponentProof>,
}

impl SetProof {
    /// How long restoring and comparing everything took, in milliseconds.
    pub fn milliseconds(&self) -> u64 {
        let each =
            self.components.values().map(|one| one.restore_milliseconds.saturating_add(one.compare_milliseconds));
        each.fold(0, u64::saturating_add)
    }
}

/// A component that a drill has proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ComponentProof {
    /// When.
    pub time: Timestamp,
    /// What was compared; for people.
    pub compared: String,
    /// The versions of the servers that it was restored into.
    pub versions: BTreeMap<String, String>,
    /// How long restoring took.
    pub restore_milliseconds: u64,
    /// How long comparing took.
    pub compare_milliseconds: u64,
    /// The machine that did it.
    pub host: String,
    /// The program that did it.
    pub program: String,
}

/// What is proven of each of some sets; sets of which nothing is are left out. `present` are the snapshots that can be
/// read.
pub fn proven<'p>(
    sets: &[SetInfo],
    proofs: impl IntoIterator<Item = &'p Proof>,
    present: &HashSet<ObjectId>,
) -> HashMap<ObjectId, SetProof> {
    let mut newest: HashMap<(ObjectId, &str, ObjectId), &Proof> = HashMap::new();
    for proof in proofs {
        let Some(drill) = &proof.drill else { continue };
        let known = newest.entry((drill.set, &drill.component, proof.snapshot)).or_insert(proof);
        if proof.time > known.time {
            *known = proof;
        }
    }
    let component = |set: &SetInfo, component: &Component| {
        let part = |snapshot: &ObjectId| {
            let there = present.contains(snapshot);
            newest.get(&(set.id, component.name.as_str(), *snapshot)).copied().filter(|_| there)
        };
        let parts: Option<Vec<&Proof>> = component.parts.iter().map(|held| part(&held.snapshot)).collect();
        let proof = parts?.into_iter().min_by_key(|proof| proof.time)?;
        let drill = proof.drill.as_ref()?;
        Some(ComponentProof {
            time: proof.time,
            compared: drill.compared.clone(),
            versions: drill.versions.clone(),
            restore_milliseconds: drill.restore_milliseconds,
            compare_milliseconds: drill.compare_milliseconds,
            host: proof.host.clone(),
            program: proof.program.clone(),
        })
    };
    let mut all = HashMap::new();
    for set in sets {
        let mut complete = 0;
        let mut found = SetProof::default();
        for one in set.set.components.iter().filter(|one| one.status == Status::Complete) {
            complete += 1;
            found.components.extend(component(set, one).map(|proof| (one.name.clone(), proof)));
        }
        if found.components.len() == complete {
            found.proven = found.components.values().map(|one| one.time).min();
        }
        if !found.components.is_empty() {
            all.insert(set.id, found);
        }
    }
    all
}

impl Snapshots {
    /// What drills have proven of these sets.
    pub fn proven(&self, sets: &[SetInfo]) -> HashMap<ObjectId, SetProof> {
        proven(sets, &self.drills, &self.found.iter().map(|info| info.id).collect())
    }
}

impl Repository {
    /// Publishes the proofs of a drill, once everything that it compared was equal. Fails, and leaves none of them, if a
    /// part of what they prove was forgotten meanwhile.
    pub fn publish_drill(&self, set: &ObjectId, proofs: &[Proof]) -> Result<Vec<ObjectId>, RepoError> {
        let mut written = Vec::new();
        for proof in proofs {
            written.push(self.write_record(proof)?);
        }
        self.backend().sync()?;
        let needed = proofs.iter().map(|proof| (Kind::Snapshot, proof.snapshot));
        for (kind, id) in needed.chain([(Kind::Set, *set)]) {
            match self.backend().stat(kind, &id) {
                Err(error) if error.is_not_found() => {
                    for proof in &written {
                        remove_if_there(self.backend().as_ref(), Kind::Proof, proof)?;
                    }
                    self.backend().sync()?;
                    return Err(RepoError::Disappeared { kind, id });
                }
                result => drop(result?),
            }
        }
        Ok(written)
    }
}
