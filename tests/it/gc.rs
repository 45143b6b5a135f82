//! Garbage collection beside writers and readers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn::backend::{Backend, list_all};
use cairn::format::content::Content;
use cairn::format::record::Purpose;
use cairn::format::{Kind, ObjectId};
use cairn::progress::Silent;
use cairn::repo::gc::{self, Fate, GcOptions};
use cairn::repo::index::PackInfo;
use cairn::repo::lease::Held;
use cairn::repo::writer::Writer;
use cairn::repo::{RepoError, Repository};

use crate::support::memory::Memory;
use crate::support::{assert_sound, init, load, next_day, open, rows, store, stream_record, tamper};

const NOW: GcOptions = GcOptions { grace: Some(Duration::ZERO), dry_run: false };

fn pack_bytes(backend: &dyn Backend) -> u64 {
    [Kind::DataPack, Kind::MetaPack].iter().flat_map(|kind| list_all(backend, *kind).unwrap()).map(|(_, len)| len).sum()
}

fn setup() -> (Arc<Memory>, Arc<dyn Backend>, Repository) {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open(&backend);
    (memory, backend, repository)
}

fn forget_first(repository: &Repository) {
    let id = repository.snapshots().unwrap()[0].id;
    repository.forget(&[(id, "a test".to_owned())]).unwrap();
}

#[test]
fn forgotten_space_is_reclaimed_and_the_rest_stays() {
    let (_, backend, repository) = setup();
    store(&repository, "a", &rows(1, 4000)).unwrap();
    let kept = rows(2, 3000);
    let id = store(&repository, "b", &kept).unwrap().id.unwrap();
    let before = pack_bytes(backend.as_ref());
    forget_first(&repository);
    let plan = gc::run(&repository, &GcOptions { dry_run: true, ..NOW }, &Silent).unwrap();
    assert!(!plan.planned.is_empty());
    assert_eq!(pack_bytes(backend.as_ref()), before, "a dry run changed something");
    gc::run(&repository, &NOW, &Silent).unwrap();
    assert!(pack_bytes(backend.as_ref()) < before * 6 / 10);
    let repository = open(&backend);
    assert_eq!(load(&repository, &id).unwrap(), kept);
    assert_sound(&repository);
}

/// Every pack with the greatest depth of its frames.
fn depths(repository: &Repository) -> BTreeMap<ObjectId, u8> {
    let deepest = |pack: PackInfo| {
        let frames = repository.index().frames_of_pack(pack.no).unwrap();
        (pack.id, frames.iter().map(|frame| frame.entry.depth).max().unwrap())
    };
    repository.index().packs().unwrap().into_iter().map(deepest).collect()
}

/// Publishes `bytes` out of a run that also wrote something that nobody will need, into the same pack.
fn store_beside_waste(
    repository: &Repository,
    parent: Option<Content>,
    bytes: &[u8],
    waste: &[u8],
) -> (ObjectId, Content) {
    let mut writer = Writer::begin(repository, &Silent).unwrap();
    writer.content(None, &mut &waste[..]).unwrap();
    let content = writer.content(parent, &mut &bytes[..]).unwrap();
    writer.flush().unwrap();
    (writer.publish(&stream_record("dump", content)).unwrap(), content)
}

#[test]
fn packs_that_live_in_part_are_rewritten_with_their_deltas() {
    const WASTE: usize = 100_000;
    let (_, backend, repository) = setup();
    let mut bytes = rows(1, 4000);
    let mut all = Vec::new();
    let mut parent = None;
    for day in 0..6u64 {
        let mut waste = vec![0; WASTE];
        blake3::Hasher::new().update(&day.to_le_bytes()).finalize_xof().fill(&mut waste);
        let (id, content) = store_beside_waste(&repository, parent, &bytes, &waste);
        all.push((id, bytes.clone()));
        parent = Some(content);
        bytes = next_day(&bytes, day);
    }
    let before = depths(&repository);
    assert!(before.values().max() >= Some(&3), "the days made no deltas upon deltas: {before:?}");
    let forgotten: Vec<_> = all.drain(..3).map(|(id, _)| (id, "a test".to_owned())).collect();
    repository.forget(&forgotten).unwrap();
    let report = gc::run(&repository, &NOW, &Silent).unwrap();
    let rewritten = report.planned.iter().filter(|pack| pack.fate == Fate::Rewrite).count();
    assert!(rewritten >= 5 && report.packs_written > 0, "{report:?}");
    assert!(report.bytes_removed - report.bytes_written > 5 * WASTE as u64, "{report:?}");

    let repository = open(&backend);
    let mut after = depths(&repository);
    assert!(after.values().max() >= Some(&3), "{after:?}");
    after.retain(|id, _| !before.contains_key(id));
    assert!(after.values().max() >= Some(&1), "no delta frame was moved: {after:?}");
    for (id, bytes) in &all {
        assert!(load(&repository, id).unwrap() == *bytes);
    }
    assert_sound(&repository);
    // What was rewritten is as small as it gets: nothing is left to do.
    let again = gc::run(&repository, &NOW, &Silent).unwrap();
    assert!(again.planned.is_empty() && again.packs_removed == 0, "{again:?}");
}

#[test]
fn many_small_packs_are_joined() {
    let (_, backend, repository) = setup();
    let mut bytes = rows(1, 300);
    let mut last = None;
    for day in 0..40 {
        last = store(&repository, "dump", &bytes).unwrap().id;
        bytes.extend_from_slice(&rows(day + 100, 20));
    }
    let count = || list_all(backend.as_ref(), Kind::DataPack).unwrap().len();
    assert!(count() >= 32);
    gc::run(&repository, &NOW, &Silent).unwrap();
    assert!(count() <= 2, "{} packs are left", count());
    assert_sound(&open(&backend));
    load(&open(&backend), &last.unwrap()).unwrap();
}

#[test]
fn nothing_is_removed_before_the_grace_period_has_passed() {
    let (memory, backend, repository) = setup();
    store(&repository, "a", &rows(1, 4000)).unwrap();
    store(&repository, "b", &rows(2, 100)).unwrap();
    forget_first(&repository);
    let before = pack_bytes(backend.as_ref());
    let day = GcOptions { grace: None, dry_run: false };
    assert!(gc::run(&repository, &day, &Silent).unwrap().waiting_until.is_some());
    memory.advance_clock(23 * 3600);
    assert!(gc::run(&repository, &day, &Silent).unwrap().waiting_until.is_some());
    assert_eq!(pack_bytes(backend.as_ref()), before);
    memory.advance_clock(2 * 3600);
    gc::run(&repository, &day, &Silent).unwrap();
    assert!(pack_bytes(backend.as_ref()) < before / 2);
}

/// PBS advisory 2025-00019 and its like: a writer that began before the marking deduplicates against what gc found dead.
#[test]
fn a_writer_that_may_not_have_seen_the_tombstone_is_waited_for() {
    let (_, backend, repository) = setup();
    let bytes = rows(1, 4000);
    store(&repository, "a", &bytes).unwrap();
    store(&repository, "b", &rows(2, 50)).unwrap();
    let second = open(&backend);
    let mut writer = Writer::begin(&second, &Silent).unwrap();
    let content = writer.content(None, &mut bytes.as_slice()).unwrap();
    forget_first(&repository);
    let report = gc::run(&repository, &NOW, &Silent).unwrap();
    assert!(report.waiting_for.is_some() && report.packs_removed == 0, "{report:?}");
    writer.flush().unwrap();
    let mut snapshot = repository.snapshots().unwrap()[0].snapshot.clone();
    snapshot.content = content;
    let id = writer.publish(&snapshot).unwrap();
    gc::run(&repository, &NOW, &Silent).unwrap();
    let repository = open(&backend);
    assert_eq!(load(&repository, &id).unwrap(), bytes);
    assert_sound(&repository);
}

#[test]
fn a_writer_that_has_seen_the_tombstone_stores_the_dead_again() {
    let (memory, backend, repository) = setup();
    let bytes = rows(1, 4000);
    store(&repository, "a", &bytes).unwrap();
    store(&repository, "b", &rows(2, 50)).unwrap();
    forget_first(&repository);
    let hour = GcOptions { grace: Some(Duration::from_secs(3600)), dry_run: false };
    gc::run(&repository, &hour, &Silent).unwrap();
    memory.advance_clock(3000);
    // This one begins after the tombstone, ends before the sweep, and needs what the tombstone names.
    let id = store(&open(&backend), "a", &bytes).unwrap().id.unwrap();
    memory.advance_clock(3000);
    let report = gc::run(&repository, &hour, &Silent).unwrap();
    assert!(report.packs_removed > 0, "{report:?}");
    let repository = open(&backend);
    assert_eq!(load(&repository, &id).unwrap(), bytes);
    assert_sound(&repository);
}

#[test]
fn a_snapshot_published_between_mark_and_sweep_keeps_what_it_needs() {
    let (memory, backend, repository) = setup();
    let bytes = rows(1, 4000);
    store(&repository, "a", &bytes).unwrap();
    store(&repository, "b", &rows(2, 50)).unwrap();
    let old = repository.snapshots().unwrap()[0].snapshot.clone();
    forget_first(&repository);
    let hour = GcOptions { grace: Some(Duration::from_secs(3600)), dry_run: false };
    gc::run(&repository, &hour, &Silent).unwrap();
    // As a writer does that began before the mark and ended before the sweep.
    let id = repository.write_record(&old).unwrap();
    memory.advance_clock(8000);
    gc::run(&repository, &hour, &Silent).unwrap();
    let repository = open(&backend);
    assert_eq!(load(&repository, &id).unwrap(), bytes);
    assert_sound(&repository);
}

#[test]
fn a_writer_whose_lease_was_taken_away_publishes_nothing() {
    let (memory, _, repository) = setup();
    let mut writer = Writer::begin(&repository, &Silent).unwrap();
    let content = writer.content(None, &mut rows(1, 500).as_slice()).unwrap();
    writer.flush().unwrap();
    for key in memory.ids().into_iter().filter(|(kind, _)| *kind == Kind::Lease) {
        tamper(&memory, key, |_| None);
    }
    assert!(matches!(writer.publish(&stream_record("x", content)), Err(RepoError::LeaseLost)));
    assert!(repository.snapshots().unwrap().is_empty());
}

#[test]
fn two_collectors_do_not_work_at_once() {
    let (_, _, repository) = setup();
    let first = Held::take(&repository, Purpose::Collect).unwrap();
    assert!(matches!(gc::run(&repository, &NOW, &Silent), Err(RepoError::Locked { .. })));
    first.release().unwrap();
    gc::run(&repository, &NOW, &Silent).unwrap();
}

#[test]
fn an_unreadable_pack_or_snapshot_stops_gc_before_it_removes_anything() {
    for kind in [Kind::MetaPack, Kind::DataPack, Kind::Snapshot] {
        let (memory, backend, repository) = setup();
        store(&repository, "a", &rows(1, 4000)).unwrap();
        let before = memory.ids();
        store(&repository, "b", &rows(2, 3000)).unwrap();
        forget_first(&repository);
        let key = memory.ids().into_iter().find(|key| key.0 == kind && !before.contains(key)).unwrap();
        tamper(&memory, key, |mut bytes| {
            bytes.truncate(bytes.len() / 2);
            Some(bytes)
        });
        let before = pack_bytes(backend.as_ref());
        let repository = open(&backend);
        assert!(gc::run(&repository, &NOW, &Silent).is_err(), "{kind}");
        assert_eq!(pack_bytes(backend.as_ref()), before, "{kind}");
    }
}

#[test]
fn readers_go_on_while_packs_are_rewritten() {
    let (_, backend, repository) = setup();
    let mut bytes = rows(1, 6000);
    let mut ids = Vec::new();
    for day in 0..8 {
        ids.push((store(&repository, "dump", &bytes).unwrap().id.unwrap(), bytes.clone()));
        bytes = next_day(&bytes, day);
    }
    // Opened before the gc, so its index names packs that are about to go.
    let reader = open(&backend);
    for (id, _) in &ids[..6] {
        repository.forget(&[(*id, "a test".to_owned())]).unwrap();
    }
    std::thread::scope(|scope| {
        scope.spawn(|| gc::run(&repository, &NOW, &Silent).unwrap());
        for _ in 0..5 {
            for (id, bytes) in &ids[6..] {
                assert!(load(&reader, id).unwrap() == *bytes);
            }
        }
    });
    assert_sound(&open(&backend));
}

/// The sweep does not wait for a writer that is newer than the tombstone, so that writer must not build on what it names.
#[test]
fn a_writer_that_outlives_the_sweep_has_not_built_on_the_dead() {
    let (memory, backend, repository) = setup();
    let bytes = rows(1, 4000);
    store(&repository, "a", &bytes).unwrap();
    store(&repository, "b", &rows(2, 50)).unwrap();
    let mut snapshot = repository.snapshots().unwrap()[0].snapshot.clone();
    forget_first(&repository);
    let hour = GcOptions { grace: Some(Duration::from_secs(3600)), dry_run: false };
    gc::run(&repository, &hour, &Silent).unwrap();
    memory.advance_clock(3000);
    let second = open(&backend);
    let mut writer = Writer::begin(&second, &Silent).unwrap();
    snapshot.content = writer.content(Some(snapshot.content), &mut bytes.as_slice()).unwrap();
    memory.advance_clock(3000);
    let report = gc::run(&repository, &hour, &Silent).unwrap();
    assert!(report.packs_removed > 0, "{report:?}");
    writer.flush().unwrap();
    let id = writer.publish(&snapshot).unwrap();
    let repository = open(&backend);
    assert_eq!(load(&repository, &id).unwrap(), bytes);
    assert_sound(&repository);
}

/// A tombstone that waited used to keep a run from marking, so what died meanwhile was found a day later than needed.
#[test]
fn a_run_that_sweeps_also_marks() {
    let (memory, backend, repository) = setup();
    for name in ["a", "b", "c"] {
        store(&repository, name, &rows(name.len() as u64 + u64::from(name.as_bytes()[0]), 3000)).unwrap();
    }
    forget_first(&repository);
    let hour = GcOptions { grace: Some(Duration::from_secs(3600)), dry_run: false };
    gc::run(&repository, &hour, &Silent).unwrap();
    forget_first(&repository);
    memory.advance_clock(4000);
    let report = gc::run(&repository, &hour, &Silent).unwrap();
    assert!(report.packs_removed > 0 && !report.planned.is_empty() && report.waiting_until.is_some(), "{report:?}");
    memory.advance_clock(4000);
    let report = gc::run(&repository, &hour, &Silent).unwrap();
    assert!(report.packs_removed > 0 && report.planned.is_empty() && report.waiting_until.is_none(), "{report:?}");
    assert_sound(&open(&backend));
}

/// What a writer is just writing looks like what a killed one left, where storage knows neither.
#[test]
fn debris_that_a_live_writer_may_have_made_is_left_alone() {
    const MARGIN: u64 = 600;
    let (memory, backend, repository) = setup();
    gc::run(&repository, &NOW, &Silent).unwrap();
    assert_eq!(memory.debris_age(), MARGIN, "somebody may be writing a lease, or a key");
    gc::run(&repository, &GcOptions::default(), &Silent).unwrap();
    assert_eq!(memory.debris_age(), 24 * 3600);
    let second = open(&backend);
    let writer = Writer::begin(&second, &Silent).unwrap();
    memory.advance_clock(100_000);
    for options in [NOW, GcOptions::default()] {
        gc::run(&repository, &options, &Silent).unwrap();
        assert!(memory.debris_age() >= 100_000 + MARGIN, "{}", memory.debris_age());
    }
    gc::run(&repository, &GcOptions { dry_run: true, ..NOW }, &Silent).unwrap();
    assert!(memory.debris_age() >= 100_000 + MARGIN, "{}", memory.debris_age());
    writer.abandon().unwrap();
    gc::run(&repository, &NOW, &Silent).unwrap();
    assert_eq!(memory.debris_age(), MARGIN);
}
