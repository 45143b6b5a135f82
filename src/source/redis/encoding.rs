//! Queues as a stream of bytes (`format-spec/queues.md`), so that they can be stored, and pushed back in their order.
//!
//! ```text
//! stream  = "cairn queues 1\n" key* "." count:u32                   count: keys
//! key     = "K" kind:u8 name:bytes element* "Z" count:u64 digest:32 count: elements
//! element = "E" bytes                                               list, set: the element
//!         | "E" bytes bytes                                         hash: field, value; sorted set: member, score
//! bytes   = length:u32 content
//! kind    = "l" list | "s" set | "h" hash | "z" sorted set | "-" no such key
//! digest  = BLAKE3 of the key's record from "K" to before "Z"
//! ```
//! Numbers are little-endian. A list's elements go from left (index 0) to right; a score is the decimal text that the
//! server gave.
//!
//! Invariant: a stream is whole only with its end mark, and a key only with its digest, so nothing that was cut short
//! or changed passes for a queue. Lengths are bounded before memory is reserved.

use std::io::{self, Read};

/// The first bytes of a stream; the number is the version.
pub const MAGIC: &[u8] = b"cairn queues 1\n";
/// An element is at most so long: what Redis itself allows.
pub const MAX_ELEMENT: u32 = 512 << 20;
/// A key's name is at most so long.
pub const MAX_NAME: u32 = 64 << 10;
/// Memory is reserved at most in pieces of this size, whatever a length says.
const PIECE: u64 = 1 << 20;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// A list: a queue.
    List,
    /// A set.
    Set,
    /// A hash.
    Hash,
    /// A sorted set.
    SortedSet,
    /// There was no such key: an empty queue.
    Absent,
}

impl KeyKind {
    const ALL: [(KeyKind, u8, &'static str); 5] = [
        (KeyKind::List, b'l', "list"),
        (KeyKind::Set, b's', "set"),
        (KeyKind::Hash, b'h', "hash"),
        (KeyKind::SortedSet, b'z', "zset"),
        (KeyKind::Absent, b'-', "none"),
    ];

    /// By what the server's `TYPE` says.
    pub fn from_type(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, _, known)| *known == name).map(|(kind, ..)| *kind)
    }

    /// What the server's `TYPE` says.
    pub fn type_name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("none", |(.., name)| *name)
    }

    fn code(self) -> u8 {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or(b'-', |(_, code, _)| *code)
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == code).map(|(kind, ..)| *kind)
    }

    /// How many byte strings an element has.
    pub fn width(self) -> usize {
        match self {
            KeyKind::List | KeyKind::Set | KeyKind::Absent => 1,
            KeyKind::Hash | KeyKind::SortedSet => 2,
        }
    }
}

/// What was read of a key: enough to know it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The key.
    pub key: String,
    /// What it holds.
    pub kind: KeyKind,
    /// Its elements.
    pub elements: u64,
    /// The digest of its record.
    pub digest: [u8; 32],
}

/// Writes streams, piece by piece.
#[derive(Debug, Default)]
pub struct Encoder {
    keys: u32,
    current: Option<(String, KeyKind, u64, blake3::Hasher)>,
}

fn bytes(out: &mut Vec<u8>, content: &[u8]) -> io::Result<()> {
    let length = u32::try_from(content.len()).ok().filter(|length| *length <= MAX_ELEMENT);
    let length = length.ok_or_else(|| io::Error::other("an element is longer than 512 MiB"))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(content);
    Ok(())
}

impl Encoder {
    /// The begin of a stream.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
    }

    /// The begin of a key.
    pub fn key(&mut self, out: &mut Vec<u8>, name: &str, kind: KeyKind) -> io::Result<()> {
        if name.len() > MAX_NAME as usize {
            return Err(io::Error::other("a key's name is longer than 64 KiB"));
        }
        let from = out.len();
        out.extend_from_slice(&[b'K', kind.code()]);
        bytes(out, name.as_bytes())?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&out[from..]);
        self.current = Some((name.to_owned(), kind, 0, hasher));
        Ok(())
    }

    /// An element of the key that was begun.
    pub fn element(&mut self, out: &mut Vec<u8>, parts: &[&[u8]]) -> io::Result<()> {
        let Some((_, kind, count, hasher)) = &mut self.current else {
            return Err(io::Error::other("an element without a key"));
        };
        if parts.len() != kind.width() {
            return Err(io::Error::other("an element with the wrong number of parts"));
        }
        let from = out.len();
        out.push(b'E');
        for part in parts {
            bytes(out, part)?;
        }
        hasher.update(&out[from..]);
        *count += 1;
        Ok(())
    }

    /// The end of the key that was begun.
    pub fn end_key(&mut self, out: &mut Vec<u8>) -> io::Result<Saved> {
        let Some((key, kind, elements, hasher)) = self.current.take() else {
            return Err(io::Error::other("the end of no key"));
        };
        let digest = *hasher.finalize().as_bytes();
        out.push(b'Z');
        out.extend_from_slice(&elements.to_le_bytes());
        out.extend_from_slice(&digest);
        self.keys += 1;
        Ok(Saved { key, kind, elements, digest })
    }

    /// The end of the stream.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.push(b'.');
        out.extend_from_slice(&self.keys.to_le_bytes());
    }
}

/// One thing that a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A key begins.
    Key {
        /// Its name.
        name: String,
        /// What it holds.
        kind: KeyKind,
    },
    /// An element of the key that began last: its parts.
    Element(Vec<Vec<u8>>),
    /// The key ended; its count and digest were right.
    KeyEnd(Saved),
    /// The stream ended; nothing follows.
    End,
}

/// Reads streams, item by item. After an error, nothing more is to be read.
pub struct Decoder<R> {
    reader: R,
    started: bool,
    keys: u32,
    current: Option<(String, KeyKind, u64, blake3::Hasher)>,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a whole stream of queues: {what}"))
}

impl<R: Read> Decoder<R> {
    /// Reads from `reader`.
    pub fn new(reader: R) -> Self {
        Decoder { reader, started: false, keys: 0, current: None }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        self.reader.read_exact(&mut array).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => invalid("it ends too early"),
            _ => error,
        })?;
        Ok(array)
    }

    fn bytes(&mut self, most: u32) -> io::Result<Vec<u8>> {
        let length = u32::from_le_bytes(self.array()?);
        if length > most {
            return Err(invalid("a length is larger than allowed"));
        }
        let mut content = Vec::new();
        let mut left = u64::from(length);
        while left > 0 {
            let read = self.reader.by_ref().take(left.min(PIECE)).read_to_end(&mut content)? as u64;
            if read == 0 {
                return Err(invalid("it ends too early"));
            }
            left -= read;
        }
        Ok(content)
    }

    /// The next item; after [`Item::End`] there is none.
    pub fn next_item(&mut self) -> io::Result<Item> {
        if !self.started {
            if self.array::<15>()?.as_slice() != MAGIC {
                return Err(invalid("its first bytes are not those of this version"));
            }
            self.started = true;
        }
        match (self.array::<1>()?[0], self.current.take()) {
            (b'K', None) => self.key(),
            (b'E', Some(key)) => self.element(key),
            (b'Z', Some(key)) => self.end_key(key),
            (b'.', None) => self.end(),
            _ => Err(invalid("an unexpected mark")),
        }
    }

    fn key(&mut self) -> io::Result<Item> {
        let code = self.array::<1>()?[0];
        let kind = KeyKind::from_code(code).ok_or_else(|| invalid("an unknown kind of key"))?;
        let name = self.bytes(MAX_NAME)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[b'K', code]);
        update(&mut hasher, &name);
        let name = String::from_utf8(name).map_err(|_| invalid("a key's name is not UTF-8"))?;
        self.current = Some((name.clone(), kind, 0, hasher));
        Ok(Item::Key { name, kind })
    }

    fn element(&mut self, key: (String, KeyKind, u64, blake3::Hasher)) -> io::Result<Item> {
        let (name, kind, count, mut hasher) = key;
        hasher.update(b"E");
        let mut parts = Vec::with_capacity(kind.width());
        for _ in 0..kind.width() {
            let part = self.bytes(MAX_ELEMENT)?;
            update(&mut hasher, &part);
            parts.push(part);
        }
        self.current = Some((name, kind, count.saturating_add(1), hasher));
        Ok(Item::Element(parts))
    }

    fn end_key(&mut self, key: (String, KeyKind, u64, blake3::Hasher)) -> io::Result<Item> {
        let (key, kind, elements, hasher) = key;
        let counted = u64::from_le_bytes(self.array()?);
        let digest: [u8; 32] = self.array()?;
        if counted != elements || digest != *hasher.finalize().as_bytes() {
            return Err(invalid(&format!("the elements of {key:?} are not those that were saved")));
        }
        self.keys = self.keys.saturating_add(1);
        Ok(Item::KeyEnd(Saved { key, kind, elements, digest }))
    }

    fn end(&mut self) -> io::Result<Item> {
        let counted = u32::from_le_bytes(self.array()?);
        let mut more = [0; 1];
        if counted != self.keys || self.reader.read(&mut more)? != 0 {
            return Err(invalid("its end is not where it should be"));
        }
        Ok(Item::End)
    }
}

fn update(hasher: &mut blake3::Hasher, content: &[u8]) {
    // Never longer than the u32 from which it was read.
    hasher.update(&(content.len() as u32).to_le_bytes());
    hasher.update(content);
}
