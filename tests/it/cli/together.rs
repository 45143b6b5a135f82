//! Real processes on one repository at once: writers, a collector, readers, and changes of what they stand on.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::kill::{Random, Saved, files};
use super::{Place, summary, text};
use crate::support::pty::wait_until;
use crate::support::rows;

/// How long new rounds are begun.
const TIME: Duration = Duration::from_secs(10);

/// A backup of standard input that has its lease and waits for input.
pub(super) fn waiting_backup(place: &Place, name: &str) -> Child {
    let leases = place.path().join("repo/leases");
    let mut command = place.command();
    let command = command.args(["--json", "backup", "--stdin", "--name", name]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the writer has its lease", || fs::read_dir(&leases).unwrap().count() > 0);
    child
}

/// Gives it all its input; the id of its snapshot.
pub(super) fn finish(mut child: Child, bytes: &[u8]) -> String {
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    summary(&output)["snapshot"].as_str().unwrap().to_owned()
}

/// What runs beside what. Each part goes on until the time is over.
struct Traffic {
    place: Place,
    model: Mutex<BTreeMap<String, Saved>>,
    over: AtomicBool,
    removed: AtomicU64,
    read: AtomicU64,
}

impl Traffic {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Backs up a stream that changes each time, with pauses in which a gc finds no writer.
    fn write_streams(&self, mut random: Random) {
        let mut bytes = rows(random.below(1 << 40), 6000);
        while !self.is_over() {
            let at = random.below(bytes.len() as u64) as usize;
            let end = bytes.len().min(at + 20_000);
            bytes.splice(at..end, rows(random.below(1 << 40), 300));
            let mut command = self.place.command();
            let command = command.args(["--json", "backup", "--stdin", "--name", "stream"]);
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let id = finish(child, &bytes);
            self.model.lock().unwrap().insert(id, Saved::Stream(bytes.clone()));
            std::thread::sleep(Duration::from_millis(random.below(300)));
        }
    }

    fn write_trees(&self, mut random: Random) {
        let tree = self.place.path().join("tree");
        while !self.is_over() {
            fs::write(tree.join(random.below(20).to_string()), rows(random.below(1 << 40), 800)).unwrap();
            let output = self.place.ok(&["--json", "backup", "--name", "tree", tree.to_str().unwrap()]);
            let id = summary(&output)["snapshot"].as_str().unwrap().to_owned();
            self.model.lock().unwrap().insert(id, Saved::Tree(files(&tree)));
            std::thread::sleep(Duration::from_millis(random.below(300)));
        }
    }

    fn collect(&self) {
        while !self.is_over() {
            self.place.ok(&["forget", "--keep-last", "3"]);
            let report = summary(&self.place.ok(&["--json", "gc", "--grace", "0s"]));
            self.removed.fetch_add(report["packs_removed"].as_u64().unwrap(), Ordering::SeqCst);
        }
    }

    /// A restore may fail only if its snapshot was forgotten meanwhile.
    fn read(&self, mut random: Random) {
        let tree = self.place.path().join("tree");
        let scratch = self.place.path().join(format!("scratch-{}", random.below(1 << 40)));
        while !self.is_over() {
            let known = self.model.lock().unwrap().clone();
            let Some((id, expected)) = known.iter().nth(random.below(known.len().max(1) as u64) as usize) else {
                continue;
            };
            match self.place.saved(id, expected, &tree, &scratch) {
                Ok(found) => assert!(found == *expected, "snapshot {id} came back different"),
                Err(error) => {
                    let there = self.place.ids();
                    assert!(!there.contains(id), "snapshot {id} is there and cannot be read: {error}");
                    self.model.lock().unwrap().remove(id);
                    continue;
                }
            }
            self.read.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn two_writers_a_collector_and_readers_at_once_lose_nothing() {
    let mut random = Random::new();
    let place = Place::new();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..20 {
        fs::write(tree.join(number.to_string()), rows(number, 700)).unwrap();
    }
    let (model, over, zero) = (Mutex::default(), AtomicBool::new(false), || AtomicU64::new(0));
    let traffic = Traffic { place, model, over, removed: zero(), read: zero() };
    let started = Instant::now();
    std::thread::scope(|scope| {
        let running = [
            scope.spawn(|| traffic.write_streams(Random::at(1))),
            scope.spawn(|| traffic.write_trees(Random::at(2))),
            scope.spawn(|| traffic.collect()),
            scope.spawn(|| traffic.read(Random::at(3))),
            scope.spawn(|| traffic.read(Random::at(4))),
        ];
        while started.elapsed() < TIME && !running.iter().any(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(20 + random.below(20)));
        }
        traffic.over.store(true, Ordering::SeqCst);
    });
    let Traffic { place, model, removed, read, .. } = traffic;
    let model = model.into_inner().unwrap();
    println!("{} written and known, {read:?} read back, {removed:?} packs removed meanwhile", model.len());
    place.ok(&["forget", "--keep-last", "3"]);
    place.ok(&["gc", "--grace", "0s"]);
    place.ok(&["check", "--read-data"]);
    let there = place.ids();
    assert!(!there.is_empty());
    for id in there {
        let expected = &model[&id];
        let found = place.saved(&id, expected, &tree, &place.path().join("scratch"));
        assert!(found.is_ok_and(|found| found == *expected), "snapshot {id}");
    }
}

#[test]
fn of_two_collectors_at_once_never_do_both_go_on() {
    let place = Place::new();
    for round in 0..6u64 {
        place.store("db", &rows(round, 2000));
        place.ok(&["forget", "--keep-last", "1"]);
        let start = || {
            let mut command = place.command();
            let command = command.args(["--json", "gc", "--grace", "0s"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let outputs = [start(), start()].map(|child| child.wait_with_output().unwrap());
        for output in outputs {
            match output.status.code() {
                Some(0) => drop(summary(&output)),
                Some(11) => assert!(text(&output.stderr).contains("another gc"), "{}", text(&output.stderr)),
                other => panic!("{other:?}: {}", text(&output.stderr)),
            }
        }
        place.ok(&["check", "--read-data"]);
        assert!(place.ok(&["cat", "db"]).stdout == rows(round, 2000));
    }
}

#[test]
fn while_a_collector_is_at_work_another_ends_with_11() {
    let place = Place::new();
    let backend: std::sync::Arc<dyn cairn::backend::Backend> =
        std::sync::Arc::new(cairn::backend::local::Local::open(&place.path().join("repo")).unwrap());
    let key = cairn::format::key::Credential::KeyFile([5; 32].into());
    let options = cairn::repo::OpenOptions { cache: None, host: "test".to_owned() };
    let repository = cairn::repo::Repository::open(backend, &key, &options, &cairn::progress::Silent).unwrap();
    let purpose = cairn::format::record::Purpose::Collect;
    let held = cairn::repo::lease::Held::take(&repository, purpose).unwrap();
    place.fails(&["gc"], 11, &["another gc", &std::process::id().to_string()]);
    place.store("db", &rows(1, 100));
    held.release().unwrap();
    place.ok(&["gc"]);
}

#[test]
fn a_parent_that_is_forgotten_and_collected_during_a_backup_is_stored_again() {
    let place = Place::new();
    let bytes = rows(1, 5000);
    place.store("db", &bytes);
    let writer = waiting_backup(&place, "db");
    place.ok(&["forget", "db", "--unsafe-allow-remove-all"]);
    let waits = summary(&place.ok(&["--json", "gc", "--grace", "0s"]));
    assert!(waits["packs_removed"] == 0 && waits["waiting_for"].is_string(), "{waits}");
    let changed = [bytes.as_slice(), &rows(2, 100)].concat();
    let id = finish(writer, &changed);
    place.ok(&["gc", "--grace", "0s"]);
    place.ok(&["check", "--read-data"]);
    assert!(place.ok(&["cat", &id]).stdout == changed);
}

#[test]
fn a_key_that_is_changed_during_a_backup_stops_neither() {
    let place = Place::new();
    let writer = waiting_backup(&place, "db");
    let new = place.path().join("new-key");
    place.ok(&["key", "passwd", "--new-key-file", new.to_str().unwrap()]);
    let bytes = rows(1, 3000);
    let id = finish(writer, &bytes);
    place.fails(&["cat", &id], 12, &[]);
    fs::rename(new, place.path().join("key")).unwrap();
    assert!(place.ok(&["cat", &id]).stdout == bytes);
    place.ok(&["check", "--read-data"]);
}
