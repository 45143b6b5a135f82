//! Writes one file under a temporary name and puts it in its place when it is whole.
//!
//! So a restore that is killed leaves no half-written file under a final name, and whoever reads the old file while
//! it is replaced sees all of it. A writer that is dropped removes what it wrote.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, fstat, fsync, ftruncate, openat, unlinkat};
use rustix::io::{Errno, pwrite};

use super::attributes::Surplus;
use super::beneath::Directory;
use super::{Outcome, Target};
use crate::format::tree::{Entry, Extent, Node};
use crate::source::TargetError;
use crate::source::files::xattr::Place;

/// A file that is being restored.
///
/// It takes the content of the entry: of a sparse file that is its extents' bytes, one after another, which go where
/// the extents say. Bytes may come in any order and from several threads ([`FileWriter::write_at`]), each once; or in
/// order by [`Write`], whose errors hold a [`TargetError`]. Zeros are written as they are.
#[derive(Debug)]
pub struct FileWriter<'a> {
    target: &'a Target,
    parent: Arc<Directory>,
    path: Vec<u8>,
    temporary: String,
    /// `None` once it is in its place.
    fd: Option<OwnedFd>,
    /// For a sparse file: where in the content each extent begins.
    extents: Option<Vec<(u64, Extent)>>,
    size: u64,
    expected: u64,
    written: AtomicU64,
    position: u64,
}

impl Target {
    /// Begins a file.
    pub fn begin_file(&self, entry: &Entry) -> Result<FileWriter<'_>, TargetError> {
        let Node::File { size, extents, content } = &entry.node else {
            return Err(self.refused(&entry.path, "write", Errno::INVAL));
        };
        let (parent, _) = self.locate(&entry.path)?;
        let mut start = 0u64;
        let extents = extents.as_ref().map(|extents| {
            let placed = |extent: &Extent| {
                let at = start;
                start = start.saturating_add(extent.len);
                (at, *extent)
            };
            extents.iter().map(placed).collect()
        });
        let temporary = self.temporary();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&parent.fd, temporary.as_str(), flags, Mode::from_raw_mode(self.first_mode(&parent, entry)))
            .map_err(|error| self.refused(&entry.path, "make a file for", error))?;
        let written = AtomicU64::new(0);
        Ok(FileWriter {
            target: self,
            parent,
            path: entry.path.clone(),
            temporary,
            fd: Some(fd),
            extents,
            size: *size,
            expected: content.bytes,
            written,
            position: 0,
        })
    }
}

impl Target {
    /// The mode to write a file with: its own, which saves a call a file, if that lets nobody read it now who may not
    /// read it in the end. Until a file has its owner and its access list it is ours alone.
    fn first_mode(&self, parent: &Directory, entry: &Entry) -> u32 {
        let keeps_owner = !self.restores_owner() || self.owners.of(&entry.owner) == self.identity;
        let keeps_rights = entry.xattrs.is_empty() && !parent.has_default_acl();
        if keeps_owner && keeps_rights { entry.mode & 0o777 } else { 0o600 }
    }
}

impl FileWriter<'_> {
    /// Writes bytes of the content that begin at this place in it.
    pub fn write_at(&self, mut position: u64, mut bytes: &[u8]) -> Result<(), TargetError> {
        let end = position.saturating_add(bytes.len() as u64);
        if end > self.expected {
            return Err(self.incomplete(end));
        }
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        while !bytes.is_empty() {
            let (offset, room) = self.offset(position)?;
            let len = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            self.write_all(offset, &bytes[..len])?;
            bytes = &bytes[len..];
            position += len as u64;
        }
        Ok(())
    }

    /// Where a place of the content is in the file, and how many bytes follow it there.
    fn offset(&self, position: u64) -> Result<(u64, u64), TargetError> {
        let Some(extents) = &self.extents else { return Ok((position, u64::MAX)) };
        let index = extents.partition_point(|(start, _)| *start <= position);
        let within = index.checked_sub(1).and_then(|index| extents.get(index)).and_then(|(start, extent)| {
            let into = position - start;
            (into < extent.len).then(|| (extent.offset.saturating_add(into), extent.len - into))
        });
        within.ok_or_else(|| self.incomplete(position))
    }

    fn write_all(&self, mut offset: u64, mut bytes: &[u8]) -> Result<(), TargetError> {
        let refused = |error| self.target.refused(&self.path, "write", error);
        let fd = self.fd.as_ref().ok_or_else(|| refused(Errno::BADF))?;
        while !bytes.is_empty() {
            match pwrite(fd, bytes, offset) {
                Ok(0) => return Err(refused(Errno::IO)),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        Ok(())
    }

    fn incomplete(&self, written: u64) -> TargetError {
        TargetError::Incomplete { path: self.target.shown(&self.path), written, expected: self.expected }
    }

    /// Gives the file its metadata and puts it in its place. `Ok` names the metadata that it did not get.
    pub fn finish(mut self, entry: &Entry) -> Outcome {
        let target = self.target;
        let refused = |action, error| target.refused(&entry.path, action, error);
        let written = self.written.load(Ordering::Relaxed);
        if written != self.expected {
            return Err(self.incomplete(written));
        }
        let Some(fd) = &self.fd else { return Err(refused("finish", Errno::BADF)) };
        if self.extents.is_some() {
            ftruncate(fd, self.size).map_err(|error| refused("set the length of", error))?;
        }
        let now = fstat(fd).map_err(|error| refused("read the status of", error))?;
        let surplus = if self.parent.has_default_acl() { Surplus::Remove } else { Surplus::Ignore };
        let complaints = target.apply(Place::Open(fd.as_fd()), entry, &now, surplus);
        if target.options.sync {
            fsync(fd).map_err(|error| refused("write out", error))?;
        }
        target.put(&self.parent, &self.temporary, &self.path)?;
        self.fd = None;
        Ok(complaints)
    }
}

impl Write for FileWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_at(self.position, bytes).map_err(io::Error::other)?;
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for FileWriter<'_> {
    fn drop(&mut self) {
        if self.fd.is_some() {
            let _ = unlinkat(&self.parent.fd, self.temporary.as_str(), AtFlags::empty());
        }
    }
}
