//! What a backup of paths looks at before it stores it: the walk, the parent's entries beside it, and small files, which are
//! read a little ahead, on a thread of its own, while those before them are hashed and stored.
//!
//! Invariants: things come one by one, in the walk's order; at most [`QUEUE`] of them wait, so that at most that many times
//! [`SMALL`] bytes do; whoever stores decides what it decides without this: here nothing is known of what is in storage.

use std::io::Read;
use std::thread::Scope;

use crossbeam_channel::{Receiver, bounded};

use crate::format::tree::{Entry, Node, compare_paths};
use crate::orchestrate::error::OrchestrateError;
use crate::repo::RepoError;
use crate::repo::reader::TreeReader;
use crate::source::SourceError;
use crate::source::files::{FileState, Found, Missed, Walk};

/// Files up to this length are read ahead.
const SMALL: u64 = 64 << 10;
/// Things that wait to be stored; each may keep a directory open.
const QUEUE: usize = 64;

/// Something that was found.
pub struct Seen {
    /// What it is.
    pub found: Found,
    /// The parent's entry of the same path.
    pub before: Option<Entry>,
    /// Whether it is as it was in the parent.
    pub unchanged: bool,
    /// What was read of it already.
    pub read: Option<Small>,
}

/// What was read of a small file.
pub struct Small {
    /// Whether its entry has all its extended attributes.
    pub attributes: Result<(), SourceError>,
    /// Its content, unless it turned out not to be small.
    pub content: Option<Result<Whole, SourceError>>,
}

/// The whole content of a file.
pub struct Whole {
    /// Its bytes, without holes.
    pub bytes: Vec<u8>,
    /// What it was while it was read.
    pub state: FileState,
}

/// What is found, or that it could not be read. An error ends the backup.
pub type Item = Result<Result<Seen, Box<Missed>>, OrchestrateError>;

/// Walks on a thread of its own, until the end or until nobody takes what it found.
pub fn ahead<'scope>(scope: &'scope Scope<'scope, '_>, walk: Walk, mut known: Known) -> Receiver<Item> {
    let (sender, receiver) = bounded(QUEUE);
    scope.spawn(move || {
        for found in walk {
            let item =
                found.map(|found| look(found, &mut known)).map_or_else(|missed| Ok(Err(missed)), |seen| seen.map(Ok));
            if sender.send(item).is_err() {
                return;
            }
        }
    });
    receiver
}

fn look(mut found: Found, known: &mut Known) -> Result<Seen, OrchestrateError> {
    let before = known.advance_to(&found.entry.path)?;
    let unchanged = before.as_ref().is_some_and(|before| known.is_unchanged(&found.entry, before));
    let is_small = matches!(found.entry.node, Node::File { size, .. } if size <= SMALL);
    let read = (is_small && !unchanged).then(|| Small { attributes: found.complete(), content: read(&mut found) });
    Ok(Seen { found, before, unchanged, read })
}

/// Reads a file, unless it is longer than its status said when the walk came by, or says nothing of its length.
fn read(found: &mut Found) -> Option<Result<Whole, SourceError>> {
    let mut reader = match found.open() {
        Ok(reader) => reader,
        Err(error) => return Some(Err(error)),
    };
    if reader.data_bytes() > SMALL {
        return None;
    }
    let mut bytes = Vec::with_capacity(reader.data_bytes() as usize);
    match reader.read_to_end(&mut bytes) {
        Err(error) => Some(Err(reader.failure(error))),
        Ok(_) => Some(reader.finish().map(|state| Whole { bytes, state })),
    }
}

/// The parent's entries, walked beside the file system.
pub struct Known {
    tree: Option<TreeReader>,
    next: Option<Entry>,
    same_host: bool,
}

impl Known {
    /// Of no parent, nothing is known. Only what was seen on the same host can be told to be unchanged.
    pub fn new(tree: Option<TreeReader>, same_host: bool) -> Self {
        Known { tree, next: None, same_host }
    }

    /// The parent's entry of this path. Paths come in order.
    pub fn advance_to(&mut self, path: &[u8]) -> Result<Option<Entry>, OrchestrateError> {
        loop {
            if self.next.is_none() {
                self.next = match self.tree.as_mut().map(TreeReader::next_entry) {
                    Some(Ok(entry)) => entry,
                    Some(Err(error @ (RepoError::Index { .. } | RepoError::Cache { .. }))) => return Err(error.into()),
                    // A parent that cannot be read to its end only costs time and space.
                    Some(Err(_)) | None => None,
                };
                if self.next.is_none() {
                    self.tree = None;
                }
            }
            let Some(next) = &self.next else { return Ok(None) };
            match compare_paths(&next.path, path) {
                std::cmp::Ordering::Less => self.next = None,
                std::cmp::Ordering::Equal => return Ok(self.next.take()),
                std::cmp::Ordering::Greater => return Ok(None),
            }
        }
    }

    /// Whether nothing of the inode has changed: then attributes, a link's target and content are as they were.
    pub fn is_unchanged(&self, now: &Entry, before: &Entry) -> bool {
        let same_node = match (&now.node, &before.node) {
            (Node::File { size: a, .. }, Node::File { size: b, .. }) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        };
        let times = |entry: &Entry| (entry.mtime, entry.ctime, entry.inode);
        self.same_host && same_node && !before.unstable && times(now) == times(before)
    }
}
