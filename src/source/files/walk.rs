//! Reads a file tree in the order of the tree format, one entry at a time.
//!
//! The entries are the directories on the way to the roots, the roots, and all below them that is not excluded. What
//! cannot be read is told as [`Missed`], with an entry to be recorded, and the walk goes on with the next name: it
//! never drops a parent or a sibling. Nothing but directories is opened. An excluded directory is not opened either;
//! the roots themselves and their parents are never excluded, because they were asked for by name.
//!
//! A directory is listed whole before its entry is given out, so an entry of type directory means that its names were
//! read. Between the listing and the look at each name anything may happen: a name that is gone is
//! [`SourceError::Vanished`], one that has become another kind of file is taken for what it is now.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::descent::{Descent, Names, SEARCH, identity, open_directory};
use super::metadata::{self, Owners};
use super::mounts::FileSystems;
use super::patterns::Patterns;
use super::plan::Plan;
use super::reader::FileReader;
use super::xattr::{Failure, Place};
use crate::format::tree::{Entry, MAX_COMPONENT, MAX_PATH, MAX_TEXT, Node};
use crate::source::SourceError;
use crate::source::error::shown;

/// What to walk.
#[derive(Clone, Debug, Default)]
pub struct WalkOptions {
    /// Files and directories; relative ones are taken from the working directory. A root inside another root, or
    /// given twice, is walked once.
    pub roots: Vec<PathBuf>,
    /// What to leave out.
    pub excludes: Patterns,
    /// Leave out what lies on other file systems than the roots. The directory it is mounted on is an entry.
    pub one_file_system: bool,
}

/// An entry that could be read.
///
/// It keeps its directory open, so whoever collects many of them should keep an eye on open files.
#[derive(Debug)]
pub struct Found {
    /// All but the extended attributes ([`Found::complete`] reads them) and, for a file, the content: size is as in
    /// the file's status, `extents` is `None` and `content` empty.
    pub entry: Entry,
    /// The parent; a directory itself when it is one.
    handle: Arc<OwnedFd>,
    device: u64,
}

/// Something that could not be read.
#[derive(Debug)]
pub struct Missed {
    /// What is to be recorded, of type [`Node::Unread`]; `None` when the format cannot even hold its path.
    pub entry: Option<Entry>,
    /// Why.
    pub error: SourceError,
}

impl Found {
    /// Reads the extended attributes. After an error the entry has those that could be read.
    ///
    /// This is not done by the walk because an unchanged file needs none: a change of an attribute changes `ctime`.
    pub fn complete(&mut self) -> Result<(), SourceError> {
        let place = match self.entry.node {
            Node::Directory => Place::Open(self.handle.as_fd()),
            _ => Place::Named(self.handle.as_fd(), self.entry.name()),
        };
        let (xattrs, failure) = place.read();
        self.entry.xattrs = xattrs;
        let action = "read the extended attributes of";
        match failure {
            None => Ok(()),
            Some(Failure::System(error)) => Err(SourceError::system(action, &self.entry.path, error)),
            Some(Failure::TooMany { what, found, limit }) => {
                Err(SourceError::Unrecordable { path: shown(&self.entry.path), what, found, limit })
            }
        }
    }

    /// Opens a regular file. The entry's status becomes that of the open file, which may have changed since the walk
    /// came by; if another file has taken its place, that is an error.
    pub fn open(&mut self) -> Result<FileReader, SourceError> {
        let reader = FileReader::open(&self.handle, &self.entry, self.device)?;
        reader.refresh(&mut self.entry);
        Ok(reader)
    }

    /// This entry as one that could not be read.
    pub fn into_unread(self) -> Entry {
        Entry { node: Node::Unread, ..self.entry }
    }
}

struct Siblings {
    names: Names,
    next: usize,
    /// On the way to roots: which names, and what lies below. `None` at and below a root.
    plan: Option<Plan>,
}

/// The walk: an iterator over all entries.
pub struct Walk {
    plan: Option<Plan>,
    excludes: Patterns,
    /// `None`: every one.
    file_systems: Option<FileSystems>,
    descent: Descent,
    levels: Vec<Siblings>,
    owners: Owners,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Walk {
    /// Prepares a walk. Fails only when a root's path cannot be made absolute; one that is not there is missed later.
    pub fn new(options: WalkOptions) -> Result<Self, SourceError> {
        Ok(Walk {
            plan: Some(Plan::new(&options.roots)?),
            excludes: options.excludes,
            file_systems: options.one_file_system.then(|| FileSystems::of(&options.roots)).transpose()?,
            descent: Descent::default(),
            levels: Vec::new(),
            owners: Owners::default(),
            buffer: Vec::new(),
        })
    }

    /// The root directory of the machine, which every walk begins with.
    fn start(&mut self, plan: Plan) -> Result<Found, Box<Missed>> {
        self.directory(CWD.as_fd(), b"/", (!plan.whole).then_some(plan))
            .map_err(|error| missed(metadata::unread(Vec::new()), "open", error))
    }

    /// Opens and lists a directory, and goes down into it.
    fn directory(
        &mut self,
        parent: std::os::fd::BorrowedFd<'_>,
        name: &[u8],
        plan: Option<Plan>,
    ) -> Result<Found, Errno> {
        let (handle, names) = match &plan {
            Some(plan) => {
                let mut names = Names::default();
                for name in plan.below.keys() {
                    names.push(name, FileType::Unknown);
                }
                (openat(parent, name, SEARCH, Mode::empty())?, names)
            }
            None => {
                let handle = open_directory(parent, name)?;
                let names = self.names(&handle, name)?;
                (handle, names)
            }
        };
        let stat = fstat(&handle)?;
        let handle = Arc::new(handle);
        self.descent.enter(name, Arc::clone(&handle), identity(&stat), plan.is_none());
        self.levels.push(Siblings { names, next: 0, plan });
        let entry = self.owners.entry(self.descent.path().to_vec(), &stat, Node::Directory);
        Ok(Found { entry, handle, device: stat.st_dev })
    }

    /// The names in a directory, in order.
    fn names(&mut self, handle: &OwnedFd, name: &[u8]) -> Result<Names, Errno> {
        if let Some(file_systems) = &self.file_systems
            && !file_systems.contain(fstat(handle)?.st_dev)
        {
            let mut names = Names::default();
            for name in file_systems.names_towards_roots(&self.descent.path_of(name)) {
                names.push(name, FileType::Unknown);
            }
            return Ok(names);
        }
        let mut names = Names::read(handle, &mut self.buffer)?;
        names.sort();
        Ok(names)
    }

    /// Looks at one name; `None` when it is excluded.
    fn visit(&mut self, name: &[u8], listed: FileType, plan: Option<Plan>) -> Option<Result<Found, Box<Missed>>> {
        let path = self.descent.path_of(name);
        if let Err(missed) = recordable(&path, name) {
            return Some(Err(missed));
        }
        let Some(parent) = self.descent.bottom().cloned() else {
            let (path, what) = (shown(&path), "its directory was moved away");
            let entry = metadata::unread(self.descent.path_of(name));
            return Some(Err(Box::new(Missed { entry: Some(entry), error: SourceError::Changed { path, what } })));
        };
        let mut on_the_way = plan.as_ref().is_some_and(|plan| !plan.whole);
        let by_name = plan.is_some();
        let mut status: Option<Stat> = None;
        let mut kind = if on_the_way { FileType::Directory } else { listed };
        if kind == FileType::Unknown {
            match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => kind = metadata::kind(status.insert(stat)),
                Err(error) => return Some(Err(missed(metadata::unread(path), "read the status of", error))),
            }
        }
        if kind == FileType::Symlink && plan.as_ref().is_some_and(|plan| !plan.below.is_empty()) {
            (on_the_way, kind) = (true, FileType::Directory);
        }
        if !by_name && self.excludes.matches(&path, kind == FileType::Directory) {
            return None;
        }
        if kind == FileType::Directory {
            match self.directory(parent.as_fd(), name, plan.filter(|_| on_the_way)) {
                Ok(found) => return Some(Ok(found)),
                // It was a directory when it was listed and is something else now.
                Err(Errno::NOTDIR | Errno::LOOP) if !on_the_way => status = None,
                Err(error) => {
                    let entry = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => self.owners.entry(path, &stat, Node::Unread),
                        Err(_) => metadata::unread(path),
                    };
                    return Some(Err(missed(entry, "read the directory", error)));
                }
            }
        }
        Some(self.leaf(parent, path, name, status))
    }

    /// Anything but a directory.
    fn leaf(
        &mut self,
        parent: Arc<OwnedFd>,
        path: Vec<u8>,
        name: &[u8],
        status: Option<Stat>,
    ) -> Result<Found, Box<Missed>> {
        let stat = match status.map_or_else(|| statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW), Ok) {
            Ok(stat) => stat,
            Err(error) => return Err(missed(metadata::unread(path), "read the status of", error)),
        };
        let node = match metadata::kind(&stat) {
            FileType::Symlink => match readlinkat(&parent, name, Vec::new()) {
                Ok(target) if target.as_bytes().len() > MAX_TEXT => {
                    let (found, limit) = (target.as_bytes().len(), MAX_TEXT);
                    let what = "the length of its target";
                    let error = SourceError::Unrecordable { path: shown(&path), what, found, limit };
                    return Err(Box::new(Missed { entry: Some(self.owners.entry(path, &stat, Node::Unread)), error }));
                }
                Ok(target) => Node::Symlink { target: target.into_bytes() },
                Err(error) => return Err(missed(self.owners.entry(path, &stat, Node::Unread), "read", error)),
            },
            FileType::Directory | FileType::Unknown => {
                let error = SourceError::Changed { path: shown(&path), what: "it became another kind of file" };
                return Err(Box::new(Missed { entry: Some(self.owners.entry(path, &stat, Node::Unread)), error }));
            }
            _ => metadata::node(&stat),
        };
        Ok(Found { entry: self.owners.entry(path, &stat, node), handle: parent, device: stat.st_dev })
    }
}

impl Iterator for Walk {
    type Item = Result<Found, Box<Missed>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(plan) = self.plan.take() {
            return Some(self.start(plan));
        }
        loop {
            let siblings = self.levels.last_mut()?;
            let Some((name, kind)) = siblings.names.get(siblings.next) else {
                self.levels.pop();
                self.descent.leave();
                continue;
            };
            let name = name.to_vec();
            siblings.next += 1;
            let plan = siblings.plan.as_mut().and_then(|plan| plan.below.remove(&name));
            if let Some(item) = self.visit(&name, kind, plan) {
                return Some(item);
            }
        }
    }
}

fn missed(entry: Entry, action: &'static str, error: Errno) -> Box<Missed> {
    Box::new(Missed { error: SourceError::system(action, &entry.path, error), entry: Some(entry) })
}

/// Refuses paths that the format cannot hold, of which nothing can be recorded.
fn recordable(path: &[u8], name: &[u8]) -> Result<(), Box<Missed>> {
    let limits =
        [("the length of its name", name.len(), MAX_COMPONENT), ("the length of its path", path.len(), MAX_PATH)];
    match limits.into_iter().find(|(_, found, limit)| found > limit) {
        None => Ok(()),
        Some((what, found, limit)) => {
            let error = SourceError::Unrecordable { path: shown(path), what, found, limit };
            Err(Box::new(Missed { entry: None, error }))
        }
    }
}
