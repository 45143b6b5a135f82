//! Where a recovery to a time begins and ends: against a plain model of timelines, and hostile logs.

use std::collections::{BTreeMap, BTreeSet};

use cairn::format::ObjectId;
use cairn::format::timeline::lsn;
use cairn::orchestrate::OrchestrateError;
use cairn::orchestrate::platform::aim::log::{Log, name};
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
    archived: BTreeMap<String, (Timestamp, Vec<u8>)>,
    lost: u64,
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
            let (name, bytes) = (name(writer.timeline, number, SEGMENT), writer.segments[&number].clone());
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
        self.archived.insert(format!("{timeline:08X}.history"), (time(self.now), lines.into_bytes()));
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
        self.archived.contains_key(&name(writer, number, SEGMENT))
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
        let fetch = |name: &str| Ok(self.archived[name].1.clone());
        let files = self.archived.iter().map(|(name, (time, _))| (name.clone(), *time));
        aim(&self.bases, &Log::new(SEGMENT, files, &fetch)?, Wanted { time: at, timeline, set: None })
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
        drop(LogReader::new(1, SEGMENT).segment(&bytes));
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
        prop_assert!(reader.segment(&bytes).len() <= SEGMENT as usize / 24);
        reader.segment(&bytes[..100]);
        prop_assert!(reader.end().is_some());
    }
}
