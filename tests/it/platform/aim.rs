//! Where a recovery to a time begins and ends: against a plain model of timelines, and hostile logs.

use std::collections::{BTreeMap, BTreeSet};

use cairn::format::ObjectId;
use cairn::format::timeline::lsn;
use cairn::format::wal::{SegmentName, WalName};
use cairn::orchestrate::OrchestrateError;
use cairn::orchestrate::platform::aim::log::Log;
use cairn::orchestrate::platform::aim::{Aim, AimError, Base, Wanted, aim};
use cairn::source::postgres::log::{LogReader, without_header};
use jiff::Timestamp;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

use crate::support::log::{SEGMENT, Writer};

const BEGIN: i64 = 1_790_000_000_000_000;

fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap()
}

/// The end of a transaction, as the model knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    lsn: u64,
    /// After the last byte.
    end: u64,
    /// Where the record before it begins.
    before: u64,
    time: i64,
}

/// What happened, on every timeline.
struct History {
    random: u64,
    now: i64,
    live: Vec<Writer>,
    ends: BTreeMap<u32, Vec<Known>>,
    /// What each timeline began from, and when.
    forks: BTreeMap<u32, (Vec<(u32, u64)>, i64)>,
    bases: Vec<Base>,
    archived: BTreeMap<WalName, (Timestamp, Vec<u8>)>,
    lost: u64,
}

fn name(timeline: u32, number: u64) -> WalName {
    WalName::Segment(SegmentName::holding(timeline, number * SEGMENT, SEGMENT))
}

impl History {
    fn new(seed: u64, steps: usize, lost: u64) -> Self {
        let mut history = History {
            random: seed | 1,
            now: BEGIN,
            live: vec![Writer::new()],
            ends: BTreeMap::new(),
            forks: BTreeMap::new(),
            bases: Vec::new(),
            archived: BTreeMap::new(),
            lost,
        };
        history.base(0);
        for _ in 0..steps {
            history.step();
        }
        history
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % limit
    }

    fn step(&mut self) {
        self.now += 1 + self.below(1000) as i64;
        let one = self.below(self.live.len() as u64) as usize;
        match self.below(100) {
            0..40 => self.end(one),
            40..90 => {
                let length = self.below(120_000) as usize;
                self.write(one, |writer| {
                    writer.record(10, 0, &vec![3; length]);
                });
            }
            90..96 => self.write(one, Writer::switch),
            96..98 => self.base(one),
            _ => self.fork(one),
        }
    }

    /// Writes, and archives the segments that are full.
    fn write(&mut self, one: usize, act: impl FnOnce(&mut Writer)) {
        let first = self.live[one].number();
        act(&mut self.live[one]);
        for number in first..self.live[one].number() {
            let writer = &self.live[one];
            let (name, bytes) = (name(writer.timeline, number), writer.segments[&number].clone());
            if self.lost == 0 || self.below(self.lost) != 0 {
                self.archived.insert(name, (time(self.now), bytes));
            }
        }
    }

    fn end(&mut self, one: usize) {
        let (now, abort) = (self.now, self.below(4) == 0);
        let mut known = None;
        self.write(one, |writer| {
            let (lsn, before) = writer.end(time(now), abort);
            known = Some(Known { lsn: without_header(lsn, SEGMENT), end: writer.at, before, time: now });
        });
        self.ends.entry(self.live[one].timeline).or_default().extend(known);
    }

    fn base(&mut self, one: usize) {
        let mut start = 0;
        self.write(one, |writer| {
            start = writer.record(0, 0x10, &[1; 80]).0;
            writer.record(10, 0, &[2; 3000]);
        });
        let writer = &self.live[one];
        self.bases.push(Base {
            set: ObjectId::of(&self.now.to_le_bytes()),
            time: time(self.now),
            system_id: "1".to_owned(),
            timeline: writer.timeline,
            start,
            stop: writer.at,
            ended: time(self.now),
            segment_bytes: SEGMENT,
        });
        self.write(one, Writer::switch);
    }

    /// Somebody restores to a moment of this timeline; sometimes the old server goes on.
    fn fork(&mut self, one: usize) {
        let parent = self.live[one].timeline;
        let ends = self.ends.get(&parent).cloned().unwrap_or_default();
        if ends.is_empty() || self.forks.len() > 4 {
            return;
        }
        let at = ends[self.below(ends.len() as u64) as usize];
        let timeline = self.forks.len() as u32 + 2;
        let mut forks = self.forks.get(&parent).map(|(forks, _)| forks.clone()).unwrap_or_default();
        forks.push((parent, at.lsn));
        let new = self.live[one].fork(timeline, at.lsn, at.before);
        let lines: String = forks.iter().map(|(of, at)| format!("{of}\t{}\tbefore\n", lsn(*at))).collect();
        self.archived.insert(WalName::History(timeline), (time(self.now), lines.into_bytes()));
        self.forks.insert(timeline, (forks, self.now));
        match self.below(2) {
            0 => self.live[one] = new,
            _ => self.live.push(new),
        }
    }

    fn forks(&self, timeline: u32) -> Vec<(u32, u64)> {
        self.forks.get(&timeline).map(|(forks, _)| forks.clone()).unwrap_or_default()
    }

    /// What a recovery along a timeline meets, with who wrote it.
    fn along(&self, timeline: u32) -> Vec<(u32, Known)> {
        let (mut met, mut from) = (Vec::new(), 0);
        for (of, until) in self.forks(timeline).into_iter().chain([(timeline, u64::MAX)]) {
            let ends = self.ends.get(&of).into_iter().flatten();
            met.extend(ends.filter(|end| end.lsn >= from && end.lsn < until).map(|end| (of, *end)));
            from = until;
        }
        met
    }

    fn is_archived(&self, timeline: u32, number: u64) -> bool {
        let writer = self.forks(timeline).into_iter().find(|(_, at)| number < at / SEGMENT);
        let writer = writer.map_or(timeline, |(of, _)| of);
        self.archived.contains_key(&name(writer, number))
    }

    /// The newest base backup and the place where a recovery along a timeline ends, if it can.
    fn way(&self, timeline: u32, at: Timestamp) -> Option<(ObjectId, u32, Known)> {
        let descends = |base: &Base| {
            base.timeline == timeline
                || self.forks(timeline).iter().any(|(of, at)| *of == base.timeline && base.stop <= *at)
        };
        let mut ways = self.bases.iter().rev().filter(|base| base.ended <= at && descends(base)).filter_map(|base| {
            let met = self.along(timeline);
            let (of, end) = *met.iter().find(|(_, end)| end.lsn >= base.stop && time(end.time) > at)?;
            let mut needed = base.start / SEGMENT..=(end.end - 1) / SEGMENT;
            needed.all(|number| self.is_archived(timeline, number)).then_some((base.set, of, end))
        });
        ways.next()
    }

    fn expected(&self, at: Timestamp) -> Vec<(ObjectId, u32, Known)> {
        let all: BTreeSet<u32> = [1].into_iter().chain(self.forks.keys().copied()).collect();
        let lies_on = |timeline: &u32, of: u32| {
            of == *timeline && self.forks.get(timeline).is_none_or(|(_, birth)| time(*birth) <= at)
        };
        all.iter().filter_map(|timeline| self.way(*timeline, at).filter(|(_, of, _)| lies_on(timeline, *of))).collect()
    }

    fn aim(&self, at: Timestamp, timeline: Option<u32>) -> Result<Aim, OrchestrateError> {
        self.aim_without(&BTreeSet::new(), at, timeline)
    }

    /// The same where some files are damaged: that is noticed when all of one was read.
    fn aim_without(
        &self,
        damaged: &BTreeSet<WalName>,
        at: Timestamp,
        timeline: Option<u32>,
    ) -> Result<Aim, OrchestrateError> {
        let fetch = |name: WalName, take: &mut dyn FnMut(&[u8])| {
            self.archived[&name].1.chunks(100_000).for_each(take);
            match damaged.contains(&name) {
                true => Err(OrchestrateError::Damaged(format!("{name} is rotten"))),
                false => Ok(()),
            }
        };
        let files = self.archived.iter().map(|(name, (time, _))| (*name, *time));
        aim(&self.bases, &Log::new(SEGMENT, files, &fetch)?, Wanted { time: at, timeline, set: None })
    }

    /// Ends a transaction, fills the segment that it is in, and has it archived; when it ended.
    fn filled(&mut self, one: usize) -> Timestamp {
        self.now += 1_000_000;
        self.end(one);
        let ended = time(self.now);
        self.now += 1_000_000;
        self.write(one, Writer::switch);
        ended
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_time_leads_to_the_base_backup_and_position_that_a_plain_model_finds(
        seed in any::<u64>(), steps in 20usize..400, lost in 0u64..40, at in proptest::collection::vec(0.0f64..1.1, 1..8)
    ) {
        let history = History::new(seed, steps, lost);
        let chosen = at.iter().map(|part| BEGIN + ((history.now - BEGIN) as f64 * part) as i64);
        // The very moment of a transaction, too.
        let ends = history.ends.values().flatten().map(|end| end.time).step_by(17).take(5);
        for at in chosen.chain(ends).map(time).collect::<Vec<_>>() {
            let expected = history.expected(at);
            match (history.aim(at, None), expected.as_slice()) {
                (Ok(aim), [(set, of, end)]) => {
                    prop_assert_eq!((aim.set, aim.timeline, &aim.stop_lsn), (*set, *of, &lsn(end.lsn)));
                    prop_assert_eq!(aim.next_transaction, time(end.time));
                    prop_assert!(aim.window.oldest <= at && at < aim.window.newest, "{aim:?}");
                }
                (Err(OrchestrateError::Aim(AimError::Ambiguous { .. })), [_, _, ..])
                | (Err(OrchestrateError::Aim(AimError::Unreachable { .. } | AimError::NoBase { .. })), []) => {}
                (found, expected) => prop_assert!(false, "{at}: {found:?}, and not {expected:?}"),
            }
            // A timeline that is named is followed, also to what it began from: along that, then.
            for timeline in 1..=history.forks.len() as u32 + 1 {
                let found = history.aim(at, Some(timeline)).ok().map(|aim| (aim.set, aim.timeline, aim.stop_lsn));
                let way = history.way(timeline, at).and_then(|(_, of, _)| history.way(of, at));
                let way = way.map(|(set, of, end)| (set, of, lsn(end.lsn)));
                prop_assert_eq!(found, way, "timeline {}", timeline);
            }
        }
    }

    #[test]
    fn a_hostile_log_is_read_to_some_end(
        some in proptest::collection::vec(any::<u8>(), 1..4000),
        flips in proptest::collection::vec((0usize..1 << 20, any::<u8>()), 0..40)
    ) {
        let mut bytes = some.iter().copied().cycle().take(SEGMENT as usize).collect::<Vec<u8>>();
        LogReader::new(1, SEGMENT).push(&bytes, &mut |_| {});
        let mut writer = Writer::new();
        while writer.number() == 1 {
            writer.end(time(BEGIN), false);
            writer.record(10, 0, &[1; 20_000]);
        }
        bytes.copy_from_slice(&writer.segments[&1]);
        for (at, byte) in flips {
            bytes[at] ^= byte;
        }
        let mut reader = LogReader::new(1, SEGMENT);
        let mut found = 0;
        reader.push(&bytes, &mut |_| found += 1);
        prop_assert!(found <= SEGMENT as usize / 24);
        prop_assert!(reader.close());
        reader.push(&bytes[..100], &mut |_| {});
        prop_assert!(!reader.close() && reader.end().is_some());
    }

    #[test]
    fn pieces_of_any_length_say_what_the_whole_says(
        seed in any::<u64>(), lengths in proptest::collection::vec(1usize..30_000, 1..40)
    ) {
        let history = History::new(seed, 200, 0);
        let writer = &history.live[0];
        let first = *writer.segments.first_key_value().unwrap().0;
        let (mut whole, mut pieces) = (LogReader::new(first, SEGMENT), LogReader::new(first, SEGMENT));
        let mut lengths = lengths.iter().copied().cycle();
        for segment in writer.segments.values() {
            let (mut expected, mut found) = (Vec::new(), Vec::new());
            whole.push(segment, &mut |end| expected.push(end));
            let mut rest = segment.as_slice();
            while !rest.is_empty() {
                let (piece, others) = rest.split_at(rest.len().min(lengths.next().unwrap_or(1)));
                pieces.push(piece, &mut |end| found.push(end));
                rest = others;
            }
            prop_assert_eq!(found, expected);
            prop_assert!(whole.close() && pieces.close());
            prop_assert_eq!(whole.end(), pieces.end());
        }
    }
}

#[test]
fn a_segment_that_is_too_short_or_too_long_ends_the_log() {
    let mut writer = Writer::new();
    while writer.number() < 3 {
        writer.end(time(BEGIN), false);
        writer.record(10, 0, &[1; 20_000]);
    }
    let two = [writer.segments[&1].clone(), writer.segments[&2].clone()].concat();
    for len in [0, 100, SEGMENT as usize - 8192, SEGMENT as usize + 1, 2 * SEGMENT as usize] {
        let mut reader = LogReader::new(1, SEGMENT);
        two[..len].chunks(5000).for_each(|piece| reader.push(piece, &mut |_| {}));
        assert!(!reader.close() && reader.end().is_some(), "{len}");
    }
}

/// Pages of the last segment that there can be: no sum of positions is too large.
#[test]
fn the_last_segment_of_all_is_read_to_some_end() {
    let number = u64::MAX / SEGMENT;
    let mut bytes = vec![0xff; SEGMENT as usize];
    // One record that goes on to the last page of all.
    let mut rest: u32 = 8152 + 126 * 8168 + 100;
    for (index, page) in bytes.chunks_exact_mut(8192).enumerate() {
        let address = number * SEGMENT + index as u64 * 8192;
        page[..2].copy_from_slice(&0xD110u16.to_le_bytes());
        page[2..4].copy_from_slice(&(if index == 0 { 3u16 } else { 1 }).to_le_bytes());
        page[8..16].copy_from_slice(&address.to_le_bytes());
        page[16..20].copy_from_slice(&rest.to_le_bytes());
        rest = rest.saturating_sub(if index == 0 { 8152 } else { 8168 });
    }
    for number in [number, number - 1, u64::MAX] {
        let mut reader = LogReader::new(number, SEGMENT);
        for _ in 0..2 {
            reader.push(&bytes, &mut |_| {});
            reader.close();
        }
        assert!(reader.end().is_some());
    }
}

/// What is rotten behind the time wanted forbids nothing, and what is rotten on the way is told with its timeline.
#[test]
fn damage_behind_the_time_forbids_nothing() {
    let mut history = History::new(1, 0, 0);
    let ends: Vec<Timestamp> = (0..4).map(|_| history.filled(0)).collect();
    let segments: Vec<WalName> = history.archived.keys().copied().collect();
    let newest = BTreeSet::from([segments[segments.len() - 1]]);
    let good = history.aim(ends[0], None).unwrap();
    let aim = history.aim_without(&newest, ends[0], None).unwrap();
    assert_eq!((&aim.stop_lsn, aim.next_transaction), (&good.stop_lsn, ends[1]));
    assert!(aim.window.oldest <= ends[0] && ends[0] < aim.window.newest, "{:?}", aim.window);
    // The answer is the same as if the file were not read, and not one about it.
    let late = time(history.now + 1);
    let refused = history.aim_without(&newest, late, None).unwrap_err();
    let OrchestrateError::Aim(AimError::Unreachable { windows, .. }) = refused else { panic!("{refused:?}") };
    assert!(windows.contains("is rotten") && windows.contains("timeline 1"), "{windows}");
    // In the segment in which the recovery would stop.
    let stops = BTreeSet::from([segments[segments.len() - 3]]);
    let refused = history.aim_without(&stops, ends[0], None).unwrap_err().to_string();
    assert!(refused.contains("timeline 1") && refused.contains("--timeline N"), "{refused}");
    let refused = history.aim_without(&stops, ends[0], Some(1)).unwrap_err().to_string();
    assert!(refused.contains("is rotten") && !refused.contains("--timeline N"), "{refused}");
}

/// One timeline that cannot be read keeps nobody from naming another.
#[test]
fn another_timeline_can_be_named_where_one_is_damaged() {
    let mut history = History::new(1, 0, 0);
    history.filled(0);
    let Known { lsn: at, before, .. } = history.ends[&1][0];
    let forked = history.live[0].fork(2, at, before);
    history.live.push(forked);
    history.now += 1;
    history.forks.insert(2, (vec![(1, at)], history.now));
    let line = format!("1\t{}\tbefore\n", lsn(at));
    history.archived.insert(WalName::History(2), (time(history.now), line.into_bytes()));
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        old.push(history.filled(0));
        new.push(history.filled(1));
    }
    let aimed = |damaged: WalName, timeline| history.aim_without(&BTreeSet::from([damaged]), new[0], timeline);
    let of = |timeline: u32| {
        *history.archived.keys().filter(|name| name.segment().is_some_and(|of| of.timeline == timeline)).nth(1).unwrap()
    };
    let refused = aimed(of(2), None).unwrap_err().to_string();
    assert!(refused.contains("timeline 2") && refused.contains("--timeline N"), "{refused}");
    assert_eq!(aimed(of(2), Some(1)).unwrap().timeline, 1);
}

/// What the primary had written of its last segment is archived as a part of one, and not read by itself.
#[test]
fn the_rest_of_a_timeline_that_was_left_is_pointed_at() {
    let mut history = History::new(1, 0, 0);
    history.filled(0);
    let at = history.filled(0);
    history.now += 1_000_000;
    history.end(0);
    let plain = history.aim(at, None).unwrap_err().to_string();
    assert!(plain.contains("does not reach") && !plain.contains(".partial"), "{plain}");
    let number = history.live[0].number();
    let partial = WalName::Partial(SegmentName::holding(1, number * SEGMENT, SEGMENT));
    history.archived.insert(partial, (time(history.now), history.live[0].segments[&number].clone()));
    for timeline in [None, Some(1)] {
        let told = history.aim(at, timeline).unwrap_err().to_string();
        assert!(told.contains(&partial.to_string()) && told.contains("docs/restore.md"), "{told}");
    }
    // As that says: archived as a whole.
    history.archived.insert(name(1, number), history.archived[&partial].clone());
    assert_eq!(history.aim(at, None).unwrap().timeline, 1);
}

/// The clock was an hour fast while the base backup was made, and was set back.
#[test]
fn a_stop_before_the_end_of_the_base_backup_is_none() {
    let mut history = History::new(1, 0, 0);
    let first = history.filled(0);
    let hour = 3_600_000_000;
    let mut start = 0;
    history.write(0, |writer| start = writer.record(0, 0x10, &[1; 80]).0);
    history.now += hour;
    history.end(0);
    history.now -= hour;
    history.now += 1_000_000;
    let stop = history.live[0].record(10, 0, &[2; 300]).0;
    let older = history.bases[0].clone();
    let set = ObjectId::of(b"fast");
    history.bases.push(Base { set, start, stop, ended: time(history.now), time: time(history.now), ..older.clone() });
    let ended = time(history.now);
    history.filled(0);
    history.filled(0);
    // The recovery would stop at the transaction of the fast clock, before its base backup is one point in time. From the
    // older one it does, too, and there it may.
    let aim = history.aim(ended, None).unwrap();
    assert_eq!((aim.set, aim.next_transaction > ended), (older.set, true));
    assert!(first < aim.next_transaction);
    history.bases.remove(0);
    let refused = history.aim(ended, None).unwrap_err();
    assert!(matches!(refused, OrchestrateError::Aim(AimError::Unreachable { .. })), "{refused:?}");
}
