//! A backend in memory, whose state can be taken at any moment: the state that a crash would leave.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cairn::backend::{Backend, BackendError, ByteRange, Stat, Unfinished, Whole};
use cairn::format::{Kind, ObjectId};
use jiff::Timestamp;

/// When the clock of a new memory backend begins: 2026-01-01 00:00:00 UTC.
pub const CLOCK_START: i64 = 1_767_225_600;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    bytes: Arc<[u8]>,
    modified: i64,
}

type Objects = BTreeMap<(Kind, ObjectId), Object>;

/// All that a memory backend holds. A clone is cheap: objects are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    objects: Objects,
    durable: Objects,
    clock: i64,
}

impl State {
    /// What a power loss leaves in the worst case: nothing since the last sync.
    pub fn after_power_loss(mut self) -> State {
        self.objects = self.durable.clone();
        self
    }
}

/// A backend in memory. Its clock is a counter: each write takes one second.
pub struct Memory {
    state: Mutex<State>,
    /// The age that debris had to have when somebody last asked for its removal.
    debris_age: AtomicU64,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Arc<Memory> {
        let (objects, durable) = (BTreeMap::new(), BTreeMap::new());
        Memory::with_state(State { objects, durable, clock: CLOCK_START })
    }

    /// One that goes on from this state.
    pub fn with_state(state: State) -> Arc<Memory> {
        Arc::new(Memory { state: Mutex::new(state), debris_age: AtomicU64::new(0) })
    }

    /// The state now: what a crash of the process at this moment leaves.
    pub fn snapshot(&self) -> State {
        self.state().clone()
    }

    /// Lets time pass by the storage's clock.
    pub fn advance_clock(&self, seconds: i64) {
        self.state().clock += seconds;
    }

    /// Puts other bytes in the place of an object, as damage or an attacker does. The object need not exist.
    pub fn overwrite(&self, kind: Kind, id: &ObjectId, bytes: &[u8]) {
        let mut state = self.state();
        let modified = state.clock;
        state.objects.insert((kind, *id), Object { bytes: bytes.into(), modified });
    }

    /// The age in seconds that debris had to have when somebody last asked for its removal.
    pub fn debris_age(&self) -> u64 {
        self.debris_age.load(Ordering::SeqCst)
    }

    /// The bytes of an object, without any check.
    pub fn peek(&self, kind: Kind, id: &ObjectId) -> Option<Arc<[u8]>> {
        self.state().objects.get(&(kind, *id)).map(|object| Arc::clone(&object.bytes))
    }

    /// Kind and id of every object, sorted.
    pub fn ids(&self) -> Vec<(Kind, ObjectId)> {
        self.state().objects.keys().copied().collect()
    }

    /// Bytes of all objects together.
    pub fn total_bytes(&self) -> u64 {
        self.state().objects.values().map(|object| object.bytes.len() as u64).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn get(&self, kind: Kind, id: &ObjectId) -> Result<Object, BackendError> {
        let found = self.state().objects.get(&(kind, *id)).cloned();
        found.ok_or_else(|| BackendError::NotFound { kind, id: *id, location: self.location() })
    }
}

impl Backend for Memory {
    fn read(&self, kind: Kind, id: &ObjectId, range: ByteRange) -> Result<Vec<u8>, BackendError> {
        let bytes = self.get(kind, id)?.bytes;
        let len = bytes.len() as u64;
        let out_of_range = |wanted| BackendError::Range { kind, id: *id, location: self.location(), len, wanted };
        match range {
            ByteRange::All { limit } if len > limit => Err(out_of_range(format!("at most {limit}"))),
            ByteRange::All { .. } => Ok(bytes.to_vec()),
            ByteRange::At { offset, len: wanted } => match offset.checked_add(wanted) {
                Some(end) if end <= len => Ok(bytes[offset as usize..end as usize].to_vec()),
                _ => Err(out_of_range(format!("{wanted} from {offset} on"))),
            },
        }
    }

    fn write_new(&self, kind: Kind, id: &ObjectId, bytes: &[u8]) -> Result<(), BackendError> {
        let mut state = self.state();
        if state.objects.contains_key(&(kind, *id)) {
            return Err(BackendError::AlreadyExists { kind, id: *id, location: self.location() });
        }
        state.clock += 1;
        let modified = state.clock;
        state.objects.insert((kind, *id), Object { bytes: bytes.into(), modified });
        Ok(())
    }

    fn begin_new(&self, kind: Kind, id: &ObjectId, head: usize) -> Result<Box<dyn Unfinished + '_>, BackendError> {
        Ok(Whole::begin(self, kind, id, head))
    }

    fn list(&self, kind: Kind, visit: &mut dyn FnMut(ObjectId, u64)) -> Result<(), BackendError> {
        // Collected first, so that `visit` may call this backend.
        let of_kind = |((found, id), object): (&(Kind, ObjectId), &Object)| {
            (*found == kind).then_some((*id, object.bytes.len() as u64))
        };
        let found: Vec<(ObjectId, u64)> = self.state().objects.iter().filter_map(of_kind).collect();
        for (id, len) in found {
            visit(id, len);
        }
        Ok(())
    }

    fn stat(&self, kind: Kind, id: &ObjectId) -> Result<Stat, BackendError> {
        let object = self.get(kind, id)?;
        let modified = Timestamp::from_second(object.modified).unwrap();
        Ok(Stat { len: object.bytes.len() as u64, modified })
    }

    fn remove(&self, kind: Kind, id: &ObjectId) -> Result<(), BackendError> {
        match self.state().objects.remove(&(kind, *id)) {
            Some(_) => Ok(()),
            None => Err(BackendError::NotFound { kind, id: *id, location: self.location() }),
        }
    }

    fn sync(&self) -> Result<(), BackendError> {
        let mut state = self.state();
        state.durable = state.objects.clone();
        Ok(())
    }

    fn remove_debris(&self, age_seconds: u64, _dry_run: bool) -> Result<(u64, u64), BackendError> {
        self.debris_age.store(age_seconds, Ordering::SeqCst);
        Ok((0, 0))
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}
