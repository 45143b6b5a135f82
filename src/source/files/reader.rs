//! Reads one regular file: its data, not its holes.
//!
//! A file may change while it is read. What is read is at most what the file held when it was opened: a file that
//! grows is read up to its first size, one that shrinks up to its end. [`FileReader::finish`] then says what the bytes
//! that were handed out are (size and extents that fit them) and whether they can be trusted to be one state of the
//! file.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat, fstat, openat, seek};
use rustix::io::{Errno, pread};

use super::metadata;
use crate::format::tree::{Entry, Extent, MAX_EXTENTS, Node};
use crate::source::SourceError;
use crate::source::error::shown;

/// An open file.
#[derive(Debug)]
pub struct FileReader {
    fd: OwnedFd,
    path: Vec<u8>,
    first: Stat,
    /// The data; one extent over the whole file when it is not sparse.
    extents: Vec<Extent>,
    sparse: bool,
    /// Which extent is being read, and how far.
    current: usize,
    within: u64,
    /// True when the file ended before its data should.
    short: bool,
    /// True for a file that says that it is empty and is not, as those of `/proc` do: it ends where reading ends.
    sizeless: bool,
}

/// What is read at most of a file whose status does not tell its size: some never end.
const SIZELESS_LIMIT: u64 = 64 << 20;
/// How much of such a file is asked for at a time: the kernel refuses to prepare megabytes.
const SIZELESS_READ: usize = 64 << 10;

/// What a file was while it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Its length, holes included.
    pub size: u64,
    /// The extents that the bytes read belong to; `None` for a file without holes.
    pub extents: Option<Vec<Extent>>,
    /// False when size, mtime or ctime changed meanwhile: then the bytes may be of several states.
    pub stable: bool,
}

impl FileReader {
    pub(super) fn open(parent: &OwnedFd, entry: &Entry, device: u64) -> Result<Self, SourceError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = match openat(parent, entry.name(), flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => openat(parent, entry.name(), flags, Mode::empty()),
            other => other,
        };
        let replaced = || SourceError::Changed { path: shown(&entry.path), what: "another file took its place" };
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::LOOP | Errno::NXIO) => return Err(replaced()),
            Err(error) => return Err(SourceError::system("open", &entry.path, error)),
        };
        let first = fstat(&fd).map_err(|error| SourceError::system("read the status of", &entry.path, error))?;
        if metadata::kind(&first) != FileType::RegularFile || (first.st_dev, first.st_ino) != (device, entry.inode) {
            return Err(replaced());
        }
        let size = first.st_size.max(0) as u64;
        let allocated = (first.st_blocks.max(0) as u64).saturating_mul(512);
        let found = if allocated < size { data_extents(&fd, size) } else { None };
        let sizeless = size == 0 && matches!(pread(&fd, &mut [0], 0), Ok(1));
        let whole = Extent { offset: 0, len: if sizeless { SIZELESS_LIMIT } else { size } };
        let sparse = found.as_ref().is_some_and(|extents| *extents != [whole]);
        let extents = found.unwrap_or_else(|| vec![whole]);
        let (path, current, within, short) = (entry.path.clone(), 0, 0, false);
        Ok(FileReader { fd, path, first, extents, sparse, current, within, short, sizeless })
    }

    /// Makes an entry's status that of the open file.
    pub(super) fn refresh(&self, entry: &mut Entry) {
        entry.mode = self.first.st_mode & 0o7777;
        (entry.mtime, entry.ctime) = (metadata::modified(&self.first), metadata::changed(&self.first));
        if let Node::File { size, .. } = &mut entry.node {
            *size = self.first.st_size.max(0) as u64;
        }
    }

    /// How many bytes will be read unless the file changes.
    pub fn data_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    /// The error for what [`Read::read`] returned.
    pub fn failure(&self, error: io::Error) -> SourceError {
        SourceError::Unreadable { action: "read", path: shown(&self.path), source: error }
    }

    /// Ends the reading, wherever it is, and says what was read.
    pub fn finish(mut self) -> Result<FileState, SourceError> {
        let last = fstat(&self.fd).map_err(|error| SourceError::system("read the status of", &self.path, error))?;
        let (first_size, last_size) = (self.first.st_size.max(0) as u64, last.st_size.max(0) as u64);
        let known = |stat: &Stat| (stat.st_size, metadata::modified(stat), metadata::changed(stat));
        let stable = self.short == self.sizeless && known(&self.first) == known(&last);
        let partial = self.extents.get(self.current).map(|extent| Extent { offset: extent.offset, len: self.within });
        let complete = partial.is_none();
        self.extents.truncate(self.current);
        self.extents.extend(partial.filter(|extent| extent.len > 0));
        let end = self.extents.last().map_or(0, |extent| extent.offset + extent.len);
        let size = match (self.sparse, complete) {
            (_, true) if self.sizeless => {
                let (what, found, limit) = ("the length of its content", usize::MAX, SIZELESS_LIMIT as usize);
                return Err(SourceError::Unrecordable { path: shown(&self.path), what, found, limit });
            }
            (_, true) => first_size,
            (true, false) => last_size.clamp(end, first_size),
            (false, false) => end,
        };
        Ok(FileState { size, extents: self.sparse.then_some(self.extents), stable })
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.short && !buffer.is_empty() {
            let Some(extent) = self.extents.get(self.current) else { break };
            let left = extent.len - self.within;
            if left == 0 {
                self.current += 1;
                self.within = 0;
                continue;
            }
            let most = if self.sizeless { SIZELESS_READ } else { buffer.len() };
            let wanted = buffer.len().min(most).min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = loop {
                match pread(&self.fd, &mut buffer[..wanted], extent.offset + self.within) {
                    Err(Errno::INTR) => continue,
                    other => break other?,
                }
            };
            self.within += read as u64;
            self.short = read == 0;
            return Ok(read);
        }
        Ok(0)
    }
}

/// Where the data of a sparse file is; `None` when the file system does not say.
///
/// A file can have more extents than the format holds. The smallest holes between them are then taken for data, and
/// so as not to keep millions of extents in memory that is done each time twice the number has come together.
fn data_extents(fd: &OwnedFd, size: u64) -> Option<Vec<Extent>> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(fd, SeekFrom::Data(at)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = seek(fd, SeekFrom::Hole(start)).ok()?.min(size);
        if end <= start {
            // The data was punched out between the two questions.
            at = start + 1;
            continue;
        }
        match extents.last_mut() {
            Some(last) if last.offset + last.len == start => last.len = end - last.offset,
            _ => extents.push(Extent { offset: start, len: end - start }),
        }
        if extents.len() == 2 * MAX_EXTENTS {
            merge_extents(&mut extents, MAX_EXTENTS);
        }
        at = end;
    }
    merge_extents(&mut extents, MAX_EXTENTS);
    Some(extents)
}

/// Fills the smallest gaps until there are at most `limit` extents.
fn merge_extents(extents: &mut Vec<Extent>, limit: usize) {
    let Some(surplus) = extents.len().checked_sub(limit).filter(|surplus| *surplus > 0) else { return };
    let mut gaps: Vec<(u64, usize)> = extents
        .windows(2)
        .enumerate()
        .map(|(index, pair)| (pair[1].offset - pair[0].offset - pair[0].len, index + 1))
        .collect();
    gaps.select_nth_unstable(surplus - 1);
    let mut joined = vec![false; extents.len()];
    for (_, index) in &gaps[..surplus] {
        joined[*index] = true;
    }
    let mut merged: Vec<Extent> = Vec::with_capacity(limit);
    for (extent, joined) in extents.iter().zip(joined) {
        match merged.last_mut() {
            Some(last) if joined => last.len = extent.offset + extent.len - last.offset,
            _ => merged.push(*extent),
        }
    }
    *extents = merged;
}
