//! Reading packs whole: every pack has the content its name says, every frame decodes, every chunk has the content its id says.
//!
//! Threads take frames one by one in the order they were stored in: so bases are mostly decoded already, and all threads end
//! together. Several may work on one pack, and on two packs at once; who ends the last part of a pack notes which of its frames
//! could not be read. Invariant: that is noted only when all of them were.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::ByteRange;
use crate::format::pack::MAX_PACK;
use crate::format::{FormatError, ObjectId};
use crate::progress::Monitor;
use crate::repo::check::{Problem, live_frames};
use crate::repo::error::RepoError;
use crate::repo::index::{FrameInfo, PackInfo};
use crate::repo::{Condemned, Repository, chain};

/// Packs being read.
pub struct Reading<'c> {
    repository: &'c Repository,
    condemned: &'c Condemned,
    monitor: &'c dyn Monitor,
    queue: Mutex<Queue>,
    good: AtomicU64,
    problems: Mutex<Vec<Problem>>,
}

struct Queue {
    packs: std::vec::IntoIter<PackInfo>,
    /// The pack whose parts are being given out, and the next of them.
    current: Option<(Arc<Parts>, usize)>,
}

/// A pack: its bytes as a whole, and each frame.
struct Parts {
    pack: PackInfo,
    frames: Vec<Arc<FrameInfo>>,
    left: AtomicUsize,
    rotten: Mutex<Vec<u32>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'c> Reading<'c> {
    /// Will read these packs.
    pub fn new(
        repository: &'c Repository,
        condemned: &'c Condemned,
        packs: Vec<PackInfo>,
        monitor: &'c dyn Monitor,
    ) -> Self {
        let queue = Mutex::new(Queue { packs: packs.into_iter(), current: None });
        Reading { repository, condemned, monitor, queue, good: AtomicU64::new(0), problems: Mutex::default() }
    }

    /// Reads until all is read or somebody wants to stop; to be called by each thread.
    pub fn work(&self) {
        while let Some((parts, part)) = self.next().filter(|_| !self.monitor.interrupted()) {
            match part.checked_sub(1).and_then(|frame| parts.frames.get(frame)) {
                None => self.read_bytes(&parts.pack),
                Some(frame) => {
                    if !self.read_frame(&parts.pack, frame) {
                        lock(&parts.rotten).push(frame.slot);
                    }
                }
            }
            if parts.left.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.end(&parts);
            }
        }
    }

    /// The raw bytes that were found good, and what was not.
    pub fn finish(self) -> (u64, Vec<Problem>) {
        (self.good.into_inner(), self.problems.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// A part that nobody reads yet.
    fn next(&self) -> Option<(Arc<Parts>, usize)> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some((parts, next)) = &mut queue.current {
                let part = *next;
                *next += 1;
                if part <= parts.frames.len() {
                    return Some((parts.clone(), part));
                }
            }
            let pack = queue.packs.next()?;
            match self.repository.index().frames_of_pack(pack.no) {
                Ok(frames) => {
                    let frames = Vec::from_iter(live_frames(frames, self.condemned));
                    let left = AtomicUsize::new(frames.len() + 1);
                    queue.current = Some((Arc::new(Parts { pack, frames, left, rotten: Mutex::default() }), 0));
                }
                Err(error) => self.note(&pack, &error),
            }
        }
    }

    fn note(&self, pack: &PackInfo, error: &dyn std::error::Error) {
        let problem = Problem { subject: format!("{} {}", pack.kind, pack.id), message: chain(error) };
        lock(&self.problems).push(problem);
    }

    fn read_bytes(&self, pack: &PackInfo) {
        match self.repository.backend().read(pack.kind, &pack.id, ByteRange::All { limit: MAX_PACK }) {
            Ok(stored) if ObjectId::of(&stored) == pack.id => {}
            Ok(_) => self.note(pack, &FormatError::Hash { what: "pack" }),
            Err(error) => self.note(pack, &error),
        }
    }

    /// False for a frame that is damaged: what storage does not give now, it may give the next time.
    fn read_frame(&self, pack: &PackInfo, frame: &Arc<FrameInfo>) -> bool {
        let decoded = match self.repository.frames().decoded(frame) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.note(pack, &error);
                return !error.is_damage();
            }
        };
        let mut is_good = true;
        for (position, chunk) in frame.entry.chunks.iter().enumerate() {
            if decoded.is_proven(self.repository.keys(), position) {
                self.good.fetch_add(u64::from(chunk.len), Ordering::Relaxed);
            } else {
                is_good = false;
                self.note(pack, &RepoError::DamagedChunk { id: chunk.id });
            }
        }
        is_good
    }

    fn end(&self, parts: &Parts) {
        // The index is this machine's own, so this writes nothing to the repository.
        if let Err(error) = self.repository.index().note_rotten(&parts.pack.id, &lock(&parts.rotten)) {
            self.note(&parts.pack, &error);
        }
        self.monitor.advance(parts.pack.len);
    }
}
