//! What the archive holds of each cluster, what it lacks, and what can be recovered from it.
//!
//! Invariant: a gap is never passed over. What follows a gap on its timeline cannot be reached from what comes before, and
//! neither can the rest of a timeline whose history is missing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::format::ObjectId;
use crate::format::timeline::{Fork, history, lsn};
use crate::format::wal::{SegmentName, WalName};
use crate::orchestrate::OrchestrateError;
use crate::repo::sets::SetInfo;
use crate::repo::wal::catalog::Catalog;
use crate::repo::wal::retain::{Base, bases};
use crate::repo::wal::{Archive, WalFile};

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
    /// From when on any moment can be recovered.
    pub oldest_restorable: Option<Timestamp>,
    /// Up to when.
    pub newest_restorable: Option<Timestamp>,
}

impl ClusterStatus {
    /// Whether something is missing that a recovery may need.
    pub fn is_broken(&self) -> bool {
        let gaps = self.timelines.iter().flat_map(|timeline| &timeline.gaps);
        gaps.into_iter().any(|gap| gap.matters)
            || !self.missing_histories.is_empty()
            || !self.malformed_histories.is_empty()
    }
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
        let mut chain = Chain {
            size,
            segments: BTreeMap::new(),
            past: BTreeMap::new(),
            missing_histories: BTreeSet::new(),
            malformed_histories: BTreeMap::new(),
        };
        for (segment, head) in catalog.segments(system_id) {
            if let Some(position) = segment.position(size) {
                chain.segments.entry(segment.timeline).or_default().insert(position / size, head.time);
            }
        }
        for head in catalog.of(system_id) {
            if let WalName::History(timeline) = head.name {
                let mut content = Vec::new();
                let file = WalFile { system_id, name: head.name };
                archive.fetch(&file, &mut |block| {
                    content.extend_from_slice(block);
                    Ok::<(), OrchestrateError>(())
                })?;
                match history(timeline, &content) {
                    Ok(forks) => drop(chain.past.insert(timeline, forks)),
                    Err(error) => drop(chain.malformed_histories.insert(timeline, error.to_string())),
                }
            }
        }
        let is_there = |of: &u32| chain.past.contains_key(of) || chain.malformed_histories.contains_key(of);
        let known = chain.segments.keys().copied().filter(|timeline| *timeline > 1);
        chain.missing_histories = known.filter(|timeline| !is_there(timeline)).collect();
        Ok(Some(chain))
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

    /// The newest timeline whose past holds this position of that timeline.
    pub fn newest_from(&self, timeline: u32, position: u64) -> u32 {
        let comes_from =
            |past: &Vec<Fork>| past.iter().any(|fork| fork.parent == timeline && position <= fork.position);
        let newest = self.past.iter().rev().find(|(number, past)| **number > timeline && comes_from(past));
        newest.map_or(timeline, |(number, _)| *number)
    }

    /// The timeline on which a segment is looked for on the way to `target`.
    fn timeline_of(&self, target: u32, number: u64) -> u32 {
        let past = self.past.get(&target).map(Vec::as_slice).unwrap_or_default();
        past.iter().find(|fork| number < fork.position / self.size).map_or(target, |fork| fork.parent)
    }

    /// Follows the log from a position to the end of the `target` timeline: the last segment that can be reached, and the
    /// first that is missing before others.
    pub fn follow(&self, target: u32, position: u64) -> (Option<(SegmentName, Timestamp)>, Option<SegmentName>) {
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
        (reached, is_gap.then(|| self.name(timeline, number)))
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
    status.bases = bases.iter().map(|base| base_status(&chain, base)).collect();
    // A base backup whose log has a gap leads to the gap only, and one without any log nowhere.
    let usable = bases.iter().zip(&status.bases).filter(|(_, base)| base.reaches.is_some());
    status.oldest_restorable = usable.clone().map(|(base, _)| base.ended).min();
    status.newest_restorable = usable.filter_map(|(_, base)| base.reaches_time).max();
    Ok(status)
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

fn base_status(chain: &Chain, base: &Base) -> BaseStatus {
    let target = chain.newest_from(base.timeline, base.position);
    let (reached, missing) = chain.follow(target, base.position);
    BaseStatus {
        set: base.set,
        time: base.time,
        timeline: base.timeline,
        lsn: lsn(base.position),
        reaches: reached.map(|(segment, _)| segment.to_string()),
        reaches_time: reached.map(|(_, time)| time),
        missing: missing.map(|segment| segment.to_string()),
    }
}
