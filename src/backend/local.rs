//! A repository in a local or mounted directory: one file an object.
//!
//! ```text
//! REPO/config  keys/HEX  data/HH/HEX  meta/HH/HEX  snapshots/HEX  sets/HEX  tombstones/HEX  leases/HEX  proofs/HEX
//!      forgotten/HEX  wal/HEX  tmp/
//! ```
//! HEX is the id in lower case hexadecimal, HH its first two digits.
//!
//! Invariant: a name outside `tmp/` always leads to a whole and durable file. An object is written under a random
//! name in `tmp/`, flushed to the disk, and only then renamed, in a way that fails when the name is taken: of two
//! writers of one id exactly one succeeds, and a reader never sees half of an object. The rename itself is durable
//! after [`Backend::sync`], which flushes each directory that was changed. A process that is killed leaves at most a
//! file in `tmp/`, whose name tells which process of which machine made it: this machine's own dead are known at once,
//! and its living never lose a file that they are writing.
//!
//! The race that `sync` prevents: thread A takes the list of changed directories and flushes them; thread B finds the
//! list empty and returns, while the directory of B's object is not flushed yet. So syncs go one after another.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rustix::fs::OFlags;
use rustix::io::Errno;
use tempfile::NamedTempFile;

use crate::backend::error::wrong_head;
use crate::backend::{Backend, BackendError, ByteRange, Stat, Unfinished, host};
use crate::format::codec::{escape, escape_path};
use crate::format::{Kind, ObjectId};

const CONFIG: &str = "config";
const KEYS: &str = "keys";
const TEMPORARY: &str = "tmp";
/// How the name of an unfinished file begins.
const TEMPORARY_PREFIX: &str = ".tmp";
/// What `mkfs` puts into a new file system, which may be given to a repository as a whole.
const LOST_AND_FOUND: &str = "lost+found";

/// A repository in a directory.
pub struct Local {
    root: PathBuf,
    machine: String,
    /// Directories with changed names, to be flushed by the next sync.
    changed: Mutex<BTreeSet<PathBuf>>,
    /// Held for the whole of a sync.
    syncing: Mutex<()>,
}

impl Local {
    /// Makes an empty repository directory. The place must not exist, or be empty, or hold what an earlier attempt left
    /// that never came to a configuration. Of several that make one in the same place at once, the configuration, which
    /// is written once, decides.
    pub fn create(path: &Path) -> Result<Self, BackendError> {
        let local = Self::at(path)?;
        let root = local.root.as_path();
        let failed = |source| local.failure("make", "the directory", source);
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        if let Some(found) = contents(root).map_err(failed)? {
            return Err(BackendError::NotEmpty { location: local.location(), found });
        }
        for name in Kind::ALL.into_iter().filter_map(directory).chain([TEMPORARY]) {
            make_directory(&root.join(name)).map_err(failed)?;
        }
        local.note_change(root);
        if let Some(parent) = root.parent() {
            local.note_change(parent);
        }
        local.sync()?;
        Ok(local)
    }

    /// Opens a repository directory: one that has a configuration.
    pub fn open(path: &Path) -> Result<Self, BackendError> {
        let local = Self::at(path)?;
        match fs::symlink_metadata(local.root.join(CONFIG)) {
            Ok(_) => Ok(local),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(BackendError::NoRepository { location: local.location() })
            }
            Err(source) => Err(local.failure("open", CONFIG, source)),
        }
    }

    fn at(path: &Path) -> Result<Self, BackendError> {
        // Absolute, so that a later change of the working directory does not move the repository.
        let root = std::path::absolute(path).map_err(|source| BackendError::Io {
            action: "open",
            what: "the repository".to_owned(),
            location: escape_path(path),
            source,
        })?;
        Ok(Local { root, machine: host::machine(), changed: Mutex::default(), syncing: Mutex::default() })
    }

    /// The directory of an object, and its path.
    fn place(&self, kind: Kind, id: &ObjectId) -> (PathBuf, PathBuf) {
        let Some(name) = directory(kind) else {
            return (self.root.clone(), self.root.join(CONFIG));
        };
        let hex = id.to_string();
        let mut dir = self.root.join(name);
        if is_spread(kind) {
            dir.push(&hex[..2]);
        }
        let path = dir.join(hex);
        (dir, path)
    }

    /// Opens an object, and makes sure that it is a regular file: a symlink could lead out of the repository, and a
    /// pipe would wait for ever.
    fn open_object(&self, kind: Kind, id: &ObjectId) -> Result<(File, Metadata), BackendError> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let (_, path) = self.place(kind, id);
        let open = || {
            let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_file() { Ok((file, metadata)) } else { Err(not_regular()) }
        };
        open().map_err(|source| self.object_failure("read", kind, id, source))
    }

    /// The directory of unfinished files. Never through a symlink: a hostile repository could have somebody else's
    /// files removed as debris.
    fn temporary(&self) -> io::Result<PathBuf> {
        let temporary = self.root.join(TEMPORARY);
        make_directory(&temporary)?;
        if fs::symlink_metadata(&temporary)?.is_dir() {
            Ok(temporary)
        } else {
            Err(io::Error::other(format!("{TEMPORARY} is not a directory")))
        }
    }

    fn unfinished(&self) -> io::Result<NamedTempFile> {
        let prefix = format!("{TEMPORARY_PREFIX}{}-{}-", std::process::id(), machine_tag(&self.machine));
        tempfile::Builder::new().prefix(&prefix).tempfile_in(self.temporary()?)
    }

    /// Whether an unfinished file may go.
    fn is_debris(&self, name: &OsStr, is_old: bool) -> bool {
        match maker(name, &self.machine) {
            Some(process) => host::has_ended(&self.machine, process),
            None => is_old,
        }
    }

    fn write(&self, kind: Kind, id: &ObjectId, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.unfinished()?;
        file.as_file_mut().write_all(bytes)?;
        self.put(kind, id, file)
    }

    /// Gives a file that is written its place.
    fn put(&self, kind: Kind, id: &ObjectId, file: NamedTempFile) -> io::Result<()> {
        file.as_file().sync_all()?;
        let (dir, path) = self.place(kind, id);
        if dir != self.root {
            make_directory(&dir)?;
        }
        // renameat2 with RENAME_NOREPLACE, or link and unlink where the file system does not know that.
        file.persist_noclobber(path)?;
        self.note_object(kind, &dir);
        Ok(())
    }

    /// Notes that the directory of an object was changed.
    fn note_object(&self, kind: Kind, directory: &Path) {
        // The parent as well: another thread or process may have made the directory and not flushed it yet.
        if may_be_made(kind)
            && let Some(parent) = directory.parent()
        {
            self.note_change(parent);
        }
        self.note_change(directory);
    }

    fn note_change(&self, directory: &Path) {
        let mut changed = lock(&self.changed);
        if !changed.contains(directory) {
            changed.insert(directory.to_owned());
        }
    }

    /// Visits the objects of one directory; with `spread`, those that belong there by their first two digits.
    fn list_directory(&self, path: &Path, spread: Option<&str>, visit: &mut Visit<'_>) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(parse_name) else { continue };
            if spread.is_some_and(|digits| name.to_str().is_some_and(|name| !name.starts_with(digits))) {
                continue;
            }
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => visit(id, metadata.len()),
                Ok(_) => {}
                // Removed since the directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn list_spread(&self, path: &Path, visit: &mut Visit<'_>) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            let Some(digits) = name.to_str().filter(|name| is_lower_hex(name, 2)) else { continue };
            match self.list_directory(&path.join(digits), Some(digits), visit) {
                Err(e) if e.kind() == io::ErrorKind::NotADirectory => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn debris(&self, age: Duration, dry_run: bool) -> io::Result<(u64, u64)> {
        // The time of a new file is the storage's own clock, which may differ from this machine's.
        let now = self.unfinished()?.as_file().metadata()?.modified()?;
        let (mut pieces, mut bytes) = (0, 0);
        for entry in fs::read_dir(self.temporary()?)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Its writer has finished meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let is_old = now.duration_since(metadata.modified()?).is_ok_and(|passed| passed >= age);
            if !metadata.is_file() || !self.is_debris(&entry.file_name(), is_old) {
                continue;
            }
            if !dry_run {
                match fs::remove_file(entry.path()) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    other => other?,
                }
            }
            pieces += 1;
            bytes += metadata.len();
        }
        Ok((pieces, bytes))
    }

    fn object_failure(&self, action: &'static str, kind: Kind, id: &ObjectId, source: io::Error) -> BackendError {
        let (id, location) = (*id, self.location());
        if Errno::from_io_error(&source) == Some(Errno::LOOP) {
            return self.failure(action, format!("{kind} {id}"), not_regular());
        }
        match source.kind() {
            io::ErrorKind::NotFound if action != "write" => BackendError::NotFound { kind, id, location },
            io::ErrorKind::AlreadyExists => BackendError::AlreadyExists { kind, id, location },
            _ => self.failure(action, format!("{kind} {id}"), source),
        }
    }

    fn failure(&self, action: &'static str, what: impl Into<String>, source: io::Error) -> BackendError {
        let (what, location) = (what.into(), self.location());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BackendError::Full { what, location, source },
            _ => BackendError::Io { action, what, location, source },
        }
    }
}

impl Backend for Local {
    fn read(&self, kind: Kind, id: &ObjectId, range: ByteRange) -> Result<Vec<u8>, BackendError> {
        let (file, metadata) = self.open_object(kind, id)?;
        let len = metadata.len();
        let out_of_range = |len, wanted| BackendError::Range { kind, id: *id, location: self.location(), len, wanted };
        let failed = |source| self.object_failure("read", kind, id, source);
        match range {
            ByteRange::All { limit } if len > limit => Err(out_of_range(len, format!("at most {limit}"))),
            ByteRange::All { .. } => {
                let mut bytes = Vec::with_capacity(len as usize);
                file.take(len).read_to_end(&mut bytes).map_err(failed)?;
                match bytes.len() as u64 {
                    found if found == len => Ok(bytes),
                    found => Err(out_of_range(found, len.to_string())),
                }
            }
            ByteRange::At { offset, len: wanted } => {
                let end = offset.checked_add(wanted).filter(|end| *end <= len);
                let Some(end) = end else {
                    return Err(out_of_range(len, format!("{wanted} from {offset} on")));
                };
                let mut bytes = vec![0; wanted as usize];
                match file.read_exact_at(&mut bytes, offset) {
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(out_of_range(len, format!("{end}"))),
                    other => other.map(|()| bytes).map_err(failed),
                }
            }
        }
    }

    fn write_new(&self, kind: Kind, id: &ObjectId, bytes: &[u8]) -> Result<(), BackendError> {
        self.write(kind, id, bytes).map_err(|source| self.object_failure("write", kind, id, source))
    }

    fn begin_new(&self, kind: Kind, id: &ObjectId, head: usize) -> Result<Box<dyn Unfinished + '_>, BackendError> {
        let begin = || {
            let mut file = self.unfinished()?;
            file.as_file_mut().seek(SeekFrom::Start(head as u64))?;
            Ok(file)
        };
        let file = begin().map_err(|source| self.object_failure("write", kind, id, source))?;
        Ok(Box::new(Begun { local: self, place: (kind, *id), head, file }))
    }

    fn list(&self, kind: Kind, visit: &mut dyn FnMut(ObjectId, u64)) -> Result<(), BackendError> {
        let listed = match directory(kind) {
            None => match fs::symlink_metadata(self.root.join(CONFIG)) {
                Ok(metadata) => {
                    visit(ObjectId::ZERO, metadata.len());
                    Ok(())
                }
                Err(e) => Err(e),
            },
            Some(name) if is_spread(kind) => self.list_spread(&self.root.join(name), visit),
            Some(name) => self.list_directory(&self.root.join(name), None, visit),
        };
        match listed {
            Err(e) if e.kind() == io::ErrorKind::NotFound && may_be_missing(kind) => Ok(()),
            other => other.map_err(|source| self.failure("list", format!("every {kind}"), source)),
        }
    }

    fn stat(&self, kind: Kind, id: &ObjectId) -> Result<Stat, BackendError> {
        let (_, path) = self.place(kind, id);
        let stat = || {
            let metadata = fs::symlink_metadata(path)?;
            if !metadata.is_file() {
                return Err(not_regular());
            }
            Ok(Stat { len: metadata.len(), modified: timestamp(metadata.modified()?)? })
        };
        stat().map_err(|source| self.object_failure("look up", kind, id, source))
    }

    fn remove(&self, kind: Kind, id: &ObjectId) -> Result<(), BackendError> {
        let (dir, path) = self.place(kind, id);
        fs::remove_file(path).map_err(|source| self.object_failure("remove", kind, id, source))?;
        self.note_change(&dir);
        Ok(())
    }

    fn include_in_sync(&self, kind: Kind, id: &ObjectId) {
        // The other process flushed the file before it renamed it; its directories may still be to do.
        let (directory, _) = self.place(kind, id);
        self.note_object(kind, &directory);
    }

    fn sync(&self) -> Result<(), BackendError> {
        let _turn = lock(&self.syncing);
        let directories = std::mem::take(&mut *lock(&self.changed));
        for directory in &directories {
            if let Err(source) = sync_directory(directory) {
                // Nothing is known to be durable: the next sync must try all of them again.
                let what = escape_path(directory);
                lock(&self.changed).extend(directories);
                return Err(self.failure("flush", what, source));
            }
        }
        Ok(())
    }

    fn remove_debris(&self, age_seconds: u64, dry_run: bool) -> Result<(u64, u64), BackendError> {
        self.debris(Duration::from_secs(age_seconds), dry_run)
            .map_err(|source| self.failure("remove debris from", TEMPORARY, source))
    }

    fn location(&self) -> String {
        escape_path(&self.root)
    }
}

/// An object that is being written, in its temporary file.
struct Begun<'l> {
    local: &'l Local,
    place: (Kind, ObjectId),
    head: usize,
    file: NamedTempFile,
}

impl Begun<'_> {
    fn failure(&self, source: io::Error) -> BackendError {
        let (kind, id) = &self.place;
        self.local.object_failure("write", *kind, id, source)
    }
}

impl Unfinished for Begun<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        self.file.as_file_mut().write_all(bytes).map_err(|source| self.failure(source))
    }

    fn finish(self: Box<Self>, head: &[u8]) -> Result<(), BackendError> {
        let (local, (kind, id)) = (self.local, self.place);
        if head.len() != self.head {
            return Err(wrong_head(kind, &id, local.location(), head.len(), self.head));
        }
        self.file.as_file().write_all_at(head, 0).map_err(|source| self.failure(source))?;
        local.put(kind, &id, self.file).map_err(|source| local.object_failure("write", kind, &id, source))
    }
}

type Visit<'a> = dyn FnMut(ObjectId, u64) + 'a;

/// Stands for a machine in the names of unfinished files; empty when the machine is not known.
fn machine_tag(machine: &str) -> String {
    if machine.is_empty() { String::new() } else { blake3::hash(machine.as_bytes()).to_hex()[..16].to_owned() }
}

/// The process of this machine that made an unfinished file; `None` when another machine made it, or nobody knows.
fn maker(name: &OsStr, machine: &str) -> Option<u32> {
    let mut parts = name.to_str()?.strip_prefix(TEMPORARY_PREFIX)?.splitn(3, '-');
    let (process, tag) = (parts.next()?.parse().ok()?, parts.next()?);
    (!tag.is_empty() && tag == machine_tag(machine)).then_some(process)
}

/// The directory that holds a kind's objects; the configuration is a file of its own.
fn directory(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::DataPack => "data",
        Kind::MetaPack => "meta",
        Kind::Snapshot => "snapshots",
        Kind::Set => "sets",
        Kind::Tombstone => "tombstones",
        Kind::Lease => "leases",
        Kind::Proof => "proofs",
        Kind::Forgotten => "forgotten",
        Kind::Wal => "wal",
        Kind::Key => KEYS,
        Kind::Config => return None,
    })
}

/// Whether a kind's objects are spread over directories by their first two digits.
fn is_spread(kind: Kind) -> bool {
    matches!(kind, Kind::DataPack | Kind::MetaPack)
}

/// Whether the directory of an object may have been made with it: one of those that a kind is spread over, or the one
/// that repositories of older programs lack.
fn may_be_made(kind: Kind) -> bool {
    is_spread(kind) || kind == Kind::Wal
}

/// Tools that copy a repository may drop its empty directories. But one that always holds something is never taken
/// as empty because it cannot be found: a gc would believe that nothing is needed any more.
fn may_be_missing(kind: Kind) -> bool {
    !matches!(kind, Kind::DataPack | Kind::MetaPack | Kind::Snapshot | Kind::Key)
}

/// The id that an object's file name tells, in the one spelling that this backend writes.
fn parse_name(name: &str) -> Option<ObjectId> {
    if is_lower_hex(name, 2 * ObjectId::LEN) { ObjectId::from_hex(name).ok() } else { None }
}

fn is_lower_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether this is an empty directory of ours, or one that holds only what an attempt to make a repository leaves:
/// keys, which open nothing without a configuration, and unfinished files.
fn is_skeleton(entry: &fs::DirEntry) -> io::Result<bool> {
    let name = entry.file_name();
    let is_ours = |ours: &str| name == ours;
    if !entry.file_type()?.is_dir() || !Kind::ALL.into_iter().filter_map(directory).chain([TEMPORARY]).any(is_ours) {
        return Ok(false);
    }
    for inner in fs::read_dir(entry.path())? {
        let inner = inner?;
        let (file, text) = (inner.file_type()?.is_file(), inner.file_name());
        let expected = match text.to_str() {
            Some(text) if is_ours(KEYS) => parse_name(text).is_some(),
            Some(text) if is_ours(TEMPORARY) => text.starts_with(TEMPORARY_PREFIX),
            _ => false,
        };
        if !file || !expected {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Some of the names in a directory, for people; `None` when nothing is there but what a repository may be made over.
fn contents(path: &Path) -> io::Result<Option<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() != LOST_AND_FOUND && !is_skeleton(&entry)? {
            names.insert(escape(entry.file_name().as_bytes()));
        }
    }
    let shown: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
    let more = names.len() - shown.len();
    Ok(match (names.contains(CONFIG), more) {
        _ if names.is_empty() => None,
        (true, _) => Some("a repository (there is a file named config)".to_owned()),
        (false, 0) => Some(shown.join(", ")),
        (false, _) => Some(format!("{} and {more} more", shown.join(", "))),
    })
}

/// Makes one directory unless it is there. Never its parents: a repository that vanished (a disk that is not mounted)
/// must not begin anew in the mount point.
fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path).and_then(|directory| directory.sync_all()) {
        // Some network file systems have no such operation, and nothing to flush.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

fn not_regular() -> io::Error {
    io::Error::other("it is not a regular file")
}

fn timestamp(time: SystemTime) -> io::Result<Timestamp> {
    Timestamp::try_from(time).map_err(io::Error::other)
}

/// A panic elsewhere leaves these sets whole, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
