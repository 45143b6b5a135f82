//! Whether a segment that is not there is the end of the log, or a gap in it.
//!
//! Invariant: a missing segment counts as the end only if nothing proves that it was written: no later segment of its
//! timeline, however far behind, and no timeline that began from its own behind it. Objects are named by hashes, which do
//! not tell what they hold, so where cheaper questions did not settle it, the head of every one is read but of those that
//! must be segments before.
//!
//! The race: when a standby takes over, it archives the history of its timeline while the old server may still archive what
//! it wrote before. Another standby that asks for that is to come back: it waits at the end of the log, and opens nothing.
//!
//! Servers before version 13 ask for a segment on the newest timeline first, also where that had not begun yet. There it was
//! never written, whatever follows: the server asks for the one of the older timeline next.

use std::collections::{BTreeSet, HashSet};

use crate::format::ObjectId;
use crate::format::timeline::{Fork, left, writer};
use crate::format::wal::{SegmentName, WalName};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::wal::history_of;
use crate::progress::Monitor;
use crate::repo::wal::{Archive, WalFile};
use crate::repo::{RepoError, chain};

/// So many segments behind the missing one are looked for among objects whose heads are damaged.
const NAMED: usize = 1 << 16;
/// So many older timelines are asked for the segment: an answer only spares work.
const OLDER: usize = 16;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// It opens its database where the log ends.
    Recovers,
    /// It waits there for more.
    StandsBy,
}

/// What there is of a cluster besides a segment that is missing.
#[derive(Default)]
struct Beside {
    /// The first later one of its timeline.
    later: Option<SegmentName>,
    /// The length of segments.
    size: Option<u64>,
    /// Newer timelines that say what they began from.
    newer: BTreeSet<u32>,
    /// Objects that do not say what they are.
    damaged: HashSet<ObjectId>,
}

/// What proves that a missing file was written once; nothing if the log may end before it.
pub fn beyond(
    archive: &Archive,
    missing: &WalFile,
    server: Server,
    monitor: &dyn Monitor,
) -> Result<Option<WalName>, OrchestrateError> {
    let WalFile { system_id, name: WalName::Segment(segment) } = *missing else { return Ok(None) };
    // Where the history of its own is missing, it counts as one that had begun: refused rather than guessed.
    let began = history_of(archive, system_id, segment.timeline)?.unwrap_or_default();
    let had_begun = |size| began.last().is_none_or(|fork| !is_behind(fork.position, segment, size));
    let mut beside = nearby(archive, system_id, segment, &began)?;
    if beside.size.is_some_and(|size| !had_begun(size)) {
        return Ok(None);
    }
    if beside.later.is_none() {
        let mut objects = archive.objects()?;
        if let Some(size) = beside.size {
            let before = before(archive, system_id, segment, (&began, size), objects.len());
            objects.retain(|(id, _)| !before.contains(id));
        }
        survey(archive, &objects, (system_id, segment), &mut beside, monitor)?;
    }
    // Without any segment of this cluster nobody knows how long one is.
    let Some(size) = beside.size.filter(|size| had_begun(*size)) else { return Ok(None) };
    let hidden = || {
        let next = std::iter::successors(segment.next(size), |segment| segment.next(size)).take(NAMED);
        let mut named = next.map(|segment| WalFile { system_id, name: WalName::Segment(segment) });
        named.find(|file| beside.damaged.contains(&archive.id(file))).map(|file| file.name)
    };
    let later = beside.later.map(WalName::Segment);
    match later.or_else(|| if beside.damaged.is_empty() { None } else { hidden() }) {
        Some(later) => Ok(Some(later)),
        None if server == Server::StandsBy => Ok(None),
        None => younger(archive, system_id, segment, size, &beside.newer),
    }
}

/// Whether a position is behind a segment: where a timeline was left there, that was written to its end.
fn is_behind(position: u64, segment: SegmentName, size: u64) -> bool {
    segment.position(size).is_some_and(|begin| position / size > begin / size)
}

/// What a few names tell: the very next segment, be it one of the same upper half or the first of the next; and the one
/// that the server asks for next, if that is on an older timeline.
fn nearby(archive: &Archive, system_id: u64, segment: SegmentName, began: &[Fork]) -> Result<Beside, OrchestrateError> {
    // A damaged one is there, and stops the server as well.
    let size = |segment| -> Result<Option<u64>, RepoError> {
        Ok(archive.head(&WalFile { system_id, name: WalName::Segment(segment) })?.map(|head| head.raw_len))
    };
    let low = segment.low.checked_add(1).map(|low| SegmentName { low, ..segment });
    let high = segment.high.checked_add(1).map(|high| SegmentName { high, low: 0, ..segment });
    for later in low.into_iter().chain(high) {
        if let Some(size) = size(later)? {
            return Ok(Beside { later: Some(later), size: Some(size), ..Beside::default() });
        }
    }
    // What was left in a lower half had no such segment.
    let from = began.partition_point(|fork| fork.position >> 32 < u64::from(segment.high));
    for fork in began.iter().skip(from).take(OLDER) {
        if let Some(size) = size(SegmentName { timeline: fork.parent, ..segment })? {
            return Ok(Beside { size: Some(size), ..Beside::default() });
        }
    }
    let low = segment.low.checked_sub(1).map(|low| SegmentName { low, ..segment });
    let size = match low.map(|before| archive.head(&WalFile { system_id, name: WalName::Segment(before) })) {
        Some(Ok(head)) => head.map(|head| head.raw_len),
        // It is nothing that this server asks for now.
        Some(Err(error)) if error.is_damage() => None,
        Some(Err(error)) => return Err(error.into()),
        None => None,
    };
    Ok(Beside { size, ..Beside::default() })
}

/// The objects of at most so many segments that come before one, on the way to its timeline.
fn before(
    archive: &Archive,
    system_id: u64,
    segment: SegmentName,
    (began, size): (&[Fork], u64),
    most: usize,
) -> HashSet<ObjectId> {
    let number = segment.position(size).unwrap_or_default() / size;
    let names = (0..number).rev().take(most).map(|number| {
        let timeline = writer(began, segment.timeline, number, size);
        WalName::Segment(SegmentName::holding(timeline, number * size, size))
    });
    names.map(|name| archive.id(&WalFile { system_id, name })).collect()
}

/// Reads the heads of objects.
fn survey(
    archive: &Archive,
    objects: &[(ObjectId, u64)],
    (system_id, segment): (u64, SegmentName),
    beside: &mut Beside,
    monitor: &dyn Monitor,
) -> Result<(), OrchestrateError> {
    archive.survey(objects, &mut |found| {
        if monitor.interrupted() {
            return Err(RepoError::Interrupted);
        }
        let head = match found {
            Ok(head) if head.system_id == system_id => head,
            Ok(_) => return Ok(()),
            Err(damaged) if damaged.is_broken() => {
                tracing::warn!("{} {}: {}", damaged.kind, damaged.id, damaged.message());
                beside.damaged.insert(damaged.id);
                return Ok(());
            }
            // Storage fails: who knows what there is.
            Err(failed) => return Err(failed.error),
        };
        match head.name {
            WalName::Segment(other) => {
                beside.size.get_or_insert(head.raw_len);
                let is_later = other.timeline == segment.timeline && other > segment;
                if is_later && beside.later.is_none_or(|later| other < later) {
                    beside.later = Some(other);
                }
            }
            WalName::History(timeline) if timeline > segment.timeline => drop(beside.newer.insert(timeline)),
            _ => {}
        }
        Ok(())
    })?;
    Ok(())
}

/// The history of a timeline that began from this one behind the segment.
fn younger(
    archive: &Archive,
    system_id: u64,
    segment: SegmentName,
    size: u64,
    newer: &BTreeSet<u32>,
) -> Result<Option<WalName>, OrchestrateError> {
    for timeline in newer {
        let forks = match history_of(archive, system_id, *timeline) {
            Err(error) if error.is_damage() => {
                // It proves nothing; who goes along it is told when the server asks for it.
                tracing::warn!("the history of timeline {timeline} cannot be used: {}", chain(&error));
                continue;
            }
            forks => forks?.unwrap_or_default(),
        };
        let left = left(&forks, segment.timeline);
        if left.is_some_and(|position| is_behind(position, segment, size)) {
            return Ok(Some(WalName::History(*timeline)));
        }
    }
    Ok(None)
}
