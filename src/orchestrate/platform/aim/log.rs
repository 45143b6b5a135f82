//! The archived log of one cluster: which segments follow each other on each timeline, and which moments they reach.
//!
//! A timeline that began from another has the log of that one up to there. As the server does, this takes for each segment
//! the file of the newest timeline that had begun by then, and no other: what an older timeline wrote after it was left
//! is not on the way.

use std::cell::RefCell;
use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::format::timeline::{Fork, history};
use crate::orchestrate::OrchestrateError;
use crate::repo::chain;
use crate::source::postgres::log::{End, LogReader};

/// So many segments without the end of a transaction are looked through backwards; an idle server archives such ones.
const MAX_IDLE: usize = 4096;
const MIN_SEGMENT: u64 = 1 << 20;
const MAX_SEGMENT: u64 = 1 << 30;

/// Reads an archived file, whole and compared with its hash.
pub type Fetch<'a> = dyn Fn(&str) -> Result<Vec<u8>, OrchestrateError> + 'a;

/// What is archived.
pub struct Log<'a> {
    segment_bytes: u64,
    /// When each segment was archived, by timeline and number.
    segments: BTreeMap<(u32, u64), Timestamp>,
    /// Of each timeline but the first: when its history was archived, and what it began from.
    histories: BTreeMap<u32, (Timestamp, Vec<Fork>)>,
    fetch: &'a Fetch<'a>,
    /// What segments that were read end with.
    lasts: RefCell<BTreeMap<(u32, u64), Option<End>>>,
}

/// Segments that follow each other without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Along this timeline.
    pub timeline: u32,
    /// The number of the first.
    pub first: u64,
    /// The number after the last.
    pub end: u64,
    /// The file that is missing although later ones are there.
    pub missing: Option<String>,
}

/// Where a recovery to a time ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The first transaction that ended after the time, which is not replayed.
    pub next: End,
    /// The timeline that wrote it.
    pub timeline: u32,
    /// The number of the segment that it ends in.
    pub number: u64,
}

impl Stop {
    /// The segments from the beginning of a chain to here.
    pub fn segments(&self, chain: &Chain) -> u64 {
        self.number + 1 - chain.first
    }
}

impl<'a> Log<'a> {
    /// Takes what is archived, by name and time. Files that are neither segments nor histories say nothing here.
    pub fn new(
        segment_bytes: u64,
        files: impl IntoIterator<Item = (String, Timestamp)>,
        fetch: &'a Fetch<'a>,
    ) -> Result<Self, OrchestrateError> {
        if !segment_bytes.is_power_of_two() || !(MIN_SEGMENT..=MAX_SEGMENT).contains(&segment_bytes) {
            return Err(OrchestrateError::Unfit(format!(
                "segments of its log have {segment_bytes} bytes, as none have"
            )));
        }
        let (mut segments, mut histories) = (BTreeMap::new(), BTreeMap::new());
        for (name, time) in files {
            if let Some(key) = segment(&name, segment_bytes) {
                segments.insert(key, time);
            } else if let Some(timeline) = name.strip_suffix(".history").and_then(hex) {
                let forks = match fetch(&name) {
                    Err(error) if error.is_interrupted() => return Err(error),
                    read => read.map_err(|error| chain(&error)),
                };
                let forks = forks.and_then(|content| history(timeline, &content).map_err(|error| error.to_string()));
                // Without one, nothing of other timelines is on the way of this one; they can be followed all the same.
                match forks {
                    Ok(forks) => drop(histories.insert(timeline, (time, forks))),
                    Err(why) => tracing::warn!("the archived {name} does not say what its timeline began from: {why}"),
                }
            }
        }
        Ok(Log { segment_bytes, segments, histories, fetch, lasts: RefCell::default() })
    }

    /// The timelines of which something is archived.
    pub fn timelines(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.segments.keys().map(|(timeline, _)| *timeline).collect();
        all.extend(self.histories.keys());
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether a timeline has in it what another had written up to a position.
    pub fn descends(&self, timeline: u32, from: u32, position: u64) -> bool {
        timeline == from || self.forks(timeline).iter().any(|fork| fork.parent == from && position <= fork.position)
    }

    fn forks(&self, timeline: u32) -> &[Fork] {
        self.histories.get(&timeline).map_or(&[], |(_, forks)| forks)
    }

    /// The timeline of whose files the segment of a number is one, along a timeline.
    fn writer(&self, timeline: u32, number: u64) -> u32 {
        // What a fork left has no more segments from the one on in which it was left.
        let left = |fork: &&Fork| number < fork.position / self.segment_bytes;
        self.forks(timeline).iter().find(left).map_or(timeline, |fork| fork.parent)
    }

    fn archived(&self, timeline: u32, number: u64) -> Option<Timestamp> {
        self.segments.get(&(self.writer(timeline, number), number)).copied()
    }

    /// What follows without a gap from the segment that a position is in.
    pub fn chain(&self, timeline: u32, from: u64) -> Chain {
        let first = from / self.segment_bytes;
        let mut end = first;
        while self.archived(timeline, end).is_some() {
            end += 1;
        }
        let later = self.segments.keys().any(|(of, number)| *number > end && self.writer(timeline, *number) == *of);
        let missing = later.then(|| name(self.writer(timeline, end), end, self.segment_bytes));
        Chain { timeline, first, end, missing }
    }

    /// The file of the last segment that a recovery reads.
    pub fn last_file(&self, chain: &Chain, stop: &Stop) -> String {
        name(self.writer(chain.timeline, stop.number), stop.number, self.segment_bytes)
    }

    /// Where a recovery to a time ends; `None` if the chain does not reach it.
    pub fn stop(&self, chain: &Chain, time: Timestamp) -> Result<Option<Stop>, OrchestrateError> {
        // A segment that was archived by then was written before.
        let is_later = |number: &u64| self.archived(chain.timeline, *number).is_some_and(|pushed| pushed > time);
        let Some(from) = (chain.first..chain.end).find(is_later) else { return Ok(None) };
        // One more: a record may begin in it and end in the next.
        let from = from.saturating_sub(1).max(chain.first);
        let mut reader = LogReader::new(from, self.segment_bytes);
        for number in from..chain.end {
            for end in reader.segment(&self.read(chain.timeline, number)?) {
                if end.time > time {
                    let timeline = self.owner(chain.timeline, end.lsn);
                    return Ok(Some(Stop { next: end, timeline, number }));
                }
            }
            if reader.end().is_some() {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The timeline that wrote what lies at a position.
    fn owner(&self, timeline: u32, position: u64) -> u32 {
        self.forks(timeline).iter().find(|fork| position < fork.position).map_or(timeline, |fork| fork.parent)
    }

    /// The last transaction that a chain holds: times before it can be reached.
    pub fn last(&self, chain: &Chain) -> Result<Option<End>, OrchestrateError> {
        for number in (chain.first..chain.end).rev().take(MAX_IDLE) {
            let key = (self.writer(chain.timeline, number), number);
            let known = self.lasts.borrow().get(&key).copied();
            let last = match known {
                Some(last) => last,
                None => self.ends(chain.timeline, number)?.last().copied(),
            };
            self.lasts.borrow_mut().insert(key, last);
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }

    /// When a timeline began: nothing of it is older. `None` for one that began from no other.
    pub fn birth(&self, timeline: u32) -> Result<Option<Timestamp>, OrchestrateError> {
        let Some((pushed, forks)) = self.histories.get(&timeline) else { return Ok(None) };
        let Some(left) = forks.last().map(|fork| fork.position) else { return Ok(Some(*pushed)) };
        let number = left / self.segment_bytes;
        let ends = match self.segments.contains_key(&(timeline, number)) {
            true => self.ends(timeline, number)?,
            false => Vec::new(),
        };
        // The history is archived when the timeline begins, or a little later.
        let first = ends.iter().find(|end| end.lsn >= left).map(|end| end.time);
        Ok(Some(first.map_or(*pushed, |first| first.min(*pushed))))
    }

    /// The ends of transactions in one segment, read by itself.
    fn ends(&self, timeline: u32, number: u64) -> Result<Vec<End>, OrchestrateError> {
        Ok(LogReader::new(number, self.segment_bytes).segment(&self.read(timeline, number)?))
    }

    fn read(&self, timeline: u32, number: u64) -> Result<Vec<u8>, OrchestrateError> {
        (self.fetch)(&name(self.writer(timeline, number), number, self.segment_bytes))
    }
}

/// The name of a segment.
pub fn name(timeline: u32, number: u64, segment_bytes: u64) -> String {
    let each = (1 << 32) / segment_bytes;
    format!("{timeline:08X}{:08X}{:08X}", number / each, number % each)
}

/// The timeline and the number that a name stands for.
fn segment(name: &str, segment_bytes: u64) -> Option<(u32, u64)> {
    if name.len() != 24 || !name.is_ascii() {
        return None;
    }
    let each = (1 << 32) / segment_bytes;
    let (timeline, log, within) = (hex(&name[..8])?, hex(&name[8..16])?, hex(&name[16..])?);
    (u64::from(within) < each).then(|| (timeline, u64::from(log) * each + u64::from(within)))
}

/// Eight digits, as names of the log have them.
fn hex(text: &str) -> Option<u32> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    (text.len() == 8 && text.bytes().all(is_digit)).then(|| u32::from_str_radix(text, 16).ok())?
}
