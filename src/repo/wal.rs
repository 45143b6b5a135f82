//! The archive of PostgreSQL's write-ahead log: one object a file, found by its name.
//!
//! Invariant: a file counts as archived only when its object is durable and holds just this content, which was read back
//! before it was written. An object is never replaced: a second archiver of equal content has succeeded, one of other
//! content is refused.
//!
//! The race that needs no lock: two archive one file at once. The name of the object is told by the name of the file, and
//! storage writes a name once; the second finds the object of the first, compares, and makes it durable itself before it
//! reports success, since the first may die before it does.
//!
//! A file may have a gibibyte. It is read, worked on and written block by block; its head, which comes first, is written
//! last.
//!
//! Nothing here needs the index: an [`Archive`] is opened with the configuration and a key alone.

pub mod catalog;
pub mod retain;
pub mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Sender, unbounded};
use jiff::Timestamp;

use crate::backend::{Backend, BackendError, ByteRange, Unfinished};
use crate::format::crypto::{Envelope, Keys};
use crate::format::key::Credential;
use crate::format::wal::{self, HEAD_END, MAX_BLOCKS, WalHead, WalName};
use crate::format::{FormatError, Kind, ObjectId};
use crate::repo::error::RepoError;
use crate::repo::{Repository, read_config, unlock};

/// Of 16 MiB of pgbench's log level 1 leaves 11.4 % in 23 ms, level 3 10.3 % in 38 ms, level 5 10.0 % in 77 ms; of a bulk load's
/// 3.9 % in 14 ms, 3.9 % in 20 ms, 3.7 % in 49 ms. The server waits, so it is 1.
const LEVEL: i32 = 1;
/// Raw bytes of a block: enough of them for every processor. Blocks of 4 MiB are not smaller.
const BLOCK: u64 = 1 << 20;
/// Threads that work on one file.
const MAX_WORKERS: usize = 4;
/// Blocks that are on their way at once, besides one for each of these.
const AHEAD: u64 = 2;

/// A file to be archived, or to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalFile {
    /// The cluster's identifier.
    pub system_id: u64,
    /// Its name.
    pub name: WalName,
}

/// A file whose blocks are written: its object, which nobody sees before it has its head.
pub struct SealedWal<'a> {
    head: WalHead,
    stored_head: Vec<u8>,
    object: Box<dyn Unfinished + 'a>,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archived {
    /// It was written.
    Written,
    /// It was there, with this content.
    Found,
}

/// The archive of one repository.
#[derive(Clone)]
pub struct Archive {
    backend: Arc<dyn Backend>,
    keys: Keys,
    workers: usize,
}

impl Archive {
    /// Opens the archive of a repository, without index or cache.
    pub fn open(backend: Arc<dyn Backend>, credential: &Credential) -> Result<Self, RepoError> {
        let config = read_config(backend.as_ref())?;
        let (_, keys) = unlock(backend.as_ref(), &config, credential)?;
        Ok(Archive::with(backend, keys))
    }

    /// The archive of an open repository.
    pub fn of(repository: &Repository) -> Self {
        Archive::with(repository.backend().clone(), repository.keys().clone())
    }

    fn with(backend: Arc<dyn Backend>, keys: Keys) -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_WORKERS);
        Archive { backend, keys, workers }
    }

    /// Where it is, for people and errors.
    pub fn location(&self) -> String {
        self.backend.location()
    }

    /// What is archived of a file; nothing if it is not there.
    pub fn head(&self, file: &WalFile) -> Result<Option<WalHead>, RepoError> {
        Ok(self.opened(file)?.map(|(head, _)| head))
    }

    /// Whether a file seems to be there: storage has an object of its name.
    pub fn has(&self, file: &WalFile) -> Result<bool, RepoError> {
        match self.backend.stat(Kind::Wal, &self.id(file)) {
            Err(error) if error.is_not_found() => Ok(false),
            result => Ok(result.map(|_| true)?),
        }
    }

    /// Whether a file is there with this content, and durable. With other content, or damaged, it is an error.
    pub fn confirm(&self, file: &WalFile, raw_len: u64, hash: &[u8; 32]) -> Result<bool, RepoError> {
        let id = self.id(file);
        let Some(head) = self.head(file)? else { return Ok(false) };
        if (head.raw_len, &head.hash) != (raw_len, hash) {
            let (name, system_id, id) = (file.name.to_string(), file.system_id, id);
            return Err(RepoError::OtherWal { name, system_id, id, time: head.time.to_string() });
        }
        let found = self.backend.stat(Kind::Wal, &id)?.len;
        if found != head.stored_len() {
            return Err(RepoError::object(Kind::Wal, id)(FormatError::Truncated { what: Kind::Wal.word() }));
        }
        self.backend.include_in_sync(Kind::Wal, &id);
        self.backend.sync()?;
        Ok(true)
    }

    /// Reads a file of `raw_len` bytes and writes the blocks of its object. `read` fills what it is given. Few blocks are in
    /// memory at once, whatever the length.
    pub fn seal<E: From<RepoError>>(
        &self,
        file: &WalFile,
        raw_len: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<SealedWal<'_>, E> {
        if !file.name.may_have(raw_len) {
            let why = format!("{} of {raw_len} bytes", file.name);
            return Err(RepoError::from(FormatError::invalid(Kind::Wal.word(), why)).into());
        }
        let block_len = BLOCK.max(raw_len.div_ceil(MAX_BLOCKS as u64));
        let count = raw_len.div_ceil(block_len);
        let envelope = self.keys.new_envelope(Kind::Wal).map_err(RepoError::from)?;
        let (mut hasher, mut stored) = (blake3::Hasher::new(), Vec::new());
        let object = self.backend.begin_new(Kind::Wal, &self.id(file), HEAD_END).map_err(RepoError::from);
        let mut object = object?;
        self.spread::<_, E>(
            count,
            &|(index, raw): (u64, Vec<u8>)| Ok((index, wal::seal_block(&envelope, index, LEVEL, &raw)?)),
            &mut |index| {
                let len = block_len.min(raw_len - index * block_len);
                let mut raw = vec![0; len as usize];
                read(&mut raw)?;
                hasher.update(&raw);
                Ok((index, raw))
            },
            &mut |block| {
                stored.push(block.len() as u32);
                Ok(object.write(&block).map_err(RepoError::from)?)
            },
        )?;
        let head = WalHead {
            system_id: file.system_id,
            name: file.name,
            raw_len,
            hash: *hasher.finalize().as_bytes(),
            time: Timestamp::now(),
            block_len: block_len as u32,
            stored,
        };
        let stored_head = head.seal(&envelope).map_err(RepoError::from)?;
        Ok(SealedWal { head, stored_head, object })
    }

    /// Publishes a file's object. When this returns the file is archived, and durable.
    pub fn publish(&self, sealed: SealedWal<'_>) -> Result<Archived, RepoError> {
        let SealedWal { head, stored_head, object } = sealed;
        let file = WalFile { system_id: head.system_id, name: head.name };
        match object.finish(&stored_head) {
            Ok(()) => {
                self.backend.sync()?;
                Ok(Archived::Written)
            }
            Err(error @ BackendError::AlreadyExists { .. }) => match self.confirm(&file, head.raw_len, &head.hash)? {
                true => Ok(Archived::Found),
                false => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Reads an archived file, and hands its content to `write` piece by piece; what the head says of it, or nothing if
    /// it is not there. Only when this returns is the content known to be right.
    pub fn fetch<E: From<RepoError>>(
        &self,
        file: &WalFile,
        write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Option<WalHead>, E> {
        let Some((head, envelope)) = self.opened(file)? else { return Ok(None) };
        let id = self.id(file);
        let damaged = RepoError::object(Kind::Wal, id);
        let mut hasher = blake3::Hasher::new();
        let blocks: Vec<_> = head.blocks().collect();
        let open = |(index, sealed): (u64, Vec<u8>)| {
            let raw_len = blocks.get(index as usize).map_or(0, |block| block.2);
            Ok((index, wal::open_block(&envelope, index, sealed, raw_len).map_err(RepoError::object(Kind::Wal, id))?))
        };
        self.spread::<_, E>(
            blocks.len() as u64,
            &open,
            &mut |index| {
                let (offset, len, _) = blocks[index as usize];
                let range = ByteRange::At { offset, len };
                Ok((index, self.backend.read(Kind::Wal, &id, range).map_err(RepoError::from)?))
            },
            &mut |block| {
                hasher.update(&block);
                write(&block)
            },
        )?;
        if *hasher.finalize().as_bytes() != head.hash {
            return Err(damaged(FormatError::Hash { what: Kind::Wal.word() }).into());
        }
        Ok(Some(head))
    }

    /// The object that a file is in, or would be.
    pub fn id(&self, file: &WalFile) -> ObjectId {
        self.keys.wal_id(file.system_id, &file.name.to_string())
    }

    fn opened(&self, file: &WalFile) -> Result<Option<(WalHead, Envelope)>, RepoError> {
        match self.open_object(&self.id(file)) {
            Err(error) if error.is_not_found() => Ok(None),
            result => result.map(Some),
        }
    }

    /// Reads the head of an object.
    fn open_object(&self, id: &ObjectId) -> Result<(WalHead, Envelope), RepoError> {
        let range = ByteRange::At { offset: 0, len: HEAD_END as u64 };
        let stored = self.backend.read(Kind::Wal, id, range)?;
        WalHead::open(&self.keys, id, stored).map_err(RepoError::object(Kind::Wal, *id))
    }

    /// Has `count` blocks made by the caller's thread, in order, and worked on by others; what comes of each is taken by the
    /// caller's thread, in order. Only a few are on their way at once.
    fn spread<T: Send, E: From<RepoError>>(
        &self,
        count: u64,
        work: &Work<'_, T>,
        make: &mut dyn FnMut(u64) -> Result<T, E>,
        take: &mut dyn FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        if count == 1 || self.workers == 1 {
            return (0..count).try_for_each(|index| take(work(make(index)?)?.1));
        }
        std::thread::scope(|scope| {
            // What is on its way is counted below, so neither ever holds more than that.
            let (send, receive) = unbounded::<T>();
            let (give, given) = unbounded();
            let worker = |_| {
                let (receive, done) = (receive.clone(), Done(give.clone()));
                scope.spawn(move || receive.iter().try_for_each(|block| done.0.send(work(block))))
            };
            let workers: Vec<_> = (0..self.workers).map(worker).collect();
            drop((receive, give));
            let mut early = BTreeMap::new();
            let (mut made, mut taken) = (0, 0);
            let mut run = || -> Result<(), E> {
                while taken < count {
                    if made < count && made - taken < self.workers as u64 + AHEAD {
                        send.send(make(made)?).map_err(|_| RepoError::Worker)?;
                        made += 1;
                        continue;
                    }
                    let (index, block) = given.recv().map_err(|_| RepoError::Worker)??;
                    early.insert(index, block);
                    while let Some(block) = early.remove(&taken) {
                        take(block)?;
                        taken += 1;
                    }
                }
                Ok(())
            };
            let ended = run();
            drop(send);
            // Every one is waited for, also behind one that panicked.
            let lost = workers.into_iter().filter_map(|worker| worker.join().err()).count();
            if lost == 0 { ended } else { Err(RepoError::Worker.into()) }
        })
    }
}

/// What is done to a block: its number, and what comes of it.
type Work<'w, T> = dyn Fn(T) -> Result<(u64, Vec<u8>), RepoError> + Sync + 'w;

/// Where a worker gives what it has done. One that panics says so, else it would be waited for without end.
struct Done(Sender<Result<(u64, Vec<u8>), RepoError>>);

impl Drop for Done {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Err(RepoError::Worker));
        }
    }
}
