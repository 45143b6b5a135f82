//! What of the log may go: a random history of bases, segments, forgetting and collecting, in which no base backup that is
//! kept ever lacks a segment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn::backend::Backend;
use cairn::format::set::{BackupSet, Component, Consistency, Facts, Part, PostgresFacts, Status};
use cairn::format::timeline::lsn;
use cairn::format::wal::{SegmentName, WalName};
use cairn::format::{Kind, ObjectId};
use cairn::progress::Silent;
use cairn::repo::Repository;
use cairn::repo::forget::Removals;
use cairn::repo::gc::{self, GcOptions};
use cairn::repo::lease::Held;
use cairn::repo::wal::{Archive, WalFile};
use jiff::Timestamp;
use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_oneof, proptest};

use super::{CLUSTER, SIZE, numbered, put, segment};
use crate::support::memory::Memory;
use crate::support::{init, open, store};

/// A set with one base backup of a cluster, from a position on.
pub fn base_set(cluster: &str, timeline: u32, position: &str, method: &str, files: ObjectId) -> BackupSet {
    let facts = PostgresFacts {
        method: method.to_owned(),
        system_id: cluster.to_owned(),
        timeline,
        lsn: position.to_owned(),
        databases: Vec::new(),
        base: None,
    };
    let part = Part { role: method.to_owned(), snapshot: files, bytes: 1, stored_bytes: 1 };
    let component = Component {
        name: "postgres".to_owned(),
        status: Status::Complete,
        parts: vec![part],
        versions: BTreeMap::new(),
        facts: Some(Facts::Postgres(facts)),
        warnings: Vec::new(),
        milliseconds: 1,
    };
    BackupSet {
        profile: "test".to_owned(),
        host: "test".to_owned(),
        time: Timestamp::now(),
        ended: Timestamp::now(),
        consistency: Consistency::Online,
        status: Status::Complete,
        components: vec![component],
        steps: Vec::new(),
        warnings: Vec::new(),
        program: "test".to_owned(),
    }
}

/// A repository, and what must be in its archive.
struct World {
    memory: Arc<Memory>,
    repository: Repository,
    archive: Archive,
    /// Of each of two clusters: the next segment.
    next: [u64; 2],
    /// Kept bases: the set, its snapshot, the cluster, the first segment.
    bases: Vec<(ObjectId, ObjectId, usize, u64)>,
    made: u64,
}

fn id_of(cluster: usize) -> u64 {
    CLUSTER + cluster as u64
}

impl World {
    fn new() -> Self {
        let memory = Memory::new();
        init(memory.as_ref());
        let backend: Arc<dyn Backend> = memory.clone();
        let repository = open(&backend);
        let archive = Archive::of(&repository);
        World { memory, repository, archive, next: [1, 1], bases: Vec::new(), made: 0 }
    }

    fn file(cluster: usize, number: u64) -> WalFile {
        // Timelines change on the way, and do not matter.
        WalFile { system_id: id_of(cluster), name: WalName::Segment(numbered(1 + number as u32 / 5, number)) }
    }

    fn log(&mut self, cluster: usize, count: u64) {
        for _ in 0..count {
            let file = World::file(cluster, self.next[cluster]);
            let name = file.name.segment().unwrap();
            put(&self.archive, &file, &segment(file.system_id, name, SIZE, self.next[cluster])).unwrap();
            self.next[cluster] += 1;
        }
    }

    fn base(&mut self, cluster: usize, offset: u64) {
        self.made += 1;
        let files = store(&self.repository, "base", &self.made.to_le_bytes()).unwrap().id.unwrap();
        let number = self.next[cluster];
        let method = if self.made.is_multiple_of(3) { "files" } else { "base" };
        let position = lsn(number * SIZE + offset % SIZE);
        let set = base_set(&id_of(cluster).to_string(), 1, &position, method, files);
        let id = self.repository.publish_set(&set).unwrap();
        self.bases.push((id, files, cluster, number));
        // What is written while it is made.
        self.log(cluster, 1);
    }

    fn forget(&mut self, which: usize) {
        if self.bases.is_empty() {
            return;
        }
        let (set, files, _, _) = self.bases.remove(which % self.bases.len());
        let because = || "a test".to_owned();
        self.repository
            .forget_all(&Removals { snapshots: vec![(files, because())], sets: vec![(set, because())] })
            .unwrap();
    }

    fn gc(&self, hours: u64) {
        let options = GcOptions { grace: Some(Duration::from_secs(hours * 3600)), dry_run: false };
        gc::run(&self.repository, &options, &Silent).unwrap();
    }

    fn has(&self, cluster: usize, number: u64) -> bool {
        self.archive.head(&World::file(cluster, number)).unwrap().is_some()
    }

    /// Nothing that a kept base needs is gone, and of a cluster without a base nothing at all.
    fn check(&self) {
        for (_, _, cluster, from) in &self.bases {
            for number in *from..self.next[*cluster] {
                assert!(self.has(*cluster, number), "cluster {cluster} lacks segment {number} after {from}");
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Log { cluster: usize, count: u64 },
    Base { cluster: usize, offset: u64 },
    Forget { which: usize },
    Pass { hours: i64 },
    Gc { hours: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => (0..2usize, 1..4u64).prop_map(|(cluster, count)| Operation::Log { cluster, count }),
        3 => (0..2usize, any::<u64>()).prop_map(|(cluster, offset)| Operation::Base { cluster, offset }),
        2 => any::<usize>().prop_map(|which| Operation::Forget { which }),
        1 => (0..60i64).prop_map(|hours| Operation::Pass { hours }),
        3 => (0..30u64).prop_map(|hours| Operation::Gc { hours }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_kept_base_backup_ever_lacks_a_segment(operations in prop::collection::vec(operation(), 1..30)) {
        let mut world = World::new();
        for operation in operations {
            match operation {
                Operation::Log { cluster, count } => world.log(cluster, count),
                Operation::Base { cluster, offset } => world.base(cluster, offset),
                Operation::Forget { which } => world.forget(which),
                Operation::Pass { hours } => world.memory.advance_clock(hours * 3600),
                Operation::Gc { hours } => world.gc(hours),
            }
            world.check();
        }
    }
}

const DAY: i64 = 24 * 3600;

#[test]
fn log_before_the_oldest_base_backup_goes_with_it_and_not_before_the_grace_period() {
    let mut world = World::new();
    world.log(0, 3);
    world.base(0, 100);
    world.log(0, 3);
    world.base(0, 0);
    world.log(1, 5);
    let labels = ["000000010000000000000002.00000028.backup", "00000002.history"];
    for (label, content) in labels.into_iter().zip(["START WAL LOCATION", "1\t0/500000\tno"]) {
        let file = WalFile { system_id: CLUSTER, name: WalName::parse(label).unwrap() };
        put(&world.archive, &file, content.as_bytes()).unwrap();
    }
    world.gc(0);
    assert!(world.has(0, 1), "it is younger than the margin");
    world.memory.advance_clock(DAY);
    world.gc(48);
    assert!(world.has(0, 1), "it is younger than the grace period");
    let dry = gc::run(&world.repository, &GcOptions { grace: Some(Duration::ZERO), dry_run: true }, &Silent).unwrap();
    world.gc(24);
    let left: Vec<bool> = (1..=8).map(|number| world.has(0, number)).collect();
    assert_eq!(left, [false, false, false, true, true, true, true, true]);
    let (label, history) = (WalName::parse(labels[0]).unwrap(), WalName::parse(labels[1]).unwrap());
    let has = |name| world.archive.head(&WalFile { system_id: CLUSTER, name }).unwrap().is_some();
    assert!(!has(label) && has(history), "the label goes, the history stays");
    assert!((1..=5).all(|number| world.has(1, number)), "the other cluster has no base backup");
    // The clock of a dry run is this machine's, which is not that of the storage here.
    assert!(dry.log.iter().all(|log| log.before == "0/400064"), "{:?}", dry.log);

    world.forget(0);
    world.memory.advance_clock(DAY);
    world.gc(24);
    // The second begins just where a segment does; the one before stays.
    assert!(!world.has(0, 6) && world.has(0, 7) && world.has(0, 8), "{:?}", world.next);
    world.forget(0);
    world.memory.advance_clock(9 * DAY);
    world.gc(0);
    assert!(world.has(0, 7) && world.has(0, 8), "without a base backup nothing goes");
}

#[test]
fn what_a_running_writer_may_need_stays() {
    let mut world = World::new();
    world.log(0, 4);
    world.base(0, 0);
    world.memory.advance_clock(3600);
    let backend: Arc<dyn Backend> = world.memory.clone();
    let other = open(&backend);
    let held = Held::take(&other, cairn::format::record::Purpose::Write).unwrap();
    world.log(0, 6);
    world.base(0, 0);
    world.forget(0);
    world.memory.advance_clock(3 * DAY);
    world.gc(0);
    // Older than the lease goes; what was archived since it was taken stays, whoever published what meanwhile.
    assert!(!world.has(0, 1) && world.has(0, 6) && world.has(0, 11));
    held.release().unwrap();
    world.gc(0);
    assert!(!world.has(0, 6) && world.has(0, 11) && world.has(0, 12));
}

#[test]
fn sets_that_do_not_say_what_they_need_keep_everything() {
    for (cluster, position) in [("not a number", "0/900000"), (&*CLUSTER.to_string(), "nowhere")] {
        let mut world = World::new();
        world.log(0, 4);
        world.base(0, 0);
        let files = store(&world.repository, "other", b"other").unwrap().id.unwrap();
        world.repository.publish_set(&base_set(cluster, 1, position, "base", files)).unwrap();
        world.memory.advance_clock(9 * DAY);
        world.gc(0);
        assert!(world.has(0, 1), "{cluster} {position}");
    }
    // A set that cannot be read may name any.
    let mut world = World::new();
    world.log(0, 4);
    world.base(0, 0);
    world.memory.write_new(Kind::Set, &ObjectId::from_bytes([1; 32]), b"damaged").unwrap();
    world.memory.advance_clock(9 * DAY);
    world.gc(0);
    assert!(world.has(0, 1));
}

#[test]
fn a_base_backup_whose_files_are_gone_lets_nothing_go() {
    let mut world = World::new();
    world.log(0, 4);
    world.base(0, 0);
    world.memory.remove(Kind::Snapshot, &world.bases[0].1).unwrap();
    world.memory.advance_clock(9 * DAY);
    world.gc(0);
    assert!(world.has(0, 1));
}

#[test]
fn a_segment_name_of_another_length_is_not_misplaced() {
    // In segments of 16 MiB this name is far behind, in those of 1 MiB it is not.
    let name = SegmentName { timeline: 1, high: 0, low: 16 };
    assert_eq!((name.position(SIZE), name.position(16 << 20)), (Some(16 << 20), Some(256 << 20)));
    let mut world = World::new();
    world.base(0, 0);
    let file = WalFile { system_id: CLUSTER, name: WalName::Segment(name) };
    put(&world.archive, &file, &segment(CLUSTER, name, 16 << 20, 1)).unwrap();
    world.forget(0);
    world.next[0] = 100;
    world.base(0, 0);
    world.memory.advance_clock(9 * DAY);
    world.gc(0);
    assert!(world.archive.head(&file).unwrap().is_some(), "it ends at 0x11000000, the base begins at 0x6400000");
}
