//! L1: physical storage, keyed by kind and id, never by path.
//!
//! Invariants of every backend (the conformance suite in `tests/it/backend` holds each to them):
//! * an object appears whole or not at all, and is never changed or replaced;
//! * `write_new` of an existing id is refused with [`BackendError::AlreadyExists`] and changes nothing;
//! * after `sync` returns, every object whose `write_new` returned survives a power loss;
//! * a failed write leaves no object behind, only debris that `list` does not show and `remove_debris` removes.

pub mod error;
pub mod host;
pub mod local;

use jiff::Timestamp;

pub use error::BackendError;

use crate::format::{Kind, ObjectId};

/// Which part of an object is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// Everything, which must be at most `limit` bytes.
    All {
        /// The longest object that is accepted.
        limit: u64,
    },
    /// Exactly `len` bytes from `offset`.
    At {
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
    },
}

/// What storage knows of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its length in bytes.
    pub len: u64,
    /// When it was written, by the storage's own clock: times of one backend may be compared with each other,
    /// never with the local clock.
    pub modified: Timestamp,
}

/// Storage of immutable objects. Implementations are used from many threads at once.
pub trait Backend: Send + Sync {
    /// Reads part of an object. A range that the object does not have is [`BackendError::Range`].
    fn read(&self, kind: Kind, id: &ObjectId, range: ByteRange) -> Result<Vec<u8>, BackendError>;

    /// Writes a new object, whole. Never replaces one.
    fn write_new(&self, kind: Kind, id: &ObjectId, bytes: &[u8]) -> Result<(), BackendError>;

    /// Begins a new object that is written piece by piece, and whose first `head` bytes are known last. Nothing is there of
    /// it before [`Unfinished::finish`]. Storage that takes objects only as a whole gives [`Whole`].
    fn begin_new(&self, kind: Kind, id: &ObjectId, head: usize) -> Result<Box<dyn Unfinished + '_>, BackendError>;

    /// Calls `visit` with the id and length of each object of this kind, in no order. An object that is written or
    /// removed meanwhile may or may not be seen.
    fn list(&self, kind: Kind, visit: &mut dyn FnMut(ObjectId, u64)) -> Result<(), BackendError>;

    /// Length and time of an object.
    fn stat(&self, kind: Kind, id: &ObjectId) -> Result<Stat, BackendError>;

    /// Removes an object; one that is not there is [`BackendError::NotFound`].
    fn remove(&self, kind: Kind, id: &ObjectId) -> Result<(), BackendError>;

    /// Makes the next `sync` cover an object that another process wrote and may not have made durable yet.
    fn include_in_sync(&self, _kind: Kind, _id: &ObjectId) {}

    /// A barrier: returns when all that was written and removed before survives a power loss.
    fn sync(&self) -> Result<(), BackendError>;

    /// Removes what failed or killed writes left behind; how many pieces and bytes. With `dry_run` only counts. A piece
    /// goes if storage can tell that its writer has ended, and never if it can tell that the writer lives; otherwise
    /// if it is older than `age_seconds`.
    fn remove_debris(&self, age_seconds: u64, dry_run: bool) -> Result<(u64, u64), BackendError>;

    /// Where this is, for people and errors.
    fn location(&self) -> String;
}

/// An object that is being written. Dropped, it leaves nothing.
pub trait Unfinished: Send {
    /// Writes on, behind the head.
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError>;

    /// Puts the head, of just the length that was left free, to its beginning. From then on the object is there, as after
    /// [`Backend::write_new`].
    fn finish(self: Box<Self>, head: &[u8]) -> Result<(), BackendError>;
}

/// One that is held in memory, and written as a whole.
pub struct Whole<'b> {
    backend: &'b dyn Backend,
    place: (Kind, ObjectId),
    head: usize,
    bytes: Vec<u8>,
}

impl<'b> Whole<'b> {
    /// For an object of a backend.
    pub fn begin(backend: &'b dyn Backend, kind: Kind, id: &ObjectId, head: usize) -> Box<dyn Unfinished + 'b> {
        Box::new(Whole { backend, place: (kind, *id), head, bytes: vec![0; head] })
    }
}

impl Unfinished for Whole<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(mut self: Box<Self>, head: &[u8]) -> Result<(), BackendError> {
        let (kind, id) = self.place;
        if head.len() != self.head {
            return Err(error::wrong_head(kind, &id, self.backend.location(), head.len(), self.head));
        }
        self.bytes[..head.len()].copy_from_slice(head);
        self.backend.write_new(kind, &id, &self.bytes)
    }
}

/// Removes an object. One that is not there any more is as good as removed: somebody else did it at the same time.
pub fn remove_if_there(backend: &dyn Backend, kind: Kind, id: &ObjectId) -> Result<(), BackendError> {
    match backend.remove(kind, id) {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}

/// All ids of a kind, with their lengths, sorted.
pub fn list_all(backend: &dyn Backend, kind: Kind) -> Result<Vec<(ObjectId, u64)>, BackendError> {
    let mut all = Vec::new();
    backend.list(kind, &mut |id, len| all.push((id, len)))?;
    all.sort_unstable();
    Ok(all)
}
