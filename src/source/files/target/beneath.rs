//! Opens directories beneath a target, and never anything else.
//!
//! `openat2` refuses every symbolic link and every way out. Where the kernel or a sandbox lacks it, each component is
//! opened by itself, without following links. Paths come from the repository; they are checked before
//! ([`crate::format::tree::validate_path`]), and nothing here relies on it.
//!
//! Directories used lately stay open, because thousands of files lie in the same few. An open one stays the directory
//! that it was: whoever puts a symbolic link in its place afterwards changes nothing for us.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

use crate::source::files::descent::SEARCH;
use crate::source::files::xattr::{DEFAULT_ACL, Place};

/// Directories kept open.
const RECENT: usize = 64;
/// A path given to the system in one piece is at most this long, well below `PATH_MAX`…
const PIECE: usize = 2048;
/// …and has at most so many components. The directory at its end stays open too, so that the way from a deep
/// directory to its parent, and on, does not begin at the root each time.
const PIECE_COMPONENTS: usize = 32;

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    /// Good for looking up names, not for reading.
    pub fd: OwnedFd,
    default_acl: OnceLock<bool>,
}

/// The target's root and what lies beneath.
#[derive(Debug)]
pub struct Beneath {
    root: Arc<Directory>,
    /// The most recently used is last.
    recent: Mutex<Vec<(Vec<u8>, Arc<Directory>)>>,
    by_component: AtomicBool,
}

impl Beneath {
    /// Starts at a directory.
    pub fn new(root: OwnedFd) -> Self {
        Beneath {
            root: Arc::new(Directory::new(root)),
            recent: Mutex::new(Vec::with_capacity(RECENT)),
            by_component: AtomicBool::new(false),
        }
    }

    /// Never uses `openat2`, as on a kernel without it.
    pub fn without_openat2(&self) {
        self.by_component.store(true, Ordering::Relaxed);
    }

    /// The root.
    pub fn root(&self) -> &Arc<Directory> {
        &self.root
    }

    /// Opens the directory at this path.
    pub fn directory(&self, path: &[u8]) -> Result<Arc<Directory>, Errno> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        let (known, start) = self.nearest(path);
        if known == path.len() {
            return Ok(start);
        }
        let mut rest = path[known..].strip_prefix(b"/").unwrap_or(&path[known..]);
        let mut at = start;
        while !rest.is_empty() {
            let (piece, behind) = cut(rest);
            at = Arc::new(Directory::new(self.step(&at.fd, piece)?));
            let end = path.len() - behind.len();
            self.keep(path[..end].strip_suffix(b"/").unwrap_or(&path[..end]), &at);
            rest = behind;
        }
        Ok(at)
    }

    fn keep(&self, path: &[u8], directory: &Arc<Directory>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= RECENT {
            recent.remove(0);
        }
        recent.push((path.to_vec(), Arc::clone(directory)));
    }

    /// Opens the directory at this path and makes those on the way that are missing.
    pub fn directory_or_new(&self, path: &[u8]) -> Result<Arc<Directory>, Errno> {
        match self.directory(path) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut parent = Arc::clone(&self.root);
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in slashes.chain([path.len()]) {
            let (here, name) = (&path[..end], split(&path[..end]).1);
            parent = match self.directory(here) {
                Err(Errno::NOENT) => match mkdirat(&parent.fd, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => self.directory(here)?,
                    Err(error) => return Err(error),
                },
                other => other?,
            };
        }
        Ok(parent)
    }

    /// Closes what is open at this path and below, because it is about to be removed.
    pub fn forget(&self, path: &[u8]) {
        let below = |kept: &[u8]| kept.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).retain(|(kept, _)| !below(kept));
    }

    /// The open directory that is nearest above the path, or at it, and the length of its own path.
    fn nearest(&self, path: &[u8]) -> (usize, Arc<Directory>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let leads = |kept: &[u8]| path.strip_prefix(kept).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        let best = recent
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, (kept, _))| leads(kept))
            .max_by_key(|(_, (kept, _))| kept.len())
            .map(|(index, _)| index);
        match best {
            None => (0, Arc::clone(&self.root)),
            Some(index) => {
                let used = recent.remove(index);
                let found = (used.0.len(), Arc::clone(&used.1));
                recent.push(used);
                found
            }
        }
    }

    fn step(&self, from: &OwnedFd, piece: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = SEARCH | OFlags::NOFOLLOW;
        if !self.by_component.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match openat2(from, piece, flags, Mode::empty(), resolve) {
                // Sandboxes that do not know the call answer EPERM, which opening a path cannot give.
                Err(Errno::NOSYS | Errno::PERM) => self.without_openat2(),
                other => return other,
            }
        }
        let mut at: Option<OwnedFd> = None;
        for name in piece.split(|byte| *byte == b'/') {
            if name == b".." {
                return Err(Errno::XDEV);
            }
            at = Some(openat(at.as_ref().unwrap_or(from), name, flags, Mode::empty())?);
        }
        at.ok_or(Errno::NOENT)
    }
}

impl Directory {
    fn new(fd: OwnedFd) -> Self {
        Directory { fd, default_acl: OnceLock::new() }
    }

    /// Whether what is made in it inherits an access list.
    pub fn has_default_acl(&self) -> bool {
        *self.default_acl.get_or_init(|| Place::Open(self.fd.as_fd()).has(DEFAULT_ACL))
    }
}

/// A path's parent and its last component.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// Cuts whole components off the front, as many as make a piece, and at least one.
fn cut(path: &[u8]) -> (&[u8], &[u8]) {
    let slashes = || path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
    let fitting = slashes().take(PIECE_COMPONENTS).take_while(|end| *end <= PIECE).last();
    let end = fitting.or_else(|| slashes().next()).unwrap_or(path.len());
    (&path[..end], path.get(end + 1..).unwrap_or_default())
}
