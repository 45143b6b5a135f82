//! A file or directory put whole in the place of another, and back; of a mount point its content (`content.rs`).
//!
//! Invariants: what was at the place is never removed: it stays beside it, under a name of its own, until somebody
//! discards it. Nothing is ever renamed over a name that exists. Taking a replacement away again removes only what was
//! put there: the very directory that was made for it, known by its device and inode, and not something that an
//! operator has put in its place since. Each step can be done twice, so a swap that was cut off at any point is undone.

mod content;

pub use content::like;

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::format::codec::escape_path;
use crate::format::tree::Entry;
use crate::source::SourceError;
use crate::source::files::OwnerLookup;
use crate::source::files::target::OwnerIds;

/// What the names of replacements contain, before they are in their place.
const STAGED: &str = ".cairn-new-";
/// What the names contain of what was moved aside.
const ASIDE: &str = ".before-";
/// What stays in a mount point whatever is put in its place, as globs: it belongs to nobody who works there.
pub const STAYING: [&str; 3] = [".cairn-new-*", ".before-*", "lost+found"];

/// A replacement and its place. The paths are those of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// The place.
    pub place: PathBuf,
    /// Where the replacement is made: beside the place, so that it is on the same file system.
    pub staged: PathBuf,
    /// Where what was at the place goes.
    pub aside: PathBuf,
    /// The replacement's device and inode, or those of an entry in it where the content is exchanged; none before it was
    /// made.
    pub made: Option<(u64, u64)>,
    /// Where the place is a mount point, whose content is exchanged: the inode of what is mounted there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<u64>,
}

impl Swap {
    /// A swap at a place; `mark` tells the runs of a machine apart.
    pub fn plan(place: &Path, mark: &str) -> Result<Self, SourceError> {
        if place.is_dir() && content::is_mount_point(place)? {
            return Swap::within(place, mark);
        }
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
            let why = "a whole file system cannot be put aside; name a directory in it".to_owned();
            return Err(SourceError::Setting { setting: escape_path(place), why });
        };
        let named = |before: &str, between: &str| {
            let mut new = std::ffi::OsString::from(before);
            new.push(name);
            new.push(between);
            new.push(mark);
            parent.join(new)
        };
        let (staged, aside) = (named(".", STAGED), named("", ASIDE));
        Ok(Swap { place: place.to_owned(), staged, aside, made: None, mount: None })
    }

    /// A swap of the content of a directory that cannot be renamed itself.
    pub fn within(place: &Path, mark: &str) -> Result<Self, SourceError> {
        let found = fs::metadata(place).map_err(SourceError::when("look at", place))?;
        Ok(Swap {
            place: place.to_owned(),
            staged: place.join(format!("{STAGED}{mark}")),
            aside: place.join(format!("{ASIDE}{mark}")),
            made: None,
            mount: Some(found.ino()),
        })
    }

    /// Makes the directory that the place is in, where it is missing.
    pub fn prepare(&self) -> Result<(), SourceError> {
        let parent = self.place.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(SourceError::when("make", parent))
    }

    /// The directories that the place is in and that are missing, the outermost first; with each how many steps above the
    /// place it is.
    pub fn missing_above(&self) -> Vec<(usize, PathBuf)> {
        let above = self.place.ancestors().enumerate().skip(1);
        let mut missing: Vec<(usize, PathBuf)> =
            above.take_while(|(_, path)| !path.exists()).map(|(steps, path)| (steps, path.to_owned())).collect();
        missing.reverse();
        missing
    }

    /// To be called when the replacement is there as a whole: from now on it is known again wherever it is.
    pub fn made(mut self) -> Result<Self, SourceError> {
        let found = fs::symlink_metadata(&self.staged).map_err(SourceError::when("look at", &self.staged))?;
        let entry = if self.mount.is_some() { content::known_by(&self.staged)? } else { None };
        self.made = Some(entry.unwrap_or_else(|| identity(&found)));
        Ok(self)
    }

    /// Moves what is at the place aside and the replacement there. Whether there was something.
    pub fn put_in(&self) -> Result<bool, SourceError> {
        if let Some(inode) = self.mount {
            return self.put_content_in(inode);
        }
        let old = look(&self.place)?;
        if old.is_some() {
            moved(&self.place, &self.aside)?;
        }
        // Where nothing takes its place, it is only put aside.
        if self.made.is_some() {
            moved(&self.staged, &self.place)?;
        }
        Ok(old.is_some())
    }

    /// A single file that was written into a directory of its own at [`Swap::staged`] takes that directory's place.
    pub fn lift(&self) -> Result<(), SourceError> {
        let Some(name) = self.place.file_name() else { return Ok(()) };
        let lifted = self.lifted();
        moved(&self.staged.join(name), &lifted)?;
        fs::remove_dir(&self.staged).map_err(SourceError::when("remove", &self.staged))?;
        moved(&lifted, &self.staged)
    }

    fn lifted(&self) -> PathBuf {
        let mut name = self.staged.clone().into_os_string();
        name.push("-lifted");
        name.into()
    }

    /// Why what is at the place cannot be moved aside; `None` if it can.
    pub fn obstacle(&self) -> Result<Option<String>, SourceError> {
        let Some(there) = look(&self.place)? else { return Ok(None) };
        if self.mount.is_some() {
            let within = content::mounted_within(&self.place)?;
            let shown: Vec<String> = within.iter().map(|point| escape_path(point)).collect();
            return Ok((!within.is_empty()).then(|| {
                let (place, shown) = (escape_path(&self.place), shown.join(", "));
                format!("in the mount point {place} something else is mounted, which cannot be moved aside: {shown}")
            }));
        }
        let why = match () {
            () if there.is_symlink() => "a symbolic link",
            () if content::is_mount_point(&self.place)? => "a file that is a mount point",
            () => return Ok(None),
        };
        Ok(Some(format!(
            "{} is {why}, which cannot be moved aside: name a directory of its own",
            escape_path(&self.place)
        )))
    }

    /// Whether [`Swap::take_back`] has something to move: then whoever works at the place must be stopped before.
    pub fn is_in(&self) -> Result<bool, SourceError> {
        if let Some(inode) = self.mount {
            return self.content_is_in(inode);
        }
        Ok(match look(&self.place)? {
            Some(found) => self.made == Some(identity(&found)),
            None => look(&self.aside)?.is_some(),
        })
    }

    /// Puts back what was at the place, and removes the replacement. Repeatable, wherever it was cut off.
    pub fn take_back(&self) -> Result<bool, SourceError> {
        if let Some(inode) = self.mount {
            return self.take_content_back(inode);
        }
        let aside = look(&self.aside)?;
        match look(&self.place)? {
            Some(found) if self.made == Some(identity(&found)) => {
                // Away from the place first: who is cut off while it is removed must not find half of it there.
                moved(&self.place, &self.staged)?;
            }
            Some(_) if aside.is_some() => return Err(self.somebody_elses()),
            Some(_) => return self.discard_staged().map(|()| false),
            None => {}
        }
        if aside.is_some() {
            moved(&self.aside, &self.place)?;
        }
        self.discard_staged()?;
        Ok(true)
    }

    fn somebody_elses(&self) -> SourceError {
        let what = format!(
            "something else is there than what was put there, and what was there before is {}: put that back by hand",
            escape_path(&self.aside)
        );
        SourceError::Answer { server: escape_path(&self.place), what }
    }

    /// Removes a replacement that is not in its place.
    pub fn discard_staged(&self) -> Result<(), SourceError> {
        if let Some(inode) = self.mount {
            self.still_mounted(inode)?;
        }
        removed(&self.lifted(), STAGED)?;
        removed(&self.staged, STAGED)
    }

    /// Removes what was moved aside.
    pub fn discard_aside(&self) -> Result<(), SourceError> {
        removed(&self.aside, ASIDE)
    }
}

/// Makes a directory as it was recorded; without a record, for everybody to pass through.
pub fn make_directory(path: &Path, recorded: Option<&Entry>) -> Result<(), SourceError> {
    let Some(recorded) = recorded else {
        return DirBuilder::new().mode(0o755).create(path).map_err(SourceError::when("make", path));
    };
    let (uid, gid) = OwnerIds::new(OwnerLookup::Name).of(&recorded.owner);
    DirBuilder::new().mode(0o700).create(path).map_err(SourceError::when("make", path))?;
    chown(path, Some(uid), Some(gid)).map_err(SourceError::when("give its owner to", path))?;
    let mode = Permissions::from_mode(recorded.mode & 0o7777);
    fs::set_permissions(path, mode).map_err(SourceError::when("set the mode of", path))
}

/// The names in a directory of what belongs to it: without what a restore has made or moved aside in it, and `lost+found`.
pub fn belonging(directory: &Path) -> Result<Vec<std::ffi::OsString>, SourceError> {
    content::names(directory)
}

/// Whether a name is of something that a restore has made or moved aside, and that nobody else knows.
pub fn is_ours(name: &str) -> bool {
    name.contains(STAGED) || name.contains(ASIDE)
}

/// Bytes that are free for us on the file system where a path is, or would be.
pub fn available_bytes(path: &Path) -> Result<u64, SourceError> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let space = rustix::fs::statvfs(there)
        .map_err(|error| SourceError::when("ask for the free space of", there)(error.into()))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// A path without symbolic links in what exists of it.
pub fn real(path: &Path) -> Result<PathBuf, SourceError> {
    let path = &std::path::absolute(path).map_err(SourceError::when("find", path))?;
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let found = fs::canonicalize(there).map_err(SourceError::when("find", there))?;
    Ok(match path.strip_prefix(there) {
        Ok(rest) if rest != Path::new("") => found.join(rest),
        _ => found,
    })
}

/// The device of the file system where a path is, or would be.
pub fn device(path: &Path) -> Result<u64, SourceError> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    Ok(fs::metadata(there).map_err(SourceError::when("look at", there))?.dev())
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn look(path: &Path) -> Result<Option<Metadata>, SourceError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SourceError::when("look at", path)(error)),
    }
}

/// Renames, never over something, and durably.
fn moved(from: &Path, to: &Path) -> Result<(), SourceError> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .map_err(|error| SourceError::when("move to its place", from)(error.into()))?;
    let parent = to.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(SourceError::when("flush", parent))
}

/// Removes a tree whose name says that it is ours to remove.
fn removed(path: &Path, sign: &str) -> Result<(), SourceError> {
    let ours = path.file_name().is_some_and(|name| name.to_string_lossy().contains(sign));
    let Some(found) = look(path)?.filter(|_| ours) else { return Ok(()) };
    let result = if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(SourceError::when("remove", path)(error)),
        _ => Ok(()),
    }
}
