//! A set of chunk numbers: one bit a chunk (12.5 MB for 100 million).
//!
//! Numbers are never used twice, so in time most of them belong to nothing. Only pages with something in them take memory.

use std::collections::BTreeMap;

/// Words of a page: 32,768 numbers in 4 KiB.
const WORDS: usize = 512;
const NUMBERS: u64 = WORDS as u64 * 64;

/// A growing bitmap.
#[derive(Debug, Clone, Default)]
pub struct Bitmap {
    pages: BTreeMap<u64, Box<[u64; WORDS]>>,
}

/// Where in its page a number is: the word, and the bit in it.
fn place(number: u64) -> (usize, u64) {
    ((number % NUMBERS / 64) as usize, 1 << (number % 64))
}

impl Bitmap {
    /// Adds a number; true when it was not in the set.
    pub fn insert(&mut self, number: u64) -> bool {
        let page = self.pages.entry(number / NUMBERS).or_insert_with(|| Box::new([0; WORDS]));
        let (word, bit) = place(number);
        let new = page[word] & bit == 0;
        page[word] |= bit;
        new
    }

    /// True when nothing was added.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Whether the number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.pages.get(&(number / NUMBERS)).is_some_and(|page| page[word] & bit != 0)
    }
}
