//! A set of chunk numbers: one bit a chunk (12.5 MB for 100 million).

/// A growing bitmap.
#[derive(Debug, Clone, Default)]
pub struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// Adds a number; true when it was not in the set.
    pub fn insert(&mut self, number: u64) -> bool {
        let word = (number / 64) as usize;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        new
    }

    /// True when nothing was added.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether the number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.words.get((number / 64) as usize).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}
