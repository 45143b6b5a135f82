//! Decoded frames, what is known of their chunks, and which of them are kept.
//!
//! Invariants: a chunk is proven once its bytes were compared with the id that the frame's entry gives it, and a frame's
//! bytes never change, so it is compared once however often it is used; at most [`CACHE_BYTES`] of decoded frames are
//! kept, besides those in use, and the one that was not used for longest goes first.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::format::crypto::Keys;
use crate::format::pack::ChunkEntry;
use crate::repo::index::{ChunkNo, FrameInfo};

/// Raw bytes of frames kept.
pub const CACHE_BYTES: usize = 64 << 20;

/// A frame's raw bytes.
#[derive(Debug)]
pub struct Decoded {
    info: Arc<FrameInfo>,
    raw: Vec<u8>,
    /// Where each chunk ends.
    ends: Vec<u32>,
    proven: Vec<AtomicBool>,
}

impl Decoded {
    /// Bytes that were decoded as this frame; there must be as many as its entry says.
    pub fn new(info: Arc<FrameInfo>, raw: Vec<u8>) -> Self {
        let mut end = 0;
        let ends = info.entry.chunks.iter().map(|chunk| {
            end += chunk.len;
            end
        });
        let ends: Vec<u32> = ends.collect();
        let proven = ends.iter().map(|_| AtomicBool::new(false)).collect();
        Decoded { info, raw, ends, proven }
    }

    /// The entry of the chunk at a position.
    pub fn entry(&self, position: usize) -> Option<&ChunkEntry> {
        self.info.entry.chunks.get(position)
    }

    fn range(&self, position: usize) -> Option<Range<usize>> {
        let end = *self.ends.get(position)? as usize;
        let start = end - self.entry(position)?.len as usize;
        (end <= self.raw.len()).then_some(start..end)
    }

    /// The bytes at a position, whatever they are.
    pub fn bytes(&self, position: usize) -> Option<&[u8]> {
        self.raw.get(self.range(position)?)
    }

    /// Whether the bytes at a position are what their id says.
    pub fn is_proven(&self, keys: &Keys, position: usize) -> bool {
        let (Some(bytes), Some(entry), Some(proven)) =
            (self.bytes(position), self.entry(position), self.proven.get(position))
        else {
            return false;
        };
        // Two threads may both compare; the answer is the same.
        if !proven.load(Ordering::Relaxed) && keys.chunk_id(bytes) == entry.id {
            proven.store(true, Ordering::Relaxed);
        }
        proven.load(Ordering::Relaxed)
    }

    /// How many bytes the whole frame takes.
    fn size(&self) -> usize {
        self.raw.capacity()
    }

    /// The buffer it was in.
    pub(super) fn into_raw(self) -> Vec<u8> {
        self.raw
    }
}

/// A chunk's bytes, which were compared with its id.
#[derive(Clone)]
pub struct ChunkBytes {
    frame: Arc<Decoded>,
    range: Range<usize>,
}

impl ChunkBytes {
    /// The chunk at a position of a frame, if its bytes are what its id says.
    pub fn proven(frame: &Arc<Decoded>, keys: &Keys, position: usize) -> Option<Self> {
        let range = frame.is_proven(keys, position).then(|| frame.range(position)).flatten()?;
        Some(ChunkBytes { frame: frame.clone(), range })
    }
}

impl std::ops::Deref for ChunkBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.frame.raw[self.range.clone()]
    }
}

/// A frame that somebody asked for.
pub(super) enum Slot {
    /// A thread decodes it; others wait.
    Loading,
    /// It is here.
    Ready { frame: Arc<Decoded>, used: u64 },
}

/// The frames that are kept or on their way.
#[derive(Default)]
pub(super) struct Cache {
    pub(super) slots: HashMap<ChunkNo, Slot>,
    /// When each was used last, the oldest first.
    uses: BTreeMap<u64, ChunkNo>,
    bytes: usize,
    clock: u64,
}

impl Cache {
    /// A frame that is here; it counts as used now.
    pub(super) fn take(&mut self, first: ChunkNo) -> Option<Arc<Decoded>> {
        let Some(Slot::Ready { frame, used }) = self.slots.get_mut(&first) else { return None };
        self.clock += 1;
        self.uses.remove(used);
        *used = self.clock;
        self.uses.insert(self.clock, first);
        Some(frame.clone())
    }

    /// Keeps a frame, and gives those that are too much.
    pub(super) fn keep(&mut self, first: ChunkNo, frame: Arc<Decoded>) -> Vec<Arc<Decoded>> {
        let mut gone = Vec::new();
        self.clock += 1;
        self.bytes += frame.size();
        self.uses.insert(self.clock, first);
        let before = self.slots.insert(first, Slot::Ready { frame, used: self.clock });
        if let Some(Slot::Ready { frame, used }) = before {
            self.bytes -= frame.size();
            self.uses.remove(&used);
        }
        while self.bytes > CACHE_BYTES {
            let Some((_, oldest)) = self.uses.pop_first() else { break };
            if let Some(Slot::Ready { frame, .. }) = self.slots.remove(&oldest) {
                self.bytes -= frame.size();
                gone.push(frame);
            }
        }
        gone
    }
}
