//! Random histories against a plain model: a map from snapshot to what it holds. Streams and trees are backed up through
//! two handles whose indexes grow old, forgotten one by one and by policy, collected with and without time passing, and
//! cut off in the middle. A failing history is shrunk: operations are left out, and what is left becomes small.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn::backend::Backend;
use cairn::format::ObjectId;
use cairn::orchestrate::backup::{self, TreeOptions};
use cairn::orchestrate::restore::{self, RestoreOptions};
use cairn::progress::Silent;
use cairn::repo::Repository;
use cairn::repo::gc::{self, GcOptions};
use cairn::retention::{self, Candidate, Policy};
use cairn::source::files::Overwrite;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

use crate::support::memory::Memory;
use crate::support::nth::{ChangeFault, NthChange};
use crate::support::{assert_sound, init, load, open, open_with, options, rows, store};

/// What is done in whole or in part.
#[derive(Clone, Debug)]
enum Work {
    /// Back up one of the streams, after a change in it.
    Stream { name: u8, at: u16, remove: u16, insert: u8 },
    /// Back up the tree.
    Tree,
    /// Forget one snapshot.
    Forget { which: u8 },
    /// Keep the newest so many of each name.
    Policy { keep: u8 },
    /// Collect garbage with so many hours of grace.
    Collect { hours: u8 },
}

/// A change in the tree; files are told by small numbers, so that they meet.
#[derive(Clone, Debug)]
enum Edit {
    Write { file: u8, len: u16 },
    Remove { file: u8 },
    Rename { file: u8, to: u8 },
    Link { file: u8, to: u8 },
    Sparse { file: u8, hole: u8 },
}

#[derive(Clone, Debug)]
enum Operation {
    Edit(Edit),
    /// Done by one of the two handles.
    Do {
        handle: bool,
        work: Work,
    },
    /// Cut off after so many changes to storage.
    Crash {
        after: u8,
        work: Work,
    },
    /// Time passes.
    Pass {
        hours: u8,
    },
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![
        4 => (0..2u8, any::<u16>(), 0..4096u16, any::<u8>())
            .prop_map(|(name, at, remove, insert)| Work::Stream { name, at, remove, insert }),
        4 => Just(Work::Tree),
        1 => any::<u8>().prop_map(|which| Work::Forget { which }),
        1 => (1..3u8).prop_map(|keep| Work::Policy { keep }),
        3 => (0..3u8).prop_map(|hours| Work::Collect { hours }),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (0..8u8, 0..20_000u16).prop_map(|(file, len)| Edit::Write { file, len }),
        1 => (0..8u8).prop_map(|file| Edit::Remove { file }),
        1 => (0..8u8, 0..8u8).prop_map(|(file, to)| Edit::Rename { file, to }),
        1 => (0..8u8, 0..8u8).prop_map(|(file, to)| Edit::Link { file, to }),
        1 => (0..8u8, 0..4u8).prop_map(|(file, hole)| Edit::Sparse { file, hole }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => edit().prop_map(Operation::Edit),
        8 => (any::<bool>(), work()).prop_map(|(handle, work)| Operation::Do { handle, work }),
        3 => (0..14u8, work()).prop_map(|(after, work)| Operation::Crash { after, work }),
        2 => (0..4u8).prop_map(|hours| Operation::Pass { hours }),
    ]
}

/// What a snapshot holds. Of a tree: each file's bytes, and the first path of the same file.
#[derive(Clone, Debug, PartialEq)]
enum Saved {
    Stream(Vec<u8>),
    Tree(BTreeMap<PathBuf, (Vec<u8>, PathBuf)>),
}

fn read_tree(root: &Path) -> Saved {
    let (mut found, mut firsts) = (BTreeMap::new(), BTreeMap::new());
    let mut names: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let name = path.strip_prefix(root).unwrap().to_owned();
        let first = firsts.entry(fs::metadata(&path).unwrap().ino()).or_insert_with(|| name.clone()).clone();
        found.insert(name, (fs::read(&path).unwrap(), first));
    }
    Saved::Tree(found)
}

struct World {
    memory: Arc<Memory>,
    handles: [Repository; 2],
    directory: TempDir,
    streams: Vec<Vec<u8>>,
    /// Every published snapshot in the order of publishing, with its name.
    model: Vec<(ObjectId, &'static str, Saved)>,
    step: u64,
}

const STREAMS: [&str; 2] = ["first", "second"];

impl World {
    fn new() -> Self {
        let memory = Memory::new();
        init(memory.as_ref());
        let backend: Arc<dyn Backend> = memory.clone();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("tree")).unwrap();
        let streams = (0..2).map(|name| rows(name, 600)).collect();
        World { memory, handles: [open(&backend), open(&backend)], directory, streams, model: Vec::new(), step: 0 }
    }

    fn tree(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    fn run(&mut self, operation: &Operation) {
        self.step += 1;
        match operation {
            Operation::Edit(edit) => self.edit(edit),
            Operation::Pass { hours } => self.memory.advance_clock(i64::from(*hours) * 3600),
            Operation::Do { handle, work } => {
                self.prepare(work);
                self.work(&self.handles[usize::from(*handle)], work).unwrap();
                self.adopt(work, false);
            }
            Operation::Crash { after, work } => {
                self.prepare(work);
                let fault = ChangeFault::Crash(u64::from(*after));
                let backend: Arc<dyn Backend> = Arc::new(NthChange::new(self.memory.clone(), fault));
                if let Ok(repository) = open_with(&backend, None) {
                    let _ = self.work(&repository, work);
                }
                self.adopt(work, true);
                // What crashed is this process, and it lives: its leases end only with their lifetime.
                self.memory.advance_clock(8 * 24 * 3600);
            }
        }
    }

    fn edit(&self, edit: &Edit) {
        let file = |number: &u8| self.tree().join(number.to_string());
        match edit {
            Edit::Write { file: to, len } => {
                // A new file, so that others that share the old one keep it.
                let _ = fs::remove_file(file(to));
                let mut bytes = rows(self.step, usize::from(*len) / 60 + 1);
                bytes.truncate(usize::from(*len));
                fs::write(file(to), bytes).unwrap();
            }
            Edit::Remove { file: gone } => drop(fs::remove_file(file(gone))),
            Edit::Rename { file: from, to } => drop(fs::rename(file(from), file(to))),
            Edit::Link { file: from, to } => drop(fs::hard_link(file(from), file(to))),
            Edit::Sparse { file: to, hole } => {
                let sparse = File::create(file(to)).unwrap();
                let at = u64::from(*hole) << 18;
                sparse.write_all_at(&rows(self.step, 20), at).unwrap();
                sparse.set_len(2 * at + 5000).unwrap();
            }
        }
    }

    fn prepare(&mut self, work: &Work) {
        if let Work::Stream { name, at, remove, insert } = work {
            let stream = &mut self.streams[usize::from(*name)];
            let start = usize::from(*at) % (stream.len() + 1);
            let end = (start + usize::from(*remove)).min(stream.len());
            stream.splice(start..end, rows(self.step + 1000, usize::from(*insert)));
        }
    }

    fn work(&self, repository: &Repository, work: &Work) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| cairn::repo::chain(error);
        match work {
            Work::Stream { name, .. } => {
                let name = usize::from(*name);
                store(repository, STREAMS[name], &self.streams[name]).map(drop).map_err(|error| text(&error))
            }
            Work::Tree => {
                let roots = vec![self.tree()];
                let tree = TreeOptions { roots, ..TreeOptions::default() };
                backup::tree(repository, tree, &options("tree"), &Silent).map(drop).map_err(|error| text(&error))
            }
            Work::Forget { which } => match self.model.get(usize::from(*which) % self.model.len().max(1)) {
                Some((id, ..)) => repository.forget(&[(*id, "a test".to_owned())]).map_err(|error| text(&error)),
                None => Ok(()),
            },
            Work::Policy { keep } => {
                let all = repository.snapshots().map_err(|error| text(&error))?;
                let candidate = |info: &cairn::repo::SnapshotInfo| Candidate {
                    id: info.id,
                    series: (info.snapshot.name.clone(), info.snapshot.host.clone()),
                    time: info.snapshot.time,
                    merits: Vec::new(),
                };
                let candidates: Vec<Candidate> = all.iter().map(candidate).collect();
                let policy = Policy { last: u32::from(*keep), ..Policy::default() };
                let zone = jiff::tz::TimeZone::UTC;
                let decisions = retention::decide(&candidates, &policy, jiff::Timestamp::now(), &zone).unwrap();
                let gone = decisions.iter().filter(|decision| decision.kept_by.is_empty());
                let gone: Vec<_> = gone.map(|decision| (decision.id, "no rule keeps it".to_owned())).collect();
                repository.forget(&gone).map_err(|error| text(&error))
            }
            Work::Collect { hours } => {
                let grace = Some(Duration::from_secs(u64::from(*hours) * 3600));
                let options = GcOptions { grace, dry_run: false };
                gc::run(repository, &options, &Silent).map(drop).map_err(|error| text(&error))
            }
        }
    }

    /// What the work did by the model. Work that was cut off is done in whole or not at all, or for forgetting in part.
    fn adopt(&mut self, work: &Work, cut_off: bool) {
        let there = self.there();
        let new: Vec<ObjectId> =
            there.iter().filter(|id| self.model.iter().all(|known| known.0 != **id)).copied().collect();
        let gone = |known: &(ObjectId, &str, Saved)| !there.contains(&known.0);
        let expected = match work {
            Work::Stream { name, .. } => {
                let name = usize::from(*name);
                Some((STREAMS[name], Saved::Stream(self.streams[name].clone())))
            }
            Work::Tree => Some(("tree", read_tree(&self.tree()))),
            _ => None,
        };
        match (expected, new.as_slice()) {
            (Some((name, saved)), [id]) => self.model.push((*id, name, saved)),
            (Some(_), []) => assert!(cut_off, "nothing was published"),
            (None, []) => {}
            (_, new) => panic!("{new:?} came out of nowhere"),
        }
        let may_go: Vec<ObjectId> = match work {
            Work::Forget { which } => {
                let known = self.model.get(usize::from(*which) % self.model.len().max(1));
                known.map(|known| known.0).into_iter().collect()
            }
            Work::Policy { keep } => {
                let newer = |number: usize| {
                    self.model[number + 1..].iter().filter(|other| other.1 == self.model[number].1).count()
                };
                let numbers = (0..self.model.len()).filter(|number| newer(*number) >= usize::from(*keep));
                numbers.map(|number| self.model[number].0).collect()
            }
            _ => Vec::new(),
        };
        for known in self.model.iter().filter(|known| gone(known)) {
            assert!(may_go.contains(&known.0), "{work:?} took away {}", known.0);
        }
        assert!(cut_off || !may_go.iter().any(|id| there.contains(id)), "{work:?} left something");
        self.model.retain(|known| there.contains(&known.0));
    }

    fn there(&self) -> Vec<ObjectId> {
        self.fresh().snapshots().unwrap().iter().map(|info| info.id).collect()
    }

    fn fresh(&self) -> Repository {
        open(&(self.memory.clone() as Arc<dyn Backend>))
    }

    /// Reads snapshots back, through a handle whose index may be of long ago.
    fn assert_equal<'w>(
        &self,
        repository: &Repository,
        which: impl Iterator<Item = &'w (ObjectId, &'static str, Saved)>,
    ) {
        for (id, name, saved) in which {
            let found = match saved {
                Saved::Stream(_) => Saved::Stream(load(repository, id).unwrap()),
                Saved::Tree(_) => self.restore(repository, id),
            };
            assert!(found == *saved, "snapshot {id} of {name} came back different");
        }
    }

    fn restore(&self, repository: &Repository, id: &ObjectId) -> Saved {
        let target = self.directory.path().join("restored");
        let _ = fs::remove_dir_all(&target);
        let info = repository.snapshots().unwrap().into_iter().find(|info| info.id == *id).unwrap();
        let path = self.tree().to_str().unwrap().trim_start_matches('/').as_bytes().to_vec();
        let options = RestoreOptions {
            path,
            target: target.clone(),
            include: Default::default(),
            exclude: Default::default(),
            overwrite: Overwrite::Always,
            delete: false,
            dry_run: false,
            verify: false,
            owner_lookup: Default::default(),
        };
        let report = restore::to_directory(repository, &info.snapshot, "model", &options, &Silent).unwrap();
        assert_eq!(report.failed, 0, "{report:?}");
        read_tree(&target)
    }
}

/// After each step all streams and the newest tree are read back through the handles in turn; at the end everything is,
/// and a last gc leaves nothing to do.
fn play(operations: &[Operation]) {
    let mut world = World::new();
    for operation in operations {
        world.run(operation);
        let handle = &world.handles[world.step as usize % 2];
        let streams = world.model.iter().filter(|known| known.1 != "tree");
        world.assert_equal(handle, streams.chain(world.model.iter().rfind(|known| known.1 == "tree")));
    }
    world.memory.advance_clock(8 * 24 * 3600);
    world.work(&world.handles[0], &Work::Collect { hours: 0 }).unwrap();
    for repository in [&world.handles[1], &world.fresh()] {
        world.assert_equal(repository, world.model.iter());
    }
    assert_sound(&world.fresh());
    let again = gc::run(&world.fresh(), &GcOptions { grace: Some(Duration::ZERO), dry_run: true }, &Silent).unwrap();
    assert!(again.planned.is_empty(), "{again:?}");
}

#[test]
fn random_histories_agree_with_the_model() {
    // PROPTEST_CASES asks for more.
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { Config::default().cases } else { 24 };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let history = proptest::collection::vec(operation(), 1..30);
    TestRunner::new(config)
        .run(&history, |operations| {
            play(&operations);
            Ok(())
        })
        .unwrap();
}
