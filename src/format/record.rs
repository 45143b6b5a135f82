//! Sealed records: the small objects (snapshots, sets, tombstones, leases, proofs, forget records). A record is JSON,
//! compressed as one zstd frame with its content size, sealed at position 0 of its envelope.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::format::codec::escaped;
use crate::format::content::Content;
use crate::format::crypto::{HEADER_LEN, Keys};
use crate::format::{FormatError, Kind, ObjectId, frame};

/// A record's JSON is at most this long.
pub const MAX_RECORD: usize = 8 << 20;
/// A stored record is at most this long.
pub const MAX_STORED_RECORD: usize = MAX_RECORD + (64 << 10);

/// A type that is stored as a sealed record of one kind.
pub trait Record: Serialize + DeserializeOwned {
    /// The kind it is stored under.
    const KIND: Kind;

    /// What its fields must fulfil beyond their types.
    fn validate(&self) -> Result<(), FormatError> {
        Ok(())
    }
}

/// Encodes and seals a record; its id and its stored bytes.
pub fn seal<R: Record>(keys: &Keys, record: &R) -> Result<(ObjectId, Vec<u8>), FormatError> {
    let what = R::KIND.word();
    let json = serde_json::to_vec(record).map_err(|e| FormatError::invalid(what, e.to_string()))?;
    crate::format::config::bounded(what, &json, MAX_RECORD)?;
    let envelope = keys.new_envelope(R::KIND)?;
    let mut stored = envelope.header().to_vec();
    envelope.seal(0, &frame::compress(3, &json, &[])?, &mut stored)?;
    Ok((ObjectId::of(&stored), stored))
}

/// Opens stored bytes that were found under this id.
pub fn open<R: Record>(keys: &Keys, id: &ObjectId, mut stored: Vec<u8>) -> Result<R, FormatError> {
    let what = R::KIND.word();
    crate::format::config::bounded(what, &stored, MAX_STORED_RECORD)?;
    if ObjectId::of(&stored) != *id {
        return Err(FormatError::Hash { what });
    }
    let envelope = keys.open_envelope(R::KIND, &stored)?;
    let plain = envelope.open(0, &mut stored[HEADER_LEN..])?;
    let size = zstd::zstd_safe::get_frame_content_size(plain).ok().flatten().unwrap_or(u64::MAX);
    if size > MAX_RECORD as u64 {
        return Err(FormatError::TooLarge { what, found: size, limit: MAX_RECORD as u64 });
    }
    let json = frame::decompress(plain, size as usize, &[])?;
    let record: R = serde_json::from_slice(&json).map_err(|e| FormatError::invalid(what, e.to_string()))?;
    record.validate()?;
    Ok(record)
}

/// A path, as bytes; escaped text in JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PathText(#[serde(with = "escaped")] pub Vec<u8>);

/// Whether a snapshot holds one stream or a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotKind {
    /// The content is a stream's bytes.
    Stream,
    /// The content is tree records ([`crate::format::tree`]).
    Tree,
}

/// What a backup did; for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Regular files in the snapshot.
    pub files: u64,
    /// Directories in the snapshot.
    pub directories: u64,
    /// Everything else in the snapshot.
    pub others: u64,
    /// Files taken over from the parent without reading them.
    pub unchanged_files: u64,
    /// Sources that could not be read.
    pub unread: u64,
    /// Length of the stream, or sum of the file contents.
    pub bytes: u64,
    /// Bytes that were read from the source.
    pub read_bytes: u64,
    /// Raw bytes of chunks that the repository did not have.
    pub new_bytes: u64,
    /// Bytes of packs written.
    pub stored_bytes: u64,
    /// Wall time in milliseconds.
    pub milliseconds: u64,
}

/// One saved stream or tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What the operator calls this series; [`crate::format::name::validate`].
    pub name: String,
    /// The machine it was made on.
    pub host: String,
    /// When the backup began, RFC 3339 in UTC.
    pub time: jiff::Timestamp,
    /// Stream or tree.
    pub kind: SnapshotKind,
    /// The roots given, absolute, for trees.
    pub paths: Vec<PathText>,
    /// The patterns of what was left out below the roots: it may exist, so a restore never deletes it as extra.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<PathText>,
    /// The operator's own words.
    pub tags: BTreeMap<String, String>,
    /// The saved content.
    pub content: Content,
    /// The snapshot whose content served as delta base and for unchanged files.
    pub parent: Option<ObjectId>,
    /// The newest snapshot of the repository when this one was made: a chain that shows deletions.
    pub previous: Option<ObjectId>,
    /// What the backup did.
    pub summary: Summary,
    /// The program that wrote it.
    pub program: String,
}

impl Record for Snapshot {
    const KIND: Kind = Kind::Snapshot;

    fn validate(&self) -> Result<(), FormatError> {
        crate::format::name::validate(&self.name)?;
        self.content.validate()
    }
}

/// What a gc found dead. A writer that starts later treats these chunks as absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// When the marking ended, by the clock of the machine that ran it. For people: decisions use storage times.
    pub time: jiff::Timestamp,
    /// At least this many seconds pass before anything of it is removed.
    pub grace_seconds: u64,
    /// The packs to be replaced or removed.
    pub packs: Vec<CondemnedPack>,
}

impl Record for Tombstone {
    const KIND: Kind = Kind::Tombstone;
}

/// A pack with dead chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CondemnedPack {
    /// Its id.
    pub id: ObjectId,
    /// True for a metadata pack.
    pub meta: bool,
    /// One bit a chunk, in footer order, lowest bit first, hexadecimal: 1 is dead.
    pub dead: String,
}

impl CondemnedPack {
    /// The bits, as bytes.
    pub fn dead_bits(&self) -> Result<Vec<u8>, FormatError> {
        hex::decode(&self.dead).map_err(|e| FormatError::invalid("tombstone", e.to_string()))
    }
}

/// What a lease holder is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Writing: any number at once.
    Write,
    /// Collecting garbage: one at a time.
    Collect,
}

/// A running writer or gc. Removed at its end; without effect once it is older than its lifetime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The machine, for people.
    pub host: String,
    /// The boot and process-id namespace that `process` belongs to; may be empty.
    pub machine: String,
    /// The process.
    pub process: u32,
    /// When it began.
    pub time: jiff::Timestamp,
    /// What it is for.
    pub purpose: Purpose,
    /// After this long the holder refuses to publish and others ignore the lease.
    pub lifetime_seconds: u64,
}

impl Record for Lease {
    const KIND: Kind = Kind::Lease;
}

/// What reading a snapshot back came to: every byte was there and fitted its ids, unless a drill found otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The snapshot.
    pub snapshot: ObjectId,
    /// When the reading ended.
    pub time: jiff::Timestamp,
    /// Bytes of content read back; 0 if a drill could not restore it.
    pub bytes: u64,
    /// Wall time in milliseconds.
    pub milliseconds: u64,
    /// The machine that did it.
    pub host: String,
    /// The program that did it.
    pub program: String,
    /// What a drill found besides, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Drilled>,
}

impl Proof {
    /// Whether it proves something; else it is about a drill that did not find equal what was recorded.
    pub fn holds(&self) -> bool {
        self.drill.as_ref().is_none_or(|drill| drill.outcome == DrillOutcome::Equal)
    }
}

impl Record for Proof {
    const KIND: Kind = Kind::Proof;

    fn validate(&self) -> Result<(), FormatError> {
        match &self.drill {
            Some(drill) if drill.differences.is_empty() != (drill.outcome == DrillOutcome::Equal) => {
                Err(FormatError::invalid("proof", "its outcome and its differences contradict each other"))
            }
            _ => Ok(()),
        }
    }
}

/// What a drill found of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrillOutcome {
    /// All of it was restored, and equal to what was recorded.
    Equal,
    /// It was restored, and not equal to what was recorded.
    Different,
    /// It could not be restored, or not be looked at.
    Failed,
}

/// What a drill found of a component of a backup set that the snapshot is a part of. Each part of the component has such
/// a record. Only [`DrillOutcome::Equal`] proves something; the others take back what an older drill had proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drilled {
    /// The backup set.
    pub set: ObjectId,
    /// The component's name in it.
    pub component: String,
    /// What was found.
    pub outcome: DrillOutcome,
    /// What differs, or why it could not be restored; the first few of many. Empty if all was equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// What was compared; for people.
    pub compared: String,
    /// The versions of the servers that it was restored into.
    pub versions: BTreeMap<String, String>,
    /// How long restoring the component took, in milliseconds.
    pub restore_milliseconds: u64,
    /// How long comparing it took, in milliseconds.
    pub compare_milliseconds: u64,
}

/// Snapshots that were removed on purpose; written before they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// When.
    pub time: jiff::Timestamp,
    /// The machine that did it.
    pub host: String,
    /// The snapshots removed.
    pub snapshots: Vec<ForgottenSnapshot>,
    /// The backup sets removed with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<ForgottenSet>,
}

/// One removed backup set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenSet {
    /// Its id.
    pub id: ObjectId,
    /// Its profile.
    pub profile: String,
    /// Its time.
    pub time: jiff::Timestamp,
    /// Why no rule kept it.
    pub reason: String,
}

/// One removed snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenSnapshot {
    /// Its id.
    pub id: ObjectId,
    /// Its name.
    pub name: String,
    /// Its time.
    pub time: jiff::Timestamp,
    /// Why no rule kept it.
    pub reason: String,
}

impl Record for Forgotten {
    const KIND: Kind = Kind::Forgotten;
}
