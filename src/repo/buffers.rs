//! Buffers of megabytes that are used again.
//!
//! Making a frame and decoding it need some for every frame. Given back to the allocator they either stay there, in pieces that
//! fit nothing, and memory grows with what was read; or they go back to the system, and each page has to be cleared again for
//! the next frame.
//!
//! Invariant: at most `KEPT` bytes wait here.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes kept at most.
const KEPT: usize = 12 << 20;
/// Lengths are rounded up to this, so that a buffer fits the next frame, too.
const STEP: usize = 256 << 10;

/// Buffers that wait to be used again.
#[derive(Default)]
pub struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer with room for `len` bytes, and not for many times that: one that is kept.
    pub fn take(&self, len: usize) -> Vec<u8> {
        self.take_up_to(len, 2 * len)
    }

    /// An empty buffer with room for `len` bytes, and perhaps for many times that: one that is soon given back.
    pub fn borrow(&self, len: usize) -> Vec<u8> {
        self.take_up_to(len, KEPT)
    }

    /// The smallest one that fits.
    fn take_up_to(&self, len: usize, most: usize) -> Vec<u8> {
        if len < STEP {
            return Vec::with_capacity(len);
        }
        let mut kept = self.lock();
        let fitting = kept.iter().enumerate().filter(|(_, buffer)| (len..=most).contains(&buffer.capacity()));
        match fitting.min_by_key(|(_, buffer)| buffer.capacity()).map(|(position, _)| position) {
            Some(position) => kept.remove(position),
            None => Vec::with_capacity(len.next_multiple_of(STEP)),
        }
    }

    /// Takes a buffer that is not needed any more.
    pub fn give(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() < STEP || buffer.capacity() > KEPT {
            return;
        }
        buffer.clear();
        let mut kept = self.lock();
        let mut bytes: usize = kept.iter().map(Vec::capacity).sum::<usize>() + buffer.capacity();
        // Those that nobody took for longest go first.
        while bytes > KEPT && !kept.is_empty() {
            bytes -= kept.remove(0).capacity();
        }
        kept.push(buffer);
    }
}
