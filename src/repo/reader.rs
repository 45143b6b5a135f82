//! Reading content back: streams with frames decoded ahead by worker threads, and trees entry by entry.
//!
//! Every chunk is compared with its id before its bytes are given, and every content ends with exactly the length it
//! promised, or with an error: a reader never ends early and looks complete.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::format::ChunkId;
use crate::format::content::Content;
use crate::format::list::{ListEntry, ListKind};
use crate::format::tree::{Entry, Node, compare_paths, decode_block};
use crate::repo::error::RepoError;
use crate::repo::frames::{ChunkBytes, Frames};
use crate::repo::index::{FrameInfo, Location};
use crate::repo::lists::ListWalk;

/// Chunks that are looked up before they are needed.
const AHEAD_CHUNKS: usize = 512;
/// Frames that may wait to be decoded ahead.
const AHEAD_FRAMES: usize = 6;

/// Threads that decode frames into the cache before somebody needs them.
pub struct Prefetch {
    jobs: Option<Sender<Arc<FrameInfo>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts one thread a processor.
    pub fn start(frames: &Arc<Frames>) -> Self {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
        let (sender, receiver): (_, Receiver<Arc<FrameInfo>>) = bounded(AHEAD_FRAMES);
        let workers = (0..count)
            .map(|_| {
                let (frames, receiver) = (frames.clone(), receiver.clone());
                std::thread::spawn(move || {
                    for frame in receiver {
                        // Whoever needs the frame meets the same error, and can say what needed it.
                        let _ = frames.decoded(&frame);
                    }
                })
            })
            .collect();
        Prefetch { jobs: Some(sender), workers }
    }

    /// Asks for a frame, unless too many wait already.
    fn request(&self, frame: Arc<FrameInfo>) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(frame).is_ok())
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// The chunks of a content, in order.
pub struct ChunkReader {
    frames: Arc<Frames>,
    walk: ListWalk,
    prefetch: Option<Prefetch>,
    ahead: VecDeque<Ahead>,
    /// How many of `ahead` have had their frame requested.
    requested: usize,
    last_requested: Option<u64>,
    /// Where the last one that was looked up is.
    last: Option<Location>,
}

/// A chunk that will be needed, and where it was found.
struct Ahead {
    entry: ListEntry,
    location: Option<Location>,
}

impl ChunkReader {
    /// Starts at the content's beginning. `prefetch` decodes ahead; without it all is done by the caller's thread.
    pub fn new(frames: &Arc<Frames>, content: &Content, prefetch: Option<Prefetch>) -> Result<Self, RepoError> {
        let walk = ListWalk::new(frames.clone(), ListKind::Plain, content, 0)?;
        let ahead = VecDeque::new();
        Ok(ChunkReader {
            frames: frames.clone(),
            walk,
            prefetch,
            ahead,
            requested: 0,
            last_requested: None,
            last: None,
        })
    }

    /// Looks for its first chunk beside this place.
    pub fn beside(self, last: Option<Location>) -> Self {
        ChunkReader { last, ..self }
    }

    /// Where the chunk is that was looked up last: the next small file's is mostly beside it.
    pub fn last(&self) -> Option<&Location> {
        self.last.as_ref()
    }

    /// The next chunk.
    pub fn next_chunk(&mut self) -> Result<Option<ChunkBytes>, RepoError> {
        self.look_ahead()?;
        let Some(Ahead { entry, location }) = self.ahead.pop_front() else { return Ok(None) };
        self.requested = self.requested.saturating_sub(1);
        let chunk = self.frames.chunk_at(&entry.id, location.as_ref())?;
        if chunk.len() as u64 != entry.bytes {
            let why = format!("chunk {} has {} bytes where {} were promised", entry.id, chunk.len(), entry.bytes);
            return Err(RepoError::Malformed { why });
        }
        Ok(Some(chunk))
    }

    fn look_ahead(&mut self) -> Result<(), RepoError> {
        let want = if self.prefetch.is_some() { AHEAD_CHUNKS } else { 1 };
        while self.ahead.len() < want {
            let Some(entry) = self.walk.next_entry()? else { break };
            let location = self.locate(&entry.id)?;
            self.ahead.push_back(Ahead { entry, location });
        }
        let Some(prefetch) = &self.prefetch else { return Ok(()) };
        while let Some(Ahead { location, .. }) = self.ahead.get(self.requested) {
            if let Some(location) = location {
                let first = location.frame.first;
                if self.last_requested != Some(first) {
                    if !prefetch.request(location.frame.clone()) {
                        break;
                    }
                    self.last_requested = Some(first);
                }
            }
            self.requested += 1;
        }
        Ok(())
    }

    fn locate(&mut self, id: &ChunkId) -> Result<Option<Location>, RepoError> {
        let next = self.last.as_ref().and_then(|last| last.soon(id));
        let found = match next {
            Some(next) => Some(next),
            None => self.frames.index().find(id)?.into_iter().next(),
        };
        self.last = found.clone().or(self.last.take());
        Ok(found)
    }
}

/// A content as a stream of bytes.
pub struct StreamReader {
    chunks: ChunkReader,
    current: Option<ChunkBytes>,
    offset: usize,
}

impl StreamReader {
    /// Starts at the content's beginning.
    pub fn new(chunks: ChunkReader) -> Self {
        StreamReader { chunks, current: None, offset: 0 }
    }
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(chunk) = &self.current {
                let rest = &chunk[self.offset..];
                if !rest.is_empty() {
                    let len = rest.len().min(buffer.len());
                    buffer[..len].copy_from_slice(&rest[..len]);
                    self.offset += len;
                    return Ok(len);
                }
            }
            self.offset = 0;
            self.current = self.chunks.next_chunk().map_err(io::Error::other)?;
            if self.current.is_none() {
                return Ok(0);
            }
        }
    }
}

/// The entries of a tree, in order. Memory: one block.
pub struct TreeReader {
    frames: Arc<Frames>,
    walk: ListWalk,
    block: VecDeque<Entry>,
    last_path: Option<Vec<u8>>,
    last_leaf: Option<Vec<u8>>,
    /// Whether there is a list at all: a tree of one block has none.
    keyed: bool,
}

impl TreeReader {
    /// Starts at the first entry.
    pub fn new(frames: &Arc<Frames>, content: &Content) -> Result<Self, RepoError> {
        let walk = ListWalk::new(frames.clone(), ListKind::Keyed, content, 0)?;
        Ok(TreeReader {
            frames: frames.clone(),
            walk,
            block: VecDeque::new(),
            last_path: None,
            last_leaf: None,
            keyed: content.levels > 0,
        })
    }

    /// Goes on with the first entry that does not sort before `path`. Only at the beginning.
    pub fn seek(&mut self, path: &[u8]) -> Result<(), RepoError> {
        self.walk.seek(&|first| compare_paths(first, path).is_le())?;
        while let Some(entry) = self.next_entry()? {
            if compare_paths(&entry.path, path).is_ge() {
                self.last_path = None;
                self.block.push_front(entry);
                break;
            }
        }
        Ok(())
    }

    /// The next entry.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, RepoError> {
        while self.block.is_empty() {
            let Some(listed) = self.walk.next_entry()? else { return Ok(None) };
            let raw = self.frames.chunk(&listed.id)?;
            if raw.len() as u64 != listed.bytes {
                let why =
                    format!("tree block {} has {} bytes where {} were promised", listed.id, raw.len(), listed.bytes);
                return Err(RepoError::Malformed { why });
            }
            let block = decode_block(&raw)?;
            // The list leads to paths by these; a tree must not show one thing to a walk and another to a search.
            let listed_path = (!listed.first_path.is_empty()).then_some(listed.first_path);
            let first_path = block.first().map(|entry| entry.path.clone()).filter(|path| !path.is_empty());
            if self.keyed && listed_path != first_path {
                return Err(RepoError::Malformed {
                    why: format!("tree block {} is listed under another path", listed.id),
                });
            }
            self.block = block.into();
        }
        let Some(entry) = self.block.pop_front() else { return Ok(None) };
        if self.last_path.as_ref().is_some_and(|last| compare_paths(last, &entry.path).is_ge()) {
            return Err(RepoError::Malformed { why: "the tree's paths are not in order".to_owned() });
        }
        let below_a_file = self.last_leaf.as_ref().is_some_and(|leaf| {
            entry.path.strip_prefix(leaf.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'))
        });
        if below_a_file {
            return Err(RepoError::Malformed {
                why: "the tree has an entry below something that is no directory".to_owned(),
            });
        }
        // All that is below an entry follows it directly, so the last one is enough.
        if !matches!(entry.node, Node::Directory) {
            self.last_leaf = Some(entry.path.clone());
        }
        self.last_path = Some(entry.path.clone());
        Ok(Some(entry))
    }
}

impl Iterator for TreeReader {
    type Item = Result<Entry, RepoError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}
