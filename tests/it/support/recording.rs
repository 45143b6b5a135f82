//! A backend that remembers its calls, for tests that say how much input and output something may cost.

use std::sync::{Arc, Mutex};

use cairn::backend::{Backend, BackendError, ByteRange, Stat, Unfinished, Whole};
use cairn::format::{Kind, ObjectId};

use crate::support::faulty::Operation;

/// One call that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What was called.
    pub operation: Operation,
    /// For which kind; `None` for `sync` and `remove_debris`.
    pub kind: Option<Kind>,
    /// For which object, where it is for one.
    pub id: Option<ObjectId>,
    /// Bytes read or written; objects listed.
    pub amount: u64,
}

/// A number of calls and what they moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many calls.
    pub calls: u64,
    /// Bytes read or written; objects listed.
    pub amount: u64,
}

/// Wraps a backend and records the calls that succeed, in the order in which they end.
pub struct Recording {
    inner: Arc<dyn Backend>,
    events: Mutex<Vec<Event>>,
}

impl Recording {
    /// With nothing recorded.
    pub fn new(inner: Arc<dyn Backend>) -> Arc<Recording> {
        Arc::new(Recording { inner, events: Mutex::default() })
    }

    /// What was recorded so far; recording begins anew.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }

    /// The calls of an operation for a kind since the last [`Recording::take`].
    pub fn tally(&self, operation: Operation, kind: Kind) -> Tally {
        self.sum(|event| event.operation == operation && event.kind == Some(kind))
    }

    /// The calls of an operation for all kinds since the last [`Recording::take`].
    pub fn total(&self, operation: Operation) -> Tally {
        self.sum(|event| event.operation == operation)
    }

    fn sum(&self, wanted: impl Fn(&Event) -> bool) -> Tally {
        let events = self.events.lock().unwrap();
        let add = |sum: Tally, event: &Event| Tally { calls: sum.calls + 1, amount: sum.amount + event.amount };
        events.iter().filter(|event| wanted(event)).fold(Tally::default(), add)
    }

    fn note(&self, operation: Operation, kind: Option<Kind>, id: Option<&ObjectId>, amount: u64) {
        self.events.lock().unwrap().push(Event { operation, kind, id: id.copied(), amount });
    }
}

impl Backend for Recording {
    fn read(&self, kind: Kind, id: &ObjectId, range: ByteRange) -> Result<Vec<u8>, BackendError> {
        let bytes = self.inner.read(kind, id, range)?;
        self.note(Operation::Read, Some(kind), Some(id), bytes.len() as u64);
        Ok(bytes)
    }

    fn write_new(&self, kind: Kind, id: &ObjectId, bytes: &[u8]) -> Result<(), BackendError> {
        self.inner.write_new(kind, id, bytes)?;
        self.note(Operation::Write, Some(kind), Some(id), bytes.len() as u64);
        Ok(())
    }

    fn begin_new(&self, kind: Kind, id: &ObjectId, head: usize) -> Result<Box<dyn Unfinished + '_>, BackendError> {
        Ok(Whole::begin(self, kind, id, head))
    }

    fn list(&self, kind: Kind, visit: &mut dyn FnMut(ObjectId, u64)) -> Result<(), BackendError> {
        let mut objects = 0;
        self.inner.list(kind, &mut |id, len| {
            objects += 1;
            visit(id, len);
        })?;
        self.note(Operation::List, Some(kind), None, objects);
        Ok(())
    }

    fn stat(&self, kind: Kind, id: &ObjectId) -> Result<Stat, BackendError> {
        let stat = self.inner.stat(kind, id)?;
        self.note(Operation::Stat, Some(kind), Some(id), 0);
        Ok(stat)
    }

    fn remove(&self, kind: Kind, id: &ObjectId) -> Result<(), BackendError> {
        self.inner.remove(kind, id)?;
        self.note(Operation::Remove, Some(kind), Some(id), 0);
        Ok(())
    }

    fn sync(&self) -> Result<(), BackendError> {
        self.inner.sync()?;
        self.note(Operation::Sync, None, None, 0);
        Ok(())
    }

    fn remove_debris(&self, age_seconds: u64, dry_run: bool) -> Result<(u64, u64), BackendError> {
        let removed = self.inner.remove_debris(age_seconds, dry_run)?;
        self.note(Operation::RemoveDebris, None, None, removed.1);
        Ok(removed)
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}
