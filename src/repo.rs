//! L2: the repository. What is where, writing, reading, checking, forgetting, collecting.
//!
//! Truth is in the objects; [`index`] and [`cache`] are derived. [`writer`] and [`gc`] meet only through leases and
//! tombstones ([`lease`]), never through locks.

pub mod bitmap;
pub mod buffers;
pub mod cache;
pub mod check;
pub mod error;
pub mod forget;
pub mod frames;
pub mod gc;
pub mod index;
pub mod keys;
pub mod lease;
pub mod lists;
pub mod mark;
pub mod proven;
pub mod reader;
pub mod records;
pub mod sets;
pub mod similar;
pub mod verify;
pub mod wal;
pub mod work;
pub mod writer;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

pub use error::RepoError;

pub use crate::format::error::chain;

use crate::backend::{Backend, BackendError, ByteRange, list_all, remove_if_there};
use crate::format::config::{ChunkSizes, Config, MAX_CONFIG};
use crate::format::content::Content;
use crate::format::crypto::{Keys, MasterKey};
use crate::format::key::{Credential, KeyObject, PasswordCost};
use crate::format::record::{Proof, Snapshot, Tombstone};
use crate::format::{FormatError, Kind, ObjectId, RepositoryId};
use crate::progress::{Monitor, Notice};
use crate::repo::bitmap::Bitmap;
use crate::repo::cache::CacheDir;
use crate::repo::frames::Frames;
use crate::repo::index::refresh::UnusablePack;
use crate::repo::index::{FrameInfo, Index};
use crate::repo::reader::{ChunkReader, Prefetch, StreamReader, TreeReader};

/// How a repository is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The cost of the first password.
    pub cost: PasswordCost,
    /// How streams are cut.
    pub chunk_sizes: ChunkSizes,
    /// The first key's name.
    pub label: String,
}

impl Default for InitOptions {
    fn default() -> Self {
        InitOptions { cost: PasswordCost::DEFAULT, chunk_sizes: ChunkSizes::DEFAULT, label: "first".to_owned() }
    }
}

/// How a repository is opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Where derived data is kept; without it, in a directory that goes with the process.
    pub cache: Option<PathBuf>,
    /// The name of this machine.
    pub host: String,
}

/// A snapshot in a repository.
#[derive(Debug, Clone)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: ObjectId,
    /// What it says.
    pub snapshot: Snapshot,
    /// The newest proof that every byte of it could be read, but for those that drills have taken back.
    pub proof: Option<Proof>,
    /// What a drill last found that did not find a component equal of which it is a part.
    pub difference: Option<Proof>,
}

/// What tombstones name.
#[derive(Debug, Default)]
pub struct Condemned {
    /// Numbers of dead chunks.
    pub dead: Bitmap,
    /// Numbers of the packs that will go.
    pub packs: HashSet<u64>,
    /// All packs that are named, with the numbers under which the index had them then, if it had.
    named: HashMap<ObjectId, Option<u64>>,
}

impl Condemned {
    /// Whether the index still has the packs that are named under the numbers by which their chunks were called dead, or has them no
    /// more. One that it learnt of since, or that came back under other numbers, seems to hold nothing dead.
    pub fn stands(&self, index: &Index) -> Result<bool, RepoError> {
        let packs = if self.named.is_empty() { Vec::new() } else { index.packs()? };
        Ok(packs.iter().all(|pack| self.named.get(&pack.id).is_none_or(|number| *number == Some(pack.no))))
    }

    /// Whether all of a frame is dead: nobody relies on it, and what it is a difference to may be gone.
    pub fn holds_all_of(&self, frame: &FrameInfo) -> bool {
        (frame.first..).zip(&frame.entry.chunks).all(|(number, _)| self.dead.contains(number))
    }
}

/// An open repository.
pub struct Repository {
    backend: Arc<dyn Backend>,
    config: Config,
    keys: Keys,
    master: MasterKey,
    index: Arc<Index>,
    frames: Arc<Frames>,
    unusable: Mutex<Vec<UnusablePack>>,
    host: String,
    // Dropped last: the index is in it.
    cache: CacheDir,
}

impl Repository {
    /// Makes a repository in empty storage.
    pub fn init(
        backend: &dyn Backend,
        credential: &Credential,
        options: &InitOptions,
    ) -> Result<RepositoryId, RepoError> {
        let now = Timestamp::now().to_string();
        let mut config = Config::new(now.clone(), options.chunk_sizes)?;
        let master = MasterKey::generate()?;
        config.authenticate(&Keys::derive(&master, config.id));
        let key =
            KeyObject::wrap(&master, config.id, credential, options.cost, options.label.clone(), now)?.encode()?;
        // Keys of an attempt that never came to a configuration. Listed before there is one here, so that no key that
        // somebody adds to this repository can be among them.
        let stale = list_all(backend, Kind::Key)?;
        let key_id = ObjectId::of(&key);
        backend.write_new(Kind::Key, &key_id, &key)?;
        backend.sync()?;
        // The configuration makes it a repository, so it comes last; it cannot be written twice.
        match backend.write_new(Kind::Config, &ObjectId::ZERO, &config.encode()?) {
            Err(BackendError::AlreadyExists { location, .. }) => {
                // The other one may have found it, and taken it for a leftover, which it is.
                remove_if_there(backend, Kind::Key, &key_id)?;
                let found = "a repository, which another process has just made".to_owned();
                return Err(BackendError::NotEmpty { location, found }.into());
            }
            other => other?,
        }
        backend.sync()?;
        // Only now: before, the other attempt might still be alive, and win without its key.
        for (id, _) in stale {
            remove_if_there(backend, Kind::Key, &id)?;
        }
        Ok(config.id)
    }

    /// Opens a repository with a password or key file, and brings the index up to date.
    pub fn open(
        backend: Arc<dyn Backend>,
        credential: &Credential,
        options: &OpenOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self, RepoError> {
        let config = read_config(backend.as_ref())?;
        let (master, keys) = unlock(backend.as_ref(), &config, credential)?;
        let (cache, index) = open_index(options.cache.as_deref(), &config, monitor)?;
        let index = Arc::new(index);
        let frames = Arc::new(Frames::new(backend.clone(), keys.clone(), index.clone()));
        let host = options.host.clone();
        let unusable = Mutex::default();
        let repository = Repository { backend, config, keys, master, index, frames, unusable, host, cache };
        if let Err(error) = repository.refresh(monitor) {
            // The index is no reason to fail; anything else fails again.
            match error {
                RepoError::Index { .. } => drop(repository.heal_index(monitor)?),
                error => return Err(error),
            }
        }
        Ok(repository)
    }

    /// Makes the index equal to the packs in storage. Packs that cannot be used are kept for
    /// [`Repository::unusable_packs`].
    pub fn refresh(&self, monitor: &dyn Monitor) -> Result<(), RepoError> {
        let unusable = self.index.refresh(self.backend.as_ref(), &self.keys, monitor)?;
        *self.unusable.lock().unwrap_or_else(PoisonError::into_inner) = unusable;
        Ok(())
    }

    /// Finds what is silently wrong in the index and puts it right; true if something was.
    pub fn heal_index(&self, monitor: &dyn Monitor) -> Result<bool, RepoError> {
        let (healed, unusable) = self.index.heal(self.backend.as_ref(), &self.keys, monitor)?;
        *self.unusable.lock().unwrap_or_else(PoisonError::into_inner) = unusable;
        if healed {
            self.frames.drop_cached();
            let message =
                "it was damaged and was made right from the packs; nothing of the repository was lost".to_owned();
            monitor.notice(Notice { subject: "index".to_owned(), message });
        }
        Ok(healed)
    }

    /// Makes the index what the packs say, whatever it was.
    pub fn rebuild_index(&self, monitor: &dyn Monitor) -> Result<(), RepoError> {
        let unusable = self.index.rebuild(self.backend.as_ref(), &self.keys, monitor)?;
        *self.unusable.lock().unwrap_or_else(PoisonError::into_inner) = unusable;
        self.frames.drop_cached();
        Ok(())
    }

    /// The storage.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The derived keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The cache directory.
    pub fn cache(&self) -> &CacheDir {
        &self.cache
    }

    /// The index.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The reader of chunks.
    pub fn frames(&self) -> &Arc<Frames> {
        &self.frames
    }

    /// The name of this machine, as given at opening.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Packs whose footers could not be used at the last refresh, in words.
    pub fn unusable_packs(&self) -> Vec<(Kind, ObjectId, String)> {
        let packs = self.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        packs.iter().map(|pack| (pack.kind, pack.id, chain(&pack.error))).collect()
    }

    /// What the tombstones in storage name. They are read before the index is refreshed: a sweep that ends in between
    /// then leaves names of packs that are gone, and not an index that is behind.
    pub fn condemned(&self, monitor: &dyn Monitor) -> Result<Condemned, RepoError> {
        let tombstones = self.read_records::<Tombstone>()?;
        self.refresh(monitor)?;
        self.condemned_by(&tombstones)
    }

    /// What these tombstones name, as far as the index knows it.
    fn condemned_by(&self, tombstones: &[(ObjectId, Tombstone)]) -> Result<Condemned, RepoError> {
        let mut condemned = Condemned::default();
        if tombstones.is_empty() {
            return Ok(condemned);
        }
        let packs: HashMap<_, _> = self.index.packs()?.into_iter().map(|pack| (pack.id, pack.no)).collect();
        for pack in tombstones.iter().flat_map(|(_, tombstone)| &tombstone.packs) {
            let no = packs.get(&pack.id);
            condemned.named.insert(pack.id, no.copied());
            let Some(no) = no else { continue };
            condemned.packs.insert(*no);
            let dead = pack.dead_bits()?;
            let frames = self.index.frames_of_pack(*no)?;
            let numbers = frames.iter().flat_map(|f| f.first..f.first + f.entry.chunks.len() as u64);
            for (position, number) in numbers.enumerate() {
                if dead.get(position / 8).is_some_and(|byte| byte & (1 << (position % 8)) != 0) {
                    condemned.dead.insert(number);
                }
            }
        }
        Ok(condemned)
    }

    /// A content as a stream, decoded ahead by worker threads.
    pub fn stream(&self, content: &Content) -> Result<StreamReader, RepoError> {
        let prefetch = Prefetch::start(&self.frames);
        Ok(StreamReader::new(ChunkReader::new(&self.frames, content, Some(prefetch))?))
    }

    /// A content as a stream, decoded by the caller's thread: for small files.
    pub fn small_stream(&self, content: &Content) -> Result<StreamReader, RepoError> {
        Ok(StreamReader::new(ChunkReader::new(&self.frames, content, None)?))
    }

    /// The entries of a tree.
    pub fn tree(&self, content: &Content) -> Result<TreeReader, RepoError> {
        TreeReader::new(&self.frames, content)
    }

    /// Notes in the cache that a snapshot was seen.
    pub fn remember(&self, id: &ObjectId, snapshot: &Snapshot) -> Result<(), RepoError> {
        self.index.remember(id, &snapshot.name, &snapshot.time.to_string())
    }
}

/// The index in the cache directory, or, where that cannot be used, one that goes with this process.
fn open_index(
    base: Option<&std::path::Path>,
    config: &Config,
    monitor: &dyn Monitor,
) -> Result<(CacheDir, Index), RepoError> {
    let kept =
        CacheDir::open(base, config.id).and_then(|cache| Index::open(&cache, config.id).map(|index| (cache, index)));
    match kept {
        Err(error @ (RepoError::Index { .. } | RepoError::Cache { .. })) if base.is_some() => {
            let message = format!("{}; a temporary index is made from the packs, which takes longer", chain(&error));
            monitor.notice(Notice { subject: "cache".to_owned(), message });
            let cache = CacheDir::temporary()?;
            let index = Index::open(&cache, config.id)?;
            Ok((cache, index))
        }
        result => result,
    }
}

/// The keys that a credential gives, once they have proven the configuration.
fn unlock(backend: &dyn Backend, config: &Config, credential: &Credential) -> Result<(MasterKey, Keys), RepoError> {
    let master = keys::unlock(backend, config.id, credential)?;
    let keys = Keys::derive(&master, config.id);
    config.verify(&keys)?;
    Ok((master, keys))
}

/// Reads the configuration of storage that should hold a repository.
pub fn read_config(backend: &dyn Backend) -> Result<Config, RepoError> {
    let range = ByteRange::All { limit: MAX_CONFIG as u64 };
    let stored = backend.read(Kind::Config, &ObjectId::ZERO, range).map_err(|error| match error {
        BackendError::NotFound { location, .. } => BackendError::NoRepository { location },
        other => other,
    })?;
    let location = backend.location();
    Config::decode(&stored).map_err(|error| match error {
        source @ (FormatError::Version { .. } | FormatError::Feature { .. }) => {
            RepoError::OtherVersion { location, source }
        }
        source => RepoError::Config { location, source },
    })
}
