//! Which backup sets drills have proven, and in which they found a difference.
//!
//! The rule: a component is proven when of every part of it the newest result of a drill of this component of this set is
//! that all was equal, and every part is still there. A set is proven when every component is that it holds complete, in
//! one drill or in several. It is proven as of the oldest of the proofs that it needs, each taken at its newest: no
//! component was looked at longer ago.
//!
//! Invariants: what cannot be read proves nothing, be it a proof or a snapshot. A drill that finds a difference removes
//! the proofs that it takes back before it writes what it found: whatever happens to that record, nothing older counts
//! again. Where they cannot be removed, the newer result wins.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::backend::remove_if_there;
use crate::format::record::{DrillOutcome, Drilled, Proof};
use crate::format::set::{BackupSet, Component, Status};
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
    /// Each component that its last drill did not find equal to what was recorded.
    pub different: BTreeMap<String, Difference>,
    /// Whether a record of a drill cannot be read just now, which may say that something differs: then nothing counts as
    /// proven.
    #[serde(skip)]
    pub doubtful: bool,
}

impl SetProof {
    /// Since when all of these components of the set count as proven that it holds complete; `None` if not all of them do.
    pub fn proven_of(&self, set: &BackupSet, names: &[&str]) -> Option<Timestamp> {
        let is_meant = |one: &&Component| one.status == Status::Complete && names.contains(&one.name.as_str());
        let proofs = set.components.iter().filter(is_meant).map(|one| self.components.get(&one.name));
        let times = proofs.map(|proof| proof.map(|proof| proof.time)).collect::<Option<Vec<_>>>()?;
        times.into_iter().min().filter(|_| !self.doubtful)
    }

    /// The newest difference in one of these components.
    pub fn last_different_of(&self, names: &[&str]) -> Option<&Difference> {
        let of = self.different.iter().filter(|(name, _)| names.contains(&name.as_str()));
        of.map(|(_, one)| one).max_by_key(|one| one.time)
    }

    /// How long restoring and comparing everything took, in milliseconds.
    pub fn milliseconds(&self) -> u64 {
        let each =
            self.components.values().map(|one| one.restore_milliseconds.saturating_add(one.compare_milliseconds));
        each.fold(0, u64::saturating_add)
    }

    /// The newest difference.
    pub fn last_different(&self) -> Option<&Difference> {
        self.different.values().max_by_key(|one| one.time)
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

/// A component that its last drill did not find equal to what was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// When.
    pub time: Timestamp,
    /// Whether it was restored at all.
    pub outcome: DrillOutcome,
    /// What differs, or why it could not be restored.
    pub differences: Vec<String>,
    /// The versions of the servers that it was restored into.
    pub versions: BTreeMap<String, String>,
    /// The machine that did it.
    pub host: String,
    /// The program that did it.
    pub program: String,
}

impl Difference {
    /// In a word, for people.
    pub fn word(&self) -> &'static str {
        word(self.outcome)
    }
}

/// An outcome in a word, for people.
pub fn word(outcome: DrillOutcome) -> &'static str {
    match outcome {
        DrillOutcome::Equal => "equal",
        DrillOutcome::Different => "different",
        DrillOutcome::Failed => "failed",
    }
}

/// What drills are about: a component of a set, and a part of it.
type Place<'p> = (ObjectId, &'p str, ObjectId);

/// The newest result of drills of each part of each component. Of two of the same time the worse one.
pub fn newest<'p>(proofs: impl IntoIterator<Item = &'p Proof>) -> HashMap<Place<'p>, (&'p Proof, &'p Drilled)> {
    let mut newest: HashMap<Place<'p>, (&Proof, &Drilled)> = HashMap::new();
    for proof in proofs {
        let Some(drill) = &proof.drill else { continue };
        let known = newest.entry((drill.set, &drill.component, proof.snapshot)).or_insert((proof, drill));
        if (proof.time, !proof.holds()) > (known.0.time, !known.0.holds()) {
            *known = (proof, drill);
        }
    }
    newest
}

/// What is proven of each of some sets, and what differs; sets of which no drill tells anything are left out. `present` are
/// the snapshots that can be read.
pub fn proven<'p>(
    sets: &[SetInfo],
    proofs: impl IntoIterator<Item = &'p Proof>,
    present: &HashSet<ObjectId>,
) -> HashMap<ObjectId, SetProof> {
    let newest = newest(proofs);
    let mut all = HashMap::new();
    for set in sets {
        let mut complete = 0;
        let mut found = SetProof::default();
        for one in set.set.components.iter().filter(|one| one.status == Status::Complete) {
            complete += 1;
            let part = |snapshot| newest.get(&(set.id, one.name.as_str(), snapshot)).copied();
            let parts: Vec<_> = one.parts.iter().map(|held| part(held.snapshot)).collect();
            let worst = parts.iter().flatten().filter(|(proof, _)| !proof.holds()).max_by_key(|(proof, _)| proof.time);
            if let Some(worst) = worst {
                found.different.insert(one.name.clone(), difference(*worst));
            } else if let Some(proof) = whole(one, parts, present) {
                found.components.insert(one.name.clone(), proof);
            }
        }
        if found.components.len() == complete {
            found.proven = found.components.values().map(|one| one.time).min();
        }
        if !found.components.is_empty() || !found.different.is_empty() {
            all.insert(set.id, found);
        }
    }
    all
}

/// The oldest proof of a component all of whose parts are there and have one.
fn whole(
    component: &Component,
    proofs: Vec<Option<(&Proof, &Drilled)>>,
    present: &HashSet<ObjectId>,
) -> Option<ComponentProof> {
    if !component.parts.iter().all(|held| present.contains(&held.snapshot)) {
        return None;
    }
    let proofs: Vec<(&Proof, &Drilled)> = proofs.into_iter().collect::<Option<_>>()?;
    let (proof, drill) = proofs.into_iter().min_by_key(|(proof, _)| proof.time)?;
    Some(ComponentProof {
        time: proof.time,
        compared: drill.compared.clone(),
        versions: drill.versions.clone(),
        restore_milliseconds: drill.restore_milliseconds,
        compare_milliseconds: drill.compare_milliseconds,
        host: proof.host.clone(),
        program: proof.program.clone(),
    })
}

fn difference((proof, drill): (&Proof, &Drilled)) -> Difference {
    Difference {
        time: proof.time,
        outcome: drill.outcome,
        differences: drill.differences.clone(),
        versions: drill.versions.clone(),
        host: proof.host.clone(),
        program: proof.program.clone(),
    }
}

impl Snapshots {
    /// What drills have proven of these sets. While a record of a drill cannot be read that is not broken for good, no set
    /// counts as proven as a whole: it may say of any of them that it differs.
    pub fn proven(&self, sets: &[SetInfo]) -> HashMap<ObjectId, SetProof> {
        let mut all = proven(sets, &self.drills, &self.found.iter().map(|info| info.id).collect());
        if self.damaged_proofs.iter().any(|record| !record.is_broken()) {
            all.values_mut().for_each(|one| (one.proven, one.doubtful) = (None, true));
        }
        all
    }
}

impl Repository {
    /// Publishes what a drill found. Proofs that it takes back are removed before; that they cannot be is an error once what was found
    /// is written. Fails, and leaves none of it, if a part of what it is about was forgotten meanwhile.
    pub fn publish_drill(&self, set: &ObjectId, proofs: &[Proof]) -> Result<Vec<ObjectId>, RepoError> {
        let about = |proof: &Proof| proof.drill.as_ref().map(|drill| (drill.set, drill.component.clone()));
        let before = self.readable_records::<Proof>()?.found;
        let refuted: HashSet<_> = proofs.iter().filter(|proof| !proof.holds()).filter_map(about).collect();
        let taken_back =
            before.iter().filter(|(_, old)| old.holds() && about(old).is_some_and(|of| refuted.contains(&of)));
        let removed = taken_back.map(|(id, _)| *id).collect::<Vec<_>>();
        let removed = self.remove_proofs(&removed);

        let mut written = Vec::new();
        for proof in proofs {
            written.push(self.write_record(proof)?);
        }
        self.backend().sync()?;
        let needed = proofs.iter().map(|proof| (Kind::Snapshot, proof.snapshot));
        for (kind, id) in needed.chain([(Kind::Set, *set)]) {
            match self.backend().stat(kind, &id) {
                Err(error) if error.is_not_found() => {
                    self.remove_proofs(&written)?;
                    return Err(RepoError::Disappeared { kind, id });
                }
                result => drop(result?),
            }
        }
        removed?;
        // By a clock that was wrong here or there: these proofs would not count, and nobody would know.
        for proof in proofs.iter().filter(|proof| proof.holds()) {
            let of = about(proof);
            let is_later = |old: &&(ObjectId, Proof)| !old.1.holds() && about(&old.1) == of && old.1.time >= proof.time;
            if let (Some((id, old)), Some((_, component))) = (before.iter().find(is_later), &of) {
                let why = format!(
                    "{component} is equal to what was recorded, but the record proofs/{id} says that a drill on {} found a \
                     difference at {}, which is later than now: set the clocks right, then remove that record if its time is wrong, \
                     and run the drill again",
                    old.host, old.time
                );
                return Err(RepoError::Refused { why });
            }
        }
        Ok(written)
    }

    fn remove_proofs(&self, ids: &[ObjectId]) -> Result<(), RepoError> {
        if ids.is_empty() {
            return Ok(());
        }
        for id in ids {
            remove_if_there(self.backend().as_ref(), Kind::Proof, id)?;
        }
        Ok(self.backend().sync()?)
    }
}
