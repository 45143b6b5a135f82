//! Reading frames: fetch, open, decompress with the bases' content, keep the recently used ones.
//!
//! Invariants: what is kept is bounded (`frames/decoded.rs`); a frame is decoded by one thread while others wait for it; a
//! base is only taken from a frame of smaller depth than the frame that names it, so reading ends whatever the footers say,
//! and no two threads wait for each other; and what is decoded for one chunk is bounded ([`crate::repo::work`]), so it ends
//! soon.
//!
//! The race with a gc: a pack may go between looking it up and reading it. Then the index is refreshed and the chunk is
//! looked up once more.

mod decoded;

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::backend::{Backend, ByteRange};
use crate::format::crypto::{Envelope, Keys};
use crate::format::frame::{self, MAX_BASE_RAW, MAX_DEPTH};
use crate::format::{ChunkId, FormatError, Kind};
use crate::progress::Silent;
use crate::repo::buffers::Buffers;
use crate::repo::error::RepoError;
pub use crate::repo::frames::decoded::{CACHE_BYTES, ChunkBytes, Decoded};
use crate::repo::frames::decoded::{Cache, Slot};
use crate::repo::index::{FrameInfo, Index, Location, PackInfo};
use crate::repo::work::{MAX_WORK, Work};

/// Reads chunks of a repository. Shared by threads.
pub struct Frames {
    backend: Arc<dyn Backend>,
    keys: Keys,
    index: Arc<Index>,
    max_work: u64,
    cache: Mutex<Cache>,
    buffers: Buffers,
    loaded: Condvar,
    packs: Mutex<Vec<Arc<OpenPack>>>,
    /// Whether the index was healed because of a chunk that seemed to be nowhere.
    healed: Mutex<bool>,
}

struct OpenPack {
    info: PackInfo,
    envelope: Envelope,
}

const OPEN_PACKS: usize = 64;

impl Frames {
    /// A reader with an empty cache.
    pub fn new(backend: Arc<dyn Backend>, keys: Keys, index: Arc<Index>) -> Self {
        Frames {
            backend,
            keys,
            index,
            max_work: MAX_WORK,
            cache: Mutex::default(),
            buffers: Buffers::default(),
            loaded: Condvar::new(),
            packs: Mutex::default(),
            healed: Mutex::default(),
        }
    }

    /// Spends only so much on one chunk.
    pub fn with_max_work(self, max_work: u64) -> Self {
        Frames { max_work, ..self }
    }

    fn work(&self) -> Work {
        Work::new(self.max_work)
    }

    /// Buffers of the length of frames and prefixes.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// The keys it opens frames with.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The index it looks chunks up in.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// A chunk's bytes, compared with its id. Damaged copies are passed over where there is another.
    pub fn chunk(&self, id: &ChunkId) -> Result<ChunkBytes, RepoError> {
        self.chunk_at(id, None)
    }

    /// The same, for who knows already where a copy is: that one is tried first.
    pub fn chunk_at(&self, id: &ChunkId, known: Option<&Location>) -> Result<ChunkBytes, RepoError> {
        match self.try_chunk(id, known) {
            Err(error) if error.is_not_found() || error.is_missing_chunk() => {
                self.index.refresh(self.backend.as_ref(), &self.keys, &Silent)?;
                match self.try_chunk(id, None) {
                    Err(error) if error.is_missing_chunk() => self.heal_and_try(id),
                    result => result,
                }
            }
            Err(RepoError::Index { .. }) => self.heal_and_try(id),
            result => result,
        }
    }

    /// Heals once a process: what is really lost stays lost, and looking through the whole index takes time. A thread that
    /// finds another one healing waits for it.
    fn heal_and_try(&self, id: &ChunkId) -> Result<ChunkBytes, RepoError> {
        let mut healed = self.healed.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *healed, true) && self.index.heal(self.backend.as_ref(), &self.keys, &Silent)?.0 {
            self.drop_cached();
        }
        drop(healed);
        self.try_chunk(id, None)
    }

    /// Forgets what was read, because numbers mean other frames than before. A frame that another thread is reading at
    /// this moment may still come under its old number: so whoever uses a chunk compares it with its id.
    pub fn drop_cached(&self) {
        *self.lock() = Cache::default();
        self.packs.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn try_chunk(&self, id: &ChunkId, known: Option<&Location>) -> Result<ChunkBytes, RepoError> {
        let mut problem = RepoError::MissingChunk { id: *id };
        let mut work = self.work();
        if let Some(location) = known {
            match self.at_within(location, &mut work) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => problem = error,
            }
        }
        for location in self.index.find(id)? {
            if known.is_some_and(|known| known.number() == location.number()) {
                continue;
            }
            match self.at_within(&location, &mut work) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    /// The chunk at a location, compared with its id.
    pub fn at(&self, location: &Location) -> Result<ChunkBytes, RepoError> {
        self.at_within(location, &mut self.work())
    }

    fn at_within(&self, location: &Location, work: &mut Work) -> Result<ChunkBytes, RepoError> {
        let frame = self.decoded_within(&location.frame, work)?;
        let id = location.chunk().id;
        // A frame that came under its number while numbers changed is another one, and has another id there.
        let is_it = frame.entry(location.position).is_some_and(|entry| entry.id == id);
        let bytes = is_it.then(|| ChunkBytes::proven(&frame, &self.keys, location.position)).flatten();
        bytes.ok_or_else(|| self.frame_error(&location.frame, RepoError::DamagedChunk { id }))
    }

    /// A frame, from the cache or decoded.
    pub fn decoded(&self, info: &Arc<FrameInfo>) -> Result<Arc<Decoded>, RepoError> {
        self.decoded_within(info, &mut self.work())
    }

    fn decoded_within(&self, info: &Arc<FrameInfo>, work: &mut Work) -> Result<Arc<Decoded>, RepoError> {
        let mut cache = self.lock();
        while let Some(slot) = cache.slots.get(&info.first) {
            if matches!(slot, Slot::Loading) {
                cache = self.loaded.wait(cache).unwrap_or_else(PoisonError::into_inner);
            } else if let Some(frame) = cache.take(info.first) {
                return Ok(frame);
            }
        }
        cache.slots.insert(info.first, Slot::Loading);
        drop(cache);
        let result = self.load(info, work).map_err(|error| self.frame_error(info, error));
        let mut cache = self.lock();
        let mut gone = Vec::new();
        match &result {
            Ok(frame) => gone = cache.keep(info.first, frame.clone()),
            Err(_) => {
                cache.slots.remove(&info.first);
            }
        }
        drop(cache);
        // Those that somebody still uses go when he has done.
        gone.into_iter().filter_map(Arc::into_inner).for_each(|frame| self.buffers.give(frame.into_raw()));
        self.loaded.notify_all();
        result
    }

    fn load(&self, info: &Arc<FrameInfo>, work: &mut Work) -> Result<Arc<Decoded>, RepoError> {
        work.frame(info)?;
        let mut sealed = self.sealed(info)?;
        let pack = self.open_pack(info.pack)?;
        let prefix = self.prefix_within(&info.entry.bases, info.entry.depth, work)?;
        let compressed = pack.envelope.open(u64::from(info.slot), &mut sealed)?;
        let room = self.buffers.take(info.entry.raw_len());
        let raw = frame::decompress_into(room, compressed, info.entry.raw_len(), &prefix)?;
        self.buffers.give(prefix);
        Ok(Arc::new(Decoded::new(info.clone(), raw)))
    }

    /// A frame as it is stored.
    pub fn sealed(&self, info: &FrameInfo) -> Result<Vec<u8>, RepoError> {
        let pack = self.open_pack(info.pack)?;
        let range = ByteRange::At { offset: info.entry.offset, len: u64::from(info.entry.stored_len) };
        Ok(self.backend.read(pack.info.kind, &pack.info.id, range)?)
    }

    /// The concatenated content of base chunks, each from a frame of less than `depth`.
    pub fn prefix(&self, bases: &[ChunkId], depth: u8) -> Result<Vec<u8>, RepoError> {
        self.prefix_within(bases, depth, &mut self.work())
    }

    fn prefix_within(&self, bases: &[ChunkId], depth: u8, work: &mut Work) -> Result<Vec<u8>, RepoError> {
        let copies = self.base_copies(bases, depth, work)?;
        let length = copies.iter().fold(0, |sum, copy| sum + u64::from(copy.chunk().len));
        let limit = MAX_BASE_RAW as u64;
        if length > limit {
            return Err(FormatError::TooLarge { what: "frame base length", found: length, limit }.into());
        }
        // What is read from is decoded first: no buffer of megabytes waits while this goes down through the depths.
        let mut failed = Vec::new();
        for copies in copies.chunk_by(|a, b| a.frame.first == b.frame.first) {
            if let Err(error) = self.decoded_within(&copies[0].frame, work) {
                failed.push((copies[0].frame.first, error));
            }
        }
        let mut prefix = self.buffers.borrow(length as usize);
        for copy in &copies {
            let known = failed.iter().position(|(frame, _)| *frame == copy.frame.first);
            let bytes = match known.map(|position| failed.swap_remove(position).1) {
                Some(error) => Err(error),
                None => self.at_within(copy, work),
            };
            let bytes = bytes.or_else(|error| self.other_copy(copy, depth, error, work))?;
            work.base(bytes.len())?;
            prefix.extend_from_slice(&bytes);
        }
        Ok(prefix)
    }

    /// Where each base can be read from.
    fn base_copies(&self, bases: &[ChunkId], depth: u8, work: &mut Work) -> Result<Vec<Location>, RepoError> {
        let mut copies: Vec<Location> = Vec::with_capacity(bases.len());
        for base in bases {
            // Bases mostly follow each other as they were stored.
            let next = copies.last().and_then(|last| last.soon(base));
            work.copies(1)?;
            let copy = match next {
                Some(next) => Some(next),
                None => self.base(base, depth)?,
            };
            copies.push(copy.ok_or(RepoError::MissingChunk { id: *base })?);
        }
        Ok(copies)
    }

    /// A base's bytes from another copy than this one, which could not be read.
    fn other_copy(
        &self,
        unread: &Location,
        depth: u8,
        mut problem: RepoError,
        work: &mut Work,
    ) -> Result<ChunkBytes, RepoError> {
        let mut copies = self.index.find(&unread.chunk().id)?;
        work.copies(copies.len())?;
        copies.retain(|copy| copy.frame.entry.depth < depth.min(MAX_DEPTH) && copy.number() != unread.number());
        for copy in &copies {
            match self.at_within(copy, work) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    /// Whether the copy at a location can be read and is what its id says. An error only where the index fails.
    pub fn is_readable(&self, location: &Location) -> Result<bool, RepoError> {
        match self.at(location) {
            Ok(_) => Ok(true),
            Err(error @ (RepoError::Index { .. } | RepoError::Cache { .. })) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Where a base chunk can be read for a frame of this depth.
    pub fn base(&self, id: &ChunkId, depth: u8) -> Result<Option<Location>, RepoError> {
        let usable = |location: &Location| location.frame.entry.depth < depth.min(MAX_DEPTH);
        Ok(self.index.find(id)?.into_iter().find(usable))
    }

    fn open_pack(&self, no: u64) -> Result<Arc<OpenPack>, RepoError> {
        let packs = || self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pack) = packs().iter().find(|pack| pack.info.no == no) {
            return Ok(pack.clone());
        }
        let missing = || {
            let (kind, id) = (Kind::DataPack, crate::format::ObjectId::ZERO);
            crate::backend::BackendError::NotFound { kind, id, location: self.backend.location() }
        };
        let info = self.index.pack(no)?.ok_or_else(missing)?;
        let envelope =
            self.keys.open_envelope(info.kind, &info.header).map_err(RepoError::object(info.kind, info.id))?;
        let pack = Arc::new(OpenPack { info, envelope });
        let mut packs = packs();
        if packs.len() == OPEN_PACKS {
            packs.remove(0);
        }
        packs.push(pack.clone());
        Ok(pack)
    }

    fn frame_error(&self, info: &FrameInfo, source: RepoError) -> RepoError {
        match self.index.pack(info.pack) {
            // An error deeper down names its own frame, which is the one to look at.
            Ok(Some(pack)) if !matches!(source, RepoError::Frame { .. }) => {
                RepoError::Frame { kind: pack.kind, id: pack.id, frame: info.slot, source: Box::new(source) }
            }
            _ => source,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
