//! Storage that fails at its n-th change, whichever that is: for stopping work after every single one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn::backend::{Backend, BackendError, ByteRange, Stat, Unfinished, Whole};
use cairn::format::{Kind, ObjectId};

/// What goes wrong at the change (write, removal or sync) with the given number, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeFault {
    /// Nothing.
    None,
    /// This change and all that follow fail, reads too: the process or the machine died.
    Crash(u64),
    /// This change fails with an input/output error.
    Fail(u64),
    /// This change finds the storage full.
    Full(u64),
    /// This change is done, but an error is returned.
    LostAcknowledgement(u64),
    /// This change leaves a piece that is not listed, and fails.
    ShortWrite(u64),
}

pub struct NthChange {
    inner: Arc<dyn Backend>,
    fault: ChangeFault,
    changes: AtomicU64,
    debris: AtomicU64,
}

impl NthChange {
    pub fn new(inner: Arc<dyn Backend>, fault: ChangeFault) -> Self {
        NthChange { inner, fault, changes: AtomicU64::new(0), debris: AtomicU64::new(0) }
    }

    /// Pieces of short writes that nobody has removed.
    pub fn debris(&self) -> u64 {
        self.debris.load(Ordering::SeqCst)
    }

    /// Writes, removals and syncs so far.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    fn error(&self, action: &'static str) -> BackendError {
        let source = io::Error::other("injected");
        BackendError::Io { action, what: "something".to_owned(), location: self.location(), source }
    }

    fn alive(&self) -> Result<(), BackendError> {
        match self.fault {
            ChangeFault::Crash(at) if self.changes() > at => Err(self.error("reach")),
            _ => Ok(()),
        }
    }

    fn change(&self, act: impl FnOnce() -> Result<(), BackendError>) -> Result<(), BackendError> {
        let number = self.changes.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            ChangeFault::Crash(at) if number >= at => Err(self.error("write")),
            ChangeFault::Fail(at) if number == at => Err(self.error("write")),
            ChangeFault::ShortWrite(at) if number == at => {
                self.debris.fetch_add(1, Ordering::SeqCst);
                Err(self.error("write"))
            }
            ChangeFault::Full(at) if number == at => {
                let source = io::Error::from(io::ErrorKind::StorageFull);
                Err(BackendError::Full { what: "something".to_owned(), location: self.location(), source })
            }
            ChangeFault::LostAcknowledgement(at) if number == at => {
                act()?;
                Err(self.error("write"))
            }
            _ => act(),
        }
    }
}

impl Backend for NthChange {
    fn read(&self, kind: Kind, id: &ObjectId, range: ByteRange) -> Result<Vec<u8>, BackendError> {
        self.alive()?;
        self.inner.read(kind, id, range)
    }

    fn write_new(&self, kind: Kind, id: &ObjectId, bytes: &[u8]) -> Result<(), BackendError> {
        self.change(|| self.inner.write_new(kind, id, bytes))
    }

    fn begin_new(&self, kind: Kind, id: &ObjectId, head: usize) -> Result<Box<dyn Unfinished + '_>, BackendError> {
        Ok(Whole::begin(self, kind, id, head))
    }

    fn list(&self, kind: Kind, visit: &mut dyn FnMut(ObjectId, u64)) -> Result<(), BackendError> {
        self.alive()?;
        self.inner.list(kind, visit)
    }

    fn stat(&self, kind: Kind, id: &ObjectId) -> Result<Stat, BackendError> {
        self.alive()?;
        self.inner.stat(kind, id)
    }

    fn remove(&self, kind: Kind, id: &ObjectId) -> Result<(), BackendError> {
        self.change(|| self.inner.remove(kind, id))
    }

    fn include_in_sync(&self, kind: Kind, id: &ObjectId) {
        self.inner.include_in_sync(kind, id);
    }

    fn sync(&self) -> Result<(), BackendError> {
        self.change(|| self.inner.sync())
    }

    fn remove_debris(&self, age_seconds: u64, dry_run: bool) -> Result<(u64, u64), BackendError> {
        self.alive()?;
        let (pieces, bytes) = self.inner.remove_debris(age_seconds, dry_run)?;
        let own = if dry_run { self.debris() } else { self.debris.swap(0, Ordering::SeqCst) };
        Ok((pieces + own, bytes))
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}
