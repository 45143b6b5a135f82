//! Reading one regular file: only its data, never its holes, and whether it stood still meanwhile.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat, fstat, openat, seek};
use rustix::io::Errno;

use crate::format::tree::{Entry, Extent, MAX_EXTENTS};
use crate::source::error::SourceError;
use crate::source::files::metadata::{ctime, mtime};
use crate::source::files::walk::read_error;

/// An open file.
pub struct FileReader {
    file: File,
    before: Stat,
    path: Vec<u8>,
    sparse: bool,
    extents: Vec<Extent>,
    /// The extent being read, and how much of it was.
    at: (usize, u64),
}

/// What was read of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileState {
    /// The file's length, or where its data ended early.
    pub size: u64,
    /// The data, for a file with holes.
    pub extents: Option<Vec<Extent>>,
    /// Whether it changed while it was read.
    pub changed: bool,
}

impl FileReader {
    pub(super) fn open(directory: BorrowedFd<'_>, name: &[u8], seen: &Entry) -> Result<Self, SourceError> {
        let path = seen.path.clone();
        // A fifo that took the file's place must not make us wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = OsStr::from_bytes(name);
        let opened = match openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the owner may leave the access time alone.
            Err(Errno::PERM) => openat(directory, name, flags, Mode::empty()),
            result => result,
        };
        let file = File::from(opened.map_err(|error| read_error("open", path.clone(), error))?);
        let before = fstat(&file).map_err(|error| read_error("stat", path.clone(), error))?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile || before.st_ino != seen.inode {
            return Err(SourceError::Changed { path });
        }
        let size = before.st_size.max(0) as u64;
        // Fewer blocks than bytes: there are holes (or the file system compresses, then there is one extent).
        let sparse = (before.st_blocks.max(0) as u64).saturating_mul(512) < size;
        let extents = if sparse {
            data_extents(&file, size).map_err(|error| read_error("find the holes of", path.clone(), error))?
        } else if size > 0 {
            vec![Extent { offset: 0, len: size }]
        } else {
            Vec::new()
        };
        let sparse = sparse && extents != [Extent { offset: 0, len: size }];
        Ok(FileReader { file, before, path, sparse, extents, at: (0, 0) })
    }

    /// Ends the reading: what was read, and whether the file stood still.
    pub fn finish(self) -> Result<FileState, SourceError> {
        let after = fstat(&self.file).map_err(|error| read_error("stat", self.path.clone(), error))?;
        let before = &self.before;
        let still = after.st_size == before.st_size && mtime(&after) == mtime(before) && ctime(&after) == ctime(before);
        let mut extents = self.extents;
        let (index, read) = self.at;
        let short = index < extents.len();
        if short {
            extents.truncate(index + 1);
            if let Some(last) = extents.last_mut() {
                last.len = read;
            }
            extents.retain(|extent| extent.len > 0);
        }
        let end = extents.last().map_or(0, |extent| extent.offset + extent.len);
        let size = if short { end } else { before.st_size.max(0) as u64 };
        Ok(FileState { size, extents: self.sparse.then_some(extents), changed: short || !still })
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let (index, done) = self.at;
            let Some(extent) = self.extents.get(index) else { return Ok(0) };
            let left = extent.len - done;
            if left == 0 {
                self.at = (index + 1, 0);
                continue;
            }
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = self.file.read_at(&mut buffer[..want], extent.offset + done)?;
            self.at.1 += read as u64;
            if self.at.1 == extent.len {
                self.at = (index + 1, 0);
            }
            return Ok(read);
        }
    }
}

/// The data of a file with holes. Beyond [`MAX_EXTENTS`], what follows counts as data, its holes as zeros.
fn data_extents(file: &File, size: u64) -> Result<Vec<Extent>, Errno> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut position = 0;
    while position < size {
        let offset = match seek(file, SeekFrom::Data(position)) {
            Ok(offset) => offset,
            // No data after this position.
            Err(Errno::NXIO) => break,
            // The file system does not know holes.
            Err(Errno::INVAL) => return Ok(vec![Extent { offset: 0, len: size }]),
            Err(error) => return Err(error),
        };
        if offset >= size {
            break;
        }
        if extents.len() + 1 == MAX_EXTENTS {
            extents.push(Extent { offset, len: size - offset });
            break;
        }
        let end = seek(file, SeekFrom::Hole(offset))?.min(size);
        match extents.last_mut() {
            Some(last) if last.offset + last.len == offset => last.len += end - offset,
            _ => extents.push(Extent { offset, len: end - offset }),
        }
        position = end;
    }
    Ok(extents)
}
