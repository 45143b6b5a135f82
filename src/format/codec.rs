//! The few primitive encodings: LEB128 integers, zigzag, length-prefixed bytes, percent-escaped text.
//!
//! Invariant: [`Cursor`] never hands out more than it was given, and a length is compared with a limit before
//! anything is reserved for it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::format::FormatError;

/// Appends an unsigned LEB128 integer (1 to 10 bytes).
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer, zigzag-mapped (0, -1, 1, -2, …), as LEB128.
pub fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a LEB128 length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads primitives from a slice.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    /// True when everything was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes exactly `len` bytes.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], FormatError> {
        match self.rest.split_at_checked(len) {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(head)
            }
            None => Err(FormatError::Truncated { what }),
        }
    }

    /// Takes exactly `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// Takes one byte.
    pub fn byte(&mut self, what: &'static str) -> Result<u8, FormatError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Reads an unsigned LEB128 integer.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, FormatError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(FormatError::invalid(what, "an integer of more than 64 bits"))
    }

    /// Reads an unsigned LEB128 integer of at most `limit`.
    pub fn varint_up_to(&mut self, limit: u64, what: &'static str) -> Result<u64, FormatError> {
        let found = self.varint(what)?;
        if found > limit {
            return Err(FormatError::TooLarge { what, found, limit });
        }
        Ok(found)
    }

    /// Reads a zigzag-mapped signed integer.
    pub fn zigzag(&mut self, what: &'static str) -> Result<i64, FormatError> {
        let value = self.varint(what)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Reads a length of at most `limit` and that many bytes.
    pub fn bytes(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], FormatError> {
        let len = self.varint_up_to(limit as u64, what)?;
        self.take(len as usize, what)
    }
}

/// Bytes as text that keeps every byte: what is not UTF-8, controls and `%` become `%XX`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            if c == '%' || c.is_control() {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    text.push_str(&format!("%{byte:02X}"));
                }
            } else {
                text.push(c);
            }
        }
        for byte in part.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// A path as text that keeps every byte, as [`escape`] does.
pub fn escape_path(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// The bytes that [`escape`] made this text from.
pub fn unescape(text: &str) -> Result<Vec<u8>, FormatError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = tail.get(..2).ok_or(FormatError::Truncated { what: "escaped text" })?;
        let mut byte = [0];
        hex::decode_to_slice(digits, &mut byte).map_err(|e| FormatError::invalid("escaped text", e.to_string()))?;
        bytes.push(byte[0]);
        rest = &tail[2..];
    }
    Ok(bytes)
}

/// Serde adapter: bytes as escaped text.
pub mod escaped {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes bytes as escaped text.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::escape(bytes))
    }

    /// Reads escaped text as bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        super::unescape(&text).map_err(serde::de::Error::custom)
    }
}
