//! Gives what was restored its owner, extended attributes, mode and times, in this order.
//!
//! The order is a matter of safety. A set-id bit must not be there while the file belongs to somebody else, so the
//! owner comes first, and if it cannot be had, the bit is left off. A change of owner also clears capabilities, which
//! are an extended attribute. The mode may take away our own right to set attributes, so it comes after them. Each
//! change moves the times, so they are last. What is right already is left alone: most files need two calls.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, chmod, chownat, fchmod, fchown, futimens,
    openat, utimensat,
};
use rustix::io::Errno;

use super::Target;
use crate::format::codec::escape;
use crate::format::tree::{Entry, FileTime, Node};
use crate::source::TargetError;
use crate::source::files::metadata;
use crate::source::files::xattr::{ACCESS_ACL, Place};

/// What to do about attributes that the entry does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surplus {
    /// Nothing: there can be none, because the file is new.
    Ignore,
    /// Remove them: the file inherited an access list, or was there before.
    Remove,
}

impl Target {
    /// Applies an entry's metadata to what is at `place` and has the status `now`; returns what was not possible.
    pub(super) fn apply(&self, place: Place<'_>, entry: &Entry, now: &Stat, surplus: Surplus) -> Vec<TargetError> {
        let mut complaints = Vec::new();
        let mut complain = |action: String, error: Errno| {
            complaints.push(TargetError::Metadata { action, path: self.shown(&entry.path), source: error.into() });
        };
        let (wanted, mut owner) = (self.owners.of(&entry.owner), (now.st_uid, now.st_gid));
        let mut settled = true;
        if owner != wanted && !self.restores_owner() {
            self.owners_left.fetch_add(1, Ordering::Relaxed);
        } else if owner != wanted {
            match change_owner(place, wanted.0, wanted.1) {
                Ok(()) => (owner, settled) = (wanted, false),
                Err(error) => complain(format!("give it to user {} and group {}", wanted.0, wanted.1), error),
            }
        }
        for (action, error) in apply_xattrs(place, entry, surplus) {
            complain(action, error);
        }
        settled &= !entry.xattrs.iter().any(|(name, _)| name == ACCESS_ACL);
        if !matches!(entry.node, Node::Symlink { .. }) {
            let mode = safe_mode(entry, owner, wanted);
            if mode != entry.mode {
                complain("set its set-id bits, because it has another owner than it had".to_owned(), Errno::PERM);
            }
            if (!settled || mode != now.st_mode & 0o7777)
                && let Err(error) = change_mode(place, mode)
            {
                complain(format!("set its mode to {mode:04o}"), error);
            }
        }
        if metadata::modified(now) != entry.mtime
            && let Err(error) = change_time(place, entry.mtime)
        {
            complain("set its time".to_owned(), error);
        }
        complaints
    }
}

/// The mode without set-id bits that would act for somebody else than they did.
fn safe_mode(entry: &Entry, (uid, gid): (u32, u32), wanted: (u32, u32)) -> u32 {
    let mut mode = entry.mode & 0o7777;
    if entry.node != Node::Directory {
        mode &= if uid == wanted.0 { 0o7777 } else { !0o4000 };
        mode &= if gid == wanted.1 { 0o7777 } else { !0o2000 };
    }
    mode
}

fn change_owner(place: Place<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    // The system takes the highest id for "unchanged".
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    match place {
        Place::Open(fd) => fchown(fd, uid, gid),
        Place::Named(directory, name) => chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
    }
}

/// Sets a mode. A name is opened as a path first: changing the mode of a name would follow a symbolic link.
pub fn change_mode(place: Place<'_>, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    match place {
        Place::Open(fd) => fchmod(fd, mode),
        Place::Named(directory, name) => {
            let fd = openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode)
        }
    }
}

fn change_time(place: Place<'_>, time: FileTime) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.min(999_999_999).into() },
    };
    match place {
        Place::Open(fd) => futimens(fd, &times),
        Place::Named(directory, name) => utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW),
    }
}

fn apply_xattrs(place: Place<'_>, entry: &Entry, surplus: Surplus) -> Vec<(String, Errno)> {
    let mut failed = Vec::new();
    let present = match surplus {
        Surplus::Ignore => Vec::new(),
        Surplus::Remove => place.read().0,
    };
    for (name, _) in &present {
        let ours = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
        let wanted = entry.xattrs.iter().any(|(wanted, _)| wanted == name);
        if ours
            && !wanted
            && let Err(error) = place.remove(name)
        {
            failed.push((format!("remove its attribute {}", escape(name)), error));
        }
    }
    for wanted in &entry.xattrs {
        if !present.contains(wanted)
            && let Err(error) = place.set(&wanted.0, &wanted.1)
        {
            failed.push((format!("set its attribute {}", escape(&wanted.0)), error));
        }
    }
    failed
}
