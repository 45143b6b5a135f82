//! What the archive holds of each cluster, what it lacks, and what can be recovered from it.
//!
//! Invariant: a gap is never passed over. What follows a gap on its timeline cannot be reached from what comes before, and
//! neither can the rest of a timeline whose history is missing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::format::ObjectId;
use crate::format::timeline::{Fork, left, lsn, writer};
use crate::format::wal::{SegmentName, WalName};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::wal::history_of;
use crate::repo::chain;
use crate::repo::sets::SetInfo;
use crate::repo::wal::Archive;
use crate::repo::wal::catalog::Catalog;
use crate::repo::wal::retain::{Base, bases};

/// Segments that are missing between others, or before where a timeline goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first that is missing.
    pub first: String,
    /// The last.
    pub last: String,
    /// How many are missing.
    pub segments: u64,
    /// Whether a base backup could need them: false for what comes before all of them.
    pub matters: bool,
}

/// A timeline of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimelineStatus {
    /// Its number.
    pub timeline: u32,
    /// The timeline that it comes from, and where it left it.
    pub parent: Option<(u32, String)>,
    /// The oldest segment.
    pub oldest: String,
    /// The newest segment.
    pub newest: String,
    /// How many segments there are.
    pub segments: u64,
    /// When the newest was archived.
    pub archived: Timestamp,
    /// What is missing.
    pub gaps: Vec<Gap>,
}

/// A base backup, and how far the log leads from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BaseStatus {
    /// The backup set.
    pub set: ObjectId,
    /// When it was made.
    pub time: Timestamp,
    /// Its timeline.
    pub timeline: u32,
    /// Where its log begins.
    pub lsn: String,
    /// The last segment that can be reached from it without a gap, on the newest timeline that comes from it.
    pub reaches: Option<String>,
    /// When that was archived: what was committed later is not known to be recoverable.
    pub reaches_time: Option<Timestamp>,
    /// The first segment that is missing and is followed by others; none if the log is complete up to its end.
    pub missing: Option<String>,
    /// Whether its log was found archived when it was made. One that is older than the archive has its own log, and no other.
    pub archived: bool,
}

impl BaseStatus {
    /// Whether log is lost that leads on from it.
    fn is_cut_off(&self) -> bool {
        self.missing.is_some() && (self.archived || self.reaches.is_some())
    }
}

/// A cluster's archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// Its identifier.
    pub system_id: String,
    /// The length of its segments; none if they differ, or if there are none.
    pub segment_size: Option<u64>,
    /// Files of any kind.
    pub files: u64,
    /// Their length.
    pub raw_bytes: u64,
    /// What they take in the repository.
    pub stored_bytes: u64,
    /// Its timelines.
    pub timelines: Vec<TimelineStatus>,
    /// Timelines that others come from, without the file that says where.
    pub missing_histories: Vec<String>,
    /// Such files that do not say it, each with the reason.
    pub malformed_histories: BTreeMap<String, String>,
    /// Its base backups, oldest first.
    pub bases: Vec<BaseStatus>,
    /// From when on any moment up to the newest can be recovered: there may be older ones, behind a gap.
    pub oldest_restorable: Option<Timestamp>,
    /// Up to when.
    pub newest_restorable: Option<Timestamp>,
}

impl ClusterStatus {
    /// Whether something is missing that a recovery may need.
    pub fn is_broken(&self) -> bool {
        let gaps = self.timelines.iter().flat_map(|timeline| &timeline.gaps);
        gaps.into_iter().any(|gap| gap.matters)
            || self.bases.iter().any(BaseStatus::is_cut_off)
            || !self.missing_histories.is_empty()
            || !self.malformed_histories.is_empty()
    }
}

/// Where the log leads from a position.
struct Way {
    /// The last segment that can be reached.
    reached: Option<(SegmentName, Timestamp)>,
    /// The number after it.
    end: u64,
    /// The first that is missing, if others follow it.
    missing: Option<SegmentName>,
}

/// A cluster's segments by timeline and number, and where its timelines come from.
pub struct Chain {
    size: u64,
    segments: BTreeMap<u32, BTreeMap<u64, Timestamp>>,
    /// Of each timeline with a history: every older one of its past, and where it was left.
    past: BTreeMap<u32, Vec<Fork>>,
    missing_histories: BTreeSet<u32>,
    malformed_histories: BTreeMap<u32, String>,
}

impl Chain {
    /// Reads what there is of a cluster. Nothing if it has no segments, or of different lengths.
    pub fn read(archive: &Archive, catalog: &Catalog, system_id: u64) -> Result<Option<Self>, OrchestrateError> {
        let Some(size) = catalog.segment_size(system_id) else { return Ok(None) };
        let mut found = Chain {
            size,
            segments: BTreeMap::new(),
            past: BTreeMap::new(),
            missing_histories: BTreeSet::new(),
            malformed_histories: BTreeMap::new(),
        };
        for (segment, head) in catalog.segments(system_id) {
            if let Some(position) = segment.position(size) {
                found.segments.entry(segment.timeline).or_default().insert(position / size, head.time);
            }
        }
        for head in catalog.of(system_id) {
            let WalName::History(timeline) = head.name else { continue };
            match history_of(archive, system_id, timeline) {
                Ok(Some(forks)) => drop(found.past.insert(timeline, forks)),
                // Removed meanwhile.
                Ok(None) => {}
                Err(error) if error.is_damage() => {
                    found.malformed_histories.insert(timeline, chain(&error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let is_there = |of: &u32| found.past.contains_key(of) || found.malformed_histories.contains_key(of);
        let known = found.segments.keys().copied().filter(|timeline| *timeline > 1);
        found.missing_histories = known.filter(|timeline| !is_there(timeline)).collect();
        Ok(Some(found))
    }

    /// Where a timeline comes from.
    fn parent(&self, timeline: u32) -> Option<Fork> {
        self.past.get(&timeline)?.last().copied()
    }

    /// The name of a segment.
    pub fn name(&self, timeline: u32, number: u64) -> SegmentName {
        SegmentName::holding(timeline, number.saturating_mul(self.size), self.size)
    }

    /// Segments that are missing on a timeline: between its own, before its first where it goes on from another, and
    /// after its last where another goes on from it.
    fn gaps(&self, timeline: u32) -> Vec<(u64, u64)> {
        let Some(own) = self.segments.get(&timeline) else { return Vec::new() };
        let mut gaps = Vec::new();
        let mut expected = self.parent(timeline).map(|fork| fork.position / self.size);
        for number in own.keys() {
            if let Some(expected) = expected.filter(|expected| expected < number) {
                gaps.push((expected, number - 1));
            }
            expected = Some(number + 1);
        }
        // The segment in which another timeline begins is that one's.
        let goes_on = |other: &u32| self.parent(*other).filter(|fork| fork.parent == timeline);
        let left = self.past.keys().filter_map(goes_on).map(|fork| fork.position / self.size).max();
        if let (Some(expected), Some(left)) = (expected, left)
            && expected < left
        {
            gaps.push((expected, left - 1));
        }
        gaps
    }

    /// The newest timeline whose past holds what that timeline had written up to a position.
    pub fn newest_from(&self, timeline: u32, position: u64) -> u32 {
        let comes_from = |past: &Vec<Fork>| left(past, timeline).is_some_and(|left| position <= left);
        let newest = self.past.iter().rev().find(|(number, past)| **number > timeline && comes_from(past));
        newest.map_or(timeline, |(number, _)| *number)
    }

    /// The timeline on which a segment is looked for on the way to `target`.
    fn timeline_of(&self, target: u32, number: u64) -> u32 {
        let past = self.past.get(&target).map(Vec::as_slice).unwrap_or_default();
        writer(past, target, number, self.size)
    }

    /// Follows the log from a position to the end of the `target` timeline.
    fn follow(&self, target: u32, position: u64) -> Way {
        let mut number = position / self.size;
        let mut reached = None;
        loop {
            let timeline = self.timeline_of(target, number);
            let Some(time) = self.segments.get(&timeline).and_then(|own| own.get(&number)) else { break };
            reached = Some((self.name(timeline, number), *time));
            number += 1;
        }
        let timeline = self.timeline_of(target, number);
        let later = |timeline: u32| self.segments.get(&timeline).and_then(|own| own.keys().next_back());
        let is_gap = later(timeline).is_some_and(|last| *last > number)
            || timeline != target && later(target).is_some_and(|last| *last > number);
        Way { reached, end: number, missing: is_gap.then(|| self.name(timeline, number)) }
    }
}

/// The state of every cluster in the archive.
pub fn status(archive: &Archive, catalog: &Catalog, sets: &[SetInfo]) -> Result<Vec<ClusterStatus>, OrchestrateError> {
    let bases = bases(sets)?;
    let of = |system_id| {
        let own: Vec<&Base> = bases.iter().filter(|base| base.system_id == system_id && base.files.is_some()).collect();
        cluster(archive, catalog, system_id, &own)
    };
    catalog.clusters().into_iter().map(of).collect()
}

fn cluster(
    archive: &Archive,
    catalog: &Catalog,
    system_id: u64,
    bases: &[&Base],
) -> Result<ClusterStatus, OrchestrateError> {
    let (mut files, mut raw_bytes, mut stored_bytes) = (0, 0u64, 0u64);
    for head in catalog.of(system_id) {
        files += 1;
        raw_bytes = raw_bytes.saturating_add(head.raw_len);
        stored_bytes = stored_bytes.saturating_add(head.stored_len());
    }
    let mut status = ClusterStatus {
        system_id: system_id.to_string(),
        segment_size: catalog.segment_size(system_id),
        files,
        raw_bytes,
        stored_bytes,
        timelines: Vec::new(),
        missing_histories: Vec::new(),
        malformed_histories: BTreeMap::new(),
        bases: Vec::new(),
        oldest_restorable: None,
        newest_restorable: None,
    };
    let Some(chain) = Chain::read(archive, catalog, system_id)? else { return Ok(status) };
    let floor = bases.iter().map(|base| base.position / chain.size).min();
    status.timelines = chain.segments.keys().filter_map(|timeline| timeline_status(&chain, *timeline, floor)).collect();
    status.missing_histories =
        chain.missing_histories.iter().map(|timeline| WalName::History(*timeline).to_string()).collect();
    let malformed = chain.malformed_histories.iter();
    status.malformed_histories =
        malformed.map(|(timeline, why)| (WalName::History(*timeline).to_string(), why.clone())).collect();
    let follow = |base: &&Base| chain.follow(chain.newest_from(base.timeline, base.stop), base.position);
    let ways: Vec<Way> = bases.iter().map(follow).collect();
    status.bases = bases.iter().zip(&ways).map(|(base, way)| base_status(base, way)).collect();
    if let Some((oldest, newest)) = newest_stretch(chain.size, bases, &ways) {
        (status.oldest_restorable, status.newest_restorable) = (Some(oldest), Some(newest));
    }
    Ok(status)
}

/// The newest times that can be recovered without a gap between them. A base backup whose log has a gap leads to the gap only,
/// and one whose log does not even reach its own end leads nowhere.
fn newest_stretch(size: u64, bases: &[&Base], ways: &[Way]) -> Option<(Timestamp, Timestamp)> {
    let leads = |(base, way): (&&Base, &Way)| {
        let (_, newest) = way.reached?;
        (way.end > base.stop.saturating_sub(1) / size).then_some((base.ended, newest))
    };
    let mut stretches: Vec<_> = bases.iter().zip(ways).filter_map(leads).collect();
    stretches.sort_unstable_by_key(|(_, newest)| Reverse(*newest));
    let join = |(oldest, newest): (Timestamp, Timestamp), (begins, ends): (Timestamp, Timestamp)| {
        (if ends >= oldest { oldest.min(begins) } else { oldest }, newest)
    };
    stretches.into_iter().reduce(join)
}

fn timeline_status(chain: &Chain, timeline: u32, floor: Option<u64>) -> Option<TimelineStatus> {
    let own = chain.segments.get(&timeline)?;
    let ((oldest, _), (newest, archived)) = (own.first_key_value()?, own.last_key_value()?);
    let gap = |(first, last): (u64, u64)| Gap {
        first: chain.name(timeline, first).to_string(),
        last: chain.name(timeline, last).to_string(),
        segments: last - first + 1,
        matters: floor.is_none_or(|floor| last >= floor),
    };
    Some(TimelineStatus {
        timeline,
        parent: chain.parent(timeline).map(|fork| (fork.parent, lsn(fork.position))),
        oldest: chain.name(timeline, *oldest).to_string(),
        newest: chain.name(timeline, *newest).to_string(),
        segments: own.len() as u64,
        archived: *archived,
        gaps: chain.gaps(timeline).into_iter().map(gap).collect(),
    })
}

fn base_status(base: &Base, way: &Way) -> BaseStatus {
    BaseStatus {
        set: base.set,
        time: base.time,
        timeline: base.timeline,
        lsn: lsn(base.position),
        reaches: way.reached.map(|(segment, _)| segment.to_string()),
        reaches_time: way.reached.map(|(_, time)| time),
        missing: way.missing.map(|segment| segment.to_string()),
        archived: base.archived,
    }
}
