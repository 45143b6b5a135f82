//! Every operation that changes storage, with every fault at every single change: stop there, fail, full, done but not
//! acknowledged, half written. Afterwards each published snapshot restores, the operation works when it is run again,
//! and a gc takes away what was left.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn::backend::{Backend, list_all};
use cairn::format::key::{Credential, PasswordCost};
use cairn::format::record::SnapshotKind;
use cairn::format::{Kind, ObjectId};
use cairn::orchestrate::OrchestrateError;
use cairn::orchestrate::backup::{self, TreeOptions};
use cairn::progress::Silent;
use cairn::repo::gc::{self, GcOptions};
use cairn::repo::{InitOptions, OpenOptions, RepoError, Repository};
use tempfile::TempDir;

use crate::support::memory::Memory;
use crate::support::nth::{ChangeFault, NthChange};
use crate::support::{CHUNKS, assert_sound, credential, fork, init, load, next_day, open, options, rows, store};

mod reading;

const NOW: GcOptions = GcOptions { grace: Some(Duration::ZERO), dry_run: false };
const HOUR: GcOptions = GcOptions { grace: Some(Duration::from_secs(3600)), dry_run: false };

fn new_credential() -> Credential {
    Credential::KeyFile([8; 32].into())
}

fn open_as(backend: &Arc<dyn Backend>, credential: &Credential) -> Result<Repository, RepoError> {
    let options = OpenOptions { cache: None, host: "test".to_owned() };
    Repository::open(backend.clone(), credential, &options, &Silent)
}

/// Opens with the first key, or after a change of keys with the other one.
fn open_any(backend: &Arc<dyn Backend>) -> Result<Repository, RepoError> {
    open_as(backend, &credential()).or_else(|_| open_as(backend, &new_credential()))
}

/// What a snapshot holds: a stream has one content, without a name.
type Saved = BTreeMap<Vec<u8>, Vec<u8>>;

fn saved(repository: &Repository, id: &ObjectId) -> Saved {
    let info = repository.snapshots().unwrap().into_iter().find(|info| info.id == *id).unwrap();
    if info.snapshot.kind == SnapshotKind::Stream {
        return [(Vec::new(), load(repository, id).unwrap())].into();
    }
    let mut files = BTreeMap::new();
    for entry in repository.tree(&info.snapshot.content).unwrap().map(Result::unwrap) {
        if let Some(content) = entry.content() {
            let mut bytes = Vec::new();
            let mut stream = repository.small_stream(content).unwrap();
            std::io::Read::read_to_end(&mut stream, &mut bytes).unwrap();
            files.insert(entry.path.clone(), bytes);
        }
    }
    files
}

/// A repository with snapshots to build on, and what backups read.
struct World {
    memory: Arc<Memory>,
    directory: TempDir,
    stream: Vec<u8>,
    before: BTreeMap<ObjectId, Saved>,
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..12u64 {
            std::fs::write(directory.path().join(number.to_string()), rows(number, 60 * number as usize)).unwrap();
        }
        let memory = Memory::new();
        init(memory.as_ref());
        let mut world = World { memory, directory, stream: rows(50, 800), before: BTreeMap::new() };
        let backend: Arc<dyn Backend> = world.memory.clone();
        let repository = open(&backend);
        for day in 0..3 {
            store(&repository, "stream", &world.stream).unwrap();
            world.stream = next_day(&world.stream, day);
        }
        store(&repository, "other", &rows(60, 500)).unwrap();
        world.tree(&repository).unwrap();
        std::fs::write(world.root().join("3"), rows(70, 200)).unwrap();
        std::fs::write(world.root().join("new"), rows(71, 100)).unwrap();
        world.note();
        world
    }

    fn root(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    fn tree(&self, repository: &Repository) -> Result<(), OrchestrateError> {
        let tree = TreeOptions { roots: vec![self.root()], ..TreeOptions::default() };
        backup::tree(repository, tree, &options("tree"), &Silent).map(drop)
    }

    /// Takes down what every snapshot holds.
    fn note(&mut self) {
        let repository = open(&(self.memory.clone() as Arc<dyn Backend>));
        let ids: Vec<ObjectId> = repository.snapshots().unwrap().iter().map(|info| info.id).collect();
        self.before = ids.into_iter().map(|id| (id, saved(&repository, &id))).collect();
    }

    fn forget_two(&mut self) {
        let repository = open(&(self.memory.clone() as Arc<dyn Backend>));
        forget_two(&repository).unwrap();
        self.note();
    }
}

/// Forgets the first snapshot, and the one that shares nothing with any other.
fn forget_two(repository: &Repository) -> Result<(), RepoError> {
    let all = repository.snapshots()?;
    let chosen = all.iter().enumerate().filter(|(number, info)| *number == 0 || info.snapshot.name == "other");
    repository.forget(&chosen.map(|(_, info)| (info.id, "a test".to_owned())).collect::<Vec<_>>())
}

type Operation<'w> = dyn Fn(&Repository) -> Result<(), OrchestrateError> + 'w;

/// Runs an operation with every fault at every change. `removes`: snapshots may be gone afterwards.
fn with_every_fault(world: &World, removes: bool, operation: &Operation<'_>) {
    let run = |backend: &Arc<dyn Backend>| operation(&open_any(backend)?);
    let counting = Arc::new(NthChange::new(fork(&world.memory), ChangeFault::None));
    run(&(counting.clone() as Arc<dyn Backend>)).unwrap();
    let changes = counting.changes();
    assert!(changes >= 2, "the operation changes storage {changes} times only");
    // How the new snapshots look when nothing goes wrong.
    let clean = open_any(&(counting as Arc<dyn Backend>)).unwrap();
    let expected: Vec<Saved> = clean.snapshots().unwrap().iter().map(|info| saved(&clean, &info.id)).collect();
    let faults = [
        ChangeFault::Crash,
        ChangeFault::Fail,
        ChangeFault::Full,
        ChangeFault::LostAcknowledgement,
        ChangeFault::ShortWrite,
    ];
    for fault in faults {
        for at in 0..changes {
            let inner = fork(&world.memory);
            let faulty = Arc::new(NthChange::new(inner.clone(), fault(at)));
            match run(&(faulty.clone() as Arc<dyn Backend>)) {
                Ok(()) => panic!("{:?}: the operation did not notice", fault(at)),
                Err(OrchestrateError::Repo(RepoError::Backend(_))) => {}
                Err(other) => panic!("{:?}: {other:?} is no error of the repository", fault(at)),
            }
            let crashed = matches!(fault(at), ChangeFault::Crash(_));
            let left = if crashed {
                // The process died, or the machine did.
                let durable = Memory::with_state(inner.snapshot().after_power_loss());
                vec![(inner.clone() as Arc<dyn Backend>, inner), (durable.clone() as Arc<dyn Backend>, durable)]
            } else {
                vec![(faulty.clone() as Arc<dyn Backend>, inner)]
            };
            for (backend, memory) in left {
                let what = format!("{:?}", fault(at));
                assert_recovers(world, removes, &expected, &backend, &memory, &what);
                // This process lives, so its leases end only with their lifetime.
                memory.advance_clock(8 * 24 * 3600);
                operation(&open_any(&backend).unwrap()).unwrap_or_else(|error| panic!("{what}: again: {error:?}"));
                for _ in 0..2 {
                    gc::run(&open_any(&backend).unwrap(), &NOW, &Silent).unwrap();
                }
                assert_recovers(world, removes, &expected, &backend, &memory, &what);
                for kind in [Kind::Lease, Kind::Tombstone] {
                    assert_eq!(list_all(memory.as_ref(), kind).unwrap(), [], "{what}");
                }
            }
            assert!(crashed || faulty.debris() == 0, "{:?}: debris stayed", fault(at));
        }
    }
}

/// What was published is there and as it was, and what is new holds what a backup without faults holds.
fn assert_recovers(
    world: &World,
    removes: bool,
    expected: &[Saved],
    backend: &Arc<dyn Backend>,
    memory: &Arc<Memory>,
    what: &str,
) {
    let repository = open_any(backend).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_sound(&repository);
    let there: Vec<ObjectId> =
        list_all(memory.as_ref(), Kind::Snapshot).unwrap().into_iter().map(|(id, _)| id).collect();
    for id in world.before.keys() {
        assert!(removes || there.contains(id), "{what}: a published snapshot is gone");
    }
    for id in there {
        let found = saved(&repository, &id);
        match world.before.get(&id) {
            Some(before) => assert!(found == *before, "{what}: snapshot {id} is another"),
            None => assert!(expected.contains(&found), "{what}: the new snapshot {id} is not what was read"),
        }
    }
}

#[test]
fn a_backup_of_a_stream_survives_every_fault_at_every_change() {
    let world = World::new();
    with_every_fault(&world, false, &|repository| store(repository, "stream", &world.stream).map(drop));
}

#[test]
fn a_backup_of_a_tree_survives_every_fault_at_every_change() {
    let world = World::new();
    with_every_fault(&world, false, &|repository| world.tree(repository));
}

#[test]
fn forgetting_survives_every_fault_at_every_change() {
    let world = World::new();
    with_every_fault(&world, true, &|repository| Ok(forget_two(repository)?));
}

#[test]
fn marking_survives_every_fault_at_every_change() {
    let mut world = World::new();
    world.forget_two();
    with_every_fault(&world, false, &|repository| Ok(gc::run(repository, &HOUR, &Silent).map(drop)?));
}

#[test]
fn sweeping_survives_every_fault_at_every_change() {
    let mut world = World::new();
    world.forget_two();
    let report = gc::run(&open(&(world.memory.clone() as Arc<dyn Backend>)), &HOUR, &Silent).unwrap();
    assert!(report.waiting_until.is_some());
    world.memory.advance_clock(4000);
    let packs = |memory: &Memory| list_all(memory, Kind::DataPack).unwrap();
    let swept = fork(&world.memory);
    let report = gc::run(&open(&(swept.clone() as Arc<dyn Backend>)), &HOUR, &Silent).unwrap();
    assert!(report.packs_removed > 0 && packs(&swept) != packs(&world.memory), "{report:?}");
    with_every_fault(&world, false, &|repository| Ok(gc::run(repository, &HOUR, &Silent).map(drop)?));
}

#[test]
fn adding_a_key_survives_every_fault_at_every_change() {
    let world = World::new();
    with_every_fault(&world, false, &|repository| {
        Ok(repository.add_key(&new_credential(), "second".to_owned(), PasswordCost::DEFAULT).map(drop)?)
    });
}

#[test]
fn changing_a_key_survives_every_fault_at_every_change() {
    let world = World::new();
    with_every_fault(&world, false, &|repository| {
        // Again after it was done in part: the new key opens already, and the old one may be gone.
        match repository.change_key(&credential(), &new_credential(), PasswordCost::DEFAULT) {
            Err(RepoError::WrongKey { .. }) => Ok(repository.backend().sync().map_err(RepoError::from)?),
            result => Ok(result.map(drop)?),
        }
    });
}

#[test]
fn verifying_survives_every_fault_at_every_change() {
    let world = World::new();
    with_every_fault(&world, false, &|repository| {
        Ok(repository.verify(&repository.snapshots()?[0], &Silent).map(drop)?)
    });
}

#[test]
fn an_init_that_failed_at_any_change_can_be_repeated() {
    let run = |backend: &Arc<dyn Backend>| {
        let options = InitOptions { chunk_sizes: CHUNKS, ..InitOptions::default() };
        Repository::init(backend.as_ref(), &credential(), &options)
    };
    let counting = Arc::new(NthChange::new(Memory::new(), ChangeFault::None));
    run(&(counting.clone() as Arc<dyn Backend>)).unwrap();
    assert!(counting.changes() >= 4);
    for fault in [ChangeFault::Crash, ChangeFault::Fail, ChangeFault::Full, ChangeFault::LostAcknowledgement] {
        for at in 0..counting.changes() {
            let inner = Memory::new();
            let error = run(&(Arc::new(NthChange::new(inner.clone(), fault(at))) as Arc<dyn Backend>)).unwrap_err();
            assert!(matches!(error, RepoError::Backend(_)), "{:?}: {error:?}", fault(at));
            let durable = Memory::with_state(inner.snapshot().after_power_loss());
            for memory in [inner, durable] {
                let backend: Arc<dyn Backend> = memory;
                // Either it is a repository already, or it becomes one now.
                let again = run(&backend);
                let repository = open_as(&backend, &credential());
                let repository = repository.unwrap_or_else(|error| panic!("{:?}: {again:?}, {error:?}", fault(at)));
                assert_eq!(repository.list_keys().unwrap().len(), 1, "{:?}", fault(at));
                let id = store(&repository, "a", &rows(1, 100)).unwrap().id.unwrap();
                assert_eq!(load(&repository, &id).unwrap(), rows(1, 100));
            }
        }
    }
}

/// A lease that could not be made durable stayed, and no gc on another machine went on before it had expired.
#[test]
fn a_lease_that_could_not_be_made_durable_is_taken_back() {
    let world = World::new();
    let inner = fork(&world.memory);
    let backend: Arc<dyn Backend> = Arc::new(NthChange::new(inner.clone(), ChangeFault::Fail(1)));
    store(&open(&backend), "stream", &world.stream).unwrap_err();
    assert_eq!(list_all(inner.as_ref(), Kind::Lease).unwrap(), []);
}
