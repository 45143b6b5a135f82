//! Restoring one content to a stream, and a file's bytes with its holes as zeros.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use crate::format::codec::escape;
use crate::format::content::Content;
use crate::format::record::{Snapshot, SnapshotKind};
use crate::format::tree::{Entry, Extent, Node};
use crate::orchestrate::error::OrchestrateError;
use crate::orchestrate::restore::LARGE;
use crate::progress::{Monitor, Phase};
use crate::repo::frames::ChunkBytes;
use crate::repo::reader::{ChunkReader, Prefetch};
use crate::repo::{RepoError, Repository};

/// A restored file, read up to a length.
pub struct FileBytes {
    /// The file.
    pub file: File,
    /// Where reading goes on.
    pub offset: u64,
    /// How much is left.
    pub left: u64,
}

impl Read for FileBytes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..want], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// A file's bytes with its holes as zeros.
pub struct SparseReader {
    extents: Vec<(u64, u64)>,
    index: usize,
    position: u64,
    size: u64,
    chunk: Option<(ChunkBytes, usize)>,
}

impl SparseReader {
    /// For a file of this length; `extents` as in [`Node::File`].
    pub fn new(extents: Option<&[Extent]>, size: u64) -> Self {
        let extents = match extents {
            Some(extents) => extents.iter().map(|extent| (extent.offset, extent.offset + extent.len)).collect(),
            None => vec![(0, size)],
        };
        SparseReader { extents, index: 0, position: 0, size, chunk: None }
    }

    /// The next bytes; 0 at the end.
    pub fn read(&mut self, chunks: &mut ChunkReader, buffer: &mut [u8]) -> Result<usize, OrchestrateError> {
        while self.extents.get(self.index).is_some_and(|(_, end)| self.position >= *end) {
            self.index += 1;
        }
        let hole_end = self.extents.get(self.index).map_or(self.size, |(start, _)| *start);
        if self.position < hole_end {
            let len = buffer.len().min(usize::try_from(hole_end - self.position).unwrap_or(usize::MAX));
            buffer[..len].fill(0);
            self.position += len as u64;
            return Ok(len);
        }
        if self.position >= self.size {
            return Ok(0);
        }
        if self.chunk.as_ref().is_none_or(|(chunk, used)| *used == chunk.len()) {
            self.chunk = chunks.next_chunk()?.map(|chunk| (chunk, 0));
        }
        let Some((chunk, used)) = &mut self.chunk else { return Ok(0) };
        // A chunk may reach over the end of an extent into the next one.
        let extent_left = self.extents.get(self.index).map_or(0, |(_, end)| end - self.position);
        let rest = &chunk[*used..];
        let len = rest.len().min(buffer.len()).min(usize::try_from(extent_left).unwrap_or(usize::MAX));
        buffer[..len].copy_from_slice(&rest[..len]);
        *used += len;
        self.position += len as u64;
        Ok(len)
    }
}

/// A file of a tree, to be read from its beginning.
pub struct EntryReader {
    chunks: ChunkReader,
    sparse: SparseReader,
}

impl EntryReader {
    /// An entry that is no file has no bytes.
    pub fn open(repository: &Repository, entry: &Entry) -> Result<Self, OrchestrateError> {
        let (size, extents, content) = match &entry.node {
            Node::File { size, extents, content } => (*size, extents.as_deref(), *content),
            _ => (0, None, Content::EMPTY),
        };
        let chunks = ChunkReader::new(repository.frames(), &content, None)?;
        Ok(EntryReader { chunks, sparse: SparseReader::new(extents, size) })
    }
}

impl Read for EntryReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.sparse.read(&mut self.chunks, buffer).map_err(std::io::Error::other)
    }
}

/// Writes one file of a tree, or a stream, to `output`; the bytes written. Holes are written as zeros.
pub fn write(
    repository: &Repository,
    snapshot: &Snapshot,
    short_id: &str,
    path: &[u8],
    output: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<u64, OrchestrateError> {
    let (content, extents, size) = match snapshot.kind {
        SnapshotKind::Stream if path.is_empty() => (snapshot.content, None, snapshot.content.bytes),
        SnapshotKind::Stream => {
            let why = format!("snapshot {short_id} is a stream and has no paths in it: leave out the path");
            return Err(OrchestrateError::Unfit(why));
        }
        SnapshotKind::Tree => {
            let entry = find_entry(repository, snapshot, short_id, path)?;
            match entry.node {
                Node::File { size, extents, content } => (content, extents, size),
                _ => {
                    let why = format!(
                        "/{} is not a regular file: name one, or use `cairn restore` with --target",
                        escape(path)
                    );
                    return Err(OrchestrateError::Unfit(why));
                }
            }
        }
    };
    monitor.begin(Phase::Restore, Some(size));
    let frames = repository.frames();
    let prefetch = (content.bytes >= LARGE).then(|| Prefetch::start(frames));
    let mut chunks = ChunkReader::new(frames, &content, prefetch)?;
    let mut written = 0;
    if extents.is_none() {
        while let Some(chunk) = chunks.next_chunk()? {
            stop_if_interrupted(monitor)?;
            output.write_all(&chunk).map_err(OrchestrateError::Output)?;
            written += chunk.len() as u64;
            monitor.advance(chunk.len() as u64);
        }
    } else {
        let mut reader = SparseReader::new(extents.as_deref(), size);
        let mut buffer = vec![0; 64 << 10];
        loop {
            stop_if_interrupted(monitor)?;
            let len = reader.read(&mut chunks, &mut buffer)?;
            if len == 0 {
                break;
            }
            output.write_all(&buffer[..len]).map_err(OrchestrateError::Output)?;
            written += len as u64;
            monitor.advance(len as u64);
        }
    }
    output.flush().map_err(OrchestrateError::Output)?;
    monitor.end();
    Ok(written)
}

fn stop_if_interrupted(monitor: &dyn Monitor) -> Result<(), OrchestrateError> {
    if monitor.interrupted() { Err(RepoError::Interrupted.into()) } else { Ok(()) }
}

/// The entry of this path.
pub fn find_entry(
    repository: &Repository,
    snapshot: &Snapshot,
    short_id: &str,
    path: &[u8],
) -> Result<Entry, OrchestrateError> {
    let mut tree = repository.tree(&snapshot.content)?;
    tree.seek(path)?;
    match tree.next_entry()? {
        Some(entry) if entry.path == path => Ok(entry),
        _ => {
            let path = format!("/{}", escape(path));
            Err(OrchestrateError::NoPath { snapshot: short_id.to_owned(), path })
        }
    }
}
