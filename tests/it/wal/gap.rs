//! What is missing is the end of the log only if nothing proves that it was written.

use std::sync::Arc;

use cairn::backend::Backend;
use cairn::format::timeline::lsn;
use cairn::format::wal::WalName;
use cairn::format::{Kind, ObjectId};
use cairn::orchestrate::OrchestrateError;
use cairn::orchestrate::wal::gap::{Server, beyond};
use cairn::orchestrate::wal::{self, Fetch, Fetched};
use cairn::progress::Silent;
use cairn::repo::wal::{Archive, WalFile};
use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

use super::status::{history, log};
use super::{CLUSTER, SIZE, made, numbered, put, segment};
use crate::support::credential;
use crate::support::faulty::{Fault, Faulty, Operation, Rule};
use crate::support::memory::Memory;

fn missing(timeline: u32, number: u64) -> WalFile {
    WalFile { system_id: CLUSTER, name: WalName::Segment(numbered(timeline, number)) }
}

/// What proves that a segment was written.
fn proof(archive: &Archive, timeline: u32, number: u64) -> Option<String> {
    beyond(archive, &missing(timeline, number), Server::Recovers, &Silent).unwrap().map(|name| name.to_string())
}

fn name(timeline: u32, number: u64) -> Option<String> {
    Some(numbered(timeline, number).to_string())
}

/// A history as PostgreSQL writes one: the timelines before it, and in which segment each was left.
fn left(archive: &Archive, timeline: u32, forks: &[(u32, u64)]) {
    let line = |(of, number): &(u32, u64)| format!("{of}\t{}\tbefore\n", lsn(number * SIZE + 0xA0));
    history(archive, timeline, &forks.iter().map(line).collect::<String>());
}

#[test]
fn a_gap_is_no_end_however_long_it_is() {
    let (_, _, archive) = made();
    log(&archive, 1, [1, 2, 5, 6]);
    assert_eq!((proof(&archive, 1, 3), proof(&archive, 1, 4)), (name(1, 5), name(1, 5)));
    assert_eq!(proof(&archive, 1, 7), None);
    // In another upper half, and with nothing at any distance that somebody would guess.
    log(&archive, 1, [9_001]);
    assert_eq!((proof(&archive, 1, 7), proof(&archive, 1, 9_000)), (name(1, 9_001), name(1, 9_001)));
    assert_eq!(proof(&archive, 1, 9_002), None);
    // Another cluster's, or a file that is no segment.
    let other = WalFile { system_id: CLUSTER + 1, name: WalName::Segment(numbered(1, 9_003)) };
    put(&archive, &other, &segment(CLUSTER + 1, numbered(1, 9_003), SIZE, 1)).unwrap();
    assert_eq!(proof(&archive, 1, 9_002), None);
    for name in [WalName::History(1), WalName::Partial(numbered(1, 3)), WalName::Label(numbered(1, 3), 40)] {
        assert_eq!(
            beyond(&archive, &WalFile { system_id: CLUSTER, name }, Server::Recovers, &Silent).unwrap(),
            None,
            "{name}"
        );
    }
}

#[test]
fn the_first_segment_of_a_timeline_is_not_made_up_for_by_the_one_that_it_left() {
    let (_, _, archive) = made();
    // The old server went on in segment 6, where timeline 2 began, whose own segment 6 is lost.
    log(&archive, 1, 1..=6);
    log(&archive, 2, [7, 8]);
    left(&archive, 2, &[(1, 6)]);
    assert_eq!(proof(&archive, 2, 6), name(2, 7));
    // Before that the server is to take those of timeline 1, whether or not they are there.
    assert_eq!((proof(&archive, 2, 5), proof(&archive, 2, 0)), (None, None));
    assert_eq!(proof(&archive, 2, 9), None);
    // However many timelines lie between.
    log(&archive, 100, [8, 9]);
    left(&archive, 100, &[(1, 6), (2, 8)]);
    assert_eq!((proof(&archive, 100, 3), proof(&archive, 100, 7)), (None, None));
}

#[test]
fn a_timeline_that_began_behind_a_segment_proves_it() {
    let (_, _, archive) = made();
    log(&archive, 1, 1..=3);
    log(&archive, 3, [8]);
    left(&archive, 2, &[(1, 6)]);
    left(&archive, 3, &[(1, 6), (2, 8)]);
    let named = |timeline| Some(WalName::History(timeline).to_string());
    assert_eq!((proof(&archive, 1, 4), proof(&archive, 1, 5)), (named(2), named(2)));
    assert_eq!(proof(&archive, 1, 6), None, "timeline 2 has its own segment 6");
    // Nothing of timeline 2 itself is there, and timeline 3 tells how far it went.
    assert_eq!((proof(&archive, 2, 6), proof(&archive, 2, 7)), (named(3), named(3)));
    assert_eq!((proof(&archive, 2, 8), proof(&archive, 3, 9)), (None, None));
}

/// The old server may still be archiving what it wrote before another took over.
#[test]
fn a_standby_waits_for_what_only_a_history_proves() {
    let (_, _, archive) = made();
    log(&archive, 1, 1..=3);
    left(&archive, 2, &[(1, 6)]);
    let asked = |number| beyond(&archive, &missing(1, number), Server::StandsBy, &Silent).unwrap();
    assert_eq!((asked(4), asked(5)), (None, None));
    log(&archive, 1, [6]);
    assert_eq!(asked(4), Some(missing(1, 6).name));
    let data = tempfile::tempdir().unwrap();
    assert_eq!(wal::server(data.path()).unwrap(), Server::Recovers);
    for (settings, server) in [
        ("restore_command = 'cp standby_mode'\n", Server::Recovers),
        ("#standby_mode = on\n", Server::Recovers),
        ("standby_mode = 'on' # for now\nprimary_conninfo = ''\n", Server::StandsBy),
        ("standby_mode=ON\n", Server::StandsBy),
        ("standby_mode = on\nstandby_mode = off\n", Server::Recovers),
    ] {
        std::fs::write(data.path().join("recovery.conf"), settings).unwrap();
        assert_eq!(wal::server(data.path()).unwrap(), server, "{settings}");
    }
    std::fs::remove_file(data.path().join("recovery.conf")).unwrap();
    std::fs::write(data.path().join("standby.signal"), "").unwrap();
    assert_eq!(wal::server(data.path()).unwrap(), Server::StandsBy);
}

#[test]
fn without_its_history_a_timeline_counts_as_begun() {
    let (_, _, archive) = made();
    log(&archive, 1, 1..=6);
    log(&archive, 2, [7]);
    assert_eq!((proof(&archive, 2, 6), proof(&archive, 2, 3)), (name(2, 7), name(2, 7)));
    history(&archive, 2, "no line\n");
    assert!(beyond(&archive, &missing(2, 3), Server::Recovers, &Silent).is_err(), "a malformed one is no end");
}

/// The object of a file.
fn object(memory: &Memory, archive: &Archive, file: &WalFile) -> (Kind, ObjectId) {
    let key = (Kind::Wal, archive.id(file));
    assert!(memory.peek(key.0, &key.1).is_some());
    key
}

#[test]
fn a_damaged_object_counts_only_where_it_comes_after() {
    let (memory, _, archive) = made();
    log(&archive, 1, [1, 2, 5]);
    for number in [5, 1] {
        let key = object(&memory, &archive, &missing(1, number));
        let good = memory.peek(key.0, &key.1).unwrap();
        let mut bad = good.to_vec();
        bad[60] ^= 1;
        memory.overwrite(key.0, &key.1, &bad);
        assert_eq!(proof(&archive, 1, 3), name(1, 5), "{number} is damaged");
        assert_eq!(proof(&archive, 1, 6), None, "{number} is damaged");
        if number == 5 {
            assert!(
                beyond(&archive, &missing(1, 4), Server::Recovers, &Silent).is_err(),
                "the very next one is damaged"
            );
        }
        memory.overwrite(key.0, &key.1, &good);
    }
}

#[test]
fn storage_that_fails_is_no_end() {
    let (_, backend, archive) = made();
    log(&archive, 1, [1, 2]);
    let other = WalFile { system_id: CLUSTER + 1, name: WalName::Segment(numbered(1, 1)) };
    put(&archive, &other, &segment(CLUSTER + 1, numbered(1, 1), SIZE, 1)).unwrap();
    let faulty = Faulty::new(backend);
    let failing: Arc<dyn Backend> = faulty.clone();
    let archive = Archive::open(failing, &credential()).unwrap();
    assert_eq!(proof(&archive, 1, 3), None);
    let before = faulty.calls(Operation::Read);
    assert_eq!(proof(&archive, 1, 3), None);
    let reads = faulty.calls(Operation::Read) - before;
    assert!(reads > 4, "{reads}");
    let all = (0..reads).map(|call| Rule::on(Operation::Read, Fault::Error).kind(Kind::Wal).after(call));
    for rule in all.chain([Rule::on(Operation::List, Fault::Error).kind(Kind::Wal)]) {
        faulty.add(rule);
        let found: Result<_, OrchestrateError> = beyond(&archive, &missing(1, 3), Server::Recovers, &Silent);
        assert!(found.is_err(), "{rule:?}: {found:?}");
        faulty.heal();
    }
}

/// Servers before version 13 ask for each segment of an older timeline on the newest one first.
#[test]
fn what_the_server_asks_for_in_passing_is_answered_without_a_list() {
    let (_, backend, archive) = made();
    log(&archive, 1, 1..=6);
    log(&archive, 2, [6, 7]);
    left(&archive, 2, &[(1, 6)]);
    left(&archive, 3, &[(1, 6), (2, 9)]);
    let faulty = Faulty::new(backend);
    let counting: Arc<dyn Backend> = faulty.clone();
    let archive = Archive::open(counting, &credential()).unwrap();
    let before = faulty.calls(Operation::List);
    for (timeline, number) in [(2, 1), (2, 5), (3, 1), (3, 6), (3, 7)] {
        assert_eq!(proof(&archive, timeline, number), None);
    }
    assert_eq!(faulty.calls(Operation::List), before);
    let read = faulty.calls(Operation::Read);
    assert_eq!(proof(&archive, 2, 8), Some(WalName::History(3).to_string()));
    assert_eq!(faulty.calls(Operation::List), before + 1);
    // Its history and the other (two each), four segments that might be near, and of the heads of ten objects those of both
    // histories and of what timeline 1 wrote too much.
    let read = faulty.calls(Operation::Read) - read;
    assert!(read <= 11, "{read} heads were read: what comes before is known by its name");
}

#[test]
fn a_file_that_vanishes_while_it_is_fetched_is_no_end() {
    let (_, backend, archive) = made();
    log(&archive, 1, [1]);
    let directory = tempfile::tempdir().unwrap();
    let into = directory.path().join("got");
    let fetch = Fetch { file: missing(1, 1), into, spool: None, server: Server::Recovers };
    let faulty = Faulty::new(backend);
    let failing: Arc<dyn Backend> = faulty.clone();
    let archive = Archive::open(failing, &credential()).unwrap();
    faulty.add(Rule::on(Operation::Read, Fault::Vanished).kind(Kind::Wal).after(1));
    let error = wal::fetch(&archive, &fetch, &Silent).unwrap_err().to_string();
    assert!(error.contains("vanished") && !fetch.into.exists(), "{error}");
    assert_eq!(wal::fetch(&archive, &fetch, &Silent).unwrap(), Fetched::Whole);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_missing_segment_is_judged_as_a_plain_model_does(
        lost in proptest::collection::vec(0u64..24, 0..20), forks in proptest::collection::vec(2u64..20, 0..4)
    ) {
        // Each timeline goes on from the one before it, and was left within a segment; the last one ends with segment 23.
        let mut forks = forks;
        forks.sort_unstable();
        let (_, _, archive) = made();
        let last = forks.len() as u32 + 1;
        let begins = |timeline: u32| if timeline == 1 { 0 } else { forks[timeline as usize - 2] };
        // What it wrote to its end.
        let wrote = |timeline: u32| begins(timeline)..forks.get(timeline as usize - 1).copied().unwrap_or(24);
        for timeline in 1..=last {
            if timeline > 1 {
                let before: Vec<_> = (1..timeline).map(|of| (of, forks[of as usize - 1])).collect();
                left(&archive, timeline, &before);
            }
            log(&archive, timeline, wrote(timeline).filter(|number| !lost.contains(number)));
        }
        for timeline in 1..=last {
            for number in 0..26 {
                // A history says how far its parent went; of the last one only its own segments do.
                let said = if timeline == last {
                    wrote(timeline).filter(|number| !lost.contains(number)).max().map_or(0, |last| last + 1)
                } else {
                    wrote(timeline).end
                };
                let is_there = wrote(timeline).contains(&number) && !lost.contains(&number);
                if !is_there {
                    let expected = (begins(timeline)..said).contains(&number);
                    let found = proof(&archive, timeline, number);
                    // Without a single segment their length is not known.
                    let any = (1..=last).any(|of| wrote(of).any(|number| !lost.contains(&number)));
                    prop_assert_eq!(found.is_some(), expected && any, "{}: {}: {:?}", timeline, number, found);
                }
            }
        }
    }
}
