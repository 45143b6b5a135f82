//! Writes a tree beneath a directory, from entries that are not trusted.
//!
//! Every path is checked and its parent opened by `target/beneath.rs`, so nothing is written outside of the target
//! and no symbolic link is followed, whatever the repository says, was in the target before, or appears in it
//! meanwhile. A hard link's first name is found in the same way. New directories belong to us alone until
//! [`Target::finish_directory`], so nobody else can interfere in them.
//!
//! Order of calls: [`Target::directory`] before what is in it (parents that nobody announced are made with the mode
//! that the umask gives); files and links in any order and from several threads, a first name before its hard links; at the end
//! [`Target::finish_directory`], a directory after those in it, because whatever is made in it changes its time, and
//! its mode may shut us out.
//!
//! An entry that fails concerns nobody else: the caller notes the error and goes on, unless [`TargetError::is_final`].

mod attributes;
mod beneath;
mod owners;
mod present;
mod remove;
mod writer;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, flock, fstat, linkat, makedev, mkdirat,
    mknodat, openat, readlinkat, renameat, renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

pub use owners::{OwnerIds, OwnerLookup};
pub use remove::{Extra, Removal, Removed};
pub use writer::FileWriter;

use self::attributes::{Surplus, change_mode};
use self::beneath::{Beneath, Directory, split};
use super::descent::{Names, identity, open_directory};
use super::metadata::{kind, modified, node};
use super::xattr::Place;
use crate::format::codec::escape;
use crate::format::tree::{Entry, Node, validate_path};
use crate::source::TargetError;

/// Temporary names begin so; 16 hex digits of the run and 16 of the file follow.
const TEMPORARY: &str = ".cairn-";

/// What to do with what is in the target already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Nothing is ever replaced.
    Never,
    /// What differs is replaced. Who calls asks [`Target::existing`]; here it is as `Always`.
    #[default]
    Changed,
    /// Everything is replaced.
    Always,
}

/// Whether owners are restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnerPolicy {
    /// Only by root.
    #[default]
    Auto,
    /// Always tried; without the privilege each entry gives a complaint.
    Always,
    /// Never: all belongs to whoever restores.
    Never,
}

/// How to restore.
#[derive(Clone, Copy, Debug, Default)]
pub struct TargetOptions {
    /// What may be replaced. A directory that is not empty never is.
    pub overwrite: Overwrite,
    /// Whose the entries are to be.
    pub owner: OwnerPolicy,
    /// How owners are found.
    pub owner_lookup: OwnerLookup,
    /// Write each file out to storage before it is put in its place.
    pub sync: bool,
    /// Opens beneath the target component by component, as on systems without `openat2`.
    pub without_openat2: bool,
}

/// How an entry compares with what is in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is there.
    Absent,
    /// The same type and, for a file, size and time: an earlier restore finished it. A link's target or a device's
    /// numbers are the same.
    Finished,
    /// Something else is there.
    Different,
    /// A directory with something in it is where something else belongs: nothing can be put there.
    Obstructed,
}

/// `Ok`: the entry is in place, without the metadata that the errors name. `Err`: it is not in place.
pub type Outcome = Result<Vec<TargetError>, TargetError>;

/// A directory that entries are restored to. Used from several threads.
#[derive(Debug)]
pub struct Target {
    beneath: Beneath,
    options: TargetOptions,
    name: String,
    is_root: bool,
    owners: OwnerIds,
    /// User and group that new files get, unless their directory has a set-group-id bit.
    identity: (u32, u32),
    /// True while we hold the lock that lets us take temporary files for debris.
    exclusive: bool,
    prefix: String,
    counter: AtomicU64,
    owners_left: AtomicU64,
}

impl Target {
    /// Opens a directory, which is made, for its owner only, if it is not there.
    pub fn open(dir: &Path, options: TargetOptions) -> Result<Self, TargetError> {
        let failed = |action| {
            let path = escape(dir.as_os_str().as_bytes());
            move |source| TargetError::Io { action, path, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed("make the target directory"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, dir, flags, Mode::empty())
            .map_err(|error| failed("open the target directory")(error.into()))?;
        let exclusive = flock(&root, FlockOperation::NonBlockingLockExclusive).is_ok();
        let run = getrandom::u64().map_err(|error| failed("get random bytes for")(std::io::Error::other(error)))?;
        let beneath = Beneath::new(root);
        if options.without_openat2 {
            beneath.without_openat2();
        }
        Ok(Target {
            beneath,
            options,
            name: escape(dir.as_os_str().as_bytes()).trim_end_matches('/').to_owned(),
            is_root: geteuid().is_root(),
            owners: OwnerIds::new(options.owner_lookup),
            identity: (geteuid().as_raw(), getegid().as_raw()),
            exclusive,
            prefix: format!("{TEMPORARY}{run:016x}"),
            counter: AtomicU64::new(0),
            owners_left: AtomicU64::new(0),
        })
    }

    /// Opens a directory if it is there, for a dry run.
    pub fn open_existing(dir: &Path, options: TargetOptions) -> Result<Option<Self>, TargetError> {
        if dir.is_dir() { Self::open(dir, options).map(Some) } else { Ok(None) }
    }

    /// Makes a directory, or takes the one that is there.
    pub fn directory(&self, entry: &Entry) -> Result<(), TargetError> {
        if entry.path.is_empty() {
            self.remove_debris(self.beneath.root());
            return Ok(());
        }
        let (parent, name) = self.locate(&entry.path)?;
        let refused = |error| self.refused(&entry.path, "make the directory", error);
        let make = || {
            mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700))?;
            // An inherited access list may have taken rights away from us.
            if parent.has_default_acl() { change_mode(Place::Named(parent.fd.as_fd(), name), 0o700) } else { Ok(()) }
        };
        match make() {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(refused(error)),
        }
        let there = statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refused)?;
        if kind(&there) == FileType::Directory {
            if !self.is_root && there.st_mode & 0o700 != 0o700 {
                // An earlier restore finished it. If it is not ours, making things in it will tell.
                let _ = change_mode(Place::Named(parent.fd.as_fd(), name), (there.st_mode & 0o7777) | 0o700);
            }
            if let Ok(directory) = self.beneath.directory(&entry.path) {
                self.remove_debris(&directory);
            }
            return Ok(());
        }
        if self.options.overwrite == Overwrite::Never {
            return Err(TargetError::Exists { path: self.shown(&entry.path) });
        }
        unlinkat(&parent.fd, name, AtFlags::empty()).map_err(refused)?;
        make().map_err(refused)
    }

    /// Gives a directory its metadata; to be called when nothing will be made in it any more.
    pub fn finish_directory(&self, entry: &Entry) -> Outcome {
        let refused = |error| self.refused(&entry.path, "open the directory", error);
        let fd = if entry.path.is_empty() {
            open_directory(&self.beneath.root().fd, b".").map_err(refused)?
        } else {
            let (parent, name) = self.locate(&entry.path)?;
            open_directory(&parent.fd, name).map_err(refused)?
        };
        let now = fstat(&fd).map_err(refused)?;
        Ok(self.apply(Place::Open(fd.as_fd()), entry, &now, Surplus::Remove))
    }

    /// Makes a symbolic link, fifo or device. A socket, and what was never read, is [`TargetError::Skipped`].
    pub fn special(&self, entry: &Entry) -> Outcome {
        let private = Mode::from_raw_mode(0o600);
        let device = |parent: &OwnedFd, name: &[u8], kind, major, minor| match (major, minor) {
            // The kernel has 12 and 20 bits for them and would make another device of larger ones.
            (0..=0xfff, 0..=0xf_ffff) => mknodat(parent, name, kind, private, makedev(major, minor)),
            _ => Err(Errno::INVAL),
        };
        let skipped = |what| Err(TargetError::Skipped { path: self.shown(&entry.path), what });
        let make = |parent: &OwnedFd, name: &[u8]| match &entry.node {
            Node::Symlink { target } => symlinkat(target.as_slice(), parent, name),
            Node::Fifo => mknodat(parent, name, FileType::Fifo, private, 0),
            Node::CharDevice { major, minor } => device(parent, name, FileType::CharacterDevice, *major, *minor),
            Node::BlockDevice { major, minor } => device(parent, name, FileType::BlockDevice, *major, *minor),
            _ => Err(Errno::INVAL),
        };
        match entry.node {
            Node::Socket => return skipped("it is a socket, which only the program that listens on it can make"),
            Node::Unread => return skipped("it could not be read when the backup was made"),
            _ => {}
        }
        let (parent, name) = self.locate(&entry.path)?;
        let refused = |error| self.refused(&entry.path, "make", error);
        match make(&parent.fd, name) {
            Ok(()) => self.apply_named(&parent, name, entry),
            Err(Errno::EXIST) => {
                let temporary = self.temporary();
                make(&parent.fd, temporary.as_bytes()).map_err(refused)?;
                let placed = self
                    .apply_named(&parent, temporary.as_bytes(), entry)
                    .and_then(|complaints| self.put(&parent, &temporary, &entry.path).map(|()| complaints));
                if placed.is_err() {
                    let _ = unlinkat(&parent.fd, temporary.as_str(), AtFlags::empty());
                }
                placed
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// Makes a hard link to an entry that was restored before under `first`.
    pub fn hard_link(&self, entry: &Entry, first: &[u8]) -> Result<(), TargetError> {
        let (from, from_name) = self.locate_existing(first)?;
        let (parent, name) = self.locate(&entry.path)?;
        let refused = |error| self.refused(&entry.path, "make the hard link", error);
        let status = |directory: &Directory, name: &[u8]| statat(&directory.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        match linkat(&from.fd, from_name, &parent.fd, name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(refused(error)),
        }
        // Renaming one name of a file over another does nothing, so that case is settled here.
        if let (Ok(a), Ok(b)) = (status(&from, from_name), status(&parent, name))
            && identity(&a) == identity(&b)
        {
            return Ok(());
        }
        let temporary = self.temporary();
        linkat(&from.fd, from_name, &parent.fd, temporary.as_str(), AtFlags::empty()).map_err(refused)?;
        let placed = self.put(&parent, &temporary, &entry.path);
        if placed.is_err() {
            let _ = unlinkat(&parent.fd, temporary.as_str(), AtFlags::empty());
        }
        placed
    }

    /// Compares an entry with what is in its place.
    pub fn existing(&self, entry: &Entry) -> Result<State, TargetError> {
        if entry.path.is_empty() {
            return Ok(if entry.node == Node::Directory { State::Finished } else { State::Different });
        }
        self.validate(&entry.path)?;
        let (above, name) = split(&entry.path);
        let refused = |error| self.refused(&entry.path, "look at", error);
        let parent = match self.beneath.directory(above) {
            Err(Errno::NOENT) => return Ok(State::Absent),
            other => other.map_err(|error| self.unreachable(&entry.path, error))?,
        };
        let there = match statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(State::Absent),
            other => other.map_err(refused)?,
        };
        let same = match &entry.node {
            Node::Symlink { target } => {
                kind(&there) == FileType::Symlink
                    && readlinkat(&parent.fd, name, Vec::new()).is_ok_and(|found| found.as_bytes() == target)
            }
            Node::File { size, .. } => {
                kind(&there) == FileType::RegularFile
                    && u64::try_from(there.st_size) == Ok(*size)
                    && modified(&there) == entry.mtime
            }
            Node::Unread => false,
            other => node(&there) == *other,
        };
        if kind(&there) == FileType::Directory && entry.node != Node::Directory && !is_empty(&parent.fd, name) {
            return Ok(State::Obstructed);
        }
        Ok(if same { State::Finished } else { State::Different })
    }

    /// Opens a restored file for reading, to compare it.
    pub fn read_back(&self, path: &[u8]) -> Result<std::fs::File, TargetError> {
        let (parent, name) = self.locate_existing(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&parent.fd, name, flags, Mode::empty()).map_err(|error| self.refused(path, "open", error))?;
        Ok(std::fs::File::from(file))
    }

    /// Gives what is in an entry's place its metadata, where that differs: for an entry that is
    /// [`State::Finished`], whose content is not written again.
    pub fn refresh(&self, entry: &Entry) -> Outcome {
        if entry.node == Node::Directory {
            return self.finish_directory(entry);
        }
        let (parent, name) = self.locate_existing(&entry.path)?;
        let now = self.status(&parent, name, &entry.path)?;
        Ok(self.apply(Place::Named(parent.fd.as_fd(), name), entry, &now, Surplus::Remove))
    }

    fn apply_named(&self, parent: &Directory, name: &[u8], entry: &Entry) -> Outcome {
        let now = self.status(parent, name, &entry.path)?;
        let surplus = if parent.has_default_acl() { Surplus::Remove } else { Surplus::Ignore };
        Ok(self.apply(Place::Named(parent.fd.as_fd(), name), entry, &now, surplus))
    }

    fn status(&self, parent: &Directory, name: &[u8], path: &[u8]) -> Result<Stat, TargetError> {
        statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.refused(path, "read the status of", error))
    }

    /// Renames a finished temporary file to its own name.
    fn put(&self, parent: &Directory, temporary: &str, path: &[u8]) -> Result<(), TargetError> {
        let (_, name) = split(path);
        let refused = |error| match error {
            Errno::EXIST if self.options.overwrite == Overwrite::Never => {
                TargetError::Exists { path: self.shown(path) }
            }
            Errno::NOTEMPTY | Errno::EXIST => TargetError::DirectoryInTheWay { path: self.shown(path) },
            error => self.refused(path, "put in its place", error),
        };
        let fd = &parent.fd;
        if self.options.overwrite == Overwrite::Never {
            let moved = match renameat_with(fd, temporary, fd, name, RenameFlags::NOREPLACE) {
                // The file system cannot do it in one step.
                Err(Errno::INVAL) => match statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => renameat(fd, temporary, fd, name),
                    Ok(_) => Err(Errno::EXIST),
                    Err(error) => Err(error),
                },
                other => other,
            };
            return moved.map_err(refused);
        }
        match renameat(fd, temporary, fd, name) {
            Err(Errno::ISDIR) => {
                self.beneath.forget(path);
                unlinkat(fd, name, AtFlags::REMOVEDIR).map_err(refused)?;
                renameat(fd, temporary, fd, name).map_err(refused)
            }
            other => other.map_err(refused),
        }
    }

    fn temporary(&self) -> String {
        format!("{}{:016x}", self.prefix, self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// How many entries did not get the owner they should have, because owners are not restored here.
    pub fn owners_left(&self) -> u64 {
        self.owners_left.load(Ordering::Relaxed)
    }

    fn restores_owner(&self) -> bool {
        match self.options.owner {
            OwnerPolicy::Auto => self.is_root,
            OwnerPolicy::Always => true,
            OwnerPolicy::Never => false,
        }
    }

    fn validate(&self, path: &[u8]) -> Result<(), TargetError> {
        validate_path(path).map_err(|source| TargetError::HostilePath { path: escape(path), source })
    }

    /// The open parent of a path, made if it is missing, and the path's name in it.
    fn locate<'p>(&self, path: &'p [u8]) -> Result<(Arc<Directory>, &'p [u8]), TargetError> {
        self.parent(path, |above| self.beneath.directory_or_new(above))
    }

    /// As [`Target::locate`], but nothing is made.
    fn locate_existing<'p>(&self, path: &'p [u8]) -> Result<(Arc<Directory>, &'p [u8]), TargetError> {
        self.parent(path, |above| self.beneath.directory(above))
    }

    fn parent<'p>(
        &self,
        path: &'p [u8],
        open: impl Fn(&[u8]) -> Result<Arc<Directory>, Errno>,
    ) -> Result<(Arc<Directory>, &'p [u8]), TargetError> {
        self.validate(path)?;
        if path.is_empty() {
            return Err(self.refused(path, "replace the target directory", Errno::ISDIR));
        }
        let (above, name) = split(path);
        let parent = open(above).map_err(|error| self.unreachable(path, error))?;
        Ok((parent, name))
    }

    /// The error for a parent that does not open.
    fn unreachable(&self, path: &[u8], error: Errno) -> TargetError {
        match error {
            Errno::LOOP | Errno::NOTDIR | Errno::XDEV => TargetError::ParentInTheWay { path: self.shown(path) },
            error => self.refused(path, "open the directory of", error),
        }
    }

    fn refused(&self, path: &[u8], action: &'static str, error: Errno) -> TargetError {
        TargetError::Io { action, path: self.shown(path), source: error.into() }
    }

    /// A path for people: with the target's.
    fn shown(&self, path: &[u8]) -> String {
        format!("{}/{}", self.name, escape(path))
    }
}

/// Whether a directory has no names. One that cannot be read may have some.
fn is_empty(parent: &OwnedFd, name: &[u8]) -> bool {
    open_directory(parent, name)
        .and_then(|listing| Names::read(&listing, &mut Vec::new()))
        .is_ok_and(|names| names.len() == 0)
}
