//! Writing a tree into a directory, against a hostile repository and a hostile file system.
//!
//! Invariants: every name is reached from the target's open directory beneath it and never through a symbolic link
//! (`openat2` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS); a file gets its final name only when its content is complete,
//! so a killed restore leaves no half-written file under it; a set-id bit is set only after the owner.
//!
//! The temporary name is derived from the final one, so what a killed restore leaves is used again by the next.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, fchmod,
    fchown, fstat, ftruncate, futimens, linkat, makedev, mkdirat, mknodat, openat, openat2, renameat, renameat_with,
    statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::format::tree::{Entry, Extent, FileTime, Node, Owner, validate_path};
use crate::source::error::TargetError;
use crate::source::files::metadata::{self, Ids};

/// Part of a path that one system call may resolve, well below PATH_MAX.
const STRIDE: usize = 2048;
/// Parent directories kept open.
const PARENTS: usize = 16;

/// What happens to what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// It stays.
    Never,
    /// It stays if type, size and modification time are those of the snapshot, else it is replaced.
    Changed,
    /// It is replaced.
    Always,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Nothing is there, or what is there is to be replaced.
    Write,
    /// What is there equals the entry.
    Same,
    /// Something else is there and stays.
    Keep,
}

/// A directory to restore into. Shared by threads.
pub struct Target {
    root: OwnedFd,
    overwrite: Overwrite,
    owners: bool,
    ids: Ids,
    parents: Mutex<Vec<(Vec<u8>, Arc<OwnedFd>)>>,
}

fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> TargetError {
    let path = path.to_vec();
    move |error| TargetError::Io { action, path, source: error.into() }
}

/// The directory and the last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn temporary(name: &[u8]) -> Vec<u8> {
    format!(".cairn-restore-{}", &blake3::hash(name).to_hex()[..16]).into_bytes()
}

impl Target {
    /// Opens a directory, making it if it is not there.
    pub fn open(path: &Path, overwrite: Overwrite) -> Result<Self, TargetError> {
        let failed = |source| TargetError::Directory { path: path.display().to_string(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let owners = rustix::process::geteuid().is_root();
        Ok(Target { root, overwrite, owners, ids: Ids::default(), parents: Mutex::default() })
    }

    fn directory_of(&self, path: &[u8]) -> Result<(Arc<OwnedFd>, Vec<u8>), TargetError> {
        validate_path(path).map_err(|source| TargetError::Unsafe { source })?;
        let (parent, name) = split(path);
        if path.is_empty() {
            return Ok((Arc::new(self.reopen_root()?), b".".to_vec()));
        }
        Ok((self.open_beneath(parent)?, name.to_vec()))
    }

    fn reopen_root(&self) -> Result<OwnedFd, TargetError> {
        self.root.try_clone().map_err(|source| TargetError::Io { action: "open", path: Vec::new(), source })
    }

    /// Opens a directory of the target by its path.
    fn open_beneath(&self, path: &[u8]) -> Result<Arc<OwnedFd>, TargetError> {
        let parents = || self.parents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, directory)) = parents().iter().find(|(known, _)| known == path) {
            return Ok(directory.clone());
        }
        let mut directory = self.reopen_root()?;
        let mut rest = path;
        while !rest.is_empty() {
            // As many whole components as fit into one call.
            let end = if rest.len() <= STRIDE {
                rest.len()
            } else {
                rest[..STRIDE].iter().rposition(|byte| *byte == b'/').unwrap_or(rest.len())
            };
            directory = open_step(&directory, &rest[..end]).map_err(failed("open the directory", path))?;
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        let directory = Arc::new(directory);
        let mut parents = parents();
        if parents.len() == PARENTS {
            parents.remove(0);
        }
        parents.push((path.to_vec(), directory.clone()));
        Ok(directory)
    }

    /// Decides about an entry that is not a directory.
    pub fn existing(&self, entry: &Entry) -> Result<Existing, TargetError> {
        let (directory, name) = match self.directory_of(&entry.path) {
            // A parent that is not there yet (in a dry run) holds nothing.
            Err(TargetError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Existing::Write);
            }
            result => result?,
        };
        let stat = match statat(&directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Existing::Write),
            result => result.map_err(failed("stat", &entry.path))?,
        };
        if self.overwrite != Overwrite::Always && is_same(entry, &stat) {
            return Ok(Existing::Same);
        }
        if self.overwrite == Overwrite::Never {
            return Ok(Existing::Keep);
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let (found, wanted) = ("a directory", word(&entry.node));
            return Err(TargetError::Conflict { path: entry.path.clone(), found, wanted });
        }
        Ok(Existing::Write)
    }

    /// Makes a directory that others may not enter before it is finished.
    pub fn directory(&self, entry: &Entry) -> Result<(), TargetError> {
        if entry.path.is_empty() {
            return Ok(());
        }
        let (directory, name) = self.directory_of(&entry.path)?;
        let make = || mkdirat(&directory, name.as_slice(), Mode::RWXU);
        match make() {
            Err(Errno::EXIST) => {}
            result => return result.map_err(failed("make the directory", &entry.path)),
        }
        let stat =
            statat(&directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("stat", &entry.path))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(());
        }
        if self.overwrite == Overwrite::Never {
            let (found, wanted) = ("something else", "a directory");
            return Err(TargetError::Conflict { path: entry.path.clone(), found, wanted });
        }
        unlinkat(&directory, name.as_slice(), AtFlags::empty()).map_err(failed("remove", &entry.path))?;
        make().map_err(failed("make the directory", &entry.path))
    }

    /// Gives a directory its owner, mode, attributes and times, when nothing more is written into it.
    pub fn finish_directory(&self, entry: &Entry) -> Result<(), TargetError> {
        let directory =
            if entry.path.is_empty() { Arc::new(self.reopen_root()?) } else { self.open_beneath(&entry.path)? };
        self.set_metadata(&directory, entry)
    }

    /// Makes a symbolic link, fifo or device.
    pub fn special(&self, entry: &Entry) -> Result<(), TargetError> {
        let (directory, name) = self.directory_of(&entry.path)?;
        let temporary = temporary(&name);
        let _ = unlinkat(&directory, temporary.as_slice(), AtFlags::empty());
        let node = |file_type, device| {
            mknodat(&directory, temporary.as_slice(), file_type, Mode::from_raw_mode(entry.mode & 0o777), device)
        };
        let made = match &entry.node {
            Node::Symlink { target } => symlinkat(target.as_slice(), &directory, temporary.as_slice()),
            Node::Fifo => node(FileType::Fifo, 0),
            Node::CharDevice { major, minor } => node(FileType::CharacterDevice, makedev(*major, *minor)),
            Node::BlockDevice { major, minor } => node(FileType::BlockDevice, makedev(*major, *minor)),
            _ => return Ok(()),
        };
        made.map_err(failed("make", &entry.path))?;
        let result = self.set_link_metadata(&directory, &temporary, entry);
        let result = result.and_then(|()| self.rename(&directory, &temporary, &name, &entry.path));
        if result.is_err() {
            let _ = unlinkat(&directory, temporary.as_slice(), AtFlags::empty());
        }
        result
    }

    fn set_link_metadata(&self, directory: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), TargetError> {
        if self.owners {
            let (uid, gid) = self.ids.of(&entry.owner);
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("set the owner of", &entry.path))?;
        }
        if !matches!(entry.node, Node::Symlink { .. }) {
            let path = metadata::proc_path(directory.as_fd(), name);
            rustix::fs::chmod(path.as_slice(), Mode::from_raw_mode(entry.mode & 0o7777))
                .map_err(failed("set the mode of", &entry.path))?;
        }
        let path = metadata::proc_path(directory.as_fd(), name);
        for (key, value) in &entry.xattrs {
            rustix::fs::lsetxattr(path.as_slice(), key.as_slice(), value, rustix::fs::XattrFlags::empty())
                .map_err(failed("set an attribute of", &entry.path))?;
        }
        utimensat(directory, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the time of", &entry.path))
    }

    /// Makes another name of a file that was restored before.
    pub fn hard_link(&self, path: &[u8], first: &[u8]) -> Result<(), TargetError> {
        let (from, from_name) = self.directory_of(first)?;
        let (directory, name) = self.directory_of(path)?;
        let temporary = temporary(&name);
        let _ = unlinkat(&directory, temporary.as_slice(), AtFlags::empty());
        linkat(&from, from_name.as_slice(), &directory, temporary.as_slice(), AtFlags::empty())
            .map_err(failed("link", path))?;
        let result = self.rename(&directory, &temporary, &name, path);
        // Renaming one name of a file over another does nothing and leaves both.
        let _ = unlinkat(&directory, temporary.as_slice(), AtFlags::empty());
        result
    }

    /// Begins a regular file.
    pub fn file<'t>(&'t self, entry: &'t Entry) -> Result<FileWriter<'t>, TargetError> {
        let (directory, name) = self.directory_of(&entry.path)?;
        let temporary = temporary(&name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(&directory, temporary.as_slice(), flags, Mode::RUSR | Mode::WUSR);
        let opened = match open() {
            Err(Errno::EXIST) => {
                unlinkat(&directory, temporary.as_slice(), AtFlags::empty()).map_err(failed("remove", &entry.path))?;
                open()
            }
            result => result,
        };
        let file = File::from(opened.map_err(failed("create", &entry.path))?);
        let whole = Extent { offset: 0, len: u64::MAX };
        let extents = match &entry.node {
            Node::File { extents: Some(extents), .. } => extents.clone(),
            _ => vec![whole],
        };
        Ok(FileWriter { target: self, entry, directory, temporary, name, file, extents, at: (0, 0), finished: false })
    }

    fn rename(&self, directory: &OwnedFd, from: &[u8], to: &[u8], path: &[u8]) -> Result<(), TargetError> {
        let renamed = if self.overwrite == Overwrite::Never {
            match renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => renameat(directory, from, directory, to),
                result => result,
            }
        } else {
            renameat(directory, from, directory, to)
        };
        renamed.map_err(failed("give its name to", path))
    }

    fn set_metadata(&self, file: &impl AsFd, entry: &Entry) -> Result<(), TargetError> {
        let stat = fstat(file).map_err(failed("stat", &entry.path))?;
        self.set_owner(file, &entry.owner, &stat).map_err(failed("set the owner of", &entry.path))?;
        if !entry.xattrs.is_empty() || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            metadata::set_xattrs(file.as_fd(), &entry.xattrs).map_err(failed("set the attributes of", &entry.path))?;
        }
        fchmod(file, Mode::from_raw_mode(entry.mode & 0o7777)).map_err(failed("set the mode of", &entry.path))?;
        futimens(file, &times(entry.mtime)).map_err(failed("set the time of", &entry.path))
    }

    fn set_owner(&self, file: &impl AsFd, owner: &Owner, stat: &Stat) -> Result<(), Errno> {
        if !self.owners {
            return Ok(());
        }
        let (uid, gid) = self.ids.of(owner);
        if (stat.st_uid, stat.st_gid) == (uid, gid) {
            return Ok(());
        }
        fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
    }

    /// The names in a directory of the target for which `keep` is false, removed with all below them unless
    /// `dry_run`; each path goes to `removed`.
    pub fn delete_extra(
        &self,
        path: &[u8],
        keep: &dyn Fn(&[u8]) -> bool,
        dry_run: bool,
        removed: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TargetError> {
        let directory = match self.open_beneath(path) {
            Err(TargetError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            result => result?,
        };
        for name in list(&directory).map_err(failed("list", path))? {
            if keep(&name) {
                continue;
            }
            let below = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
            if !dry_run {
                self.forget_parents(&below);
                remove(&directory, &name).map_err(failed("remove", &below))?;
            }
            removed(&below);
        }
        Ok(())
    }

    fn forget_parents(&self, path: &[u8]) {
        let mut parents = self.parents.lock().unwrap_or_else(PoisonError::into_inner);
        parents.retain(|(known, _)| !known.starts_with(path));
    }

    /// Opens a restored file for reading, for comparison.
    pub fn read_back(&self, path: &[u8]) -> Result<File, TargetError> {
        let (directory, name) = self.directory_of(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&directory, name.as_slice(), flags, Mode::empty()).map_err(failed("open", path))?;
        Ok(File::from(file))
    }
}

/// A regular file being restored; without [`FileWriter::finish`] nothing stays of it.
pub struct FileWriter<'t> {
    target: &'t Target,
    entry: &'t Entry,
    directory: Arc<OwnedFd>,
    temporary: Vec<u8>,
    name: Vec<u8>,
    file: File,
    extents: Vec<Extent>,
    at: (usize, u64),
    finished: bool,
}

impl FileWriter<'_> {
    /// Writes the next bytes of the content, at their places.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), TargetError> {
        while !bytes.is_empty() {
            let (index, done) = self.at;
            let Some(extent) = self.extents.get(index) else {
                return Err(failed("write", &self.entry.path)(Errno::FBIG));
            };
            let len = bytes.len().min(usize::try_from(extent.len - done).unwrap_or(usize::MAX));
            self.file.write_all_at(&bytes[..len], extent.offset + done).map_err(|source| TargetError::Io {
                action: "write",
                path: self.entry.path.clone(),
                source,
            })?;
            self.at = if done + len as u64 == extent.len { (index + 1, 0) } else { (index, done + len as u64) };
            bytes = &bytes[len..];
        }
        Ok(())
    }

    /// Gives the file its length, metadata and name.
    pub fn finish(mut self) -> Result<(), TargetError> {
        if let Node::File { size, extents: Some(_), .. } = &self.entry.node {
            ftruncate(&self.file, *size).map_err(failed("set the length of", &self.entry.path))?;
        }
        self.target.set_metadata(&self.file, self.entry)?;
        self.target.rename(&self.directory, &self.temporary, &self.name, &self.entry.path)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for FileWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let _ = unlinkat(&self.directory, self.temporary.as_slice(), AtFlags::empty());
        }
    }
}

fn open_step(directory: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(directory, path, flags, Mode::empty(), resolve) {
        // Kernels before 5.6, or a filter: one component at a time is as safe.
        Err(Errno::NOSYS | Errno::PERM) => {
            let mut opened = openat(directory, ".", flags, Mode::empty())?;
            for name in path.split(|byte| *byte == b'/') {
                opened = openat(&opened, name, flags, Mode::empty())?;
            }
            Ok(opened)
        }
        result => result,
    }
}

fn list(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes a name and all below it, without recursion: the depth is the file system's, not ours.
fn remove(directory: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            result => return result,
        }
        match unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            result => return result,
        }
        // Descend to a directory without directories, empty it, and start again from the top.
        let mut deepest = openat(directory, name, flags, Mode::empty())?;
        loop {
            let mut below = None;
            for child in list(&deepest)? {
                match unlinkat(&deepest, child.as_slice(), AtFlags::empty()) {
                    Err(Errno::ISDIR | Errno::PERM) => match unlinkat(&deepest, child.as_slice(), AtFlags::REMOVEDIR) {
                        Err(Errno::NOTEMPTY | Errno::EXIST) => below = Some(child),
                        result => result?,
                    },
                    result => result?,
                }
            }
            match below {
                Some(child) => deepest = openat(&deepest, child.as_slice(), flags, Mode::empty())?,
                None => break,
            }
        }
    }
}

fn is_same(entry: &Entry, stat: &Stat) -> bool {
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let same_type = match &entry.node {
        Node::File { size, .. } => file_type == FileType::RegularFile && *size == stat.st_size.max(0) as u64,
        Node::Symlink { target } => file_type == FileType::Symlink && target.len() as i64 == stat.st_size,
        Node::Fifo => file_type == FileType::Fifo,
        Node::CharDevice { major, minor } => {
            file_type == FileType::CharacterDevice && makedev(*major, *minor) == stat.st_rdev
        }
        Node::BlockDevice { major, minor } => {
            file_type == FileType::BlockDevice && makedev(*major, *minor) == stat.st_rdev
        }
        Node::Directory | Node::Socket | Node::Unread => false,
    };
    same_type && metadata::mtime(stat) == entry.mtime
}

fn word(node: &Node) -> &'static str {
    match node {
        Node::Directory => "a directory",
        Node::File { .. } => "a file",
        Node::Symlink { .. } => "a symbolic link",
        Node::Fifo => "a fifo",
        Node::CharDevice { .. } | Node::BlockDevice { .. } => "a device",
        Node::Socket => "a socket",
        Node::Unread => "something unread",
    }
}

fn times(mtime: FileTime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
