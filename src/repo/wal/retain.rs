//! Which files of the log may go: what comes before the first position that a kept base backup needs.
//!
//! Invariant: no base backup of a set that is kept loses log that it needs, on whatever timeline. A file goes only if its
//! cluster has a base backup that is kept and present, if it ends before the position of *every* base backup of that
//! cluster in any set, and if it is older than the grace period and than every other live lease. Histories never go.
//!
//! The race: a base backup that runs is in no set yet. It takes a lease of a writer before it begins, and the segments
//! that it needs are archived after that: they are younger than its lease, so the age protects them until its set is
//! published, and from then on the set does. The sets are listed after the leases, so that one of the two is seen.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::backend::{list_all, remove_if_there};
use crate::format::set::{Component, Facts, PostgresFacts};
use crate::format::timeline::{lsn, position};
use crate::format::wal::{SegmentName, WalHead, WalName};
use crate::format::{Kind, ObjectId};
use crate::progress::{Monitor, Notice};
use crate::repo::error::RepoError;
use crate::repo::lease::Held;
use crate::repo::sets::SetInfo;
use crate::repo::wal::Archive;
use crate::repo::wal::catalog::Catalog;
use crate::repo::{Repository, chain};

/// After so many removals the collector's lease is looked at again.
const BETWEEN_CHECKS: usize = 64;

/// Files of one timeline that go, or would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedLog {
    /// The cluster's identifier.
    pub system_id: String,
    /// The timeline.
    pub timeline: u32,
    /// The first file.
    pub first: String,
    /// The last.
    pub last: String,
    /// How many there are.
    pub files: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// They come before this position, from which on the log is needed.
    pub before: String,
}

/// A base backup in a set: files of a cluster that need the log from a position on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The set.
    pub set: ObjectId,
    /// When the set was made.
    pub time: Timestamp,
    /// When it was complete.
    pub ended: Timestamp,
    /// The cluster's identifier.
    pub system_id: u64,
    /// The timeline that it was made on.
    pub timeline: u32,
    /// The log is needed from here on.
    pub position: u64,
    /// Up to here at least, else the files are no one point in time.
    pub stop: u64,
    /// Whether this log was found archived when it was made.
    pub archived: bool,
    /// The snapshot of its files; none if it holds nothing that can be restored.
    pub files: Option<ObjectId>,
}

/// The base backups of sets. One that does not say what it needs is an error: this is for who decides what is unneeded.
pub fn bases(sets: &[SetInfo]) -> Result<Vec<Base>, RepoError> {
    let mut bases = Vec::new();
    for info in sets {
        for component in &info.set.components {
            let Some(Facts::Postgres(facts)) = &component.facts else { continue };
            if facts.method != "dump" {
                bases.push(base(info, component, facts).ok_or_else(|| unclear(info, facts))?);
            }
        }
    }
    Ok(bases)
}

fn base(info: &SetInfo, component: &Component, facts: &PostgresFacts) -> Option<Base> {
    let files = component.parts.iter().find(|part| matches!(part.role.as_str(), "base" | "files"));
    let (own, start) = (facts.base.as_ref(), position(&facts.lsn)?);
    Some(Base {
        set: info.id,
        time: info.set.time,
        ended: own.map_or(info.set.ended, |own| own.ended),
        system_id: facts.system_id.parse().ok()?,
        timeline: facts.timeline,
        position: start,
        stop: own.map_or(Some(start), |own| position(&own.stop_lsn))?.max(start),
        archived: own.is_some_and(|own| own.archived),
        files: files.map(|part| part.snapshot),
    })
}

fn unclear(info: &SetInfo, facts: &PostgresFacts) -> RepoError {
    let why = format!(
        "backup set {} has a base backup of cluster {:?} from {:?} on, which this program does not understand, so it \
         does not know which log is needed: use a newer cairn, or forget the set",
        info.id.short(),
        facts.system_id,
        facts.lsn
    );
    RepoError::Refused { why }
}

/// From which position on each cluster's log is needed, for those that have a base backup which is there. `present` are
/// the snapshots in storage.
pub fn floors(bases: &[Base], present: &HashSet<ObjectId>) -> BTreeMap<u64, u64> {
    let mut floors: BTreeMap<u64, u64> = BTreeMap::new();
    for base in bases {
        let floor = floors.entry(base.system_id).or_insert(base.position);
        *floor = base.position.min(*floor);
    }
    let restorable = |system_id| {
        let mut of_it = bases.iter().filter(|base| base.system_id == system_id);
        of_it.any(|base| base.files.is_some_and(|files| present.contains(&files)))
    };
    floors.retain(|system_id, _| restorable(*system_id));
    floors
}

/// The files of the log that are not needed, oldest first on each timeline, whatever their age.
pub fn unneeded<'c>(catalog: &'c Catalog, floors: &BTreeMap<u64, u64>) -> Vec<&'c WalHead> {
    let mut unneeded = Vec::new();
    for (system_id, floor) in floors {
        // Of labels, whose length does not tell it; where segments differ, none of them goes.
        let common = catalog.segment_size(*system_id);
        for head in catalog.of(*system_id) {
            let size = if head.name.is_log() { Some(head.raw_len) } else { common };
            if let (Some(segment), Some(size)) = (head.name.segment(), size)
                && ends_before(segment, size, *floor)
            {
                unneeded.push(head);
            }
        }
    }
    unneeded
}

fn ends_before(segment: SegmentName, size: u64, floor: u64) -> bool {
    segment.position(size).and_then(|begin| begin.checked_add(size)).is_some_and(|end| end < floor)
}

/// Removes what is not needed, for a collector that holds its lease; `age` is what protects what is younger. What goes.
pub fn collect(
    repository: &Repository,
    held: &Held<'_>,
    now: Timestamp,
    age: Duration,
    monitor: &dyn Monitor,
) -> Result<Vec<PlannedLog>, RepoError> {
    let (catalog, floors) = survey(repository, monitor)?;
    let going = old_enough(repository, unneeded(&catalog, &floors), now, age)?;
    for (number, head) in going.iter().enumerate() {
        if number % BETWEEN_CHECKS == 0 {
            held.check()?;
        }
        if monitor.interrupted() {
            return Err(RepoError::Interrupted);
        }
        remove_if_there(repository.backend().as_ref(), Kind::Wal, &head.id(repository.keys()))?;
    }
    if !going.is_empty() {
        repository.backend().sync()?;
    }
    Ok(planned(&going, &floors))
}

/// What would go now, as far as this machine's clock agrees with that of the storage.
pub fn plan(repository: &Repository, age: Duration, monitor: &dyn Monitor) -> Result<Vec<PlannedLog>, RepoError> {
    let (catalog, floors) = survey(repository, monitor)?;
    let going = old_enough(repository, unneeded(&catalog, &floors), Timestamp::now(), age)?;
    Ok(planned(&going, &floors))
}

fn survey(repository: &Repository, monitor: &dyn Monitor) -> Result<(Catalog, BTreeMap<u64, u64>), RepoError> {
    let nothing = |subject: String, why: String| {
        let message = format!("{why}; no log of PostgreSQL is removed until then");
        monitor.notice(Notice { subject, message });
        Ok((Catalog::default(), BTreeMap::new()))
    };
    let (sets, damaged) = repository.readable_sets()?;
    if let Some(record) = damaged.first() {
        return nothing(format!("{} {}", record.kind, record.id), record.message());
    }
    let bases = match bases(&sets) {
        Err(RepoError::Refused { why }) => return nothing("gc".to_owned(), why),
        result => result?,
    };
    let present = list_all(repository.backend().as_ref(), Kind::Snapshot)?.into_iter().map(|(id, _)| id).collect();
    let floors = floors(&bases, &present);
    // Where no base backup is kept, nothing of the log goes, and nothing of it has to be read.
    let catalog = if floors.is_empty() { Catalog::default() } else { Archive::of(repository).catalog()? };
    for damaged in &catalog.damaged {
        let message = format!("{}; it stays", chain(&damaged.error));
        monitor.notice(Notice { subject: format!("{} {}", damaged.kind, damaged.id), message });
    }
    Ok((catalog, floors))
}

fn old_enough<'c>(
    repository: &Repository,
    heads: Vec<&'c WalHead>,
    now: Timestamp,
    age: Duration,
) -> Result<Vec<&'c WalHead>, RepoError> {
    let mut old = Vec::new();
    for head in heads {
        let modified = match repository.backend().stat(Kind::Wal, &head.id(repository.keys())) {
            Err(error) if error.is_not_found() => continue,
            result => result?.modified,
        };
        if Duration::try_from(now.duration_since(modified)).is_ok_and(|passed| passed >= age) {
            old.push(head);
        }
    }
    Ok(old)
}

/// The same in ranges, for people.
fn planned(going: &[&WalHead], floors: &BTreeMap<u64, u64>) -> Vec<PlannedLog> {
    let mut ranges: BTreeMap<(u64, u32), PlannedLog> = BTreeMap::new();
    for head in going {
        let timeline = head.name.segment().map_or(0, |segment| segment.timeline);
        let name = head.name.to_string();
        let range = ranges.entry((head.system_id, timeline)).or_insert_with(|| PlannedLog {
            system_id: head.system_id.to_string(),
            timeline,
            first: name.clone(),
            last: name.clone(),
            files: 0,
            bytes: 0,
            before: floors.get(&head.system_id).map(|floor| lsn(*floor)).unwrap_or_default(),
        });
        if matches!(head.name, WalName::Segment(_)) {
            range.last = name;
        }
        range.files += 1;
        range.bytes += head.stored_len();
    }
    ranges.into_values().collect()
}
