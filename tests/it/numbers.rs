//! What is dead and what stays is decided over chunks' numbers in the index. Where another process changes those under a
//! run (a shared cache, a rebuild), the run publishes and removes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn::backend::{Backend, list_all};
use cairn::format::Kind;
use cairn::progress::{Monitor, Phase, Silent};
use cairn::repo::gc::keep::Keep;
use cairn::repo::gc::{self, GcOptions};
use cairn::repo::writer::Writer;
use cairn::repo::{RepoError, Repository};

use crate::support::faulty::{Fault, Faulty, Operation, Rule};
use crate::support::memory::Memory;
use crate::support::{assert_sound, init, load, open_with, rows, store, stream_record};

struct Place {
    backend: Arc<dyn Backend>,
    cache: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let memory = Memory::new();
        init(memory.as_ref());
        Place { backend: memory, cache: tempfile::tempdir().unwrap() }
    }

    fn cache(&self) -> Option<PathBuf> {
        Some(self.cache.path().to_owned())
    }

    fn open(&self) -> Repository {
        open_with(&self.backend, self.cache()).unwrap()
    }

    /// Stores a stream, forgets it, and stores another one.
    fn with_something_dead() -> (Self, cairn::format::ObjectId) {
        let place = Place::new();
        let repository = place.open();
        let gone = store(&repository, "gone", &rows(77, 1500)).unwrap().id.unwrap();
        let kept = store(&repository, "kept", &rows(1, 1500)).unwrap().id.unwrap();
        repository.forget(&[(gone, "a test".to_owned())]).unwrap();
        (place, kept)
    }
}

fn forget_rows(repository: &Repository) {
    let packs: Vec<u64> = repository.index().packs().unwrap().iter().map(|pack| pack.no).collect();
    assert!(!packs.is_empty());
    repository.index().remove_packs(&packs).unwrap();
}

/// A run that stores what a tombstone calls dead, and during which `meanwhile` happens.
fn publish(repository: &Repository, meanwhile: impl FnOnce(&Repository)) -> Result<(), RepoError> {
    let mut writer = Writer::begin(repository, &Silent).unwrap();
    meanwhile(repository);
    let content = writer.content(None, &mut rows(77, 1500).as_slice()).unwrap();
    writer.flush().unwrap();
    writer.publish(&stream_record("again", content)).map(drop)
}

#[test]
fn a_pack_that_came_back_under_other_numbers_seemed_to_hold_nothing_dead() {
    let (place, kept) = Place::with_something_dead();
    let repository = place.open();
    let tomorrow = GcOptions { grace: Some(Duration::from_secs(24 * 3600)), dry_run: false };
    gc::run(&repository, &tomorrow, &Silent).unwrap();
    assert_eq!(list_all(place.backend.as_ref(), Kind::Tombstone).unwrap().len(), 1);
    let result = publish(&repository, |repository| {
        forget_rows(repository);
        repository.refresh(&Silent).unwrap();
    });
    assert!(matches!(result, Err(RepoError::IndexChanged)), "{result:?}");
    publish(&repository, |_| ()).unwrap();
    // What was published needs nothing that is called dead.
    let today = GcOptions { grace: Some(Duration::ZERO), dry_run: false };
    gc::run(&place.open(), &today, &Silent).unwrap();
    let repository = place.open();
    let again = repository.snapshots().unwrap().into_iter().find(|info| info.snapshot.name == "again").unwrap();
    assert_eq!(load(&repository, &again.id).unwrap(), rows(77, 1500));
    assert_eq!(load(&repository, &kept).unwrap(), rows(1, 1500));
    assert_sound(&repository);
}

#[test]
fn a_pack_whose_rows_had_gone_was_taken_for_dead() {
    let (place, _) = Place::with_something_dead();
    let repository = place.open();
    let packs = repository.index().packs().unwrap();
    forget_rows(&repository);
    let found = Keep::new(Default::default()).is_all_dead(&repository, &packs[0]);
    assert!(matches!(found, Err(RepoError::IndexChanged)), "{found:?}");
}

/// At the beginning of the sweep another process, with the same cache, takes the rows of all packs away and puts them back.
struct Meddler {
    index: Repository,
    done: AtomicBool,
}

impl Monitor for Meddler {
    fn begin(&self, phase: Phase, _total: Option<u64>) {
        if phase == Phase::Sweep && !self.done.swap(true, Ordering::SeqCst) {
            forget_rows(&self.index);
            self.index.refresh(&Silent).unwrap();
        }
    }
}

#[test]
fn a_sweep_removed_packs_although_numbers_had_changed_since_it_decided() {
    let (place, kept) = Place::with_something_dead();
    let meddler = Meddler { index: place.open(), done: AtomicBool::new(false) };
    let today = GcOptions { grace: Some(Duration::ZERO), dry_run: false };
    let before = list_all(place.backend.as_ref(), Kind::DataPack).unwrap().len();
    let result = gc::run(&place.open(), &today, &meddler);
    assert!(meddler.done.load(Ordering::SeqCst));
    assert!(matches!(result, Err(RepoError::IndexChanged)), "{result:?}");
    assert!(list_all(place.backend.as_ref(), Kind::DataPack).unwrap().len() >= before, "packs were removed");
    gc::run(&place.open(), &today, &Silent).unwrap();
    assert!(list_all(place.backend.as_ref(), Kind::DataPack).unwrap().len() < before, "nothing was removed");
    assert_eq!(load(&place.open(), &kept).unwrap(), rows(1, 1500));
    assert_sound(&place.open());
}

#[test]
fn an_index_rebuild_gave_up_a_pack_that_storage_did_not_give_at_that_moment() {
    let (place, kept) = Place::with_something_dead();
    let numbers = |repository: &Repository| -> Vec<u64> {
        repository.index().packs().unwrap().iter().map(|pack| pack.no).collect()
    };
    let before = numbers(&place.open());
    let faulty = Faulty::new(place.backend.clone());
    let backend: Arc<dyn Backend> = faulty.clone();
    let repository = open_with(&backend, place.cache()).unwrap();
    faulty.add(Rule::on(Operation::Read, Fault::Error).kind(Kind::DataPack));
    let result = repository.rebuild_index(&Silent);
    assert!(matches!(result, Err(RepoError::Backend(_))), "{:?}", result.map(drop));
    assert_eq!(numbers(&place.open()), before);
    assert_eq!(load(&place.open(), &kept).unwrap(), rows(1, 1500));
}
