//! The way back: after damage to packs, storing the same sources again makes snapshots readable, and a gc neither drops
//! the good copies nor fails for ever because of the bad ones.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn::backend::Backend;
use cairn::format::{Kind, ObjectId};
use cairn::orchestrate::backup;
use cairn::progress::{Monitor, Notice, Phase, Silent};
use cairn::repo::Repository;
use cairn::repo::check::CheckOptions;
use cairn::repo::gc::{self, GcOptions};
use cairn::repo::writer::Writer;

use crate::support::memory::Memory;
use crate::support::nth::{ChangeFault, NthChange};
use crate::support::{
    assert_sound, fork, init, load, next_day, noise, open, open_with, options, rows, store, stream_record, tamper,
};

const NOW: GcOptions = GcOptions { grace: Some(Duration::ZERO), dry_run: false };

fn force(repository: &Repository, mut bytes: &[u8]) -> ObjectId {
    let options = backup::BackupOptions { force: true, ..options("dump") };
    backup::stream(repository, &mut bytes, &options, &Silent).unwrap().id.unwrap()
}

fn packs(memory: &Memory, kind: Kind) -> Vec<(Kind, ObjectId)> {
    memory.ids().into_iter().filter(|(found, _)| *found == kind).collect()
}

fn flip(memory: &Memory, key: (Kind, ObjectId)) {
    tamper(memory, key, |mut bytes| {
        bytes[50] ^= 1;
        Some(bytes)
    });
}

fn truncate(memory: &Memory, key: (Kind, ObjectId)) {
    tamper(memory, key, |mut bytes| {
        bytes.truncate(bytes.len() - 1);
        Some(bytes)
    });
}

fn remove(memory: &Memory, key: (Kind, ObjectId)) {
    tamper(memory, key, |_| None);
}

fn problems(repository: &Repository) -> Vec<cairn::repo::check::Problem> {
    repository.check(&CheckOptions { read_data_percent: Some(100.0) }, &Silent).unwrap().problems
}

struct Days {
    memory: Arc<Memory>,
    contents: Vec<(ObjectId, Vec<u8>)>,
}

/// Three days of one dump, the later ones differences to the first.
fn days() -> Days {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open(&backend);
    let (mut bytes, mut contents) = (rows(1, 3000), Vec::new());
    for day in 0..3 {
        contents.push((store(&repository, "dump", &bytes).unwrap().id.unwrap(), bytes.clone()));
        bytes = next_day(&bytes, day);
    }
    assert!(repository.index().stats().unwrap().delta_frames > 0);
    Days { memory, contents }
}

#[test]
fn storing_the_same_again_by_force_makes_snapshots_readable_after_any_damage_to_a_pack() {
    let days = days();
    for damage in [flip, truncate, remove] {
        for key in [Kind::DataPack, Kind::MetaPack].into_iter().flat_map(|kind| packs(&days.memory, kind)) {
            let memory = fork(&days.memory);
            damage(&memory, key);
            let backend: Arc<dyn Backend> = memory.clone();
            let repository = open(&backend);
            assert!(!problems(&repository).is_empty(), "{key:?}");
            for (_, bytes) in &days.contents {
                let id = force(&repository, bytes);
                assert_eq!(load(&open(&backend), &id).as_ref(), Ok(bytes), "{key:?}");
            }
            for (id, bytes) in &days.contents {
                assert_eq!(load(&open(&backend), id).as_ref(), Ok(bytes), "{key:?}: an old one");
            }
            // One to mark, one to sweep what the first one left over.
            for _ in 0..2 {
                gc::run(&open(&backend), &NOW, &Silent).unwrap();
            }
            for (id, bytes) in &days.contents {
                assert_eq!(load(&open(&backend), id).as_ref(), Ok(bytes), "{key:?}: after gc");
            }
        }
    }
}

#[test]
fn an_ordinary_backup_by_force_stores_no_readable_chunk_twice() {
    let days = days();
    let backend: Arc<dyn Backend> = days.memory.clone();
    let before = days.memory.total_bytes();
    let id = force(&open(&backend), &days.contents[2].1);
    assert!(days.memory.total_bytes() < before + 2000, "only a record is new");
    assert_eq!(load(&open(&backend), &id).unwrap(), days.contents[2].1);
}

/// The subjects of notices.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Monitor for Told {
    fn notice(&self, notice: Notice) {
        self.0.lock().unwrap().push(notice.subject);
    }
}

#[test]
fn a_pack_that_gc_cannot_copy_stays_until_nothing_needs_it() {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open(&backend);
    let kept = rows(1, 12_000);
    let id = store(&repository, "kept", &kept).unwrap().id.unwrap();
    let key = packs(&memory, Kind::DataPack)[0];
    flip(&memory, key);
    // More than a fifth of the pack dies, so it would be rewritten.
    let half = kept[kept.len() / 2..].to_vec();
    let half_id = store(&open(&backend), "half", &half).unwrap().id.unwrap();
    repository.forget(&[(id, "a test".to_owned())]).unwrap();
    let other = rows(9, 3000);
    let gone = store(&open(&backend), "gone", &other).unwrap().id.unwrap();
    repository.forget(&[(gone, "a test".to_owned())]).unwrap();
    let repository = open(&backend);
    // One tombstone that has waited and one that is made and swept in the same run name it: it is told once.
    gc::run(&repository, &GcOptions::default(), &Silent).unwrap();
    let told = Told::default();
    let report = gc::run(&repository, &NOW, &told).unwrap();
    assert_eq!(report.unreadable, [key.1]);
    assert_eq!(told.0.lock().unwrap().iter().filter(|subject| subject.contains(&key.1.to_string())).count(), 1);
    for _ in 0..3 {
        gc::run(&repository, &NOW, &Silent).unwrap();
    }
    // What can be read of it still can.
    let half_before = load(&repository, &half_id);
    assert!(memory.ids().contains(&key) || half_before.as_ref() == Ok(&half), "it went with something needed");
    let restored = force(&open(&backend), &half);
    for _ in 0..2 {
        gc::run(&open(&backend), &NOW, &Silent).unwrap();
    }
    for id in [half_id, restored] {
        assert_eq!(load(&open(&backend), &id).unwrap(), half);
    }
    assert!(!memory.ids().contains(&key), "nothing needs it any more");
    assert_sound(&open(&backend));
}

/// Two copies, one rotten: marking the rotten one as needed would let the good one die.
#[test]
fn gc_keeps_the_copy_that_can_be_read() {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let (first, second) = (open(&backend), open(&backend));
    let bytes = rows(1, 3000);
    let begin = |repository| Writer::begin(repository, &Silent).unwrap();
    let (mut one, mut two) = (begin(&first), begin(&second));
    let content = one.content(None, &mut bytes.as_slice()).unwrap();
    assert_eq!(two.content(None, &mut bytes.as_slice()).unwrap(), content);
    let old = store(&open(&backend), "old", &rows(2, 50)).unwrap().id.unwrap();
    let mut snapshot = first.snapshots().unwrap()[0].snapshot.clone();
    snapshot.content = content;
    one.flush().unwrap();
    two.flush().unwrap();
    let id = one.publish(&snapshot).unwrap();
    two.abandon().unwrap();
    first.forget(&[(old, "a test".to_owned())]).unwrap();
    let copies: Vec<_> = packs(&memory, Kind::DataPack);
    assert_eq!(copies.len(), 3);
    for key in copies {
        let memory = fork(&memory);
        flip(&memory, key);
        let backend: Arc<dyn Backend> = memory.clone();
        for _ in 0..2 {
            gc::run(&open(&backend), &NOW, &Silent).unwrap();
        }
        assert_eq!(load(&open(&backend), &id).as_ref(), Ok(&bytes), "{key:?}");
    }
}

#[test]
fn a_pack_without_a_footer_goes_when_nothing_needs_it_and_stays_while_something_may() {
    let days = days();
    let memory = fork(&days.memory);
    let backend: Arc<dyn Backend> = memory.clone();
    let gone = store(&open(&backend), "gone", &rows(8, 2000)).unwrap().id.unwrap();
    let key = *packs(&memory, Kind::DataPack).iter().find(|key| !days.memory.ids().contains(key)).unwrap();
    truncate(&memory, key);
    let error = gc::run(&open(&backend), &NOW, &Silent).unwrap_err().to_string();
    assert!(error.contains(&key.1.to_string()) && error.contains("--force"), "{error}");
    open(&backend).forget(&[(gone, "a test".to_owned())]).unwrap();
    let plan = gc::run(&open(&backend), &GcOptions { dry_run: true, ..NOW }, &Silent).unwrap();
    assert!(plan.planned.iter().any(|pack| pack.id == key.1), "{plan:?}");
    gc::run(&open(&backend), &NOW, &Silent).unwrap();
    assert!(!memory.ids().contains(&key));
    assert_sound(&open(&backend));
    for (id, bytes) in &days.contents {
        assert_eq!(load(&open(&backend), id).as_ref(), Ok(bytes));
    }
}

/// A sweep dies between its removals: the first pack is gone, the second one is there, and in it lie dead differences to
/// what was in the first. `None` where it died at another moment.
struct HalfSwept {
    memory: Arc<Memory>,
    kept: ObjectId,
    dead: Vec<u8>,
    pack: (Kind, ObjectId),
}

const KEPT: usize = 600;

fn half_swept(at: u64) -> Option<HalfSwept> {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    // An index that lasts: packs go in the order in which they came.
    let cache = tempfile::tempdir().unwrap();
    let open = |backend: &Arc<dyn Backend>| open_with(backend, Some(cache.path().to_owned())).unwrap();
    let first = rows(1, 3000);
    let base = store(&open(&backend), "dump", &first).unwrap().id.unwrap();
    let base_pack = packs(&memory, Kind::DataPack)[0];
    let dead = (0..8).fold(first, |bytes, day| next_day(&bytes, day));
    let repository = open(&backend);
    let parent = repository.snapshots().unwrap()[0].snapshot.content;
    let mut writer = Writer::begin(&repository, &Silent).unwrap();
    let content = writer.content(None, &mut noise("kept", KEPT).as_slice()).unwrap();
    writer.content(Some(parent), &mut dead.as_slice()).unwrap();
    writer.flush().unwrap();
    let kept = writer.publish(&stream_record("kept", content)).unwrap();
    let pack = packs(&memory, Kind::DataPack).into_iter().find(|key| *key != base_pack).unwrap();
    repository.forget(&[(base, "a test".to_owned())]).unwrap();
    let dying: Arc<dyn Backend> = Arc::new(NthChange::new(memory.clone(), ChangeFault::Crash(at)));
    let _ = gc::run(&open(&dying), &NOW, &Silent);
    memory.advance_clock(8 * 24 * 3600);
    let there = memory.ids();
    (!there.contains(&base_pack) && there.contains(&pack)).then_some(HalfSwept { memory, kept, dead, pack })
}

/// Backs up between the sweep of one tombstone and the writing of the next.
struct BackupAfterSweep<'b> {
    backend: Arc<dyn Backend>,
    bytes: &'b [u8],
    marks: AtomicUsize,
    id: Mutex<Option<ObjectId>>,
}

impl Monitor for BackupAfterSweep<'_> {
    fn begin(&self, phase: Phase, _total: Option<u64>) {
        if phase == Phase::Mark && self.marks.fetch_add(1, Ordering::SeqCst) == 1 {
            *self.id.lock().unwrap() = store(&open(&self.backend), "dump", self.bytes).unwrap().id;
        }
    }
}

#[test]
fn after_half_a_sweep_an_unreadable_pack_lent_its_dead_differences_to_new_snapshots() {
    let states: Vec<_> = (0..30).filter_map(half_swept).collect();
    assert!(!states.is_empty(), "no sweep died between its removals");
    for HalfSwept { memory, kept, dead, pack } in states {
        let backend: Arc<dyn Backend> = memory.clone();
        assert_sound(&open(&backend));
        // What lives in it was copied before; the dead differences behind it are as they were.
        flip(&memory, pack);
        let between =
            BackupAfterSweep { backend: backend.clone(), bytes: &dead, marks: 0.into(), id: Mutex::default() };
        gc::run(&open(&backend), &NOW, &between).unwrap();
        let again = between.id.into_inner().unwrap().unwrap();
        assert!(load(&open(&backend), &again).as_ref() == Ok(&dead), "a new snapshot was built on what cannot be read");
        // Nor does gc stop for ever.
        for _ in 0..2 {
            gc::run(&open(&backend), &NOW, &Silent).unwrap();
        }
        assert!(packs(&memory, Kind::Tombstone).is_empty() && !memory.ids().contains(&pack));
        assert!(load(&open(&backend), &kept).as_ref() == Ok(&noise("kept", KEPT)));
        assert!(load(&open(&backend), &again).as_ref() == Ok(&dead));
        assert_sound(&open(&backend));
    }
}
