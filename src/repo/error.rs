//! What can go wrong in a repository.

use crate::backend::BackendError;
use crate::format::{ChunkId, FormatError, Kind, ObjectId};

/// A failure of a repository operation.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// Storage failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Encoding or encrypting failed.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// No key opens with what was given.
    #[error(
        "wrong password or key file for the repository in {location}: give one that `cairn init` or `cairn key add` was \
         given, or check whether this is the repository that is meant"
    )]
    WrongKey {
        /// The storage.
        location: String,
    },
    /// The configuration asks for a program that knows more than this one.
    #[error("the repository in {location} was made for another cairn, and nothing in it was touched")]
    OtherVersion {
        /// The storage.
        location: String,
        /// What it asks for.
        source: FormatError,
    },
    /// The configuration cannot be used.
    #[error(
        "the file config in {location} cannot be used; put it back from a copy, nothing else is known to be damaged"
    )]
    Config {
        /// The storage.
        location: String,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A stored object cannot be used.
    #[error("{kind} {id} cannot be used: run `cairn check`")]
    Object {
        /// Its kind.
        kind: Kind,
        /// Its id.
        id: ObjectId,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A record that decides about what else may be done cannot be read.
    #[error("{kind} {id} cannot be read: {why}")]
    Unread {
        /// Its kind.
        kind: Kind,
        /// Its id.
        id: ObjectId,
        /// What that means, and what to do.
        why: &'static str,
        /// What is wrong with it.
        source: Box<RepoError>,
    },
    /// A lease that cannot be read excludes this operation.
    #[error(
        "lease {id} cannot be read, so another gc may be running: wait until {until}, or, if no cairn is running anywhere, remove the object from `leases`"
    )]
    UnreadLease {
        /// The lease.
        id: ObjectId,
        /// When it ends by itself.
        until: String,
    },
    /// A frame cannot be read.
    #[error("frame {frame} of {kind} {id} cannot be read: run `cairn check --read-data`")]
    Frame {
        /// The pack's kind.
        kind: Kind,
        /// The pack.
        id: ObjectId,
        /// The frame's position in the pack.
        frame: u32,
        /// Why.
        source: Box<RepoError>,
    },
    /// A chunk is in no pack.
    #[error("chunk {id} is in no readable pack: what needs it cannot be read; run `cairn check`")]
    MissingChunk {
        /// The chunk.
        id: ChunkId,
    },
    /// A chunk's content is not what its id says.
    #[error("chunk {id} has other content than its id says: it is damaged; run `cairn check --read-data`")]
    DamagedChunk {
        /// The chunk.
        id: ChunkId,
    },
    /// What a frame is a difference to takes too much to decode.
    #[error(
        "it is a difference to more than is read for one chunk ({} GiB of work): no cairn writes that, so it was made to \
         keep readers busy; do not trust this repository",
        limit >> 30
    )]
    TooMuchWork {
        /// What is spent on one chunk at most, in bytes.
        limit: u64,
    },
    /// The index in the cache directory failed.
    #[error("the index {path} failed: run the command again; the file may be removed, it is made again from the packs")]
    Index {
        /// The file.
        path: String,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// The index was put right meanwhile, so what this run knows by number may be something else.
    #[error("the index was damaged and made right while this ran, so nothing was published or removed: run it again")]
    IndexChanged,
    /// The cache directory failed.
    #[error("cannot use the cache directory {path}: choose another with --cache-dir")]
    Cache {
        /// The directory or file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// Another process holds a lease that excludes this operation.
    #[error("{what} is running since {since} on {host} (process {process}): wait for its end, or until {until}")]
    Locked {
        /// What the other process does.
        what: &'static str,
        /// When it began.
        since: String,
        /// Where it runs.
        host: String,
        /// Its process id.
        process: u32,
        /// When its lease ends by itself.
        until: String,
    },
    /// This process's own lease is gone or too old; what it wrote might be collected.
    #[error(
        "this run took longer than its lease or lost it, so nothing was published: run it again, stored data is reused"
    )]
    LeaseLost,
    /// Something that this run relied on has gone.
    #[error("{kind} {id}, which this run relies on, has disappeared, so nothing was published: run it again")]
    Disappeared {
        /// The pack's kind.
        kind: Kind,
        /// The pack.
        id: ObjectId,
    },
    /// The last key cannot be removed.
    #[error("key {id} is the last one: without it nobody can open the repository; add another first")]
    LastKey {
        /// The key.
        id: ObjectId,
    },
    /// A log file is archived with other content.
    #[error(
        "{name} of cluster {system_id} was archived with other content on {time}, and stays as it is ({} {id}): two \
         clusters of one origin archive here, or one went back in time; give this one a repository or a timeline of its own",
        Kind::Wal
    )]
    OtherWal {
        /// The file's name.
        name: String,
        /// The cluster's identifier.
        system_id: u64,
        /// The object.
        id: ObjectId,
        /// When it was archived.
        time: String,
    },
    /// No key or several have this prefix.
    #[error(
        "{count} keys begin with {prefix:?}: see `cairn key list`, and give at least 4 digits that only one key begins with"
    )]
    KeyPrefix {
        /// The prefix given.
        prefix: String,
        /// How many match.
        count: usize,
    },
    /// An operation would remove what may be needed.
    #[error("refused: {why}")]
    Refused {
        /// Why, and what to do.
        why: String,
    },
    /// A snapshot's content contradicts itself.
    #[error("the content is malformed: {why}; run `cairn check`")]
    Malformed {
        /// What is wrong.
        why: String,
    },
    /// A worker thread ended without an answer.
    #[error("a worker thread ended unexpectedly; nothing was published")]
    Worker,
    /// The operator asked to stop.
    #[error("interrupted; nothing was published")]
    Interrupted,
}

impl RepoError {
    /// Adds which object it is about.
    pub fn object(kind: Kind, id: ObjectId) -> impl Fn(FormatError) -> RepoError {
        move |source| RepoError::Object { kind, id, source }
    }

    /// True when stored bytes are wrong or missing, and not when storage, the index or the operator ends an operation.
    pub fn is_damage(&self) -> bool {
        match self {
            RepoError::Object { .. } | RepoError::MissingChunk { .. } | RepoError::DamagedChunk { .. } => true,
            RepoError::Format(error) => !matches!(error, FormatError::Random(_)),
            RepoError::Backend(BackendError::Range { .. }) | RepoError::TooMuchWork { .. } => true,
            RepoError::Frame { source, .. } => source.is_damage(),
            _ => false,
        }
    }

    /// True when certainly this machine is in the way: its cache, its memory and open files, or another run on it.
    pub fn is_of_this_machine(&self) -> bool {
        match self {
            RepoError::Index { .. } | RepoError::IndexChanged | RepoError::Cache { .. } => true,
            RepoError::Locked { .. } | RepoError::LeaseLost => true,
            RepoError::Backend(error) => error.is_for_want(),
            RepoError::Frame { source, .. } => source.is_of_this_machine(),
            _ => false,
        }
    }

    /// True when a chunk, or a base that it is a difference to, seems to be in no pack.
    pub fn is_missing_chunk(&self) -> bool {
        match self {
            RepoError::MissingChunk { .. } => true,
            RepoError::Frame { source, .. } => source.is_missing_chunk(),
            _ => false,
        }
    }

    /// True when storage says that an object is not there.
    pub fn is_not_found(&self) -> bool {
        match self {
            RepoError::Backend(e) => e.is_not_found(),
            RepoError::Frame { source, .. } => source.is_not_found(),
            _ => false,
        }
    }
}
