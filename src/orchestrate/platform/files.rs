//! Looks at the platform's files, beneath a root directory: `/`, or a copy of a machine's tree.
//!
//! Invariants: nothing is written; only regular files are opened to be read, and only so much of them; beneath another
//! root than `/` no symbolic link leads out of it: an absolute target begins at the root, and `..` ends there.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// So many symbolic links are followed on the way to one file.
const MAX_LINKS: usize = 40;
/// A configuration file is at most this many bytes.
pub const MAX_FILE: u64 = 4 << 20;
/// A directory that is searched has at most so many names.
const MAX_NAMES: usize = 100_000;

/// The platform's files.
#[derive(Clone, Debug)]
pub struct Files {
    root: PathBuf,
}

/// What is at a path. A symbolic link is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its length.
        bytes: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Link {
        /// What is written in it.
        target: PathBuf,
    },
    /// A socket, fifo or device.
    Special,
}

impl Files {
    /// The files beneath this directory.
    pub fn beneath(root: &Path) -> Self {
        Files { root: root.to_owned() }
    }

    /// What is at this path.
    pub fn kind(&self, path: &Path) -> io::Result<Kind> {
        let place = self.place(path)?;
        let metadata = fs::symlink_metadata(&place)?;
        Ok(match metadata.file_type() {
            kind if kind.is_file() => Kind::File { bytes: metadata.len() },
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => Kind::Link { target: fs::read_link(&place)? },
            _ => Kind::Special,
        })
    }

    /// Whether a file or directory can be read, by opening it. Nothing else is ever opened.
    pub fn try_to_read(&self, path: &Path, kind: &Kind) -> io::Result<()> {
        match kind {
            Kind::File { .. } => self.open(&self.place(path)?).map(drop),
            Kind::Directory => fs::read_dir(self.place(path)?).map(drop),
            Kind::Link { .. } | Kind::Special => Ok(()),
        }
    }

    /// A configuration file's text; what is no UTF-8 in it is replaced.
    pub fn text(&self, path: &Path) -> io::Result<String> {
        let file = self.open(&self.resolve(path, true)?)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {MAX_FILE} bytes")));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The names in a directory, sorted.
    pub fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.resolve(directory, true)?)? {
            if names.len() == MAX_NAMES {
                return Err(io::Error::other(format!("it has more than {MAX_NAMES} names")));
            }
            names.push(entry?.file_name());
        }
        names.sort();
        Ok(names)
    }

    /// Opens a regular file. A fifo that took its place would not be waited for.
    fn open(&self, place: &Path) -> io::Result<File> {
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(place)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file")),
        }
    }

    fn place(&self, path: &Path) -> io::Result<PathBuf> {
        self.resolve(path, false)
    }

    /// Where a path of the platform is on this machine: every symbolic link on the way is resolved beneath the root; the
    /// last one only if it is to be followed.
    fn resolve(&self, path: &Path, follow_last: bool) -> io::Result<PathBuf> {
        let mut place = self.root.clone();
        let mut depth = 0_usize;
        let mut links = 0;
        let mut left: Vec<PathBuf> = parts(path);
        while let Some(part) = left.pop() {
            if part == Path::new("..") {
                if depth > 0 {
                    place.pop();
                    depth -= 1;
                }
                continue;
            }
            let next = place.join(&part);
            let metadata = if left.is_empty() && !follow_last { None } else { Some(fs::symlink_metadata(&next)?) };
            if metadata.is_some_and(|metadata| metadata.is_symlink()) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::other("too many symbolic links lead to it"));
                }
                let target = fs::read_link(&next)?;
                if target.is_absolute() {
                    (place, depth) = (self.root.clone(), 0);
                }
                left.extend(parts(&target));
            } else {
                place = next;
                depth += 1;
            }
        }
        Ok(place)
    }
}

/// The components of a path, the last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    let mut parts: Vec<PathBuf> = path.components().filter_map(part).collect();
    parts.reverse();
    parts
}

/// A path without `.` and `..`, by its text alone.
pub fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::from("/");
    for part in parts(path).iter().rev() {
        match part == Path::new("..") {
            true => drop(tidy.pop()),
            false => tidy.push(part),
        }
    }
    tidy
}
