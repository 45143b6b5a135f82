//! Which backup set is meant.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cairn::backend::Backend;
use cairn::format::ObjectId;
use cairn::format::record::DrillOutcome;
use cairn::format::set::{BackupSet, BaseFacts, Component, Consistency, Facts, PostgresFacts, Status};
use cairn::format::timeline::lsn;
use cairn::format::wal::{SegmentName, WalName};
use cairn::orchestrate::OrchestrateError;
use cairn::orchestrate::platform::aim::AimError;
use cairn::orchestrate::platform::aim::archived::{choose_and_aim, choose_with_base};
use cairn::orchestrate::platform::choose::{Choice, ChooseError, Flaw, Known, Point, Wish, choose};
use cairn::progress::{Monitor, Notice, Silent};
use cairn::repo::Repository;
use cairn::repo::proven::{ComponentProof, Difference, SetProof};
use cairn::repo::sets::SetInfo;
use cairn::repo::wal::{Archive, WalFile};
use jiff::Timestamp;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

use crate::support::log::{SEGMENT, Writer};
use crate::support::memory::Memory;
use crate::support::{init, open};
use crate::wal::put;

const FLAWLESS: [bool; 4] = [false; 4];

/// A set made at a second, with the flaws partial, online, unverified, different.
fn known(number: u8, second: i64, flaws: [bool; 4]) -> Known {
    let [partial, online, unverified, different] = flaws;
    let time = Timestamp::from_second(second).unwrap();
    let set = BackupSet {
        profile: "p".to_owned(),
        host: "h".to_owned(),
        time,
        ended: time,
        consistency: if online { Consistency::Online } else { Consistency::OnePointInTime },
        status: if partial { Status::Partial } else { Status::Complete },
        components: Vec::new(),
        steps: Vec::new(),
        warnings: Vec::new(),
        program: "test".to_owned(),
    };
    let id = ObjectId::of(&[number]);
    let (proven, different) = ((!unverified).then_some(time), different.then_some(time));
    Known { info: SetInfo { id, set }, partial, proven, different }
}

fn wish(point: Point, allow: &[Flaw]) -> Wish<'static> {
    Wish { profile: "p", host: None, point, allow: allow.iter().copied().collect() }
}

fn at(second: i64) -> Point {
    Point::At(Timestamp::from_second(second).unwrap())
}

fn second(choice: Result<Choice, ChooseError>) -> i64 {
    choice.unwrap().info.set.time.as_second()
}

#[test]
fn a_time_means_the_newest_whole_proven_set_at_or_before_it() {
    let all = [
        known(1, 10, FLAWLESS),
        known(2, 20, [true, false, false, false]),
        known(3, 30, [false, true, false, false]),
        known(4, 40, [false, false, true, false]),
        known(5, 50, FLAWLESS),
    ];
    let chosen = |point, allow: &[Flaw]| choose(&all, &wish(point, allow));
    assert_eq!(second(chosen(at(50), &[])), 50);
    assert_eq!(second(chosen(at(49), &[])), 10);
    assert_eq!(second(chosen(at(49), &[Flaw::Unverified])), 40);
    assert_eq!(second(chosen(at(39), &[Flaw::Online])), 30);
    assert_eq!(second(chosen(at(29), &[Flaw::Partial])), 20);
    let passed = chosen(at(49), &[]).unwrap().passed;
    let why: Vec<_> = passed.iter().map(|one| (one.time.as_second(), one.flaws.clone())).collect();
    assert_eq!(why, [(40, vec![Flaw::Unverified]), (30, vec![Flaw::Online]), (20, vec![Flaw::Partial])]);
    let early = chosen(at(9), &[]).unwrap_err().to_string();
    assert!(early.contains("at or before 1970-01-01T00:00:09Z; the oldest"), "{early}");
}

#[test]
fn the_latest_need_not_be_proven_and_the_latest_verified_must() {
    let all =
        [known(1, 10, FLAWLESS), known(2, 20, [false, false, true, false]), known(3, 30, [true, false, false, false])];
    assert_eq!(second(choose(&all, &wish(Point::Latest, &[]))), 20);
    assert_eq!(second(choose(&all, &wish(Point::LatestVerified, &[Flaw::Unverified]))), 10);
    let id = ObjectId::of(&[3]).to_string();
    let named = choose(&all, &wish(Point::Set(id[..10].to_owned()), &[])).unwrap();
    assert_eq!((named.info.set.time.as_second(), named.flaws), (30, vec![Flaw::Partial]));
    // One in which a drill found a difference is not even the latest, and never the latest verified.
    let differs = [known(1, 10, FLAWLESS), known(2, 20, [false, false, true, true])];
    assert_eq!(second(choose(&differs, &wish(Point::Latest, &[]))), 10);
    assert_eq!(second(choose(&differs, &wish(Point::Latest, &[Flaw::Different]))), 20);
    assert_eq!(second(choose(&differs, &wish(at(99), &[Flaw::Unverified]))), 10);
    assert_eq!(second(choose(&differs, &wish(Point::LatestVerified, &Flaw::ALL))), 10);
    let flawed = choose(&all[2..], &wish(Point::Latest, &[])).unwrap_err().to_string();
    assert!(flawed.contains("is partial; --allow"), "{flawed}");
    assert!(matches!(choose(&all, &wish(Point::Set("00000000".to_owned()), &[])), Err(ChooseError::Prefix { .. })));
}

#[test]
fn sets_of_other_profiles_and_machines_are_never_taken_for_ours() {
    let mut all = vec![known(1, 10, FLAWLESS), known(2, 20, FLAWLESS), known(3, 30, FLAWLESS)];
    all[1].info.set.host = "other".to_owned();
    all[2].info.set.profile = "another".to_owned();
    let hosts = choose(&all, &wish(Point::Latest, &[])).unwrap_err();
    assert_eq!(hosts, ChooseError::Hosts { hosts: "h, other".to_owned() });
    assert_eq!(second(choose(&all, &Wish { host: Some("h"), ..wish(Point::Latest, &[]) })), 10);
    let none = choose(&all, &Wish { host: Some("third"), ..wish(Point::Latest, &[]) }).unwrap_err().to_string();
    assert!(none.contains("profile p from third"), "{none}");
    let id = ObjectId::of(&[3]).to_string();
    assert!(matches!(choose(&all, &wish(Point::Set(id), &[])), Err(ChooseError::Profile { .. })));
}

/// A set of components with these states, of which drills have proven some, and found others different.
fn drilled(states: &[(&str, Status)], proven: &[(&str, i64)], different: &[(&str, i64)]) -> (SetInfo, SetProof) {
    let mut info = known(1, 10, FLAWLESS).info;
    for (name, status) in states {
        let mut component = with_base(1, 10, 10, FLAWLESS).info.set.components.remove(0);
        (component.name, component.status) = ((*name).to_owned(), *status);
        info.set.components.push(component);
    }
    info.set.status =
        if states.iter().all(|(_, one)| *one == Status::Complete) { Status::Complete } else { Status::Partial };
    let time = |second: i64| Timestamp::from_second(second).unwrap();
    let equal = |second| ComponentProof {
        time: time(second),
        compared: "all".to_owned(),
        versions: Default::default(),
        restore_milliseconds: 1,
        compare_milliseconds: 1,
        host: "h".to_owned(),
        program: "test".to_owned(),
    };
    let differs = |second| Difference {
        time: time(second),
        outcome: DrillOutcome::Different,
        differences: vec!["one row".to_owned()],
        versions: Default::default(),
        host: "h".to_owned(),
        program: "test".to_owned(),
    };
    let proof = SetProof {
        components: proven.iter().map(|(name, second)| ((*name).to_owned(), equal(*second))).collect(),
        different: different.iter().map(|(name, second)| ((*name).to_owned(), differs(*second))).collect(),
        ..SetProof::default()
    };
    (info, proof)
}

#[test]
fn a_set_is_judged_by_what_is_wanted_of_it() {
    use cairn::orchestrate::platform::profile::Component::{Config, Elasticsearch, Neo4j, Postgres, Redis};
    let states = [
        ("config", Status::Complete),
        ("postgres", Status::Complete),
        ("elasticsearch", Status::Complete),
        ("neo4j", Status::Failed),
        ("redis", Status::Skipped),
    ];
    let (info, proof) = drilled(&states, &[("config", 40), ("postgres", 30)], &[("elasticsearch", 50)]);
    let flaws = |wanted: &[_]| Vec::from_iter(Known::of(info.clone(), Some(&proof), wanted).flaws());
    let whole = Known::whole(info.clone(), Some(&proof));
    assert_eq!(Vec::from_iter(whole.flaws()), [Flaw::Partial, Flaw::Unverified, Flaw::Different]);
    assert_eq!(flaws(&[Postgres]), []);
    let both = Known::of(info.clone(), Some(&proof), &[Config, Postgres]);
    assert_eq!(
        (both.flaws().len(), both.proven),
        (0, Some(Timestamp::from_second(30).unwrap())),
        "as of the older one"
    );
    assert_eq!(flaws(&[Postgres, Elasticsearch]), [Flaw::Unverified, Flaw::Different]);
    assert_eq!(flaws(&[Neo4j]), [Flaw::Partial, Flaw::Unverified]);
    assert_eq!(flaws(&[Config, Redis]), [Flaw::Partial]);
    // What cannot be read may say that it differs.
    let doubtful = SetProof { doubtful: true, ..proof.clone() };
    assert_eq!(Vec::from_iter(Known::of(info.clone(), Some(&doubtful), &[Postgres]).flaws()), [Flaw::Unverified]);
    assert_eq!(Vec::from_iter(Known::of(info.clone(), None, &[Postgres]).flaws()), [Flaw::Unverified]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_chosen_is_the_newest_that_is_tolerated(
        sets in proptest::collection::vec((0i64..100, any::<[bool; 4]>()), 0..12),
        time in 0i64..100,
        allowed in any::<[bool; 4]>(),
    ) {
        let all: Vec<Known> = (0..).zip(&sets).map(|(number, (second, flaws))| known(number, *second, *flaws)).collect();
        let allow: BTreeSet<Flaw> = Flaw::ALL.into_iter().zip(allowed).filter(|(_, is)| *is).map(|(flaw, _)| flaw).collect();
        let fits = |(second, flaws): &&(i64, [bool; 4])| {
            *second <= time && flaws.iter().zip(allowed).all(|(has, allowed)| !has || allowed)
        };
        let newest = sets.iter().filter(fits).map(|(second, _)| *second).max();
        let choice = choose(&all, &Wish { allow: allow.clone(), ..wish(at(time), &[]) });
        prop_assert_eq!(choice.as_ref().ok().map(|choice| choice.info.set.time.as_second()), newest);
        if let Ok(choice) = choice {
            prop_assert!(choice.passed.iter().all(|passed| passed.time >= choice.info.set.time));
            prop_assert!(choice.passed.iter().all(|passed| passed.flaws.iter().any(|flaw| !allow.contains(flaw))));
        }
    }
}

/// The same, with a base backup that ended at a second.
fn with_base(number: u8, second: i64, ended: i64, flaws: [bool; 4]) -> Known {
    let mut known = known(number, second, flaws);
    let base = BaseFacts {
        start_lsn: "0/100".to_owned(),
        stop_lsn: "0/200".to_owned(),
        ended: Timestamp::from_second(ended).unwrap(),
        segment_bytes: 16 << 20,
        archived: true,
    };
    let facts = PostgresFacts {
        method: "base".to_owned(),
        system_id: "1".to_owned(),
        timeline: 1,
        lsn: "0/200".to_owned(),
        databases: Vec::new(),
        base: Some(base),
    };
    known.info.set.components.push(Component {
        name: "postgres".to_owned(),
        status: Status::Complete,
        parts: Vec::new(),
        versions: Default::default(),
        facts: Some(Facts::Postgres(facts)),
        warnings: Vec::new(),
        milliseconds: 1,
    });
    known
}

struct Told(std::sync::Mutex<Vec<String>>);

impl Monitor for Told {
    fn notice(&self, notice: Notice) {
        self.0.lock().unwrap().push(notice.message);
    }
}

/// A time while the newest set was being made was refused, though an older set leads there; with a window that held it.
#[test]
fn a_set_whose_base_backup_had_not_ended_by_the_time_is_passed_over() {
    let all = [
        with_base(1, 10, 12, FLAWLESS),
        with_base(2, 20, 25, FLAWLESS),
        known(3, 30, FLAWLESS),
        with_base(4, 40, 45, [false, false, true, false]),
    ];
    for (time, expected, told) in [(25, 20, 0), (24, 10, 1), (29, 20, 0), (31, 20, 1), (20, 10, 1)] {
        let (monitor, wish) = (Told(Default::default()), wish(at(time), &[]));
        let time = Timestamp::from_second(time).unwrap();
        assert_eq!(second(choose_with_base(&all, &wish, time, &monitor)), expected, "{time}");
        assert_eq!(monitor.0.lock().unwrap().len(), told, "{time}");
    }
    let time = |second| Timestamp::from_second(second).unwrap();
    let unproven = choose_with_base(&all[2..], &wish(at(50), &[]), time(50), &Silent);
    assert!(matches!(unproven, Err(ChooseError::Flawed { .. })), "{unproven:?}");
    // With no base backup at all it is for the aim to say so.
    assert_eq!(second(choose_with_base(&all[2..3], &wish(at(50), &[]), time(50), &Silent)), 30);
    assert!(choose_with_base(&all, &wish(at(9), &[]), time(9), &Silent).is_err());
}

/// Interrupted when it was asked so often.
struct Patient(AtomicUsize);

impl Monitor for Patient {
    fn interrupted(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

/// A repository with a base backup and the log that follows it, of a cluster whose transactions end at the seconds 2000,
/// 2001 and so on, each in a segment of its own.
fn archived() -> (Repository, Archive, Known, Writer) {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory;
    let repository = open(&backend);
    let archive = Archive::of(&repository);
    let mut writer = Writer::new();
    let start = writer.record(0, 0x10, &[1; 80]).0;
    let stop = writer.record(10, 0, &[2; 3000]).0;
    for second in 2000..2006 {
        writer.end(Timestamp::from_second(second).unwrap(), false);
        writer.record(10, 0, &[3; 50_000]);
        writer.switch();
    }
    for (number, content) in &writer.segments {
        let name = SegmentName::holding(1, number * SEGMENT, SEGMENT);
        put(&archive, &WalFile { system_id: 1, name: WalName::Segment(name) }, content).unwrap();
    }
    let mut known = with_base(1, 1000, 1001, FLAWLESS);
    let Some(Facts::Postgres(facts)) = &mut known.info.set.components[0].facts else { panic!("no facts") };
    let base = facts.base.as_mut().unwrap();
    (base.start_lsn, base.stop_lsn, base.segment_bytes) = (lsn(start), lsn(stop), SEGMENT);
    (repository, archive, known, writer)
}

#[test]
fn a_time_is_aimed_at_in_the_log_that_a_repository_holds() {
    let (repository, archive, known, writer) = archived();
    let aimed = |second: i64, monitor: &dyn Monitor| {
        let time = Timestamp::from_second(second).unwrap();
        choose_and_aim(&repository, std::slice::from_ref(&known), &wish(at(second), &[]), (time, None), true, monitor)
    };
    let (_, aim) = aimed(2002, &Silent).unwrap();
    assert_eq!((aim.next_transaction.as_second(), aim.segments), (2003, 4));
    // Whatever is being read, an interruption is heard.
    let asked = Patient(AtomicUsize::new(usize::MAX));
    aimed(2002, &asked).unwrap();
    let asked = usize::MAX - asked.0.into_inner();
    assert!(asked >= 5, "{asked}");
    for after in 0..asked {
        let error = aimed(2002, &Patient(AtomicUsize::new(after))).unwrap_err();
        assert!(error.is_interrupted(), "{after}: {error:?}");
    }
    // A segment of another length is none of this cluster's log, so nothing is missing before it.
    let name = SegmentName::holding(1, (writer.number() + 1) * SEGMENT, SEGMENT);
    put(&archive, &WalFile { system_id: 1, name: WalName::Segment(name) }, &vec![1; 2 * SEGMENT as usize]).unwrap();
    let refused = aimed(2005, &Silent).unwrap_err();
    let OrchestrateError::Aim(AimError::Unreachable { gap, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(gap, "");
}
