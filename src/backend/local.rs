//! A repository in a directory.
//!
//! ```text
//! config   keys/HEX   data/HH/HEX   meta/HH/HEX   snapshots/HEX   sets/HEX   tombstones/HEX   leases/HEX
//! proofs/HEX   forgotten/HEX   tmp/
//! ```
//! A write goes to a random name in `tmp`, is fsynced, and renamed with RENAME_NOREPLACE: an object appears whole, once.
//! The directories touched are fsynced by the next `sync`, so one barrier serves many objects. The race this leaves open
//! on purpose: before `sync`, a power loss may take a finished object; nothing refers to it yet.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::backend::{Backend, BackendError, ByteRange, Stat};
use crate::format::{Kind, ObjectId};

/// A directory with a repository.
pub struct Local {
    root: PathBuf,
    /// Directories with entries that no `sync` has made durable.
    touched: Mutex<BTreeSet<PathBuf>>,
}

const TEMPORARY: &str = "tmp";

fn folder(kind: Kind) -> &'static str {
    match kind {
        Kind::DataPack => "data",
        Kind::MetaPack => "meta",
        Kind::Snapshot => "snapshots",
        Kind::Set => "sets",
        Kind::Tombstone => "tombstones",
        Kind::Lease => "leases",
        Kind::Proof => "proofs",
        Kind::Forgotten => "forgotten",
        Kind::Key => "keys",
        Kind::Config => "",
    }
}

fn is_spread(kind: Kind) -> bool {
    matches!(kind, Kind::DataPack | Kind::MetaPack)
}

impl Local {
    /// Makes the directories of a new repository in a place that is empty or not there.
    pub fn create(root: &Path) -> Result<Self, BackendError> {
        let local = Local { root: root.to_owned(), touched: Mutex::default() };
        match fs::read_dir(root) {
            Ok(mut entries) => {
                if let Some(entry) = entries.next() {
                    let entry = entry.map_err(local.failed("list", "the directory"))?;
                    let found = format!("{:?}", entry.file_name());
                    return Err(BackendError::NotEmpty { location: local.location(), found });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(local.failed("list", "the directory")(error)),
        }
        let kinds = Kind::ALL.into_iter().map(folder).filter(|name| !name.is_empty());
        for name in kinds.chain([TEMPORARY]) {
            let path = root.join(name);
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(local.failed("create", name))?;
        }
        local.touch(root);
        if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            local.touch(parent);
        }
        local.sync()?;
        Ok(local)
    }

    /// Opens a directory that holds a repository.
    pub fn open(root: &Path) -> Result<Self, BackendError> {
        let local = Local { root: root.to_owned(), touched: Mutex::default() };
        match fs::symlink_metadata(root.join("config")) {
            Ok(metadata) if metadata.is_file() => Ok(local),
            Ok(_) => Err(BackendError::NoRepository { location: local.location() }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(BackendError::NoRepository { location: local.location() })
            }
            Err(error) => Err(local.failed("open", "config")(error)),
        }
    }

    fn path(&self, kind: Kind, id: &ObjectId) -> PathBuf {
        if kind == Kind::Config {
            return self.root.join("config");
        }
        let name = id.to_string();
        let folder = self.root.join(folder(kind));
        if is_spread(kind) { folder.join(&name[..2]).join(name) } else { folder.join(name) }
    }

    fn failed(&self, action: &'static str, what: impl Into<String>) -> impl FnOnce(io::Error) -> BackendError {
        let (what, location) = (what.into(), self.location());
        move |source| {
            if is_full(&source) {
                BackendError::Full { what, location, source }
            } else {
                BackendError::Io { action, what, location, source }
            }
        }
    }

    /// As [`Local::failed`], for an object; a missing one is `NotFound`.
    fn object_failed(&self, action: &'static str, kind: Kind, id: &ObjectId) -> impl FnOnce(io::Error) -> BackendError {
        let (failed, id, location) = (self.failed(action, format!("{kind} {id}")), *id, self.location());
        move |error| {
            if error.kind() == io::ErrorKind::NotFound {
                BackendError::NotFound { kind, id, location }
            } else {
                failed(error)
            }
        }
    }

    fn touch(&self, directory: &Path) {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.to_owned());
    }

    fn open_object(&self, kind: Kind, id: &ObjectId) -> Result<(File, u64), BackendError> {
        // A fifo or a link in an object's place must neither hang nor lead elsewhere.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
        let open = OpenOptions::new().read(true).custom_flags(flags).open(self.path(kind, id));
        let file = open.map_err(self.object_failed("open", kind, id))?;
        let metadata = file.metadata().map_err(self.object_failed("stat", kind, id))?;
        if !metadata.is_file() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
            return Err(self.object_failed("open", kind, id)(source));
        }
        Ok((file, metadata.len()))
    }

    fn write_temporary(&self, bytes: &[u8]) -> io::Result<tempfile::TempPath> {
        let mut file = tempfile::Builder::new().prefix("w").tempfile_in(self.root.join(TEMPORARY))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        Ok(file.into_temp_path())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Renames without replacing; file systems that lack it get a hard link and an unlink.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        result => Ok(result?),
    }
}

impl Backend for Local {
    fn read(&self, kind: Kind, id: &ObjectId, range: ByteRange) -> Result<Vec<u8>, BackendError> {
        let (mut file, len) = self.open_object(kind, id)?;
        let (offset, wanted, fits, words) = match range {
            ByteRange::All { limit } => (0, len, len <= limit, format!("at most {limit}")),
            ByteRange::At { offset, len: wanted } => {
                let fits = offset.checked_add(wanted).is_some_and(|end| end <= len);
                (offset, wanted, fits, format!("{wanted} bytes from offset {offset}"))
            }
        };
        let short = |len| BackendError::Range { kind, id: *id, location: self.location(), len, wanted: words };
        if !fits {
            return Err(short(len));
        }
        let failed = || self.object_failed("read", kind, id);
        if offset > 0 {
            file.seek(SeekFrom::Start(offset)).map_err(failed())?;
        }
        let mut bytes = Vec::with_capacity(wanted as usize);
        file.take(wanted).read_to_end(&mut bytes).map_err(failed())?;
        if bytes.len() as u64 != wanted {
            return Err(short(bytes.len() as u64));
        }
        Ok(bytes)
    }

    fn write_new(&self, kind: Kind, id: &ObjectId, bytes: &[u8]) -> Result<(), BackendError> {
        let failed = || self.failed("write", format!("{kind} {id}"));
        let temporary = self.write_temporary(bytes).map_err(failed())?;
        let path = self.path(kind, id);
        let directory = path.parent().unwrap_or(&self.root).to_owned();
        let renamed = match rename_new(&temporary, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_spread(kind) => {
                // The first object of its folder.
                match DirBuilder::new().mode(0o700).create(&directory) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                    _ => {
                        self.touch(&self.root.join(folder(kind)));
                        rename_new(&temporary, &path)
                    }
                }
            }
            result => result,
        };
        match renamed {
            Ok(()) => {
                // The name is gone, so there is nothing to clean up.
                let _ = temporary.keep();
                self.touch(&directory);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(BackendError::AlreadyExists { kind, id: *id, location: self.location() })
            }
            Err(error) => Err(failed()(error)),
        }
    }

    fn list(&self, kind: Kind, visit: &mut dyn FnMut(ObjectId, u64)) -> Result<(), BackendError> {
        if kind == Kind::Config {
            let len = self.stat(kind, &ObjectId::ZERO)?.len;
            visit(ObjectId::ZERO, len);
            return Ok(());
        }
        let top = self.root.join(folder(kind));
        if !is_spread(kind) {
            return self.list_folder(&top, "", visit);
        }
        for entry in fs::read_dir(&top).map_err(self.failed("list", folder(kind)))? {
            let entry = entry.map_err(self.failed("list", folder(kind)))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.len() == 2) else { continue };
            if entry.file_type().is_ok_and(|file_type| file_type.is_dir()) {
                self.list_folder(&entry.path(), name, visit)?;
            }
        }
        Ok(())
    }

    fn stat(&self, kind: Kind, id: &ObjectId) -> Result<Stat, BackendError> {
        let failed = || self.object_failed("stat", kind, id);
        let metadata = fs::symlink_metadata(self.path(kind, id)).map_err(failed())?;
        let modified = Timestamp::new(metadata.mtime(), metadata.mtime_nsec() as i32)
            .map_err(|error| failed()(io::Error::new(io::ErrorKind::InvalidData, error.to_string())))?;
        Ok(Stat { len: metadata.len(), modified })
    }

    fn remove(&self, kind: Kind, id: &ObjectId) -> Result<(), BackendError> {
        let path = self.path(kind, id);
        fs::remove_file(&path).map_err(self.object_failed("remove", kind, id))?;
        self.touch(path.parent().unwrap_or(&self.root));
        Ok(())
    }

    fn sync(&self) -> Result<(), BackendError> {
        let touched = std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        let mut left = touched.iter();
        while let Some(directory) = left.next() {
            let synced = File::open(directory).and_then(|file| file.sync_all());
            if let Err(error) = synced {
                // What is not durable yet stays on the list for the next try.
                self.touch(directory);
                left.for_each(|directory| self.touch(directory));
                return Err(self.failed("sync", directory.display().to_string())(error));
            }
        }
        Ok(())
    }

    fn remove_debris(&self, age_seconds: u64, dry_run: bool) -> Result<(u64, u64), BackendError> {
        let failed = || self.failed("clean", TEMPORARY);
        // Ages are counted from the time the storage itself gives a new file.
        let probe = tempfile::Builder::new().prefix("p").tempfile_in(self.root.join(TEMPORARY)).map_err(failed())?;
        let now = probe.as_file().metadata().map_err(failed())?.mtime();
        let (mut pieces, mut bytes) = (0, 0);
        for entry in fs::read_dir(self.root.join(TEMPORARY)).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            let old = now.saturating_sub(metadata.mtime()) >= age_seconds as i64;
            if !metadata.is_file() || !old || Some(entry.file_name().as_os_str()) == probe.path().file_name() {
                continue;
            }
            if !dry_run {
                fs::remove_file(entry.path()).map_err(failed())?;
            }
            (pieces, bytes) = (pieces + 1, bytes + metadata.len());
        }
        Ok((pieces, bytes))
    }

    fn location(&self) -> String {
        self.root.display().to_string()
    }
}

impl Local {
    fn list_folder(
        &self,
        folder: &Path,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectId, u64),
    ) -> Result<(), BackendError> {
        let failed = || self.failed("list", folder.display().to_string());
        for entry in fs::read_dir(folder).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            let lower = |name: &&str| name.starts_with(prefix) && !name.bytes().any(|b| b.is_ascii_uppercase());
            let id = name.to_str().filter(lower).and_then(|name| ObjectId::from_hex(name).ok());
            let Some(id) = id else { continue };
            match entry.metadata() {
                Ok(metadata) => visit(id, metadata.len()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed()(error)),
            }
        }
        Ok(())
    }
}
