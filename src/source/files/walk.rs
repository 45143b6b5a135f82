//! Walking file trees in the order of a tree's records.
//!
//! Memory: the sorted names of one directory for each level of the current path, and at most [`OPEN_LEVELS`] open
//! directories; those further up are closed and opened again through `..`, which must lead to the directory known by
//! device and inode. An entry that cannot be read is given as [`Node::Unread`] with its error, and never costs its
//! siblings.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use crate::format::tree::{Entry, MAX_TEXT, Node, validate_path};
use crate::source::error::SourceError;
use crate::source::files::metadata::{self, Names, XattrError};
use crate::source::files::patterns::Patterns;
use crate::source::files::read::FileReader;

/// Directories kept open, counted from the deepest.
const OPEN_LEVELS: usize = 64;

/// What is walked.
pub struct WalkOptions {
    /// The roots. Relative ones are taken from the current directory.
    pub roots: Vec<PathBuf>,
    /// What is left out, with all that is in it.
    pub exclude: Patterns,
}

/// One step of a walk.
pub enum Item {
    /// Something found.
    Found(Box<Found>),
    /// Something that could not be read. The entry records it as [`Node::Unread`].
    Failed(Box<Entry>, SourceError),
}

/// Something found, and how to learn more of it.
pub struct Found {
    /// What `stat` tells. Attributes, a link's target and content come later.
    pub entry: Entry,
    directory: Arc<OwnedFd>,
    name: Vec<u8>,
}

/// The wanted part of the directories above the roots.
#[derive(Default)]
struct Wanted {
    all: bool,
    below: BTreeMap<Vec<u8>, Wanted>,
}

struct Level {
    /// Empty for levels that were closed to save descriptors.
    directory: Option<Arc<OwnedFd>>,
    identity: (u64, u64),
    path_len: usize,
    names: std::vec::IntoIter<(Vec<u8>, Option<Wanted>)>,
}

/// Walks roots in the order of [`crate::format::tree::compare_paths`].
pub struct Walk {
    exclude: Patterns,
    names: Names,
    path: Vec<u8>,
    stack: Vec<Level>,
    first: Option<(Arc<OwnedFd>, Wanted)>,
}

impl Walk {
    /// Prepares a walk. Roots that do not exist are returned as errors beside it.
    pub fn new(options: WalkOptions) -> Result<(Self, Vec<PathBuf>, Vec<SourceError>), SourceError> {
        let mut wanted = Wanted::default();
        let (mut roots, mut errors) = (Vec::new(), Vec::new());
        for root in options.roots {
            match resolve(&root) {
                Ok(path) => {
                    wanted.add(&path);
                    roots.push(path);
                }
                Err(source) => errors.push(SourceError::Root { path: root.display().to_string(), source }),
            }
        }
        roots.sort();
        roots.dedup();
        let top = open_directory(CWD, b"/").map_err(|error| SourceError::Unreadable {
            action: "open",
            path: Vec::new(),
            source: error.into(),
        })?;
        let first = if roots.is_empty() { None } else { Some((Arc::new(top), wanted)) };
        let walk =
            Walk { exclude: options.exclude, names: Names::default(), path: Vec::new(), stack: Vec::new(), first };
        Ok((walk, roots, errors))
    }

    fn start(&mut self, top: Arc<OwnedFd>, wanted: Wanted) -> Item {
        let stat = match fstat(&top) {
            Ok(stat) => stat,
            Err(error) => return self.failed("stat", Vec::new(), error),
        };
        let entry = metadata::entry(Vec::new(), &stat, &mut self.names);
        let found = Found { entry, directory: top.clone(), name: b".".to_vec() };
        match self.names_of(&top, wanted) {
            Ok(names) => self.enter(top, &stat, names),
            Err(error) => return self.failed("list", Vec::new(), error),
        }
        Item::Found(Box::new(found))
    }

    fn enter(&mut self, directory: Arc<OwnedFd>, stat: &Stat, names: Vec<(Vec<u8>, Option<Wanted>)>) {
        if let Some(index) = self.stack.len().checked_sub(OPEN_LEVELS) {
            self.stack[index].directory = None;
        }
        self.stack.push(Level {
            directory: Some(directory),
            identity: (stat.st_dev, stat.st_ino),
            path_len: self.path.len(),
            names: names.into_iter(),
        });
    }

    fn names_of(&self, directory: &OwnedFd, wanted: Wanted) -> Result<Vec<(Vec<u8>, Option<Wanted>)>, Errno> {
        if !wanted.all {
            return Ok(wanted.below.into_iter().map(|(name, below)| (name, Some(below))).collect());
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push((name.to_vec(), None));
            }
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    /// Leaves the deepest directory; opens the one above again if it was closed.
    fn leave(&mut self) -> Result<(), Errno> {
        let Some(left) = self.stack.pop() else { return Ok(()) };
        let Some(above) = self.stack.last_mut() else { return Ok(()) };
        self.path.truncate(above.path_len);
        if let (None, Some(directory)) = (&above.directory, &left.directory) {
            let opened = open_directory(directory.as_fd(), b"..")?;
            let stat = fstat(&opened)?;
            if (stat.st_dev, stat.st_ino) != above.identity {
                return Err(Errno::STALE);
            }
            above.directory = Some(Arc::new(opened));
        }
        Ok(())
    }

    fn step(&mut self, directory: Arc<OwnedFd>, name: Vec<u8>, wanted: Option<Wanted>) -> Option<Item> {
        let parent_len = self.path.len();
        if parent_len > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&name);
        let depth = self.stack.len();
        let item = self.visit(directory, name, wanted);
        // A directory that was entered keeps its path; everything else gives it back.
        if self.stack.len() == depth {
            self.path.truncate(parent_len);
        }
        item
    }

    fn visit(&mut self, directory: Arc<OwnedFd>, name: Vec<u8>, wanted: Option<Wanted>) -> Option<Item> {
        let path = self.path.clone();
        if self.exclude.matches(&path) {
            return None;
        }
        if let Err(source) = validate_path(&path) {
            let error = SourceError::Unfit { path: path.clone(), source };
            return Some(Item::Failed(Box::new(unread(path)), error));
        }
        let stat = match statat(&directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(error) => return Some(self.failed("stat", path, error)),
        };
        let entry = metadata::entry(path.clone(), &stat, &mut self.names);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let wanted = wanted.unwrap_or(Wanted { all: true, below: BTreeMap::new() });
            let opened = open_directory(directory.as_fd(), &name).and_then(|opened| {
                let names = self.names_of(&opened, wanted)?;
                Ok((opened, names))
            });
            match opened {
                Ok((opened, names)) => self.enter(Arc::new(opened), &stat, names),
                Err(error) => return Some(self.failed("list", path, error)),
            }
        }
        Some(Item::Found(Box::new(Found { entry, directory, name })))
    }

    fn failed(&self, action: &'static str, path: Vec<u8>, error: Errno) -> Item {
        Item::Failed(Box::new(unread(path.clone())), read_error(action, path, error))
    }
}

impl Iterator for Walk {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if let Some((top, wanted)) = self.first.take() {
            return Some(self.start(top, wanted));
        }
        loop {
            let level = self.stack.last_mut()?;
            let directory = level.directory.clone();
            match (level.names.next(), directory) {
                (Some((name, wanted)), Some(directory)) => {
                    if let Some(item) = self.step(directory, name, wanted) {
                        return Some(item);
                    }
                }
                (Some((name, _)), None) => {
                    let path = [&self.path[..], b"/", &name].concat();
                    return Some(self.failed("reach", path, Errno::STALE));
                }
                // What cannot be reached again is reported name by name, above.
                (None, _) => drop(self.leave()),
            }
        }
    }
}

impl Found {
    /// Reads what `stat` does not tell: attributes, and a link's target.
    pub fn complete(&mut self) -> Result<(), SourceError> {
        let path = || self.entry.path.clone();
        if let Node::Symlink { target } = &mut self.entry.node {
            let read = rustix::fs::readlinkat(&self.directory, self.name.as_slice(), Vec::new());
            let read = read.map_err(|error| read_error("read the link", self.entry.path.clone(), error))?;
            *target = read.into_bytes();
            if target.len() > MAX_TEXT {
                let (found, limit) = (target.len() as u64, MAX_TEXT as u64);
                let source = crate::format::FormatError::TooLarge { what: "symlink target", found, limit };
                return Err(SourceError::Unfit { path: self.entry.path.clone(), source });
            }
        }
        match metadata::xattrs_at(self.directory.as_fd(), &self.name) {
            Ok(xattrs) => self.entry.xattrs = xattrs,
            Err(XattrError::Io(error)) => return Err(read_error("read the attributes of", path(), error)),
            Err(XattrError::Unfit(source)) => return Err(SourceError::Unfit { path: path(), source }),
        }
        Ok(())
    }

    /// Opens a regular file for reading.
    pub fn open(&self) -> Result<FileReader, SourceError> {
        FileReader::open(self.directory.as_fd(), &self.name, &self.entry)
    }
}

impl Wanted {
    fn add(&mut self, path: &Path) {
        let mut here = self;
        for component in path.components() {
            if let std::path::Component::Normal(name) = component {
                here = here.below.entry(name.as_bytes().to_vec()).or_default();
            }
        }
        here.all = true;
    }
}

/// An absolute path without links above its last component.
fn resolve(root: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(root)?;
    let resolved = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => std::fs::canonicalize(parent)?.join(name),
        _ => std::fs::canonicalize(&absolute)?,
    };
    std::fs::symlink_metadata(&resolved)?;
    Ok(resolved)
}

fn open_directory(at: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, OsStr::from_bytes(name), flags, Mode::empty())
}

/// The error for something that was listed before.
pub fn read_error(action: &'static str, path: Vec<u8>, error: Errno) -> SourceError {
    match error {
        Errno::NOENT => SourceError::Vanished { path },
        error => SourceError::Unreadable { action, path, source: error.into() },
    }
}

/// The record of something that could not be read.
pub fn unread(path: Vec<u8>) -> Entry {
    Entry {
        path,
        node: Node::Unread,
        mode: 0,
        owner: Default::default(),
        mtime: Default::default(),
        ctime: Default::default(),
        inode: 0,
        link_device: None,
        unstable: false,
        xattrs: Vec::new(),
    }
}
