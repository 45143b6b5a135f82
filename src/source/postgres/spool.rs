//! Segments that were fetched before the server asked for them.
//!
//! Invariant: what is in the spool is only a guess at what will be needed. A file counts when its length and its hash are
//! those that the archive says now, and is taken out when it is used; whatever else is wrong with the spool, the file
//! is fetched from the archive. The directory is this account's alone, as `pg_wal` is.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::files::unfit;
use super::wal::{UNFINISHED, WalTarget, flushed};
use crate::format::wal::WalName;
use crate::source::SourceError;

const LOCK: &str = "lock";
/// Files of the spool that are looked at.
const MAX_FILES: usize = 4096;

/// The spool of one cluster.
#[derive(Clone, Debug)]
pub struct Spool {
    directory: PathBuf,
}

impl Spool {
    /// Opens a cluster's directory below `base`, and makes it where it is missing.
    pub fn open(base: &Path, system_id: u64) -> Result<Self, SourceError> {
        let directory = base.join(system_id.to_string());
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(SourceError::when("make", &directory))?;
        let found = fs::symlink_metadata(&directory).map_err(SourceError::when("look at", &directory))?;
        let is_ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
        if !is_ours {
            return Err(unfit(&directory, "it is not a directory of this account alone".to_owned()));
        }
        Ok(Spool { directory })
    }

    /// Puts a file in the server's place, if the spool has it with this content.
    pub fn take(&self, name: &WalName, len: u64, hash: &[u8; 32], into: &Path) -> Result<bool, SourceError> {
        let path = self.path(name);
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            result => result.map_err(SourceError::when("open", &path))?,
        };
        let found = file.metadata().map_err(SourceError::when("look at", &path))?;
        if !found.is_file() || found.len() != len || *hash_of(&mut file, &path)?.as_bytes() != *hash {
            fs::remove_file(&path).map_err(SourceError::when("remove", &path))?;
            return Ok(false);
        }
        match fs::rename(&path, into) {
            // On another file system it is fetched as if it were not there.
            Err(error) if error.kind() == ErrorKind::CrossesDevices => Ok(false),
            Err(error) => Err(SourceError::at("write", into, error)),
            // Its content was flushed when it was put here.
            Ok(()) => flushed(into).map(|()| true),
        }
    }

    /// The names in the spool.
    pub fn names(&self) -> Result<Vec<WalName>, SourceError> {
        let entries = fs::read_dir(&self.directory).map_err(SourceError::when("list", &self.directory))?;
        let names = entries.take(MAX_FILES).flatten().map(|entry| entry.file_name());
        Ok(names.filter_map(|name| WalName::parse(name.to_str()?)).collect())
    }

    /// Begins a file in the spool.
    pub fn put(&self, name: &WalName) -> Result<WalTarget, SourceError> {
        WalTarget::create(&self.path(name))
    }

    /// Removes what killed processes have left half written; for who holds the lock, since nobody else writes here.
    pub fn tidy(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.take(MAX_FILES).flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Removes a file that is of no use any more.
    pub fn remove(&self, name: &WalName) {
        // What stays is bounded, and removed by the next.
        let _ = fs::remove_file(self.path(name));
    }

    /// The right to fill the spool, which one process has; it ends with the file that is returned.
    pub fn lock(&self) -> Result<Option<File>, SourceError> {
        let path = self.directory.join(LOCK);
        let flags = OFlags::NOFOLLOW.bits() as i32;
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(&path);
        let file = file.map_err(SourceError::when("open", &path))?;
        Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file))
    }

    fn path(&self, name: &WalName) -> PathBuf {
        self.directory.join(name.to_string())
    }
}

fn hash_of(file: &mut File, path: &Path) -> Result<blake3::Hash, SourceError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(SourceError::when("read", path))? {
            0 => return Ok(hasher.finalize()),
            read => {
                hasher.update(&buffer[..read]);
            }
        }
    }
}
