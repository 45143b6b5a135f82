//! The content of a mount point in the place of what it held, and back: the directory itself cannot be renamed.
//!
//! Both what is made and what is moved aside are directories within the mount, so that each entry is renamed on one file
//! system. Which entries are the old ones is told by a name, which changes in one rename: while entries are on their way
//! to or from the directory that is aside, it is called `.before-TIME.part`, and what is at the place is old; once it is
//! called `.before-TIME`, all that is old is in it, and what is at the place is the replacement. So a swap that was cut
//! off at any point is undone, twice if need be.
//!
//! Invariant: nothing is moved unless the file system that the swap was planned for is still mounted there.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, RenameFlags, chmodat, renameat_with};

use super::{Swap, identity, is_ours, look, moved, real};
use crate::format::codec::escape_path;
use crate::source::SourceError;

/// What every file system of some kinds has, and what is of no use elsewhere.
const LOST_AND_FOUND: &str = "lost+found";
/// So many names may be in a directory whose content is moved: those of a data directory are few.
const MAX_NAMES: usize = 100_000;
/// The list of mounts is at most this long.
const MAX_MOUNTS: u64 = 16 << 20;

/// Whether a name in a mount point stays there, whatever is put in its place.
pub fn stays(name: &OsStr) -> bool {
    name == LOST_AND_FOUND || is_ours(&name.to_string_lossy())
}

/// The names of what belongs to a directory, sorted: without what stays in it.
pub fn names(directory: &Path) -> Result<Vec<OsString>, SourceError> {
    let failed = || SourceError::when("list", directory);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        if !stays(&name) {
            names.push(name);
        }
        if names.len() > MAX_NAMES {
            let what = format!("it has more than {MAX_NAMES} names, so it is no data directory");
            return Err(SourceError::Answer { server: escape_path(directory), what });
        }
    }
    names.sort();
    Ok(names)
}

/// Where file systems are mounted, as this process sees it. A bind mount is on the same device as what is around it.
pub fn mount_points() -> Result<Vec<PathBuf>, SourceError> {
    use std::io::Read;
    let list = Path::new("/proc/self/mountinfo");
    let mut bytes = Vec::new();
    File::open(list)
        .and_then(|file| file.take(MAX_MOUNTS).read_to_end(&mut bytes))
        .map_err(SourceError::when("read", list))?;
    let point = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescaped);
    Ok(bytes.split(|byte| *byte == b'\n').filter_map(point).collect())
}

/// The kernel writes a space, a tab, a line feed and a backslash as `\` and three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let code = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match (*first == b'\\').then(|| after.get(..3).and_then(code)).flatten() {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Whether something is mounted at a place; `None` where nothing is there.
pub fn is_mount_point(place: &Path) -> Result<bool, SourceError> {
    let (Some(there), Some(parent)) = (look(place)?, place.parent()) else { return Ok(false) };
    if there.is_symlink() {
        return Ok(false);
    }
    let above = fs::metadata(parent).map_err(SourceError::when("look at", parent))?;
    Ok(there.dev() != above.dev() || mount_points()?.contains(&real(place)?))
}

/// What is mounted in a mount point, and so cannot be moved.
pub fn mounted_within(place: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let place = real(place)?;
    let within = |point: &PathBuf| point.parent() == Some(place.as_path());
    Ok(mount_points()?.into_iter().filter(within).collect())
}

/// The entry by which a replacement is known again wherever it is: a directory, if there is one, since servers write
/// files anew.
pub fn known_by(directory: &Path) -> Result<Option<(u64, u64)>, SourceError> {
    let (mut first, mut directories) = (None, None);
    for name in names(directory)? {
        let Some(found) = look(&directory.join(name))? else { continue };
        first.get_or_insert(identity(&found));
        if found.is_dir() {
            directories.get_or_insert(identity(&found));
        }
    }
    Ok(directories.or(first))
}

impl Swap {
    /// While the old entries are on their way, to or from where they are aside.
    fn on_the_way(&self) -> PathBuf {
        let mut name = self.aside.clone().into_os_string();
        name.push(".part");
        name.into()
    }

    /// That the mount point is what it was when the swap was planned: on a machine that has booted since, the disk may
    /// not be mounted yet, and what is there then is another directory.
    pub(super) fn still_mounted(&self, inode: u64) -> Result<(), SourceError> {
        if look(&self.place)?.is_some_and(|found| found.ino() == inode) {
            return Ok(());
        }
        let what = "the file system that was mounted there is not: mount it, then go on".to_owned();
        Err(SourceError::Answer { server: escape_path(&self.place), what })
    }

    pub(super) fn put_content_in(&self, inode: u64) -> Result<bool, SourceError> {
        self.still_mounted(inode)?;
        if look(&self.aside)?.is_some() {
            let what = "it is there already, and nothing is put over it".to_owned();
            return Err(SourceError::Answer { server: escape_path(&self.aside), what });
        }
        let part = self.on_the_way();
        DirBuilder::new().mode(0o700).create(&part).map_err(SourceError::when("make", &part))?;
        like(&self.place, &part)?;
        all_moved(&self.place, &part)?;
        moved(&part, &self.aside)?;
        if self.made.is_some() {
            all_moved(&self.staged, &self.place)?;
            like(&self.staged, &self.place)?;
            flushed(&self.place)?;
            self.discard_staged()?;
        }
        Ok(true)
    }

    pub(super) fn content_is_in(&self, inode: u64) -> Result<bool, SourceError> {
        self.still_mounted(inode)?;
        Ok(look(&self.aside)?.is_some() || look(&self.on_the_way())?.is_some())
    }

    pub(super) fn take_content_back(&self, inode: u64) -> Result<bool, SourceError> {
        self.still_mounted(inode)?;
        let part = self.on_the_way();
        if look(&self.aside)?.is_some() {
            self.replacement_out()?;
            like(&self.aside, &self.place)?;
            flushed(&self.place)?;
            moved(&self.aside, &part)?;
        }
        let changed = look(&part)?.is_some();
        if changed {
            all_moved(&part, &self.place)?;
            fs::remove_dir(&part).map_err(SourceError::when("remove", &part))?;
        }
        self.discard_staged()?;
        Ok(changed)
    }

    /// Moves the replacement to where it was made, if it is the replacement that is there.
    fn replacement_out(&self) -> Result<(), SourceError> {
        if names(&self.place)?.is_empty() {
            return Ok(());
        }
        let there = look(&self.staged)?.is_some();
        if !there {
            let made = DirBuilder::new().mode(0o700).create(&self.staged);
            made.map_err(SourceError::when("make", &self.staged))?;
        }
        let is_made = |directory: &Path| -> Result<bool, SourceError> {
            let mut all = names(directory)?.into_iter().map(|name| look(&directory.join(name)));
            Ok(all.any(|found| matches!(found, Ok(Some(found)) if self.made == Some(identity(&found)))))
        };
        if !is_made(&self.place)? && !is_made(&self.staged)? {
            return Err(self.somebody_elses());
        }
        all_moved(&self.place, &self.staged)
    }
}

/// Renames all that belongs to a directory into another of the same file system, never over something, and durably.
fn all_moved(from: &Path, to: &Path) -> Result<(), SourceError> {
    for name in names(from)? {
        let (old, new) = (from.join(&name), to.join(&name));
        renameat_with(CWD, &old, CWD, &new, RenameFlags::NOREPLACE)
            .map_err(|error| SourceError::when("move to its place", &old)(error.into()))?;
    }
    flushed(from)?;
    flushed(to)
}

/// Gives a directory the owner and mode of another.
pub fn like(from: &Path, to: &Path) -> Result<(), SourceError> {
    let found = fs::metadata(from).map_err(SourceError::when("look at", from))?;
    chown(to, Some(found.uid()), Some(found.gid())).map_err(SourceError::when("give its owner to", to))?;
    chmodat(CWD, to, Mode::from_raw_mode(found.mode() & 0o7777), rustix::fs::AtFlags::empty())
        .map_err(|error| SourceError::when("set the mode of", to)(error.into()))
}

fn flushed(directory: &Path) -> Result<(), SourceError> {
    match File::open(directory).and_then(|directory| directory.sync_all()) {
        // What was moved out of a directory that is gone is where it is.
        Err(error) if error.kind() != ErrorKind::NotFound => Err(SourceError::when("flush", directory)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn names_of_mount_points_are_read_as_the_kernel_writes_them() {
        for (written, meant) in [
            ("/plain", "/plain"),
            (r"/with\040space", "/with space"),
            (r"/back\134slash\012", "/back\\slash\n"),
            (r"/cut\04", r"/cut\04"),
            (r"/none\999", r"/none\999"),
        ] {
            assert_eq!(unescaped(written.as_bytes()).to_str(), Some(meant));
        }
    }
}
