//! Going to a time itself: which base backup a recovery begins with, which timeline it follows, and where in the log it
//! ends.
//!
//! A time lies on a timeline from its birth to the last transaction that is archived of it. Where a timeline was left
//! for another, both may hold a time, with different content: then nothing is taken before somebody names one.
//!
//! Invariant: what is aimed at can be reached, as far as the archive can tell: every segment from the base backup to the
//! first transaction after the time is there, and that transaction was read in it. So a recovery that ends anywhere else
//! has failed, and the next to last thing that a restore does is to compare.

pub mod archived;
pub mod log;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, Unit};
use serde::Serialize;

use crate::format::ObjectId;
use crate::format::set::{Facts, PostgresFacts, Status};
use crate::format::timeline::{lsn, position};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::cause::Cause;
use crate::orchestrate::platform::aim::log::{Chain, Log, Stop};
use crate::orchestrate::platform::choose::Known;
use crate::orchestrate::platform::profile::Component;
use crate::repo::chain;
use crate::source::postgres::log::without_header;

/// A base backup that a recovery can begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The set that holds it.
    pub set: ObjectId,
    /// The time that the set stands for.
    pub time: Timestamp,
    /// The cluster's identifier.
    pub system_id: String,
    /// The timeline that it was taken on.
    pub timeline: u32,
    /// Where recovery begins, and where the files are one point in time.
    pub start: u64,
    /// See `start`.
    pub stop: u64,
    /// When that was.
    pub ended: Timestamp,
    /// Bytes of a segment.
    pub segment_bytes: u64,
}

impl Base {
    /// The base backup of a set; `None` if it has none, or not as a whole.
    pub fn of(known: &Known) -> Option<Base> {
        let set = &known.info.set;
        let found = set.components.iter().find(|one| one.name == Component::Postgres.name())?;
        let Some(Facts::Postgres(facts)) = &found.facts else { return None };
        let (PostgresFacts { system_id, timeline, .. }, base) = (facts, facts.base.as_ref()?);
        (found.status == Status::Complete).then_some(Base {
            set: known.info.id,
            time: set.time,
            system_id: system_id.clone(),
            timeline: *timeline,
            start: position(&base.start_lsn)?,
            stop: position(&base.stop_lsn)?,
            ended: base.ended,
            segment_bytes: base.segment_bytes,
        })
    }
}

/// Times that can be reached: from the first on, and before the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// On this timeline.
    pub timeline: u32,
    /// The oldest.
    pub oldest: Timestamp,
    /// The newest: the last transaction that is archived.
    pub newest: Timestamp,
}

/// Where a recovery goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Aim {
    /// The time, in whole microseconds, as PostgreSQL has them.
    pub time: Timestamp,
    /// The set of the base backup.
    pub set: ObjectId,
    /// The cluster.
    pub system_id: String,
    /// When the base backup ended.
    pub base_ended: Timestamp,
    /// The timeline that it was taken on.
    pub base_timeline: u32,
    /// The timeline that is followed.
    pub timeline: u32,
    /// Segments of the log that are read.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of one.
    pub segment_bytes: u64,
    /// The last of them.
    pub last_segment: String,
    /// Where the first transaction after the time ends; everything before is replayed.
    pub stop_lsn: String,
    /// When that transaction ended.
    pub next_transaction: Timestamp,
    /// The oldest and newest time that can be reached on the timeline, from the base backups that are kept.
    pub window: Window,
}

/// Why a time cannot be aimed at.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AimError {
    /// No base backup.
    #[error(
        "no complete base backup of PostgreSQL that ended at or before {time} is in a set that may be taken: {why}; \
         the method of the profile's [postgres] must be `base`"
    )]
    NoBase {
        /// The time wanted.
        time: Timestamp,
        /// What there is.
        why: String,
    },
    /// The log does not reach it.
    #[error("the archived log does not reach {time}{gap}: {windows}")]
    Unreachable {
        /// The time wanted.
        time: Timestamp,
        /// What is missing in it.
        gap: String,
        /// What can be reached.
        windows: String,
    },
    /// It lies on several timelines.
    #[error("{time} lies on more than one timeline, with different content: {windows}; name one by --timeline N")]
    Ambiguous {
        /// The time wanted.
        time: Timestamp,
        /// What can be reached of each.
        windows: String,
    },
}

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The time.
    pub time: Timestamp,
    /// A timeline that was named.
    pub timeline: Option<u32>,
    /// A set whose base backup it has to be.
    pub set: Option<ObjectId>,
}

/// The cluster that a time is looked for in: that of the newest base backup before it.
pub fn cluster(bases: &[Base], wanted: Wanted) -> Result<&Base, AimError> {
    let before = bases.iter().filter(|base| base.ended <= wanted.time).max_by_key(|base| base.ended);
    before.ok_or_else(|| {
        let oldest = bases.iter().map(|base| base.ended).min();
        let why = oldest.map_or("there is none at all".to_owned(), |oldest| format!("the oldest ended {oldest}"));
        AimError::NoBase { time: wanted.time, why }
    })
}

/// A base backup, and a chain that reaches the time from it.
struct Way<'b> {
    base: &'b Base,
    chain: Chain,
    stop: Stop,
}

/// Aims at a time. The bases are of one cluster, the log is its.
pub fn aim(bases: &[Base], log: &Log<'_>, wanted: Wanted) -> Result<Aim, OrchestrateError> {
    let time = wanted.time.round(jiff::TimestampRound::new().smallest(Unit::Microsecond).mode(jiff::RoundMode::Floor));
    let time = time.unwrap_or(wanted.time);
    let may_begin = |base: &&Base| base.ended <= time && wanted.set.is_none_or(|set| set == base.set);
    let mut before: Vec<&Base> = bases.iter().filter(may_begin).collect();
    before.sort_by_key(|base| base.ended);
    let mut ways: BTreeMap<u32, Way<'_>> = BTreeMap::new();
    for timeline in timelines(log, wanted, bases) {
        // The newest first: the least log.
        for base in before.iter().rev().filter(|base| log.descends(timeline, base.timeline, base.stop)) {
            let way = log.chain(timeline, base.start);
            let stop = log.stop(&way, time).map_err(|error| unreadable(error, timeline, wanted))?;
            // From before its own end a base backup leads nowhere: where a clock was set back, a transaction during it may
            // seem to be later than the time.
            let stop = stop.filter(|stop| stop.next.lsn >= without_header(base.stop, base.segment_bytes));
            let Some(stop) = stop else { continue };
            let lies_on = || lies_on(log, timeline, &stop, time).map_err(|error| unreadable(error, timeline, wanted));
            if wanted.timeline.is_some() || lies_on()? {
                ways.insert(timeline, Way { base, chain: way, stop });
            }
            break;
        }
    }
    let of = |timeline: u32| windows(bases, log, &BTreeSet::from([timeline]));
    match ways.into_iter().collect::<Vec<_>>().as_slice() {
        [] => Err(unreachable(bases, log, time, wanted)?.into()),
        // The server would begin a timeline whose history contradicts itself.
        [(timeline, way)] if way.stop.timeline != *timeline => {
            aim(bases, log, Wanted { timeline: Some(way.stop.timeline), ..wanted })
        }
        [(timeline, way)] => {
            let holds = |window: &Window| window.oldest <= time && time < window.newest;
            let window = of(*timeline)?.found.into_iter().find(holds);
            let file = log.last_file(&way.chain, &way.stop);
            Ok(aimed(time, way, file, window))
        }
        several => {
            let all = several.iter().map(|(timeline, _)| *timeline).collect();
            Err(AimError::Ambiguous { time, windows: windows(bases, log, &all)?.shown() }.into())
        }
    }
}

/// The timelines that may be followed.
fn timelines(log: &Log<'_>, wanted: Wanted, bases: &[Base]) -> BTreeSet<u32> {
    match wanted.timeline {
        Some(timeline) => BTreeSet::from([timeline]),
        None => log.timelines().into_iter().chain(bases.iter().map(|base| base.timeline)).collect(),
    }
}

/// Whether a time lies on the timeline itself, and not on one that it began from, or between both.
fn lies_on(log: &Log<'_>, timeline: u32, stop: &Stop, time: Timestamp) -> Result<bool, OrchestrateError> {
    Ok(stop.timeline == timeline && log.birth(timeline)?.is_none_or(|birth| birth <= time))
}

fn aimed(time: Timestamp, way: &Way<'_>, last_segment: String, window: Option<Window>) -> Aim {
    let Way { base, chain, stop } = way;
    let (timeline, segments) = (chain.timeline, stop.segments(chain));
    Aim {
        time,
        set: base.set,
        system_id: base.system_id.clone(),
        base_ended: base.ended,
        base_timeline: base.timeline,
        timeline,
        segments,
        bytes: segments.saturating_mul(base.segment_bytes),
        segment_bytes: base.segment_bytes,
        last_segment,
        stop_lsn: lsn(stop.next.lsn),
        next_transaction: stop.next.time,
        window: window.unwrap_or(Window { timeline, oldest: base.ended, newest: stop.next.time }),
    }
}

/// What is told of a timeline that cannot be read on the way to a time.
fn unreadable(error: OrchestrateError, timeline: u32, wanted: Wanted) -> OrchestrateError {
    if error.is_interrupted() {
        return error;
    }
    let hint = if wanted.timeline.is_none() { "; --timeline N takes another one" } else { "" };
    let what = format!("timeline {timeline} of the log cannot be followed to {}: {}{hint}", wanted.time, chain(&error));
    match error.cause() {
        Cause::Stored => OrchestrateError::Damaged(what),
        _ => OrchestrateError::Unfit(what),
    }
}

/// What can be reached, for people: what of it cannot be read forbids no time that can.
#[derive(Debug, Default)]
pub struct Windows {
    /// By timeline. Where a gap lies between two times, there are several of one.
    pub found: Vec<Window>,
    /// Timelines of which something cannot be read, and why.
    pub unread: BTreeMap<u32, String>,
}

impl Windows {
    /// What was read; nothing, and why, if it could not be. An interruption ends it all.
    fn read<T>(&mut self, timeline: u32, read: Result<T, OrchestrateError>) -> Result<Option<T>, OrchestrateError> {
        match read {
            Err(error) if error.is_interrupted() => Err(error),
            Err(error) => {
                self.unread.insert(timeline, chain(&error));
                Ok(None)
            }
            Ok(value) => Ok(Some(value)),
        }
    }

    fn shown(&self) -> String {
        let found = |window: &Window| {
            format!("timeline {} from {} to before {}", window.timeline, window.oldest, window.newest)
        };
        let unread = |(timeline, why): (&u32, &String)| {
            format!("what else timeline {timeline} may reach is not known, since not all of it can be read: {why}")
        };
        self.found.iter().map(found).chain(self.unread.iter().map(unread)).collect::<Vec<_>>().join("; ")
    }
}

/// The times that can be reached on timelines.
pub fn windows(bases: &[Base], log: &Log<'_>, timelines: &BTreeSet<u32>) -> Result<Windows, OrchestrateError> {
    let mut windows = Windows::default();
    for timeline in timelines {
        let Some(birth) = windows.read(*timeline, log.birth(*timeline))? else { continue };
        let mut bases: Vec<&Base> =
            bases.iter().filter(|base| log.descends(*timeline, base.timeline, base.stop)).collect();
        bases.sort_by_key(|base| base.ended);
        for base in bases {
            let chain = log.chain(*timeline, base.start);
            let Some(last) = windows.read(*timeline, log.last(&chain))?.flatten() else { continue };
            let (oldest, newest) = (birth.map_or(base.ended, |birth| birth.max(base.ended)), last.time);
            match windows.found.last_mut() {
                _ if oldest >= newest => {}
                Some(before) if before.timeline == *timeline && before.newest >= newest => {}
                Some(before) if before.timeline == *timeline && before.newest >= oldest => before.newest = newest,
                _ => windows.found.push(Window { timeline: *timeline, oldest, newest }),
            }
        }
    }
    Ok(windows)
}

fn unreachable(bases: &[Base], log: &Log<'_>, time: Timestamp, wanted: Wanted) -> Result<AimError, OrchestrateError> {
    let timelines = timelines(log, wanted, bases);
    let windows = windows(bases, log, &timelines)?;
    let (mut missing, mut partial) = (BTreeSet::new(), BTreeSet::new());
    for base in bases.iter().filter(|base| base.ended <= time) {
        for timeline in timelines.iter().filter(|timeline| log.descends(**timeline, base.timeline, base.stop)) {
            let chain = log.chain(*timeline, base.start);
            partial.extend(log.partial(&chain));
            missing.extend(chain.missing);
        }
    }
    let gap = match missing.is_empty() {
        true => String::new(),
        false => format!(" ({} is missing)", Vec::from_iter(missing).join(", ")),
    };
    let found = &windows.found;
    let mut reached = match (found.iter().map(|one| one.oldest).min(), found.iter().map(|one| one.newest).max()) {
        (Some(oldest), Some(newest)) => format!(
            "the oldest time that can be reached is {oldest}, the newest is just before {newest} ({})",
            windows.shown()
        ),
        _ if windows.unread.is_empty() => "no time can be reached: no log follows a base backup".to_owned(),
        _ => windows.shown(),
    };
    if !partial.is_empty() {
        reached.push_str(&format!(
            "; {} holds what a server had written last when another took over, and can be archived as a whole segment by hand: \
             see \"Timelines\" in docs/restore.md",
            Vec::from_iter(partial).join(", ")
        ));
    }
    Ok(AimError::Unreachable { time, gap, windows: reached })
}
