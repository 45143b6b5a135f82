//! From groups of chunks to packs in storage: worker threads that compress, seal, verify, and write.
//!
//! Invariants: a pack is written only after every frame in it was opened again, decompressed and re-hashed; a chunk is
//! in the set of pending ones from its announcement until the index has it, so that at no moment it seems absent; the
//! first failure stops all work and is what the writer reports.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::backend::Backend;
use crate::format::crypto::{HEADER_LEN, Keys};
use crate::format::pack::ChunkEntry;
use crate::format::{ChunkId, Kind, frame};
use crate::repo::error::RepoError;
use crate::repo::frames::Frames;
use crate::repo::index::Location;
use crate::repo::writer::packer::{EncodedFrame, Packer};

/// zstd's level: 3 is where more time stops paying on dumps. With its search for long matches a delta of level 3 takes three
/// quarters of the time of level 6 without, and is no larger.
const LEVEL: i32 = 3;
/// A delta is kept if it is at most this share of what plain compression has been giving, in percent.
const ACCEPT_PERCENT: u64 = 70;

/// No plain frame was made yet.
const UNKNOWN: u64 = u64::MAX;

/// A frame to be made.
pub struct Job {
    /// The kind of pack it goes to.
    pub kind: Kind,
    /// The chunks' bytes.
    pub raw: Vec<u8>,
    /// The chunks.
    pub chunks: Vec<ChunkEntry>,
    /// What it may be a delta of.
    pub bases: Vec<Location>,
    /// What reading those costs ([`Index::work_kib`](crate::repo::index::Index::work_kib)).
    pub base_work_kib: u32,
}

struct Shared {
    frames: Arc<Frames>,
    packers: [Packer; 2],
    pending: Mutex<HashSet<ChunkId>>,
    failed: AtomicBool,
    error: Mutex<Option<RepoError>>,
    /// What the bases of delta frames cost, by the frame's first chunk, until their pack is in the index.
    works: Mutex<HashMap<ChunkId, u32>>,
    /// Compressed bytes a MiB of plain frames, lately; of data and of metadata.
    plain_ratio: [AtomicU64; 2],
}

/// The workers of one writer.
pub struct Pipeline {
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    workers: Vec<JoinHandle<()>>,
}

/// The place of a kind of pack in pairs: data first.
fn sort(kind: Kind) -> usize {
    usize::from(kind == Kind::MetaPack)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pipeline {
    /// Starts one worker a processor.
    pub fn start(backend: Arc<dyn Backend>, keys: Keys, frames: Arc<Frames>) -> Self {
        let packer = |kind| Packer::new(kind, backend.clone(), keys.clone());
        let shared = Arc::new(Shared {
            packers: [packer(Kind::DataPack), packer(Kind::MetaPack)],
            frames,
            pending: Mutex::default(),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
            works: Mutex::default(),
            plain_ratio: [AtomicU64::new(UNKNOWN), AtomicU64::new(UNKNOWN)],
        });
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(16);
        let (sender, receiver) = bounded(count);
        let workers = (0..count)
            .map(|_| {
                let (shared, receiver) = (shared.clone(), receiver.clone());
                std::thread::spawn(move || work(&shared, &receiver))
            })
            .collect();
        Pipeline { shared, jobs: Some(sender), workers }
    }

    /// Whether a chunk is announced and not yet in the index.
    pub fn is_pending(&self, id: &ChunkId) -> bool {
        lock(&self.shared.pending).contains(id)
    }

    /// Adds a chunk to the pending ones.
    pub fn announce(&self, id: ChunkId) {
        lock(&self.shared.pending).insert(id);
    }

    /// Queues a frame; waits while the workers are busy.
    pub fn submit(&self, job: Job) -> Result<(), RepoError> {
        self.shared.check()?;
        let jobs = self.jobs.as_ref().ok_or(RepoError::Worker)?;
        jobs.send(job).map_err(|_| RepoError::Worker)
    }

    /// Waits for all work, writes the last packs, and returns the bytes of packs written.
    pub fn finish(&mut self) -> Result<u64, RepoError> {
        self.join()?;
        self.shared.check()?;
        let mut bytes = 0;
        for packer in &self.shared.packers {
            bytes += packer.finish(&|pack| self.shared.written(pack))?;
        }
        Ok(bytes)
    }

    fn join(&mut self) -> Result<(), RepoError> {
        self.jobs = None;
        let mut result = Ok(());
        for worker in self.workers.drain(..) {
            result = result.and(worker.join().map_err(|_| RepoError::Worker));
        }
        result
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // A writer that is given up leaves no thread behind; queued work is not done.
        self.shared.failed.store(true, Ordering::SeqCst);
        let _ = self.join();
    }
}

impl Shared {
    fn check(&self) -> Result<(), RepoError> {
        if self.failed.load(Ordering::SeqCst) {
            return Err(lock(&self.error).take().unwrap_or(RepoError::Worker));
        }
        Ok(())
    }

    fn written(&self, pack: &crate::repo::writer::packer::WrittenPack) -> Result<(), RepoError> {
        let header = &pack.header[..HEADER_LEN];
        self.frames.index().add_pack(pack.kind, &pack.id, pack.len, header, &pack.frames)?;
        let works: Vec<_> = {
            let mut works = lock(&self.works);
            let firsts = pack.frames.iter().enumerate().filter_map(|(slot, frame)| Some((slot, frame.chunks.first()?)));
            firsts.filter_map(|(slot, first)| Some((slot, works.remove(&first.id)?))).collect()
        };
        self.frames.index().note_work(&pack.id, &works)?;
        let mut pending = lock(&self.pending);
        for chunk in pack.frames.iter().flat_map(|frame| &frame.chunks) {
            pending.remove(&chunk.id);
        }
        Ok(())
    }

    fn process(&self, job: Job) -> Result<(), RepoError> {
        let (encoded, prefix) = self.encode(&job)?;
        let packer = &self.packers[sort(job.kind)];
        packer.add(&encoded, &job.raw, &prefix, &|pack| self.written(pack))?;
        self.frames.buffers().give(prefix);
        self.frames.buffers().give(job.raw);
        Ok(())
    }

    fn encode(&self, job: &Job) -> Result<(EncodedFrame, Vec<u8>), RepoError> {
        if !job.bases.is_empty() {
            // A base that cannot be read makes no delta, but it stops no backup.
            if let Ok(prefix) = self.read_bases(&job.bases) {
                let bytes = frame::compress(LEVEL, &job.raw, &prefix)?;
                let ratio = match self.plain_ratio[sort(job.kind)].load(Ordering::Relaxed) {
                    UNKNOWN => self.learn(job.kind, frame::compress(LEVEL, &job.raw, &[])?.len(), job.raw.len()),
                    known => known,
                };
                let plain = (ratio * job.raw.len() as u64) >> 20;
                // The footer names each base.
                let cost = bytes.len() + job.bases.len() * ChunkId::LEN;
                if cost as u64 * 100 <= plain * ACCEPT_PERCENT {
                    let depth = 1 + job.bases.iter().map(|base| base.frame.entry.depth).max().unwrap_or(0);
                    let bases = job.bases.iter().map(|base| base.chunk().id).collect();
                    lock(&self.works).extend(job.chunks.first().map(|chunk| (chunk.id, job.base_work_kib)));
                    return Ok((EncodedFrame { depth, bases, chunks: job.chunks.clone(), bytes }, prefix));
                }
            }
        }
        let bytes = frame::compress(LEVEL, &job.raw, &[])?;
        self.learn(job.kind, bytes.len(), job.raw.len());
        Ok((EncodedFrame { depth: 0, bases: Vec::new(), chunks: job.chunks.clone(), bytes }, Vec::new()))
    }

    /// Notes what plain compression gave; the average of late, in bytes a MiB.
    fn learn(&self, kind: Kind, compressed: usize, raw: usize) -> u64 {
        let now = ((compressed as u64) << 20) / raw.max(1) as u64;
        let average = &self.plain_ratio[sort(kind)];
        let ratio = match average.load(Ordering::Relaxed) {
            UNKNOWN => now,
            before => (7 * before + now) / 8,
        };
        average.store(ratio, Ordering::Relaxed);
        ratio
    }

    fn read_bases(&self, bases: &[Location]) -> Result<Vec<u8>, RepoError> {
        let mut prefix = self.frames.buffers().borrow(bases.iter().map(|base| base.chunk().len as usize).sum());
        for base in bases {
            prefix.extend_from_slice(&self.frames.at(base)?);
        }
        Ok(prefix)
    }
}

fn work(shared: &Shared, jobs: &Receiver<Job>) {
    for job in jobs {
        if shared.failed.load(Ordering::SeqCst) {
            continue;
        }
        if let Err(error) = shared.process(job) {
            lock(&shared.error).get_or_insert(error);
            shared.failed.store(true, Ordering::SeqCst);
        }
    }
}
