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
//! Nothing here needs the index: an [`Archive`] is opened with the configuration and a key alone.

pub mod catalog;
pub mod retain;
pub mod verify;

use std::sync::Arc;

use crossbeam_channel::bounded;
use jiff::Timestamp;

use crate::backend::{Backend, BackendError, ByteRange};
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

/// A file to be archived, or to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalFile {
    /// The cluster's identifier.
    pub system_id: u64,
    /// Its name.
    pub name: WalName,
}

/// A file that is ready to be written: its object, as a whole.
pub struct SealedWal {
    head: WalHead,
    stored: Vec<u8>,
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

    /// Reads a file of `raw_len` bytes and makes its object. `read` fills what it is given.
    pub fn seal<E: From<RepoError>>(
        &self,
        file: &WalFile,
        raw_len: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<SealedWal, E> {
        if !file.name.may_have(raw_len) {
            let why = format!("{} of {raw_len} bytes", file.name);
            return Err(RepoError::from(FormatError::invalid(Kind::Wal.word(), why)).into());
        }
        let block_len = BLOCK.max(raw_len.div_ceil(MAX_BLOCKS as u64));
        let count = raw_len.div_ceil(block_len);
        let envelope = self.keys.new_envelope(Kind::Wal).map_err(RepoError::from)?;
        let mut hasher = blake3::Hasher::new();
        let sealed = self.spread::<_, E>(
            count,
            &|(index, raw): (u64, Vec<u8>)| Ok((index, wal::seal_block(&envelope, index, LEVEL, &raw)?)),
            &mut |index| {
                let len = block_len.min(raw_len - index * block_len);
                let mut raw = vec![0; len as usize];
                read(&mut raw)?;
                hasher.update(&raw);
                Ok((index, raw))
            },
        )?;
        let head = WalHead {
            system_id: file.system_id,
            name: file.name,
            raw_len,
            hash: *hasher.finalize().as_bytes(),
            time: Timestamp::now(),
            block_len: block_len as u32,
            stored: sealed.iter().map(|block| block.len() as u32).collect(),
        };
        let mut stored = head.seal(&envelope).map_err(RepoError::from)?;
        stored.reserve_exact(sealed.iter().map(Vec::len).sum());
        sealed.iter().for_each(|block| stored.extend_from_slice(block));
        Ok(SealedWal { head, stored })
    }

    /// Writes a file's object. When this returns the file is archived, and durable.
    pub fn publish(&self, sealed: &SealedWal) -> Result<Archived, RepoError> {
        let SealedWal { head, stored } = sealed;
        let file = WalFile { system_id: head.system_id, name: head.name };
        match self.backend.write_new(Kind::Wal, &self.id(&file), stored) {
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
            Ok((index, wal::open_block(&envelope, index, sealed, raw_len)?))
        };
        let mut done = 0;
        // A few blocks at a time, so that memory is bounded.
        while done < blocks.len() {
            let some = (blocks.len() - done).min(4 * self.workers);
            let raw = self.spread::<_, RepoError>(some as u64, &open, &mut |index| {
                let index = done as u64 + index;
                let (offset, len, _) = blocks[index as usize];
                let range = ByteRange::At { offset, len };
                Ok((index, self.backend.read(Kind::Wal, &id, range).map_err(RepoError::from)?))
            });
            let raw = raw.map_err(|error| match error {
                RepoError::Format(source) => damaged(source),
                other => other,
            })?;
            for block in raw {
                hasher.update(&block);
                write(&block)?;
            }
            done += some;
        }
        if *hasher.finalize().as_bytes() != head.hash {
            return Err(damaged(FormatError::Hash { what: Kind::Wal.word() }).into());
        }
        Ok(Some(head))
    }

    fn id(&self, file: &WalFile) -> ObjectId {
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

    /// Has `count` blocks made by the caller's thread, in order, and worked on by others; what comes of them, in order.
    fn spread<T: Send, E: From<RepoError>>(
        &self,
        count: u64,
        work: &(dyn Fn(T) -> Result<(u64, Vec<u8>), FormatError> + Sync),
        make: &mut dyn FnMut(u64) -> Result<T, E>,
    ) -> Result<Vec<Vec<u8>>, E> {
        if count == 1 || self.workers == 1 {
            return (0..count).map(|index| Ok(work(make(index)?).map_err(RepoError::from)?.1)).collect();
        }
        let mut done: Vec<(u64, Vec<u8>)> = std::thread::scope(|scope| {
            let (send, receive) = bounded::<T>(1);
            let workers: Vec<_> = (0..self.workers)
                .map(|_| {
                    let receive = receive.clone();
                    scope.spawn(move || receive.iter().map(work).collect::<Result<Vec<_>, _>>())
                })
                .collect();
            drop(receive);
            let mut made = Ok(());
            for index in 0..count {
                match make(index) {
                    // Nobody takes it any more when every worker has failed.
                    Ok(block) => {
                        if send.send(block).is_err() {
                            break;
                        }
                    }
                    Err(error) => {
                        made = Err(error);
                        break;
                    }
                }
            }
            drop(send);
            let mut done = Vec::new();
            for worker in workers {
                done.extend(worker.join().map_err(|_| RepoError::Worker)?.map_err(RepoError::from)?);
            }
            made.map(|()| done)
        })?;
        done.sort_unstable_by_key(|(index, _)| *index);
        if done.len() as u64 != count {
            return Err(RepoError::Worker.into());
        }
        Ok(done.into_iter().map(|(_, block)| block).collect())
    }
}
