//! Writing: from a lease to a published snapshot (format-spec/ordering.md).
//!
//! Invariants: the lease is in storage before tombstones are listed, so a chunk that a gc will drop is either in a
//! tombstone that this writer has seen, or the gc waits for this writer; a snapshot is written only when every pack it
//! needs is durable, its lease still stands, and what it relies on is still there; if the lease vanished meanwhile, the
//! snapshot is withdrawn. Any number of writers work at once.

pub mod content;
pub mod core;
mod cutting;
pub mod group;
pub mod lane;
pub mod packer;
pub mod parent;
pub mod pipeline;
pub mod tree;

use std::collections::HashSet;
use std::io::{self, Read};

use crate::backend::list_all;
use crate::chunker::{Chunker, Splitter};
use crate::format::content::Content;
use crate::format::list::ListKind;
use crate::format::record::{Purpose, Snapshot};
use crate::format::tree::Entry;
use crate::format::{Kind, ObjectId};
use crate::progress::Monitor;
use crate::repo::Repository;
use crate::repo::error::RepoError;
use crate::repo::index::refresh::PACK_KINDS;
use crate::repo::lease::Held;
use crate::repo::lists::ListWalk;
use crate::repo::writer::content::ContentWriter;
use crate::repo::writer::core::{Core, WriteStats};
use crate::repo::writer::cutting::Cutting;
use crate::repo::writer::pipeline::Pipeline;
use crate::repo::writer::tree::TreeWriter;

/// Which side of a copy failed: a source that cannot be read is not a repository that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Reading the source failed.
    #[error("reading failed")]
    Source(#[source] io::Error),
    /// Writing the repository failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

/// A tree being written.
pub struct Tree(TreeWriter);

/// What a finished writer did.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Raw bytes of new chunks.
    pub new_bytes: u64,
    /// Bytes of packs written.
    pub stored_bytes: u64,
}

/// A content that is longer than this is cut and hashed on threads of their own.
const LONG: usize = 1 << 20;

/// A writer of one run.
pub struct Writer<'r> {
    repository: &'r Repository,
    monitor: &'r dyn Monitor,
    lease: Held<'r>,
    core: Core,
    splitter: Option<Splitter>,
    /// [`crate::repo::index::Index::state`] when dead chunks were looked up: they are known by number.
    state: i64,
}

impl<'r> Writer<'r> {
    /// Takes a lease and starts.
    pub fn begin(repository: &'r Repository, monitor: &'r dyn Monitor) -> Result<Self, RepoError> {
        let lease = Held::take(repository, Purpose::Write)?;
        let state = repository.index().state()?;
        let mut condemned = repository.condemned(monitor)?;
        // What a check could not read is as good as absent: it is stored anew, and nothing is built on it.
        for frame in repository.index().rotten()? {
            for (number, _) in (frame.first..).zip(&frame.entry.chunks) {
                condemned.dead.insert(number);
            }
        }
        let frames = repository.frames().clone();
        let pipeline = Pipeline::start(repository.backend().clone(), repository.keys().clone(), frames.clone());
        let core = Core::new(frames, pipeline, condemned, repository.cache().load_similar());
        let chunker = Chunker::new(repository.keys().gear_table(), repository.config().chunk_sizes);
        Ok(Writer { repository, monitor, lease, core, splitter: Some(Splitter::new(chunker)), state })
    }

    /// From here on what is stored already is read back before it is relied on: damaged copies are stored again.
    pub fn read_back(&mut self) {
        self.core.read_back();
    }

    /// From here on reading the bases of a new frame costs at most this many KiB of decoded bytes: less is saved, and each is
    /// read sooner.
    pub fn limit_base_work(&mut self, kib: u32) {
        self.core.limit_base_work(kib);
    }

    /// Stores everything that `source` gives, cut into chunks. `parent` is what it most probably resembles.
    pub fn content(&mut self, parent: Option<Content>, source: &mut dyn Read) -> Result<Content, CopyError> {
        let mut splitter = self.splitter.take().ok_or(RepoError::Worker)?;
        let result = self.split(&mut splitter, parent, source);
        splitter.clear();
        self.splitter = Some(splitter);
        result
    }

    fn split(
        &mut self,
        splitter: &mut Splitter,
        parent: Option<Content>,
        source: &mut dyn Read,
    ) -> Result<Content, CopyError> {
        let frames = self.repository.frames();
        let mut content = ContentWriter::new(frames, Kind::DataPack, ListKind::Plain, parent)?;
        let (mut at_end, mut taken) = (false, 0);
        while !at_end {
            if taken >= LONG {
                return self.split_long(splitter, content, source);
            }
            let read = match self.read(source, splitter.room()) {
                Ok(read) => read,
                Err(error) => return Err(self.give_up(content, error)),
            };
            at_end = read == 0;
            taken += read;
            splitter.filled(read);
            while let Some(chunk) = splitter.next_chunk(at_end) {
                content.push(&mut self.core, chunk, &[])?;
            }
        }
        Ok(content.finish(&mut self.core)?)
    }

    /// Goes on with a content that turned out to be long.
    fn split_long(
        &mut self,
        splitter: &mut Splitter,
        mut content: ContentWriter,
        source: &mut dyn Read,
    ) -> Result<Content, CopyError> {
        std::thread::scope(|scope| {
            let frames = self.repository.frames().clone();
            let mut cutting = Cutting::start(scope, splitter.chunker().clone(), frames, splitter.take_left());
            loop {
                while let Some(piece) = cutting.finished()? {
                    for (id, chunk) in piece.chunks() {
                        content.push_hashed(&mut self.core, id, chunk, &[])?;
                    }
                    cutting.give_back(piece);
                }
                let Some(mut piece) = cutting.next_piece() else { break };
                while !piece.is_full() {
                    match self.read(source, piece.room()) {
                        Ok(read) => piece.filled(read),
                        Err(error) => return Err(self.give_up(content, error)),
                    }
                }
                cutting.hand_on(piece)?;
            }
            Ok(content.finish(&mut self.core)?)
        })
    }

    /// The next bytes; none at the end.
    fn read(&self, source: &mut dyn Read, room: &mut [u8]) -> Result<usize, CopyError> {
        let read = loop {
            match source.read(room) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted && !self.monitor.interrupted() => {}
                result => break result.map_err(CopyError::Source)?,
            }
        };
        if self.monitor.interrupted() {
            return Err(RepoError::Interrupted.into());
        }
        self.monitor.advance(read as u64);
        Ok(read)
    }

    /// After a source has failed. What was read is given up, but its chunks may be needed by what follows: they stay announced.
    fn give_up(&mut self, content: ContentWriter, error: CopyError) -> CopyError {
        if matches!(error, CopyError::Source(_))
            && let Err(failed) = content.finish(&mut self.core)
        {
            return failed.into();
        }
        error
    }

    /// Whether a content of the parent is there, so that it can be taken over without reading its source. Without
    /// tombstones and known damage the root is enough: the parent is a root of its own, listed after this writer's lease
    /// was written. With tombstones another writer may have built the parent on what is dead, so every chunk is looked up.
    pub fn has_content(&mut self, content: &Content) -> Result<bool, RepoError> {
        let Some(root) = &content.root else { return Ok(true) };
        if !self.core.has(root)? {
            return Ok(false);
        }
        if self.core.knows_no_dead() {
            return Ok(true);
        }
        match self.has_all_below(content) {
            // A list that cannot be read is not there.
            Err(error) if error.is_damage() => Ok(false),
            result => result,
        }
    }

    fn has_all_below(&mut self, content: &Content) -> Result<bool, RepoError> {
        for level in 0..content.levels {
            let mut walk = ListWalk::new(self.core.frames().clone(), ListKind::Plain, content, level)?;
            while let Some(entry) = walk.next_entry()? {
                if !self.core.has(&entry.id)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Starts a tree beside the parent's.
    pub fn tree(&mut self, parent: Option<Content>) -> Result<Tree, RepoError> {
        Ok(Tree(TreeWriter::new(self.repository.frames(), parent)?))
    }

    /// Adds an entry to a tree; entries come in the order of [`crate::format::tree::compare_paths`].
    pub fn push(&mut self, tree: &mut Tree, entry: Entry) -> Result<(), RepoError> {
        tree.0.push(&mut self.core, entry)
    }

    /// Ends a tree.
    pub fn finish_tree(&mut self, tree: Tree) -> Result<Content, RepoError> {
        tree.0.finish(&mut self.core)
    }

    /// Makes everything written so far durable. Nothing can be added afterwards.
    pub fn flush(&mut self) -> Result<Written, RepoError> {
        let stored_bytes = self.core.finish()?;
        self.repository.backend().sync()?;
        if self.core.stats.new_chunks > 0 {
            self.repository.cache().store_similar(self.core.similar_table())?;
        }
        let WriteStats { new_bytes, .. } = self.core.stats;
        Ok(Written { new_bytes, stored_bytes })
    }

    /// Publishes a snapshot over flushed content, and ends the run.
    pub fn publish(self, snapshot: &Snapshot) -> Result<ObjectId, RepoError> {
        if self.monitor.interrupted() {
            return Err(RepoError::Interrupted);
        }
        self.lease.check()?;
        self.check_used_packs()?;
        // Last, because packs that are used are looked up by number, too.
        if self.repository.index().state()? != self.state || !self.core.condemned().stands(self.repository.index())? {
            return Err(RepoError::IndexChanged);
        }
        self.repository.backend().sync()?;
        let id = self.repository.write_record(snapshot)?;
        self.repository.backend().sync()?;
        if let Err(error) = self.lease.check() {
            // With a record, because another writer may have named it as predecessor already.
            self.repository.forget(&[(id, "withdrawn: its writer had lost its lease".to_owned())])?;
            return Err(error);
        }
        self.lease.release()?;
        self.repository.remember(&id, snapshot)?;
        Ok(id)
    }

    /// Ends the run without publishing.
    pub fn abandon(self) -> Result<(), RepoError> {
        self.lease.release()
    }

    fn check_used_packs(&self) -> Result<(), RepoError> {
        let mut present = HashSet::new();
        for kind in PACK_KINDS {
            present.extend(list_all(self.repository.backend().as_ref(), kind)?.into_iter().map(|(id, _)| id));
        }
        for no in self.core.used_packs() {
            match self.repository.index().pack(*no)? {
                // Another process may have written it and not made it durable yet.
                Some(pack) if present.contains(&pack.id) => {
                    self.repository.backend().include_in_sync(pack.kind, &pack.id);
                }
                Some(pack) => return Err(RepoError::Disappeared { kind: pack.kind, id: pack.id }),
                None => return Err(RepoError::Disappeared { kind: Kind::DataPack, id: ObjectId::ZERO }),
            }
        }
        if self.core.used_moving().is_empty() {
            return Ok(());
        }
        // A sweep copies what lives before it removes: what moved is found again.
        self.repository.refresh(self.monitor)?;
        for id in self.core.used_moving() {
            if self.repository.index().find(id)?.is_empty() {
                return Err(RepoError::MissingChunk { id: *id });
            }
        }
        Ok(())
    }
}
