//! Removes what a restore with `--delete` does not want to keep, and what killed restores left behind.
//!
//! A directory is emptied by names in open directories, never by paths, and symbolic links are removed, not
//! followed: whoever swaps a directory for a link meanwhile makes us remove the link. Other file systems that are
//! mounted in the target are left alone, and so is what the caller spares, with the directories on the way to it. Depth costs no stack and no open files.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Stat, fstat, statat, unlinkat};
use rustix::io::Errno;

use super::beneath::Directory;
use super::{TEMPORARY, Target};
use crate::source::TargetError;
use crate::source::files::descent::{Descent, Names, identity, open_directory};
use crate::source::files::metadata::kind;

/// Whether to remove, or only to count what would be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Remove.
    Apply,
    /// Only count.
    DryRun,
}

/// What was removed, or would be.
#[derive(Debug, Default)]
pub struct Removed {
    /// Entries, those in removed directories included.
    pub entries: u64,
    /// Entries that were spared.
    pub spared: u64,
    /// What could not be removed.
    pub complaints: Vec<TargetError>,
}

/// What is to be removed from a target.
#[derive(Clone, Copy)]
pub struct Extra<'a> {
    /// Whether to remove it.
    pub removal: Removal,
    /// Asked of each path, and whether it is a directory: true for what must stay although nothing names it.
    pub spares: &'a dyn Fn(&[u8], bool) -> bool,
}

struct Emptied {
    names: Names,
    next: usize,
    name: Vec<u8>,
    /// True when something in it stays.
    stays: bool,
}

impl Target {
    /// Removes what is in a directory of the target and not in `keep` (sorted names). `visit` hears the path of each
    /// name removed from this very directory.
    pub fn delete_extra(
        &self,
        path: &[u8],
        keep: &[Vec<u8>],
        extra: Extra<'_>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<Removed, TargetError> {
        self.validate(path)?;
        let refused = |error| self.refused(path, "list", error);
        let directory = match self.beneath.directory(path) {
            Err(Errno::NOENT) => return Ok(Removed::default()),
            other => other.map_err(|error| self.unreachable(path, error))?,
        };
        let mut buffer = Vec::new();
        let listing = open_directory(&directory.fd, b".").map_err(refused)?;
        let mut names = Names::read(&listing, &mut buffer).map_err(refused)?;
        let device = fstat(&listing).map_err(refused)?.st_dev;
        drop(listing);
        if device != fstat(&self.beneath.root().fd).map_err(refused)?.st_dev {
            // The backup may have seen the empty directory beneath the mount.
            return Ok(Removed::default());
        }
        names.sort();
        let mut removed = Removed::default();
        for (name, _) in (0..names.len()).filter_map(|index| names.get(index)) {
            if keep.binary_search_by(|kept| kept.as_slice().cmp(name)).is_err() {
                let below = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
                if extra.removal == Removal::Apply {
                    self.beneath.forget(&below);
                }
                let before = removed.entries;
                Remover { target: self, path: &below, device, extra, removed: &mut removed, buffer: &mut buffer }
                    .remove(directory.fd.as_fd(), name);
                if removed.entries > before {
                    visit(&below);
                }
            }
        }
        Ok(removed)
    }

    /// Removes a directory that is where something else belongs.
    pub fn remove_obstacle(&self, path: &[u8], extra: Extra<'_>) -> Result<Removed, TargetError> {
        let (parent, name) = self.locate_existing(path)?;
        let device = fstat(&parent.fd).map_err(|error| self.refused(path, "read the status of", error))?.st_dev;
        if extra.removal == Removal::Apply {
            self.beneath.forget(path);
        }
        let mut removed = Removed::default();
        Remover { target: self, path, device, extra, removed: &mut removed, buffer: &mut Vec::new() }
            .remove(parent.fd.as_fd(), name);
        Ok(removed)
    }

    /// Removes the temporary files of killed restores from a directory that was there before. Not those of a restore
    /// that is running: only whoever holds the target's lock does this, and it spares its own.
    pub(super) fn remove_debris(&self, directory: &Directory) {
        if !self.exclusive {
            return;
        }
        let Ok(listing) = open_directory(&directory.fd, b".") else { return };
        let Ok(names) = Names::read(&listing, &mut Vec::new()) else { return };
        let debris = |name: &[u8]| {
            name.len() == TEMPORARY.len() + 32
                && name.strip_prefix(TEMPORARY.as_bytes()).is_some_and(|rest| rest.iter().all(u8::is_ascii_hexdigit))
                && !name.starts_with(self.prefix.as_bytes())
        };
        for (name, _) in (0..names.len()).filter_map(|index| names.get(index)).filter(|(name, _)| debris(name)) {
            // What is left of a directory of this name, or not removable, does no harm.
            let _ = unlinkat(&listing, name, AtFlags::empty());
        }
    }
}

struct Remover<'a> {
    target: &'a Target,
    path: &'a [u8],
    device: u64,
    extra: Extra<'a>,
    removed: &'a mut Removed,
    buffer: &'a mut Vec<MaybeUninit<u8>>,
}

impl Remover<'_> {
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &[u8]) {
        let mut descent = Descent::default();
        let mut levels: Vec<Emptied> = Vec::new();
        self.take(parent, name, &mut descent, &mut levels);
        while let Some(level) = levels.last_mut() {
            if let Some((name, _)) = level.names.get(level.next) {
                let name = name.to_vec();
                level.next += 1;
                match descent.bottom().cloned() {
                    Some(bottom) => self.take(bottom.as_fd(), &name, &mut descent, &mut levels),
                    None => self.complain(&descent, "remove what is in", Errno::STALE),
                }
                continue;
            }
            let Some(done) = levels.pop() else { break };
            descent.leave();
            if done.stays {
                continue;
            }
            let above = descent.bottom().cloned();
            let above = above.as_ref().map_or(parent, |above| above.as_fd());
            self.unlink(above, &done.name, &descent, AtFlags::REMOVEDIR);
        }
    }

    /// Removes a name, or goes down into it if it is a directory.
    fn take(&mut self, parent: BorrowedFd<'_>, name: &[u8], descent: &mut Descent, levels: &mut Vec<Emptied>) {
        let status = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => status,
            Err(Errno::NOENT) => return,
            Err(error) => return self.complain(descent, "read the status of what is in", error),
        };
        let is_directory = kind(&status) == FileType::Directory;
        let path = match levels.is_empty() {
            true => self.path.to_vec(),
            false => self.below(&descent.path_of(name)),
        };
        if (self.extra.spares)(&path, is_directory) {
            self.removed.spared += 1;
            levels.iter_mut().for_each(|level| level.stays = true);
            return;
        }
        if !is_directory {
            return self.unlink(parent, name, descent, AtFlags::empty());
        }
        if let Err(error) = self.descend(parent, name, &status, descent, levels) {
            self.complain(descent, "empty a directory in", error);
        }
    }

    fn descend(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        status: &Stat,
        descent: &mut Descent,
        levels: &mut Vec<Emptied>,
    ) -> Result<(), Errno> {
        if status.st_dev != self.device {
            return Err(Errno::XDEV);
        }
        let handle = open_directory(parent, name)?;
        let opened = fstat(&handle)?;
        if identity(&opened) != identity(status) {
            return Err(Errno::STALE);
        }
        let names = Names::read(&handle, self.buffer)?;
        descent.enter(name, Arc::new(handle), identity(&opened), true);
        levels.push(Emptied { names, next: 0, name: name.to_vec(), stays: false });
        Ok(())
    }

    fn unlink(&mut self, parent: BorrowedFd<'_>, name: &[u8], descent: &Descent, flags: AtFlags) {
        let result = match self.extra.removal {
            Removal::Apply => unlinkat(parent, name, flags),
            Removal::DryRun => Ok(()),
        };
        match result {
            Ok(()) => self.removed.entries += 1,
            Err(Errno::NOENT) => {}
            // What is still in it was complained of already.
            Err(Errno::NOTEMPTY) if !self.removed.complaints.is_empty() => {}
            Err(error) => self.complain(descent, "remove something in", error),
        }
    }

    /// The path in the target of what is at this path beneath the removed one.
    fn below(&self, path: &[u8]) -> Vec<u8> {
        if path.is_empty() { self.path.to_vec() } else { [self.path, b"/", path].concat() }
    }

    fn complain(&mut self, descent: &Descent, action: &'static str, error: Errno) {
        let path = self.below(descent.path());
        self.removed.complaints.push(self.target.refused(&path, action, error));
    }
}
