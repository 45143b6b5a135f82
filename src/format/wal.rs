//! Files of PostgreSQL's write-ahead log archive: their names, and the objects that hold them (format-spec/objects.md,
//! section 14). One object holds one file, whole:
//!
//! ```text
//! log file := header:40 head:656 block*
//! head     := sealed(position 2^63, 640 bytes)     of fixed length: one short read tells what the object is
//! block    := sealed(position i, zstd frame)       block i; all but the last of equal raw length
//! ```
//! The object is named by a keyed hash of cluster and file name ([`Keys::wal_id`]), so a writer finds that its file is
//! there, and a reader finds it, without a list or an index; and two writers of one file meet at one object, which is
//! written once.
//!
//! Invariant: what a head says was authenticated, is within the limits, and belongs under the id where it was found.

use std::fmt;

use jiff::Timestamp;

use crate::format::codec::Cursor;
use crate::format::crypto::{Envelope, FOOTER_POSITION, HEADER_LEN, Keys, TAG_LEN};
use crate::format::frame::{self, MAX_FRAME_RAW};
use crate::format::{FormatError, Kind, ObjectId};

/// The smallest segment that PostgreSQL writes.
pub const MIN_SEGMENT: u64 = 1 << 20;
/// The largest.
pub const MAX_SEGMENT: u64 = 1 << 30;
/// A history file or backup label is at most this long.
pub const MAX_SMALL: u64 = 1 << 20;
/// A name is at most this long.
pub const MAX_NAME: usize = 40;
/// Blocks of one file, at most.
pub const MAX_BLOCKS: usize = 128;
/// Raw bytes of a block, at most.
pub const MAX_BLOCK: usize = MAX_FRAME_RAW;
/// Bytes of an object up to its first block.
pub const HEAD_END: usize = HEADER_LEN + PLAIN_HEAD + TAG_LEN;

/// Bytes of the head before it is sealed.
pub const PLAIN_HEAD: usize = 128 + 4 * MAX_BLOCKS;
const WHAT: &str = "log file";

/// A segment's place: its timeline, and its number in two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The timeline, from 1.
    pub timeline: u32,
    /// The upper half of its position.
    pub high: u32,
    /// Which segment it is of those of this upper half.
    pub low: u32,
}

impl SegmentName {
    /// The segment of this timeline that holds a position, with segments of `size` bytes.
    pub fn holding(timeline: u32, position: u64, size: u64) -> Self {
        let low = (position & 0xFFFF_FFFF) / size.max(1);
        SegmentName { timeline, high: (position >> 32) as u32, low: low as u32 }
    }

    /// Where it begins, with segments of `size` bytes; nothing where there is no such segment of that size.
    pub fn position(&self, size: u64) -> Option<u64> {
        let within = u64::from(self.low).checked_mul(size).filter(|within| *within < 1 << 32)?;
        Some((u64::from(self.high) << 32) | within)
    }

    /// The one after it.
    pub fn next(&self, size: u64) -> Option<Self> {
        let position = self.position(size)?.checked_add(size)?;
        Some(SegmentName::holding(self.timeline, position, size))
    }

    fn parse(text: &str) -> Option<Self> {
        let part = |at: usize| text.get(at..at + 8).and_then(hexadecimal);
        let (timeline, high, low) = (part(0)?, part(8)?, part(16)?);
        (text.len() == 24 && timeline > 0).then_some(SegmentName { timeline, high, low })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.high, self.low)
    }
}

/// Eight digits as PostgreSQL writes them.
fn hexadecimal(text: &str) -> Option<u32> {
    let digits = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    if digits { u32::from_str_radix(text, 16).ok() } else { None }
}

/// The name of a file that PostgreSQL archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalName {
    /// `00000002.history`: where a timeline comes from.
    History(u32),
    /// A whole segment.
    Segment(SegmentName),
    /// `….partial`: the last segment of a timeline that was left, not whole.
    Partial(SegmentName),
    /// `….00000028.backup`: the label of a base backup that began so far within the segment.
    Label(SegmentName, u32),
}

impl WalName {
    /// Reads a file name; `None` for what PostgreSQL does not archive.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(timeline) = name.strip_suffix(".history") {
            return hexadecimal(timeline).filter(|timeline| *timeline > 0).map(WalName::History);
        }
        let (segment, rest) = (SegmentName::parse(name.get(..24)?)?, name.get(24..)?);
        match rest {
            "" => Some(WalName::Segment(segment)),
            ".partial" => Some(WalName::Partial(segment)),
            _ => {
                let offset = rest.strip_prefix('.')?.strip_suffix(".backup")?;
                Some(WalName::Label(segment, hexadecimal(offset)?))
            }
        }
    }

    /// The segment that it is, or belongs to.
    pub fn segment(&self) -> Option<SegmentName> {
        match self {
            WalName::History(_) => None,
            WalName::Segment(segment) | WalName::Partial(segment) | WalName::Label(segment, _) => Some(*segment),
        }
    }

    /// Whether the file has the bytes of a segment, and a page header at its beginning.
    pub fn is_log(&self) -> bool {
        matches!(self, WalName::Segment(_) | WalName::Partial(_))
    }

    /// Whether a file of this name may have this length.
    pub fn may_have(&self, len: u64) -> bool {
        if self.is_log() {
            (MIN_SEGMENT..=MAX_SEGMENT).contains(&len) && len.is_power_of_two()
        } else {
            (1..=MAX_SMALL).contains(&len)
        }
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalName::History(timeline) => write!(f, "{timeline:08X}.history"),
            WalName::Segment(segment) => write!(f, "{segment}"),
            WalName::Partial(segment) => write!(f, "{segment}.partial"),
            WalName::Label(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

/// What an object's head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalHead {
    /// The cluster's identifier.
    pub system_id: u64,
    /// The file.
    pub name: WalName,
    /// Its length.
    pub raw_len: u64,
    /// BLAKE3 of its content.
    pub hash: [u8; 32],
    /// When it was archived, by the clock of the machine that did it: for people.
    pub time: Timestamp,
    /// Raw bytes of each block but the last, which may have fewer.
    pub block_len: u32,
    /// Stored bytes of each block.
    pub stored: Vec<u32>,
}

impl WalHead {
    /// The id of the object.
    pub fn id(&self, keys: &Keys) -> ObjectId {
        keys.wal_id(self.system_id, &self.name.to_string())
    }

    /// Bytes of the whole object.
    pub fn stored_len(&self) -> u64 {
        self.stored.iter().fold(HEAD_END as u64, |sum, len| sum + u64::from(*len))
    }

    /// Each block: where it is stored, how long, and how long its raw content is.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, u64, usize)> + '_ {
        let (mut offset, mut left) = (HEAD_END as u64, self.raw_len);
        self.stored.iter().map(move |len| {
            let (at, raw) = (offset, left.min(u64::from(self.block_len)));
            (offset, left) = (offset + u64::from(*len), left - raw);
            (at, u64::from(*len), raw as usize)
        })
    }

    /// The object's beginning: its header, and its head sealed.
    pub fn seal(&self, envelope: &Envelope) -> Result<Vec<u8>, FormatError> {
        let mut stored = envelope.header().to_vec();
        envelope.seal(FOOTER_POSITION, &self.encode(), &mut stored)?;
        Ok(stored)
    }

    /// Opens the first [`HEAD_END`] bytes of an object that was found under this id; with what its blocks are opened.
    pub fn open(keys: &Keys, id: &ObjectId, mut stored: Vec<u8>) -> Result<(Self, Envelope), FormatError> {
        if stored.len() < HEAD_END {
            return Err(FormatError::Truncated { what: WHAT });
        }
        let envelope = keys.open_envelope(Kind::Wal, &stored)?;
        let head = WalHead::decode(envelope.open(FOOTER_POSITION, &mut stored[HEADER_LEN..HEAD_END])?)?;
        if head.id(keys) != *id {
            return Err(FormatError::Hash { what: WHAT });
        }
        Ok((head, envelope))
    }

    /// The head before it is sealed.
    pub fn encode(&self) -> [u8; PLAIN_HEAD] {
        let name = self.name.to_string();
        let mut plain = [0; PLAIN_HEAD];
        plain[..8].copy_from_slice(&self.system_id.to_le_bytes());
        plain[8..16].copy_from_slice(&self.raw_len.to_le_bytes());
        plain[16..24].copy_from_slice(&self.time.as_microsecond().to_le_bytes());
        plain[24..56].copy_from_slice(&self.hash);
        plain[56..60].copy_from_slice(&self.block_len.to_le_bytes());
        plain[60] = self.stored.len() as u8;
        plain[61] = name.len() as u8;
        plain[64..64 + name.len()].copy_from_slice(name.as_bytes());
        for (place, len) in plain[128..].chunks_exact_mut(4).zip(&self.stored) {
            place.copy_from_slice(&len.to_le_bytes());
        }
        plain
    }

    /// Reads an opened head.
    pub fn decode(plain: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(plain);
        let system_id = u64::from_le_bytes(cursor.array(WHAT)?);
        let raw_len = u64::from_le_bytes(cursor.array(WHAT)?);
        let time = Timestamp::from_microsecond(i64::from_le_bytes(cursor.array(WHAT)?))
            .map_err(|error| FormatError::invalid(WHAT, error.to_string()))?;
        let hash = cursor.array(WHAT)?;
        let block_len = u32::from_le_bytes(cursor.array(WHAT)?);
        let (count, name_len) = (usize::from(cursor.byte(WHAT)?), usize::from(cursor.byte(WHAT)?));
        let mut unused = cursor.array::<2>(WHAT)?.to_vec();
        let names: [u8; 64] = cursor.array(WHAT)?;
        let (name, after) = names.split_at_checked(name_len).ok_or_else(|| invalid("its name is too long"))?;
        unused.extend_from_slice(after);
        let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_NAME).and_then(WalName::parse);
        let name = name.ok_or_else(|| invalid("its name is none of a file that PostgreSQL archives"))?;
        let mut stored = Vec::with_capacity(count.min(MAX_BLOCKS));
        for slot in 0..MAX_BLOCKS {
            let len: [u8; 4] = cursor.array(WHAT)?;
            if slot < count { stored.push(u32::from_le_bytes(len)) } else { unused.extend_from_slice(&len) }
        }
        if !cursor.is_empty() || unused.iter().any(|byte| *byte != 0) {
            return Err(invalid("bytes that must be zero are not"));
        }
        let head = WalHead { system_id, name, raw_len, hash, time, block_len, stored };
        head.validate(count)?;
        Ok(head)
    }

    fn validate(&self, count: usize) -> Result<(), FormatError> {
        if !self.name.may_have(self.raw_len) {
            return Err(invalid(format!("{} of {} bytes", self.name, self.raw_len)));
        }
        let fits = (1..=MAX_BLOCK as u32).contains(&self.block_len)
            && self.raw_len.div_ceil(u64::from(self.block_len)) == count as u64
            && count <= MAX_BLOCKS;
        if !fits {
            return Err(invalid(format!("{count} blocks of {} bytes", self.block_len)));
        }
        let most = sealed_limit(self.block_len as usize);
        match self.stored.iter().find(|len| !(TAG_LEN..=most).contains(&(**len as usize))) {
            Some(len) => Err(invalid(format!("a block of {len} stored bytes"))),
            None => Ok(()),
        }
    }
}

fn invalid(why: impl Into<String>) -> FormatError {
    FormatError::invalid(WHAT, why)
}

/// A sealed block of so many raw bytes is at most this long: zstd makes nothing much longer.
fn sealed_limit(raw: usize) -> usize {
    raw + raw / 128 + 1024
}

/// Compresses and seals block `index`, and reads it back: what is returned gives `raw` again.
pub fn seal_block(envelope: &Envelope, index: u64, level: i32, raw: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut sealed = Vec::new();
    envelope.seal(index, &frame::compress(level, raw, &[])?, &mut sealed)?;
    if open_block(envelope, index, sealed.clone(), raw.len())? != raw {
        return Err(FormatError::Hash { what: WHAT });
    }
    Ok(sealed)
}

/// Opens block `index`, which must give exactly `raw_len` bytes.
pub fn open_block(
    envelope: &Envelope,
    index: u64,
    mut sealed: Vec<u8>,
    raw_len: usize,
) -> Result<Vec<u8>, FormatError> {
    frame::decompress(envelope.open(index, &mut sealed)?, raw_len, &[])
}
