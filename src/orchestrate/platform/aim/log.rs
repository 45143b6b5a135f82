//! The archived log of one cluster: which segments follow each other on each timeline, and which moments they reach.
//!
//! A timeline that began from another has the log of that one up to there. As the server does, this takes for each segment
//! the file of the newest timeline that had begun by then, and no other: what an older timeline wrote after it was left
//! is not on the way.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::format::timeline::{Fork, history, left, owner, writer};
use crate::format::wal::{MAX_SEGMENT, MIN_SEGMENT, SegmentName, WalName};
use crate::orchestrate::OrchestrateError;
use crate::repo::chain;
use crate::source::postgres::log::{End, LogReader};

/// So many segments without the end of a transaction are looked through backwards; an idle server archives such ones.
const MAX_IDLE: usize = 4096;

/// Reads an archived file piece by piece. Only when this returns has it been compared with its hash.
pub type Fetch<'a> = dyn Fn(WalName, &mut dyn FnMut(&[u8])) -> Result<(), OrchestrateError> + 'a;

/// What is archived.
pub struct Log<'a> {
    segment_bytes: u64,
    /// When each segment was archived, by timeline and number.
    segments: BTreeMap<(u32, u64), Timestamp>,
    /// Segments of which a beginning is archived: what was written when their timeline was left.
    partial: BTreeSet<(u32, u64)>,
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
    /// Takes what is archived, by name and time. Files that are no part of the log and no histories say nothing here.
    pub fn new(
        segment_bytes: u64,
        files: impl IntoIterator<Item = (WalName, Timestamp)>,
        fetch: &'a Fetch<'a>,
    ) -> Result<Self, OrchestrateError> {
        if !segment_bytes.is_power_of_two() || !(MIN_SEGMENT..=MAX_SEGMENT).contains(&segment_bytes) {
            return Err(OrchestrateError::Unfit(format!(
                "segments of its log have {segment_bytes} bytes, as none have"
            )));
        }
        let (segments, partial, histories) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let mut log = Log { segment_bytes, segments, partial, histories, fetch, lasts: RefCell::default() };
        let key = |of: SegmentName| Some((of.timeline, of.position(segment_bytes)? / segment_bytes));
        for (name, time) in files {
            match name {
                WalName::Segment(of) => log.segments.extend(key(of).map(|key| (key, time))),
                WalName::Partial(of) => log.partial.extend(key(of)),
                WalName::History(timeline) => log.take_history(timeline, time)?,
                WalName::Label(..) => {}
            }
        }
        Ok(log)
    }

    fn take_history(&mut self, timeline: u32, time: Timestamp) -> Result<(), OrchestrateError> {
        let name = WalName::History(timeline);
        let mut content = Vec::new();
        let read = match (self.fetch)(name, &mut |piece| content.extend_from_slice(piece)) {
            Err(error) if error.is_interrupted() => return Err(error),
            read => read.map_err(|error| chain(&error)),
        };
        let forks = read.and_then(|()| history(timeline, &content).map_err(|error| error.to_string()));
        // Without one, nothing of other timelines is on the way of this one; they can be followed all the same.
        match forks {
            Ok(forks) => drop(self.histories.insert(timeline, (time, forks))),
            Err(why) => tracing::warn!("the archived {name} does not say what its timeline began from: {why}"),
        }
        Ok(())
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
        timeline == from || left(self.forks(timeline), from).is_some_and(|left| position <= left)
    }

    fn forks(&self, timeline: u32) -> &[Fork] {
        self.histories.get(&timeline).map_or(&[], |(_, forks)| forks)
    }

    /// The timeline of whose files the segment of a number is one, along a timeline.
    fn writer(&self, timeline: u32, number: u64) -> u32 {
        writer(self.forks(timeline), timeline, number, self.segment_bytes)
    }

    /// The file of the segment of a number, along a timeline.
    fn file(&self, timeline: u32, number: u64) -> SegmentName {
        let (of, size) = (self.writer(timeline, number), self.segment_bytes);
        SegmentName::holding(of, number.saturating_mul(size), size)
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
        let missing = later.then(|| self.file(timeline, end).to_string());
        Chain { timeline, first, end, missing }
    }

    /// The file of the last segment that a recovery reads.
    pub fn last_file(&self, chain: &Chain, stop: &Stop) -> String {
        self.file(chain.timeline, stop.number).to_string()
    }

    /// The file that has a beginning of the segment at which a chain ends, if that is archived.
    pub fn partial(&self, chain: &Chain) -> Option<String> {
        let key = (self.writer(chain.timeline, chain.end), chain.end);
        let name = || WalName::Partial(self.file(chain.timeline, chain.end)).to_string();
        self.partial.contains(&key).then(name)
    }

    /// Where a recovery to a time ends; `None` if the chain does not reach it.
    ///
    /// Reading begins late, by the times at which segments were archived. Where the server's clock or the archiver's was
    /// wrong, or a commit's record is so long that it lies in three segments (of the smallest length), an earlier stop may be
    /// passed over: then the recovery ends elsewhere than was aimed at, which is noticed when the two are compared.
    pub fn stop(&self, chain: &Chain, time: Timestamp) -> Result<Option<Stop>, OrchestrateError> {
        // A segment that was archived by then was written before.
        let is_later = |number: &u64| self.archived(chain.timeline, *number).is_some_and(|pushed| pushed > time);
        let Some(from) = (chain.first..chain.end).find(is_later) else { return Ok(None) };
        // One more: a record may begin in it and end in the next.
        let from = from.saturating_sub(1).max(chain.first);
        let mut reader = LogReader::new(from, self.segment_bytes);
        for number in from..chain.end {
            let mut next: Option<End> = None;
            let take = &mut |end: End| next = next.or((end.time > time).then_some(end));
            if !self.read(chain.timeline, number, &mut reader, take)? {
                return Ok(None);
            }
            if let Some(next) = next {
                let timeline = owner(self.forks(chain.timeline), chain.timeline, next.lsn);
                return Ok(Some(Stop { next, timeline, number }));
            }
            if reader.end().is_some() {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The last transaction that a chain holds: times before it can be reached.
    pub fn last(&self, chain: &Chain) -> Result<Option<End>, OrchestrateError> {
        for number in (chain.first..chain.end).rev().take(MAX_IDLE) {
            let key = (self.writer(chain.timeline, number), number);
            let known = self.lasts.borrow().get(&key).copied();
            let last = match known {
                Some(last) => last,
                None => self.pick(chain.timeline, number, &|_, end| Some(end))?,
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
        let first = match self.segments.contains_key(&(timeline, number)) {
            true => self.pick(timeline, number, &|first, end| first.or((end.lsn >= left).then_some(end)))?,
            false => None,
        };
        // The history is archived when the timeline begins, or a little later.
        Ok(Some(first.map_or(*pushed, |first| first.time.min(*pushed))))
    }

    /// One of the ends of transactions in one segment, read by itself: `choose` is given the one so far, and the next.
    fn pick(
        &self,
        timeline: u32,
        number: u64,
        choose: &dyn Fn(Option<End>, End) -> Option<End>,
    ) -> Result<Option<End>, OrchestrateError> {
        let mut picked = None;
        let mut reader = LogReader::new(number, self.segment_bytes);
        let is_whole = self.read(timeline, number, &mut reader, &mut |end| picked = choose(picked, end))?;
        Ok(picked.filter(|_| is_whole))
    }

    /// Reads a segment; whether it has the length of one. What is found counts only when this has returned.
    fn read(
        &self,
        timeline: u32,
        number: u64,
        reader: &mut LogReader,
        found: &mut dyn FnMut(End),
    ) -> Result<bool, OrchestrateError> {
        let name = WalName::Segment(self.file(timeline, number));
        (self.fetch)(name, &mut |bytes| reader.push(bytes, found))?;
        Ok(reader.close())
    }
}
