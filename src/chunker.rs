//! L0: content-defined chunking. FastCDC in its 2020 form (Xia et al., "The Design of Fast Content-Defined Chunking
//! for Data Deduplication Based Storage Systems", IEEE TPDS 31, 2020) with a gear table that is secret: all 256
//! values come from the repository's key, so chunk boundaries tell nothing to whoever lacks it.

use fastcdc::v2020::{MASKS, cut_gear};

use crate::format::config::ChunkSizes;

/// Finds cuts.
#[derive(Clone)]
pub struct Chunker {
    gear: Box<[u64; 256]>,
    gear_ls: Box<[u64; 256]>,
    sizes: ChunkSizes,
    mask_small: u64,
    mask_large: u64,
}

impl Chunker {
    /// A chunker for validated sizes and a secret table ([`crate::format::crypto::Keys::gear_table`]).
    pub fn new(gear: [u64; 256], sizes: ChunkSizes) -> Self {
        // Normalisation level 1: one bit more before the average size, one bit less after it.
        let bits = (sizes.average.max(256).ilog2() as usize).clamp(6, MASKS.len() - 2);
        let gear_ls = gear.map(|value| value << 1);
        Chunker {
            gear: Box::new(gear),
            gear_ls: Box::new(gear_ls),
            sizes,
            mask_small: MASKS[bits + 1],
            mask_large: MASKS[bits - 1],
        }
    }

    /// The largest chunk it makes.
    pub fn max_len(&self) -> usize {
        self.sizes.max as usize
    }

    /// Length of the chunk that `data` begins with. `data` holds at least [`Chunker::max_len`] bytes, or all that
    /// is left of the stream. Zero only for no data.
    pub fn cut(&self, data: &[u8]) -> usize {
        let ChunkSizes { min, average, max } = self.sizes;
        let (_, len) = cut_gear(
            data,
            min as usize,
            average as usize,
            max as usize,
            self.mask_small,
            self.mask_large,
            self.mask_small << 1,
            self.mask_large << 1,
            self.gear.as_slice(),
            self.gear_ls.as_slice(),
        );
        len
    }
}

/// Turns bytes that arrive in pieces of any size into chunks. Holds [`Splitter::WINDOW`] bytes.
pub struct Splitter {
    chunker: Chunker,
    window: Vec<u8>,
    start: usize,
    end: usize,
}

impl Splitter {
    /// Bytes held at most.
    pub const WINDOW: usize = 2 << 20;

    /// An empty splitter.
    pub fn new(chunker: Chunker) -> Self {
        Splitter { chunker, window: vec![0; Self::WINDOW], start: 0, end: 0 }
    }

    /// Forgets what it holds.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Room to read the next bytes into; never empty after [`Splitter::next_chunk`] has returned `None`.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.window.len() - self.end < self.chunker.max_len() {
            self.window.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.window[self.end..]
    }

    /// Gives up what it holds: all that was not cut yet.
    pub fn take_left(&mut self) -> Vec<u8> {
        let left = self.window[self.start..self.end].to_vec();
        self.clear();
        left
    }

    /// What cuts.
    pub fn chunker(&self) -> &Chunker {
        &self.chunker
    }

    /// Says that so many bytes of [`Splitter::room`] were filled.
    pub fn filled(&mut self, len: usize) {
        self.end = (self.end + len).min(self.window.len());
    }

    /// The next chunk, if its end is known. With `at_end` the bytes held are the last ones.
    pub fn next_chunk(&mut self, at_end: bool) -> Option<&[u8]> {
        let held = &self.window[self.start..self.end];
        if held.is_empty() || (!at_end && held.len() < self.chunker.max_len()) {
            return None;
        }
        let len = self.chunker.cut(held);
        self.start += len;
        Some(&self.window[self.start - len..self.start])
    }
}
