//! The state directory of this host: what a run leaves for the next one.
//!
//! Invariants: one run at a time holds the lock, and the lock ends with its holder, however that ends, because it is a
//! lock of the kernel on an open file and not the file's existence. The journal is in a file of its own, made durable
//! together with its name before the first step.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::format::codec::escape_path;
use crate::orchestrate::OrchestrateError;
use crate::source::wait;

/// What the holder of the lock says of itself is at most this long.
const MAX_HOLDER: u64 = 256;
/// A journal is at most this long: a run writes a few kilobytes.
const MAX_JOURNAL: u64 = 16 << 20;

/// The state directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// The lock on a state directory; free again when this is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The journal's file, open at its end.
#[derive(Debug)]
pub(super) struct JournalFile {
    file: File,
    /// Bytes of whole lines.
    whole: u64,
    /// Whether a part of a line may follow them: then nothing more is written, since it would be glued to that.
    spoilt: bool,
}

impl JournalFile {
    fn new(file: File, whole: u64) -> Self {
        JournalFile { file, whole, spoilt: false }
    }

    /// Adds a line and makes it durable. One write, so that a crash cuts one line at most; of a line that did not fit
    /// on the disk nothing stays.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.spoilt {
            return Err(io::Error::other("a line before could be written in part only"));
        }
        let written = self.file.write_all(line).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.whole += line.len() as u64,
            Err(_) => self.spoilt = self.file.set_len(self.whole).is_err(),
        }
        written
    }
}

impl StateDir {
    /// Opens the directory, and makes it if it is missing. It is private: a journal tells what a platform consists of.
    pub fn open(path: &Path) -> Result<Self, OrchestrateError> {
        let state = StateDir { path: path.to_owned() };
        let make = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            // The directory's own name must outlive a power loss, or the journal in it does not.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        };
        make().map_err(|source| state.failed("make", path, source))?;
        Ok(state)
    }

    /// Where a run that touches nothing of the platform has its own lock and journal, beside that of the platform's state.
    pub fn beneath(platform: &Path) -> PathBuf {
        platform.join("beneath")
    }

    /// Takes the lock, waiting at most so long for another run.
    pub fn lock(&self, patience: Duration, stop: &dyn Fn() -> bool) -> Result<Lock, OrchestrateError> {
        self.lock_file("lock", patience, stop)
    }

    /// Takes a lock of its own name in this directory.
    pub(super) fn lock_file(
        &self,
        name: &str,
        patience: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<Lock, OrchestrateError> {
        let path = self.path.join(name);
        let failed = |source| self.failed("lock", &path, source);
        let options = || File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = options().map_err(failed)?;
        let began = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if stop() => return Err(OrchestrateError::Interrupted),
                Err(Errno::WOULDBLOCK) if began.elapsed() < patience => std::thread::sleep(wait::INTERVAL),
                Err(Errno::WOULDBLOCK) => return Err(self.busy(&mut file)),
                Err(error) => return Err(failed(error.into())),
            }
        }
        let holder = format!("process {} since {}\n", std::process::id(), jiff::Timestamp::now());
        let mut say = || -> io::Result<()> {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(holder.as_bytes())
        };
        say().map_err(failed)?;
        Ok(Lock { _file: file })
    }

    /// Whether somebody holds the lock of this name just now. Looking takes it for a moment, together with others who
    /// look, so whoever takes it for good has to be patient for a moment, too.
    pub(super) fn is_locked(&self, name: &str) -> Result<bool, OrchestrateError> {
        let path = self.path.join(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.map_err(|source| self.failed("open", &path, source))?,
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(self.failed("look at the lock", &path, error.into())),
        }
    }

    /// A file of this directory.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn busy(&self, file: &mut File) -> OrchestrateError {
        let mut holder = Vec::new();
        let _ = file.take(MAX_HOLDER).read_to_end(&mut holder);
        let holder = crate::format::codec::escape(String::from_utf8_lossy(&holder).trim().as_bytes());
        OrchestrateError::Busy { directory: escape_path(&self.path), holder }
    }

    /// The journal's path.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Makes an empty journal and its name durable.
    pub(super) fn create_journal(&self) -> Result<JournalFile, OrchestrateError> {
        let path = self.journal();
        let create = || -> io::Result<File> {
            let file = File::options().append(true).create_new(true).mode(0o600).open(&path)?;
            file.sync_all()?;
            File::open(&self.path)?.sync_all()?;
            Ok(file)
        };
        create().map(|file| JournalFile::new(file, 0)).map_err(|source| self.failed("make", &path, source))
    }

    /// Opens the journal that is there, to go on with it after its last whole line: a crash may have cut the next.
    pub(super) fn open_journal(&self, whole: u64) -> Result<JournalFile, OrchestrateError> {
        let path = self.journal();
        let open = || -> io::Result<File> {
            let file = File::options().append(true).open(&path)?;
            file.set_len(whole)?;
            file.sync_all()?;
            Ok(file)
        };
        open().map(|file| JournalFile::new(file, whole)).map_err(|source| self.failed("open", &path, source))
    }

    /// The journal's bytes; `None` when there is none.
    pub(super) fn read_journal(&self) -> Result<Option<Vec<u8>>, OrchestrateError> {
        let path = self.journal();
        match read_file(&path, MAX_JOURNAL) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.failed("read", &path, source)),
        }
    }

    /// Puts a journal that has ended aside, for people; the one before it goes.
    pub(super) fn retire_journal(&self) -> Result<(), OrchestrateError> {
        let (from, to) = (self.journal(), self.path.join("journal.last"));
        let retire = || -> io::Result<()> {
            fs::rename(&from, &to)?;
            File::open(&self.path)?.sync_all()
        };
        retire().map_err(|source| self.failed("put aside", &from, source))
    }

    pub(super) fn failed_journal(&self, source: io::Error) -> OrchestrateError {
        self.failed("write", &self.journal(), source)
    }

    pub(super) fn failed(&self, action: &'static str, path: &Path, source: io::Error) -> OrchestrateError {
        OrchestrateError::State { action, path: escape_path(path), source }
    }
}

/// The beginning of a file, up to so many bytes.
pub(super) fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces a file for other programs at once: nobody reads half of it.
pub(super) fn replace_file(path: &Path, text: &str) -> Result<(), OrchestrateError> {
    let replace = || -> io::Result<()> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".cairn-").tempfile_in(directory)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    replace().map_err(|source| OrchestrateError::State { action: "write", path: escape_path(path), source })
}
