//! Identifiers. Each is a newtype, so that one kind is never taken for another.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::format::FormatError;

macro_rules! byte_id {
    ($(#[$meta:meta])* $name:ident, $len:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Wraps raw bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Reads exactly `LEN` bytes.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, FormatError> {
                match bytes.try_into() {
                    Ok(array) => Ok(Self(array)),
                    Err(_) => Err(FormatError::invalid(stringify!($name), format!("{} bytes long", bytes.len()))),
                }
            }

            /// Parses lower or upper case hexadecimal of the full length.
            pub fn from_hex(text: &str) -> Result<Self, FormatError> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|e| FormatError::invalid(stringify!($name), e.to_string()))?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in &self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::from_hex(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

byte_id!(
    /// A chunk: the first 16 bytes of BLAKE3 of its raw bytes, keyed from the master key.
    ///
    /// The key is secret, so nobody without it can search for collisions; by accident, 2^40 chunks (16 PiB)
    /// collide with a probability of 2^-49. `format-spec/security.md` has the reasoning.
    ChunkId, 16
);
byte_id!(
    /// A stored object: BLAKE3 of its stored bytes; of a log file ([`Kind::Wal`]) a keyed BLAKE3 of what it is.
    ObjectId, 32
);
byte_id!(
    /// A repository: random, made once by `init`.
    RepositoryId, 32
);

impl ObjectId {
    /// The place of objects that exist once and are not named by their content (the configuration).
    pub const ZERO: ObjectId = ObjectId([0; 32]);

    /// The name of these stored bytes.
    pub fn of(stored: &[u8]) -> Self {
        Self(*blake3::hash(stored).as_bytes())
    }

    /// The beginning of an id, as people give it, has at least this many digits.
    pub const MIN_PREFIX: usize = 4;

    /// Whether the id begins with these hexadecimal digits, capital or small. Fewer than [`ObjectId::MIN_PREFIX`] mean
    /// no id.
    pub fn begins_with(&self, digits: &str) -> bool {
        digits.len() >= Self::MIN_PREFIX && self.to_string().starts_with(&digits.to_ascii_lowercase())
    }

    /// The first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

/// What an object is. The number is stored in the object's header and bound into its authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Frames of file and stream content.
    DataPack = 1,
    /// Frames of chunk lists and tree records.
    MetaPack = 2,
    /// One saved stream or tree.
    Snapshot = 3,
    /// The snapshots of one run over several components.
    Set = 4,
    /// What a gc found dead, and when.
    Tombstone = 5,
    /// A running writer or gc.
    Lease = 6,
    /// A verification that succeeded.
    Proof = 7,
    /// Which snapshots were forgotten, and why.
    Forgotten = 8,
    /// A file of PostgreSQL's write-ahead log archive; named by what it is, not by its bytes ([`crate::format::wal`]).
    Wal = 9,
    /// The repository's configuration; one, at [`ObjectId::ZERO`], not sealed.
    Config = 32,
    /// A wrapped master key; not sealed.
    Key = 33,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Kind; 11] = [
        Kind::DataPack,
        Kind::MetaPack,
        Kind::Snapshot,
        Kind::Set,
        Kind::Tombstone,
        Kind::Lease,
        Kind::Proof,
        Kind::Forgotten,
        Kind::Wal,
        Kind::Config,
        Kind::Key,
    ];

    /// The word for people and errors.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::DataPack => "data pack",
            Kind::MetaPack => "metadata pack",
            Kind::Snapshot => "snapshot",
            Kind::Set => "backup set",
            Kind::Tombstone => "tombstone",
            Kind::Lease => "lease",
            Kind::Proof => "proof",
            Kind::Forgotten => "forget record",
            Kind::Wal => "log file",
            Kind::Config => "configuration",
            Kind::Key => "key",
        }
    }

    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
