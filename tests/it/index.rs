//! The index is derived: without it, with half of it, or with an old one, nothing is lost.

use std::path::Path;
use std::sync::Arc;

use cairn::backend::Backend;
use cairn::format::ObjectId;
use cairn::progress::{Monitor, Notice, Silent};
use cairn::repo::cache::CacheDir;
use cairn::repo::index::Index;

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

/// With all chunks in the index's last level.
fn settled() -> Setup {
    let setup = setup();
    setup.repository().rebuild_index(&Silent).unwrap();
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
fn what_has_settled_is_found_and_is_removed_with_its_pack() {
    let mut setup = settled();
    let leaves = |setup: &Setup| {
        let connection = rusqlite::Connection::open(main_file(setup.cache.path())).unwrap();
        connection.query_row("SELECT sum(length(entries)) / 11 FROM leaf", [], |row| row.get::<_, u64>(0)).unwrap()
    };
    let before = setup.repository().index().stats().unwrap().chunks;
    assert_eq!(leaves(&setup), before);
    // A day like another: nothing of it is new, whoever asks.
    let bytes = setup.contents[1].1.clone();
    assert_eq!(store(&setup.repository(), "again", &bytes).unwrap().summary.new_bytes, 0);
    let unlike = store(&setup.repository(), "unlike", &rows(77, 1500)).unwrap().id.unwrap();
    setup.repository().rebuild_index(&Silent).unwrap();
    assert!(leaves(&setup) > before);
    setup.contents.insert(0, (unlike, Vec::new()));
    forget_and_collect(&mut setup);
    assert_eq!(leaves(&setup), before);
    setup.assert_whole();
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

#[test]
fn rebuilding_believes_the_packs_and_not_rows_that_agree_with_each_other() {
    let setup = setup();
    let repository = setup.repository();
    let before = repository.index().stats().unwrap();
    let other = tempfile::tempdir().unwrap();
    {
        let cache = CacheDir::open(Some(other.path()), repository.config().id).unwrap();
        let index = Index::open(&cache, repository.config().id).unwrap();
        for pack in repository.index().packs().unwrap() {
            let mut frames = repository.index().frames_of_pack(pack.no).unwrap();
            frames.truncate(1);
            frames[0].entry.chunks.truncate(1);
            index.add_pack(pack.kind, &pack.id, pack.len, &pack.header, &[frames.remove(0).entry]).unwrap();
        }
    }
    let repository = open_with(&setup.backend, Some(other.path().to_owned())).unwrap();
    assert_ne!(repository.index().stats().unwrap(), before);
    repository.rebuild_index(&Silent).unwrap();
    assert_eq!(repository.index().stats().unwrap(), before);
    assert!(load(&repository, &setup.contents[0].0).as_ref() == Ok(&setup.contents[0].1));
    assert_sound(&repository);
}

fn sql(setup: &Setup, script: &str) {
    let connection = rusqlite::Connection::open(main_file(setup.cache.path())).unwrap();
    connection.execute_batch(script).unwrap();
}

/// Forgets the oldest snapshot and collects at once, with the kept cache.
fn forget_and_collect(setup: &mut Setup) {
    let first = setup.contents.remove(0).0;
    let repository = setup.repository();
    repository.forget(&[(first, "a test".to_owned())]).unwrap();
    let now = cairn::repo::gc::GcOptions { grace: Some(std::time::Duration::ZERO), dry_run: false };
    for _ in 0..2 {
        cairn::repo::gc::run(&repository, &now, &Silent).unwrap();
    }
}

type Made = fn() -> Setup;

/// Each leaves an index that SQLite finds whole.
const SILENT: [(&str, Made, &str); 14] = [
    ("a frame is missing", setup, "DELETE FROM frame WHERE first = (SELECT min(first) FROM frame)"),
    ("half of the frames are missing", setup, "DELETE FROM frame WHERE first % 2 = 1 OR depth > 0"),
    ("all frames are missing", setup, "DELETE FROM frame"),
    ("chunks are missing", setup, "DELETE FROM chunk WHERE no % 3 = 0"),
    ("all chunks are missing", setup, "DELETE FROM chunk"),
    ("a pack's number is another's", setup, "UPDATE frame SET pack = (SELECT max(no) FROM pack)"),
    (
        "bases are forgotten",
        setup,
        "UPDATE frame SET depth = 0, body = (SELECT body FROM frame WHERE depth = 0) WHERE depth > 0",
    ),
    ("a pack has other frames", setup, "UPDATE pack SET sum = sum + 1"),
    ("the next number is one that a chunk has", setup, "UPDATE counter SET next = 1"),
    (
        "more fresh chunks are counted than there are",
        setup,
        "UPDATE level SET chunks = chunks + 1000000 WHERE level = 0",
    ),
    ("leaves are missing", settled, "DELETE FROM leaf"),
    ("a chunk of each leaf is missing", settled, "UPDATE leaf SET entries = substr(entries, 1, length(entries) - 11)"),
    ("a leaf is not where it is looked for", settled, "UPDATE leaf SET place = place + 65536"),
    (
        "chunks have others' numbers",
        settled,
        "UPDATE leaf SET entries = substr(entries, 1, 10) || x'ff' || substr(entries, 12)",
    ),
];

#[test]
fn what_is_silently_wrong_is_not_believed_by_readers() {
    for (what, made, script) in SILENT {
        let setup = made();
        sql(&setup, script);
        for (id, bytes) in &setup.contents {
            assert_eq!(load(&setup.repository(), id).as_ref(), Ok(bytes), "{what}");
        }
    }
}

#[test]
fn a_gc_does_not_trust_an_index_that_is_silently_wrong() {
    for (what, made, script) in SILENT {
        let mut setup = made();
        sql(&setup, script);
        forget_and_collect(&mut setup);
        std::fs::remove_dir_all(setup.cache.path()).unwrap();
        for (id, bytes) in &setup.contents {
            assert_eq!(load(&setup.repository(), id).as_ref(), Ok(bytes), "{what}");
        }
        assert_sound(&setup.repository());
    }
}

#[test]
fn a_level_with_less_than_was_counted_was_moved_for_ever() {
    let mut setup = setup();
    sql(&setup, "UPDATE level SET chunks = chunks + 1000000 WHERE level = 0");
    setup.assert_whole();
}

/// A number of five bytes, as SQLite's pages have them.
fn varint(value: u64) -> [u8; 5] {
    std::array::from_fn(|at| (value >> (28 - 7 * at)) as u8 & 0x7f | if at < 4 { 0x80 } else { 0 })
}

/// Moves a border between two leaves in the tree's root, so that look-ups for half of the second one go to the first. It is
/// the border that a search of the root looks at first.
fn move_border(setup: &Setup) {
    let connection = rusqlite::Connection::open(main_file(setup.cache.path())).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let mut statement = connection.prepare("SELECT place FROM leaf ORDER BY place").unwrap();
    let places: Vec<u64> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let sql = "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_master WHERE name = 'leaf'";
    let (root, size): (usize, usize) = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    drop(statement);
    drop(connection);
    let mut bytes = std::fs::read(main_file(setup.cache.path())).unwrap();
    let page = &mut bytes[(root - 1) * size..root * size];
    let number = |at: usize| usize::from(u16::from_be_bytes([page[at], page[at + 1]]));
    // An inner page of a table has a border for each of its pages but the last; a page has one leaf, or the last and a short one.
    assert_eq!(page[0], 5);
    let middle = (number(3) - 1) / 2;
    let cell = number(12 + 2 * middle);
    let border = &mut page[cell + 4..cell + 9];
    assert_eq!(border, varint(places[middle]));
    border.copy_from_slice(&varint(places[middle + 1].midpoint(places[middle + 2])));
    std::fs::write(main_file(setup.cache.path()), bytes).unwrap();
}

/// Look-ups go by what the tree's inner pages say, which a pass along its leaves does not read.
#[test]
fn a_leaf_that_the_tree_does_not_lead_to_was_not_noticed() {
    let mut setup = setup();
    let bytes = rows(5, 60_000);
    let id = store(&setup.repository(), "long", &bytes).unwrap().id.unwrap();
    setup.contents.push((id, bytes));
    setup.repository().rebuild_index(&Silent).unwrap();
    move_border(&setup);
    let heard = Heard::default();
    assert!(setup.repository().check(&Default::default(), &heard).unwrap().problems.is_empty());
    assert!(heard.0.lock().unwrap().iter().any(|notice| notice.subject == "index"), "not told");
    let again = Heard::default();
    setup.repository().check(&Default::default(), &again).unwrap();
    assert!(again.0.lock().unwrap().is_empty(), "it was not put right");
    setup.assert_whole();
}

#[derive(Default)]
struct Heard(std::sync::Mutex<Vec<Notice>>);

impl Monitor for Heard {
    fn notice(&self, notice: Notice) {
        self.0.lock().unwrap().push(notice);
    }
}

#[test]
fn check_finds_what_is_silently_wrong_and_puts_it_right() {
    for (what, made, script) in SILENT {
        let setup = made();
        sql(&setup, script);
        let heard = Heard::default();
        let report = setup.repository().check(&Default::default(), &heard).unwrap();
        assert!(report.problems.is_empty(), "{what}: {:?}", report.problems);
        assert!(heard.0.lock().unwrap().iter().any(|notice| notice.subject == "index"), "{what}: not told");
        let again = Heard::default();
        setup.repository().check(&Default::default(), &again).unwrap();
        assert!(again.0.lock().unwrap().is_empty(), "{what}: it was not put right");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_index_loses_nothing_and_heals() {
    a_flipped_bit_heals(setup());
    a_flipped_bit_heals(settled());
}

fn a_flipped_bit_heals(mut fresh: Setup) {
    let file = main_file(fresh.cache.path());
    let whole = std::fs::read(&file).unwrap();
    let reads = |setup: &Setup| {
        let repository = open_with(&setup.backend, Some(setup.cache.path().to_owned()))?;
        for (id, bytes) in &setup.contents {
            let found = load(&repository, id);
            assert!(found.is_err() || found.as_ref() == Ok(bytes));
            if found.is_err() {
                return Ok(false);
            }
        }
        Ok::<bool, cairn::repo::RepoError>(true)
    };
    for at in (20..whole.len()).step_by(1021) {
        for other in index_files(fresh.cache.path()) {
            std::fs::remove_file(other).unwrap();
        }
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&file, &bytes).unwrap();
        // One command may meet the damage; the next one does not any more.
        let healed = (0..2).any(|_| reads(&fresh).is_ok_and(|whole| whole));
        assert!(healed, "byte {at}");
    }
    for other in index_files(fresh.cache.path()) {
        std::fs::remove_file(other).unwrap();
    }
    fresh.assert_whole();
}

#[test]
fn an_index_whose_log_is_of_another_state_is_not_believed() {
    let mut setup = setup();
    let repository = setup.repository();
    let copy = |setup: &Setup| -> Vec<(std::path::PathBuf, Vec<u8>)> {
        index_files(setup.cache.path()).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    };
    let old = copy(&setup);
    setup.add(5);
    setup.add(6);
    forget_and_collect(&mut setup);
    let new = copy(&setup);
    drop(repository);
    let is_log = |path: &Path| path.to_string_lossy().ends_with("-wal");
    for (main, log) in [(&old, &new), (&new, &old)] {
        for path in index_files(setup.cache.path()) {
            std::fs::remove_file(path).unwrap();
        }
        for (path, bytes) in main.iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "sqlite")) {
            std::fs::write(path, bytes).unwrap();
        }
        for (path, bytes) in log.iter().filter(|(path, _)| is_log(path)) {
            std::fs::write(path, bytes).unwrap();
        }
        let mut results = (0..2).map(|_| {
            let repository = open_with(&setup.backend, Some(setup.cache.path().to_owned())).ok()?;
            setup.contents.iter().all(|(id, bytes)| load(&repository, id).as_ref() == Ok(bytes)).then_some(())
        });
        assert!(results.any(|result| result.is_some()));
    }
    forget_and_collect(&mut setup);
    setup.assert_whole();
}

#[test]
fn an_index_of_another_schema_or_another_repository_is_made_again() {
    for script in ["PRAGMA user_version = 1", "PRAGMA user_version = 99", "DROP TABLE chunk", "DELETE FROM counter"] {
        let mut setup = setup();
        sql(&setup, script);
        setup.assert_whole();
    }
    let mut setup = setup();
    let other = self::setup();
    std::fs::copy(main_file(other.cache.path()), main_file(setup.cache.path())).unwrap();
    setup.assert_whole();
    forget_and_collect(&mut setup);
    setup.assert_whole();
}

#[test]
fn a_cache_that_cannot_be_used_is_told_and_stops_nothing() {
    let setup = setup();
    let place = tempfile::NamedTempFile::new().unwrap();
    let heard = Heard::default();
    let options = cairn::repo::OpenOptions { cache: Some(place.path().to_owned()), host: "test".to_owned() };
    let credential = crate::support::credential();
    let repository = cairn::repo::Repository::open(setup.backend.clone(), &credential, &options, &heard).unwrap();
    for (id, bytes) in &setup.contents {
        assert_eq!(load(&repository, id).as_ref(), Ok(bytes));
    }
    let heard = heard.0.into_inner().unwrap();
    assert!(heard.len() == 1 && heard[0].message.contains("--cache-dir"), "{heard:?}");
}
