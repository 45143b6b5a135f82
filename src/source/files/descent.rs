//! The way from a root down to the directory that is being worked on, with few directories open.
//!
//! The root and the deepest [`OPEN_LEVELS`] directories are open; those between are closed and opened again on the
//! way back, by `..` of the directory below. Whoever moves that directory meanwhile makes its `..` another one: device
//! and inode must therefore be those seen on the way down, else the directory is looked up again by name from the
//! root, and if that gives another one too, it is lost: the caller reports what it still had to do there.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, RawDir, Stat, fstat, openat};
use rustix::io::Errno;

/// Directories that are open at a time, besides the root.
const OPEN_LEVELS: usize = 32;
const NAME_BUFFER: usize = 64 << 10;

/// What a directory is known by.
pub type Identity = (u64, u64);

/// Device and inode.
pub fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Flags for a directory that only names are looked up in.
pub const SEARCH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a directory for reading, without touching its access time where that is allowed.
pub fn open_directory(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat(&parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(&parent, name, flags, Mode::empty()),
        other => other,
    }
}

struct Level {
    handle: Option<Arc<OwnedFd>>,
    identity: Identity,
    /// Length of the path of the directory above.
    above: usize,
    /// False for the parents of a root, which may be symbolic links.
    no_follow: bool,
}

/// A way down.
#[derive(Default)]
pub struct Descent {
    path: Vec<u8>,
    levels: Vec<Level>,
}

impl Descent {
    /// The path of the directory at the bottom.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The path of a name in the directory at the bottom.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(self.path.len() + name.len() + 1);
        path.extend_from_slice(&self.path);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// The directory at the bottom; `None` when it is lost or there is none.
    pub fn bottom(&self) -> Option<&Arc<OwnedFd>> {
        self.levels.last()?.handle.as_ref()
    }

    /// Goes down into a directory that the caller has opened. The first one is the root and has no name.
    pub fn enter(&mut self, name: &[u8], handle: Arc<OwnedFd>, identity: Identity, no_follow: bool) {
        let above = self.path.len();
        if !self.levels.is_empty() {
            self.path = self.path_of(name);
        }
        self.levels.push(Level { handle: Some(handle), identity, above, no_follow });
        if let Some(closing) = self.levels.len().checked_sub(OPEN_LEVELS + 1).filter(|level| *level > 0) {
            self.levels[closing].handle = None;
        }
    }

    /// Goes back up. Afterwards [`Descent::bottom`] is open unless it is lost.
    pub fn leave(&mut self) {
        let Some(left) = self.levels.pop() else { return };
        self.path.truncate(left.above);
        let Some(bottom) = self.levels.last() else { return };
        if bottom.handle.is_none() {
            let expected = bottom.identity;
            let upward = left.handle.and_then(|handle| checked(&handle, b"..", expected, OFlags::NOFOLLOW));
            let found = upward.or_else(|| self.look_up(expected)).map(Arc::new);
            if let Some(bottom) = self.levels.last_mut() {
                bottom.handle = found;
            }
        }
    }

    /// Opens the bottom directory by its names from the root.
    fn look_up(&self, expected: Identity) -> Option<OwnedFd> {
        let mut at = self.levels.first()?.handle.as_ref()?.try_clone().ok()?;
        let mut names = self.path.split(|byte| *byte == b'/');
        for level in &self.levels[1..] {
            let flags = if level.no_follow { OFlags::NOFOLLOW } else { OFlags::empty() };
            at = openat(&at, names.next()?, SEARCH | flags, Mode::empty()).ok()?;
        }
        (identity(&fstat(&at).ok()?) == expected).then_some(at)
    }
}

fn checked(from: &OwnedFd, name: &[u8], expected: Identity, flags: OFlags) -> Option<OwnedFd> {
    let found = openat(from, name, SEARCH | flags, Mode::empty()).ok()?;
    (identity(&fstat(&found).ok()?) == expected).then_some(found)
}

/// The names in one directory, in one piece of memory.
#[derive(Default)]
pub struct Names {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

struct Slot {
    start: usize,
    len: u16,
    kind: FileType,
}

impl Names {
    /// Reads a directory.
    pub fn read(directory: impl AsFd, buffer: &mut Vec<MaybeUninit<u8>>) -> Result<Self, Errno> {
        buffer.resize(NAME_BUFFER, MaybeUninit::uninit());
        let mut names = Names::default();
        let mut listing = RawDir::new(directory, buffer);
        while let Some(found) = listing.next() {
            let found = found?;
            let name = found.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name, found.file_type());
            }
        }
        Ok(names)
    }

    /// Appends a name.
    pub fn push(&mut self, name: &[u8], kind: FileType) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.slots.push(Slot { start, len: name.len() as u16, kind });
    }

    /// Puts them in the order of a tree.
    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        let name = |slot: &Slot| &bytes[slot.start..slot.start + usize::from(slot.len)];
        self.slots.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The name at this position, and what the directory says it is.
    pub fn get(&self, index: usize) -> Option<(&[u8], FileType)> {
        let slot = self.slots.get(index)?;
        Some((&self.bytes[slot.start..slot.start + usize::from(slot.len)], slot.kind))
    }
}
