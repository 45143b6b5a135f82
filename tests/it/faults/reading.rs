//! Every operation, with every single read, listing and look-up going wrong once: an error, bytes that are wrong or too
//! few, a listing in which one object is missing. What failed is told, nothing is lost, and the next run works, also with
//! the cache that the failed one left.

use std::path::Path;
use std::sync::{Arc, Mutex};

use cairn::backend::{Backend, list_all};
use cairn::format::Kind;
use cairn::orchestrate::OrchestrateError;
use cairn::orchestrate::restore::{RestoreOptions, stream, to_directory};
use cairn::progress::{Monitor, Notice, Silent};
use cairn::repo::check::CheckOptions;
use cairn::repo::gc;
use cairn::repo::{OpenOptions, Repository};
use cairn::source::files::Overwrite;

use super::{HOUR, NOW, Saved, World, assert_recovers, forget_two, saved};
use crate::support::faulty::{Fault, Faulty, Operation, Rule};
use crate::support::{fork, open, open_with, store};

/// What a run told besides its result.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn add(&self, message: String) {
        self.0.lock().unwrap().push(message);
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }
}

impl Monitor for Heard {
    fn notice(&self, notice: Notice) {
        self.add(format!("{}: {}", notice.subject, notice.message));
    }
}

type Reading<'w> = dyn Fn(&Repository, &Heard) -> Result<(), OrchestrateError> + 'w;

fn run(
    backend: &Arc<dyn Backend>,
    cache: &Path,
    operation: &Reading<'_>,
    heard: &Heard,
) -> Result<(), OrchestrateError> {
    let options = OpenOptions { cache: Some(cache.to_owned()), host: "test".to_owned() };
    let repository = Repository::open(backend.clone(), &crate::support::credential(), &options, heard)?;
    for (kind, id, message) in repository.unusable_packs() {
        heard.add(format!("{kind} {id}: {message}"));
    }
    operation(&repository, heard)
}

/// Each with the calls it happens at: at every one, or at every second or third.
const FAULTS: [(Operation, Fault, usize); 6] = [
    (Operation::Read, Fault::Error, 1),
    (Operation::Read, Fault::FlipBit(77), 2),
    (Operation::Read, Fault::Truncate(9), 3),
    (Operation::List, Fault::Error, 1),
    (Operation::List, Fault::Stale, 1),
    (Operation::Stat, Fault::Error, 1),
];

/// What an operation may do to a repository, and may pass over.
#[derive(Clone, Copy)]
struct Rules {
    /// Snapshots may be gone afterwards.
    removes: bool,
    /// A read of these that failed need not be told: without what it would have given the operation does the same.
    does_without: &'static [Kind],
}

/// Runs an operation with every fault at every call that changes nothing.
fn with_every_fault(world: &World, rules: Rules, operation: &Reading<'_>) {
    let cache = tempfile::tempdir().unwrap();
    let counting = Faulty::new(fork(&world.memory));
    run(&(counting.clone() as Arc<dyn Backend>), cache.path(), operation, &Heard::default()).unwrap();
    let calls: Vec<u64> = FAULTS.iter().map(|(call, _, _)| counting.calls(*call)).collect();
    let clean = open(&(counting as Arc<dyn Backend>));
    let expected: Vec<Saved> = clean.snapshots().unwrap().iter().map(|info| saved(&clean, &info.id)).collect();
    for ((call, fault, step), calls) in FAULTS.into_iter().zip(calls) {
        for at in (0..calls).step_by(step) {
            let what = format!("{call:?} {at}, {fault:?}");
            let memory = fork(&world.memory);
            let faulty = Faulty::new(memory.clone());
            faulty.add(Rule::on(call, fault).after(at));
            let (cache, heard) = (tempfile::tempdir().unwrap(), Heard::default());
            let result = run(&(faulty.clone() as Arc<dyn Backend>), cache.path(), operation, &heard);
            let is_silent = result.is_ok() && heard.is_empty();
            let struck = faulty.struck();
            let needless = |kind: &Option<Kind>| kind.is_some_and(|kind| rules.does_without.contains(&kind));
            let may_be_silent = fault != Fault::Error || (call == Operation::Read && struck.iter().all(needless));
            assert!(may_be_silent || !is_silent, "{what}, {struck:?}: nothing was told");
            let backend: Arc<dyn Backend> = memory.clone();
            assert_recovers(world, rules.removes, &expected, &backend, &memory, &what);
            // This process lives, so its leases end only with their lifetime.
            memory.advance_clock(8 * 24 * 3600);
            let again = run(&backend, cache.path(), operation, &Heard::default());
            again.unwrap_or_else(|error| panic!("{what}: again: {}", cairn::repo::chain(&error)));
            for _ in 0..2 {
                let repository = open_with(&backend, Some(cache.path().to_owned())).unwrap();
                gc::run(&repository, &NOW, &Silent).unwrap();
            }
            assert_recovers(world, rules.removes, &expected, &backend, &memory, &what);
            for kind in [Kind::Lease, Kind::Tombstone] {
                assert_eq!(list_all(memory.as_ref(), kind).unwrap(), [], "{what}");
            }
        }
    }
}

#[test]
fn a_backup_of_a_stream_survives_every_fault_at_every_read() {
    let world = World::new();
    with_every_fault(
        &world,
        Rules { removes: false, does_without: &[Kind::Snapshot, Kind::Proof, Kind::MetaPack, Kind::DataPack] },
        &|repository, _| store(repository, "stream", &world.stream).map(drop),
    );
}

#[test]
fn a_backup_of_a_tree_survives_every_fault_at_every_read() {
    let world = World::new();
    with_every_fault(
        &world,
        Rules { removes: false, does_without: &[Kind::Snapshot, Kind::Proof, Kind::MetaPack, Kind::DataPack] },
        &|repository, _| world.tree(repository),
    );
}

#[test]
fn forgetting_survives_every_fault_at_every_read() {
    let world = World::new();
    // A snapshot that was chosen goes, also when its name cannot be read once more for the record.
    with_every_fault(
        &world,
        Rules { removes: true, does_without: &[Kind::Snapshot, Kind::Proof] },
        &|repository, _| Ok(forget_two(repository)?),
    );
}

#[test]
fn marking_survives_every_fault_at_every_read() {
    let mut world = World::new();
    world.forget_two();
    with_every_fault(&world, Rules { removes: false, does_without: &[Kind::Lease] }, &|repository, heard| {
        Ok(gc::run(repository, &HOUR, heard).map(drop)?)
    });
}

#[test]
fn sweeping_survives_every_fault_at_every_read() {
    let mut world = World::new();
    world.forget_two();
    let report = gc::run(&open(&(world.memory.clone() as Arc<dyn Backend>)), &HOUR, &Silent).unwrap();
    assert!(report.waiting_until.is_some());
    world.memory.advance_clock(4000);
    // A tombstone that storage did not give is asked for once more.
    with_every_fault(
        &world,
        Rules { removes: false, does_without: &[Kind::Lease, Kind::Tombstone] },
        &|repository, heard| Ok(gc::run(repository, &HOUR, heard).map(drop)?),
    );
}

#[test]
fn checking_survives_and_tells_every_fault_at_every_read() {
    let world = World::new();
    with_every_fault(&world, Rules { removes: false, does_without: &[] }, &|repository, heard| {
        let report = repository.check(&CheckOptions { read_data_percent: Some(100.0) }, heard)?;
        report.problems.into_iter().for_each(|problem| heard.add(format!("{problem:?}")));
        Ok(())
    });
}

fn restore_options(target: &Path) -> RestoreOptions {
    RestoreOptions {
        path: Vec::new(),
        target: target.to_owned(),
        include: Default::default(),
        exclude: Default::default(),
        overwrite: Overwrite::Never,
        delete: false,
        dry_run: false,
        verify: false,
        owner_lookup: Default::default(),
    }
}

/// The files below a target, by their paths from there.
fn read_back(target: &Path) -> Saved {
    let (mut found, mut pending) = (Saved::new(), vec![target.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                pending.push(entry);
            } else {
                let path = entry.strip_prefix(target).unwrap().as_os_str().as_encoded_bytes().to_vec();
                found.insert(path, std::fs::read(&entry).unwrap());
            }
        }
    }
    found
}

#[test]
fn restoring_survives_and_tells_every_fault_at_every_read() {
    let world = World::new();
    with_every_fault(&world, Rules { removes: false, does_without: &[] }, &|repository, heard| {
        let snapshots = repository.readable_snapshots()?;
        snapshots.damaged.iter().for_each(|damaged| heard.add(damaged.message.clone()));
        snapshots.damaged_proofs.iter().for_each(|damaged| heard.add(damaged.message()));
        for info in &snapshots.found {
            if info.snapshot.name == "tree" {
                let target = tempfile::tempdir().unwrap();
                let options = restore_options(&target.path().join("restored"));
                let report = to_directory(repository, &info.snapshot, "test", &options, heard)?;
                (0..report.failed).for_each(|_| heard.add("an entry failed".to_owned()));
                if heard.is_empty() {
                    assert!(read_back(&options.target) == world.before[&info.id], "what came back is another");
                }
            } else {
                let mut bytes = Vec::new();
                stream::write(repository, &info.snapshot, "test", b"", &mut bytes, heard)?;
                assert!(bytes == world.before[&info.id][b"".as_slice()], "what came back is another");
            }
        }
        Ok(())
    });
}
