//! Packs being filled. Frames are sealed into the open pack under a lock (that is fast), and verified outside it (that
//! is not); a full pack is written by the thread that finishes its last verification.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::Backend;
use crate::format::crypto::{Envelope, HEADER_LEN, Keys};
use crate::format::pack::{self, ChunkEntry, FrameEntry};
use crate::format::{ChunkId, Kind, ObjectId, frame};
use crate::repo::buffers::Buffers;
use crate::repo::error::RepoError;

/// A pack is written when it has this many bytes…
const PACK_BYTES: usize = 16 << 20;
/// …or this many chunks, which bounds its footer and what is pending…
const PACK_CHUNKS: usize = 128 << 10;
/// …or this many frames.
const PACK_FRAMES: usize = 16 << 10;

/// A compressed frame.
pub struct EncodedFrame {
    /// Its depth.
    pub depth: u8,
    /// The ids of its base chunks.
    pub bases: Vec<ChunkId>,
    /// Its chunks.
    pub chunks: Vec<ChunkEntry>,
    /// The zstd frame.
    pub bytes: Vec<u8>,
}

/// A pack that is in storage.
pub struct WrittenPack {
    /// Data or metadata.
    pub kind: Kind,
    /// Its id.
    pub id: ObjectId,
    /// Its length.
    pub len: u64,
    /// Its first bytes.
    pub header: Vec<u8>,
    /// Its frames.
    pub frames: Vec<FrameEntry>,
}

/// Hears of each pack once it is in storage.
pub type OnWritten<'a> = dyn Fn(&WrittenPack) -> Result<(), RepoError> + 'a;

struct OpenPack {
    envelope: Envelope,
    bytes: Vec<u8>,
    frames: Vec<FrameEntry>,
    chunks: usize,
    verifying: usize,
    full: bool,
}

/// A frame that is in an open pack and not verified yet.
struct Appended {
    pack: Arc<Mutex<OpenPack>>,
    slot: u64,
    sealed: Vec<u8>,
}

/// Fills packs of one kind.
pub struct Packer {
    kind: Kind,
    backend: Arc<dyn Backend>,
    keys: Keys,
    open: Mutex<Option<Arc<Mutex<OpenPack>>>>,
    buffers: Buffers,
    written_bytes: std::sync::atomic::AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Packer {
    /// A packer without an open pack.
    pub fn new(kind: Kind, backend: Arc<dyn Backend>, keys: Keys) -> Self {
        Packer { kind, backend, keys, open: Mutex::new(None), buffers: Buffers::default(), written_bytes: 0.into() }
    }

    /// Adds a frame, verifies it as it will be stored, and writes the pack if this filled it.
    pub fn add(
        &self,
        encoded: &EncodedFrame,
        raw: &[u8],
        prefix: &[u8],
        on_written: &OnWritten<'_>,
    ) -> Result<(), RepoError> {
        let Appended { pack, slot, mut sealed } = self.append(encoded)?;
        let plain = lock(&pack).envelope.open(slot, &mut sealed)?.len();
        let room = self.buffers.take(raw.len());
        let decoded = frame::decompress_into(room, &sealed[..plain], raw.len(), prefix)?;
        let mut rest = decoded.as_slice();
        for chunk in &encoded.chunks {
            let (head, tail) = rest.split_at_checked(chunk.len as usize).ok_or(damaged(chunk))?;
            if self.keys.chunk_id(head) != chunk.id {
                return Err(damaged(chunk));
            }
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(RepoError::Worker);
        }
        self.buffers.give(decoded);
        let mut state = lock(&pack);
        state.verifying -= 1;
        if state.full && state.verifying == 0 {
            return self.write(&mut state, on_written);
        }
        Ok(())
    }

    /// Seals a frame into the open pack: the pack, the frame's position, and its sealed bytes.
    fn append(&self, encoded: &EncodedFrame) -> Result<Appended, RepoError> {
        let mut open = lock(&self.open);
        let pack = match open.as_ref() {
            Some(pack) => pack.clone(),
            None => {
                let pack = Arc::new(Mutex::new(OpenPack::new(self.keys.new_envelope(self.kind)?)));
                *open = Some(pack.clone());
                pack
            }
        };
        let mut state = lock(&pack);
        let slot = state.frames.len() as u64;
        let offset = state.bytes.len();
        let OpenPack { envelope, bytes, .. } = &mut *state;
        envelope.seal(slot, &encoded.bytes, bytes)?;
        let sealed = state.bytes[offset..].to_vec();
        state.frames.push(FrameEntry {
            offset: offset as u64,
            stored_len: sealed.len() as u32,
            depth: encoded.depth,
            bases: encoded.bases.clone(),
            chunks: encoded.chunks.clone(),
        });
        state.chunks += encoded.chunks.len() + encoded.bases.len();
        state.verifying += 1;
        if state.bytes.len() >= PACK_BYTES || state.chunks >= PACK_CHUNKS || state.frames.len() >= PACK_FRAMES {
            state.full = true;
            *open = None;
        }
        drop(state);
        Ok(Appended { pack, slot, sealed })
    }

    /// Writes the open pack, if there is one; the bytes of all packs written. Called when nobody adds frames any more.
    pub fn finish(&self, on_written: &OnWritten<'_>) -> Result<u64, RepoError> {
        if let Some(pack) = lock(&self.open).take() {
            let mut state = lock(&pack);
            if state.verifying > 0 {
                return Err(RepoError::Worker);
            }
            self.write(&mut state, on_written)?;
        }
        Ok(self.written_bytes.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn write(&self, state: &mut OpenPack, on_written: &OnWritten<'_>) -> Result<(), RepoError> {
        let OpenPack { envelope, bytes, frames, .. } = state;
        pack::seal_footer(envelope, frames, bytes)?;
        let id = ObjectId::of(bytes);
        self.backend.write_new(self.kind, &id, bytes)?;
        let len = bytes.len() as u64;
        self.written_bytes.fetch_add(len, std::sync::atomic::Ordering::SeqCst);
        let header = bytes[..HEADER_LEN].to_vec();
        state.bytes = Vec::new();
        let frames = std::mem::take(&mut state.frames);
        on_written(&WrittenPack { kind: self.kind, id, len, header, frames })
    }
}

impl OpenPack {
    fn new(envelope: Envelope) -> Self {
        let bytes = envelope.header().to_vec();
        OpenPack { envelope, bytes, frames: Vec::new(), chunks: 0, verifying: 0, full: false }
    }
}

fn damaged(chunk: &ChunkEntry) -> RepoError {
    RepoError::DamagedChunk { id: chunk.id }
}
