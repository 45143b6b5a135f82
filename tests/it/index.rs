//! The index is derived: without it, with half of it, or with an old one, nothing is lost.

use std::path::Path;
use std::sync::Arc;

use cairn::backend::Backend;
use cairn::format::ObjectId;
use cairn::progress::Silent;

use crate::support::memory::Memory;
use crate::support::{assert_sound, init, load, next_day, open_with, rows, store};

fn index_files(cache: &Path) -> Vec<std::path::PathBuf> {
    let folder = std::fs::read_dir(cache).unwrap().next().unwrap().unwrap().path();
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().contains("sqlite"));
    files.sort();
    files
}

fn main_file(cache: &Path) -> std::path::PathBuf {
    index_files(cache).into_iter().find(|path| path.extension().is_some_and(|end| end == "sqlite")).unwrap()
}

struct Setup {
    backend: Arc<dyn Backend>,
    cache: tempfile::TempDir,
    contents: Vec<(ObjectId, Vec<u8>)>,
}

fn setup() -> Setup {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory;
    let cache = tempfile::tempdir().unwrap();
    let mut setup = Setup { backend, cache, contents: Vec::new() };
    for day in 0..3 {
        setup.add(day);
    }
    setup
}

impl Setup {
    fn add(&mut self, day: u64) {
        let bytes = match self.contents.last() {
            Some((_, before)) => next_day(before, day),
            None => rows(1, 1500),
        };
        let id = store(&self.repository(), "dump", &bytes).unwrap().id.unwrap();
        self.contents.push((id, bytes));
    }

    fn repository(&self) -> cairn::repo::Repository {
        open_with(&self.backend, Some(self.cache.path().to_owned())).unwrap()
    }

    fn assert_whole(&mut self) {
        self.add(9);
        let repository = self.repository();
        for (id, bytes) in &self.contents {
            assert_eq!(load(&repository, id).unwrap(), *bytes);
        }
        assert_sound(&repository);
    }
}

#[test]
fn a_deleted_index_is_made_again() {
    let mut setup = setup();
    let before = setup.repository().index().stats().unwrap();
    for file in index_files(setup.cache.path()) {
        std::fs::remove_file(file).unwrap();
    }
    assert_eq!(setup.repository().index().stats().unwrap(), before);
    setup.assert_whole();
}

#[test]
fn a_damaged_index_is_made_again() {
    for len in [0, 1, 100, 5000] {
        let mut setup = setup();
        let file = main_file(setup.cache.path());
        for other in index_files(setup.cache.path()).into_iter().filter(|other| *other != file) {
            std::fs::remove_file(other).unwrap();
        }
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..len.min(bytes.len())]).unwrap();
        setup.assert_whole();
    }
    let mut setup = setup();
    std::fs::write(main_file(setup.cache.path()), "this is not a database, whatever its name says").unwrap();
    setup.assert_whole();
}

#[test]
fn an_index_of_an_older_state_is_brought_up_to_date() {
    let mut setup = setup();
    let old: Vec<(std::path::PathBuf, Vec<u8>)> =
        index_files(setup.cache.path()).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    setup.add(5);
    let first = setup.contents.remove(0).0;
    let repository = setup.repository();
    repository.forget(&[(first, "a test".to_owned())]).unwrap();
    let now = cairn::repo::gc::GcOptions { grace: Some(std::time::Duration::ZERO), dry_run: false };
    cairn::repo::gc::run(&repository, &now, &Silent).unwrap();
    drop(repository);
    for (path, bytes) in old {
        std::fs::write(path, bytes).unwrap();
    }
    setup.assert_whole();
}

#[test]
fn rebuilding_from_packs_gives_the_same_index() {
    let mut setup = setup();
    let repository = setup.repository();
    let before = repository.index().stats().unwrap();
    repository.rebuild_index(&Silent).unwrap();
    assert_eq!(repository.index().stats().unwrap(), before);
    drop(repository);
    setup.assert_whole();
}
