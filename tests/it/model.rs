//! Random sequences of operations against a plain model: a map from snapshot to bytes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn::backend::Backend;
use cairn::format::ObjectId;
use cairn::progress::Silent;
use cairn::repo::gc::{self, GcOptions};
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};

use crate::support::memory::Memory;
use crate::support::nth::{ChangeFault, NthChange};
use crate::support::{assert_sound, init, load, open, rows, store};

#[derive(Clone, Debug)]
enum Operation {
    /// Change the data and back it up.
    Backup { name: u8, at: u16, remove: u16, insert: u8 },
    /// Back up again, and crash after so many changes to storage.
    Crash { after: u8 },
    /// Forget a snapshot.
    Forget { which: u8 },
    /// Mark and sweep.
    Collect,
    /// Mark only.
    Mark,
    /// Collect, and crash after so many changes to storage.
    CrashCollect { after: u8 },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        5 => (0..3u8, any::<u16>(), any::<u16>(), any::<u8>())
            .prop_map(|(name, at, remove, insert)| Operation::Backup { name, at, remove, insert }),
        1 => (0..8u8).prop_map(|after| Operation::Crash { after }),
        2 => any::<u8>().prop_map(|which| Operation::Forget { which }),
        1 => any::<u8>().prop_map(|_| Operation::Collect),
        1 => any::<u8>().prop_map(|_| Operation::Mark),
        1 => (0..10u8).prop_map(|after| Operation::CrashCollect { after }),
    ]
}

const NOW: GcOptions = GcOptions { grace: Some(Duration::ZERO), dry_run: false };

struct World {
    memory: Arc<Memory>,
    data: Vec<Vec<u8>>,
    model: BTreeMap<ObjectId, Vec<u8>>,
    step: u64,
}

impl World {
    fn new() -> Self {
        let memory = Memory::new();
        init(memory.as_ref());
        let data = (0..3).map(|name| rows(name, 800)).collect();
        World { memory, data, model: BTreeMap::new(), step: 0 }
    }

    fn backend(&self, fault: ChangeFault) -> Arc<dyn Backend> {
        Arc::new(NthChange::new(self.memory.clone(), fault))
    }

    fn run(&mut self, operation: &Operation) {
        self.step += 1;
        let clean = self.backend(ChangeFault::None);
        match operation {
            Operation::Backup { name, at, remove, insert } => {
                let data = &mut self.data[usize::from(*name)];
                let start = usize::from(*at) % (data.len() + 1);
                let end = (start + usize::from(*remove) % 4096).min(data.len());
                data.splice(start..end, rows(self.step + 1000, usize::from(*insert)));
                let id = store(&open(&clean), &format!("n{name}"), data).unwrap().id.unwrap();
                self.model.insert(id, data.clone());
            }
            Operation::Crash { after } => {
                let backend = self.backend(ChangeFault::Crash(u64::from(*after)));
                let changed = [self.data[0].as_slice(), &rows(self.step + 5000, 60)].concat();
                if let Ok(repository) = crate::support::open_with(&backend, None)
                    && let Ok(outcome) = store(&repository, "n0", &changed)
                {
                    self.model.insert(outcome.id.unwrap(), changed);
                }
                // A snapshot that was written before the crash is published, whether its writer knew or not.
                self.adopt(&[self.data[0].as_slice(), &rows(self.step + 5000, 60)].concat());
                self.expire();
            }
            Operation::Forget { which } => {
                let ids: Vec<ObjectId> = self.model.keys().copied().collect();
                if let Some(id) = ids.get(usize::from(*which) % ids.len().max(1)) {
                    open(&clean).forget(&[(*id, "the model".to_owned())]).unwrap();
                    self.model.remove(id);
                }
            }
            Operation::Collect => drop(gc::run(&open(&clean), &NOW, &Silent).unwrap()),
            Operation::Mark => {
                let hour = GcOptions { grace: Some(Duration::from_secs(3600)), dry_run: false };
                gc::run(&open(&clean), &hour, &Silent).unwrap();
            }
            Operation::CrashCollect { after } => {
                let backend = self.backend(ChangeFault::Crash(u64::from(*after)));
                if let Ok(repository) = crate::support::open_with(&backend, None) {
                    let _ = gc::run(&repository, &NOW, &Silent);
                }
                self.expire();
            }
        }
    }

    /// The crashed process is this one and lives: its leases end only with their lifetime.
    fn expire(&self) {
        self.memory.advance_clock(8 * 24 * 3600);
    }

    fn adopt(&mut self, bytes: &[u8]) {
        for info in open(&self.backend(ChangeFault::None)).snapshots().unwrap() {
            self.model.entry(info.id).or_insert_with(|| bytes.to_vec());
        }
    }

    fn assert_equal(&self) {
        let repository = open(&self.backend(ChangeFault::None));
        let there: Vec<ObjectId> = repository.snapshots().unwrap().iter().map(|info| info.id).collect();
        assert_eq!(there.len(), self.model.len());
        for (id, bytes) in &self.model {
            assert!(load(&repository, id).unwrap() == *bytes, "snapshot {id} came back different");
        }
    }
}

#[test]
fn random_histories_agree_with_the_model() {
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let history = proptest::collection::vec(operation(), 1..25);
    TestRunner::new(config)
        .run(&history, |operations| {
            let mut world = World::new();
            for operation in &operations {
                world.run(operation);
                world.assert_equal();
            }
            assert_sound(&open(&world.backend(ChangeFault::None)));
            Ok(())
        })
        .unwrap();
}
