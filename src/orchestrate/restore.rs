//! Restore: a snapshot, or part of it, into a directory or a stream.
//!
//! Two passes over the tree. The first makes directories and specials and hands files to worker threads; the second, when
//! all files are there, makes hard links, removes what is extra, and gives directories their metadata from the deepest
//! up. Memory: one tree block, the names of one directory for each level of the current path, the frames' cache.
//!
//! Invariants: a failure of one entry is counted and named and costs no other; success is reported only when every
//! selected entry is there; what the snapshot names is never deleted as extra, not even what the backup could not read.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;

use crate::format::codec::escape;
use crate::format::record::{Snapshot, SnapshotKind};
use crate::format::tree::{Entry, FileTime, Node, compare_paths};
use crate::orchestrate::error::OrchestrateError;
use crate::progress::{Monitor, Notice, Phase};
use crate::repo::reader::{ChunkReader, Prefetch};
use crate::repo::{RepoError, Repository, chain};
use crate::source::TargetError;
use crate::source::files::link::LinkTable;
use crate::source::files::patterns::Patterns;
use crate::source::files::target::{Existing, Overwrite, Target};
use crate::source::files::walk::unread;

/// Files at least this long are decoded ahead by threads of their own.
const LARGE: u64 = 8 << 20;
/// Files waiting for a worker.
const QUEUE: usize = 256;

/// What is restored, and how.
pub struct RestoreOptions {
    /// The part of a tree: a path without leading `/`; empty for all.
    pub path: Vec<u8>,
    /// The directory that gets it.
    pub target: PathBuf,
    /// If not empty, only what matches.
    pub include: Patterns,
    /// Never what matches.
    pub exclude: Patterns,
    /// What happens to what is there.
    pub overwrite: Overwrite,
    /// Remove what the snapshot does not have.
    pub delete: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Read everything back and compare it.
    pub verify: bool,
}

/// What a restore did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Files written.
    pub files: u64,
    /// Directories made or found.
    pub directories: u64,
    /// Links, fifos and devices made.
    pub others: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Entries that were there already, equal by type, size and time.
    pub unchanged: u64,
    /// Entries that were there, differ, and were kept.
    pub kept: u64,
    /// Sockets and entries that the backup could not read.
    pub skipped: u64,
    /// Entries removed.
    pub deleted: u64,
    /// Files read back and found equal.
    pub verified_files: u64,
    /// Entries that could not be restored or did not compare equal.
    pub failed: u64,
}

#[derive(Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
    verified: AtomicU64,
    failed: AtomicU64,
}

struct Restore<'a> {
    repository: &'a Repository,
    options: &'a RestoreOptions,
    monitor: &'a dyn Monitor,
    snapshot: &'a Snapshot,
    target: Target,
    counts: Counts,
    /// The first failure that makes going on pointless, such as a full disk.
    fatal: Mutex<Option<OrchestrateError>>,
}

/// A file on its way: the entry with its path beneath the target.
struct Job {
    entry: Entry,
}

/// Restores into a directory.
pub fn to_directory(
    repository: &Repository,
    snapshot: &Snapshot,
    short_id: &str,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<Report, OrchestrateError> {
    if options.delete && snapshot.kind == SnapshotKind::Stream {
        return Err(OrchestrateError::Unfit("--delete is for trees; this snapshot is a stream".to_owned()));
    }
    // A dry run makes no directory: what is not there is compared with an empty one.
    let scratch = if options.dry_run && !options.target.exists() {
        let failed = |source| TargetError::Directory { path: options.target.display().to_string(), source };
        Some(tempfile::tempdir().map_err(failed)?)
    } else {
        None
    };
    let directory = scratch.as_ref().map_or(options.target.as_path(), |scratch| scratch.path());
    let target = Target::open(directory, options.overwrite)?;
    let (counts, fatal) = (Counts::default(), Mutex::new(None));
    let restore = Restore { repository, options, monitor, snapshot, target, counts, fatal };
    monitor.begin(Phase::Restore, Some(snapshot.summary.bytes));
    let mut report = Report::default();
    let found = std::thread::scope(|scope| {
        let (sender, receiver) = bounded(QUEUE);
        let count = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 16);
        for _ in 0..count {
            let (restore, receiver): (_, Receiver<Job>) = (&restore, receiver.clone());
            scope.spawn(move || restore.work(&receiver));
        }
        drop(receiver);
        match snapshot.kind {
            SnapshotKind::Tree => restore.first_pass(&sender, &mut report),
            SnapshotKind::Stream => restore.send_stream(&sender, &mut report),
        }
    })?;
    restore.check()?;
    if !found {
        let path = format!("/{}", escape(&options.path));
        return Err(OrchestrateError::NoPath { snapshot: short_id.to_owned(), path });
    }
    if snapshot.kind == SnapshotKind::Tree {
        restore.second_pass(&mut report)?;
    }
    restore.check()?;
    monitor.end();
    report.files = restore.counts.files.load(Ordering::SeqCst);
    report.bytes = restore.counts.bytes.load(Ordering::SeqCst);
    report.verified_files = restore.counts.verified.load(Ordering::SeqCst);
    report.failed = restore.counts.failed.load(Ordering::SeqCst);
    Ok(report)
}

impl Restore<'_> {
    fn check(&self) -> Result<(), OrchestrateError> {
        if self.monitor.interrupted() {
            return Err(RepoError::Interrupted.into());
        }
        match self.fatal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn failed(&self, path: &[u8], error: OrchestrateError) {
        let full = matches!(&error, OrchestrateError::Target(TargetError::Io { source, .. })
            if matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded));
        self.counts.failed.fetch_add(1, Ordering::SeqCst);
        self.monitor.notice(Notice { subject: escape(path), message: chain(&error) });
        if full {
            self.fatal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// The path beneath the target, for an entry of the part asked for.
    fn relative(&self, path: &[u8]) -> Option<Vec<u8>> {
        let part = &self.options.path;
        if part.is_empty() {
            return Some(path.to_vec());
        }
        let rest = path.strip_prefix(part.as_slice())?;
        match rest.split_first() {
            None => Some(Vec::new()),
            Some((b'/', rest)) => Some(rest.to_vec()),
            Some(_) => None,
        }
    }

    fn selected(&self, path: &[u8]) -> bool {
        let options = self.options;
        (options.include.is_empty() || options.include.matches_with_parents(path))
            && !options.exclude.matches_with_parents(path)
    }

    /// Calls `visit` with each entry of the part asked for, its path made relative, and whether it is selected.
    /// False when there is nothing.
    fn each(
        &self,
        visit: &mut dyn FnMut(Entry, bool) -> Result<(), OrchestrateError>,
    ) -> Result<bool, OrchestrateError> {
        let mut tree = self.repository.tree(&self.snapshot.content)?;
        tree.seek(&self.options.path)?;
        let mut found = false;
        while let Some(mut entry) = tree.next_entry()? {
            self.check()?;
            let selected = self.selected(&entry.path);
            let Some(mut relative) = self.relative(&entry.path) else {
                // Past the part: nothing below it follows.
                if compare_paths(&entry.path, &self.options.path).is_gt() {
                    break;
                }
                continue;
            };
            if relative.is_empty() && !matches!(entry.node, Node::Directory) {
                // One file was asked for: it keeps its name.
                relative = entry.name().to_vec();
            }
            found = true;
            entry.path = relative;
            visit(entry, selected)?;
        }
        Ok(found)
    }

    fn first_pass(&self, files: &Sender<Job>, report: &mut Report) -> Result<bool, OrchestrateError> {
        let links = LinkTable::new().map_err(OrchestrateError::Links)?;
        // Directories that were not selected themselves are made only for something in them.
        let mut waiting: Vec<Entry> = Vec::new();
        self.each(&mut |entry, selected| {
            waiting.retain(|directory| is_below(&entry.path, &directory.path));
            let is_directory = matches!(entry.node, Node::Directory);
            if !selected {
                if is_directory {
                    waiting.push(entry);
                }
                return Ok(());
            }
            for directory in waiting.drain(..) {
                self.directory(&directory, report);
            }
            if is_directory {
                self.directory(&entry, report);
                return Ok(());
            }
            if let Some(device) = entry.link_device {
                let first = links.first(device, entry.inode, &entry.path).map_err(OrchestrateError::Links)?;
                if first.is_some() {
                    // Made in the second pass, when the first name is there.
                    return Ok(());
                }
            }
            self.other(entry, files, report);
            Ok(())
        })
    }

    fn directory(&self, entry: &Entry, report: &mut Report) {
        if !self.options.dry_run {
            if let Err(error) = self.target.directory(entry) {
                return self.failed(&entry.path, error.into());
            }
        }
        report.directories += 1;
    }

    fn other(&self, entry: Entry, files: &Sender<Job>, report: &mut Report) {
        match entry.node {
            Node::Socket => return report.skipped += 1,
            Node::Unread => {
                report.skipped += 1;
                let message = "the backup could not read it, so it is not restored".to_owned();
                return self.monitor.notice(Notice { subject: escape(&entry.path), message });
            }
            _ => {}
        }
        match self.target.existing(&entry) {
            Ok(Existing::Write) => {}
            Ok(Existing::Same) => {
                report.unchanged += 1;
                self.monitor.advance(entry.content().map_or(0, |content| content.bytes));
                if self.options.verify && entry.content().is_some() {
                    self.verify(&entry);
                }
                return;
            }
            Ok(Existing::Keep) => {
                report.kept += 1;
                let message = "it exists and differs, and is kept: see --overwrite".to_owned();
                return self.monitor.notice(Notice { subject: escape(&entry.path), message });
            }
            Err(error) => return self.failed(&entry.path, error.into()),
        }
        if matches!(entry.node, Node::File { .. }) {
            // The workers live as long as this pass.
            let _ = files.send(Job { entry });
            return;
        }
        if !self.options.dry_run {
            if let Err(error) = self.target.special(&entry) {
                return self.failed(&entry.path, error.into());
            }
        }
        report.others += 1;
    }

    fn send_stream(&self, files: &Sender<Job>, report: &mut Report) -> Result<bool, OrchestrateError> {
        let content = self.snapshot.content;
        let time = self.snapshot.time;
        let mtime = FileTime { seconds: time.as_second(), nanoseconds: time.subsec_nanosecond().unsigned_abs() };
        let node = Node::File { size: content.bytes, extents: None, content };
        let path = self.snapshot.name.clone().into_bytes();
        self.other(Entry { node, mode: 0o600, mtime, owner: current_owner(), ..unread(path) }, files, report);
        Ok(true)
    }

    fn work(&self, jobs: &Receiver<Job>) {
        for job in jobs {
            if self.monitor.interrupted()
                || self.fatal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
            {
                continue;
            }
            let Job { entry } = job;
            match self.write_file(&entry) {
                Ok(bytes) => {
                    self.counts.files.fetch_add(1, Ordering::SeqCst);
                    self.counts.bytes.fetch_add(bytes, Ordering::SeqCst);
                    if self.options.verify && !self.options.dry_run {
                        self.verify(&entry);
                    }
                }
                Err(error) => self.failed(&entry.path, error),
            }
        }
    }

    fn chunks(&self, entry: &Entry) -> Result<ChunkReader, OrchestrateError> {
        let content = entry.content().copied().unwrap_or(crate::format::content::Content::EMPTY);
        let frames = self.repository.frames();
        let prefetch = (content.bytes >= LARGE).then(|| Prefetch::start(frames));
        Ok(ChunkReader::new(frames, &content, prefetch)?)
    }

    fn write_file(&self, entry: &Entry) -> Result<u64, OrchestrateError> {
        let bytes = entry.content().map_or(0, |content| content.bytes);
        if self.options.dry_run {
            return Ok(bytes);
        }
        let mut chunks = self.chunks(entry)?;
        let mut file = self.target.file(entry)?;
        while let Some(chunk) = chunks.next_chunk()? {
            if self.monitor.interrupted() {
                return Err(RepoError::Interrupted.into());
            }
            file.write(&chunk)?;
            self.monitor.advance(chunk.len() as u64);
        }
        file.finish()?;
        Ok(bytes)
    }

    /// Reads a restored file back and compares it with the repository.
    fn verify(&self, entry: &Entry) {
        match self.compare(entry) {
            Ok(true) => {
                self.counts.verified.fetch_add(1, Ordering::SeqCst);
            }
            Ok(false) => {
                let why = format!("{} was restored and differs from the snapshot", escape(&entry.path));
                self.failed(&entry.path, OrchestrateError::Unfit(why));
            }
            Err(error) => self.failed(&entry.path, error),
        }
    }

    fn compare(&self, entry: &Entry) -> Result<bool, OrchestrateError> {
        let Node::File { size, extents, .. } = &entry.node else { return Ok(true) };
        let file = self.target.read_back(&entry.path)?;
        let mut found = FileBytes { file, offset: 0, left: *size };
        let mut chunks = self.chunks(entry)?;
        let mut wanted = SparseReader::new(extents.as_deref(), *size);
        let mut at_end = false;
        let (mut a, mut b) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        while !at_end {
            let len = wanted.read(&mut chunks, &mut a)?;
            at_end = len == 0;
            if !at_end && (found.read_exact(&mut b[..len]).is_err() || a[..len] != b[..len]) {
                return Ok(false);
            }
        }
        let length = found.file.metadata().map_err(OrchestrateError::Output)?.len();
        Ok(length == *size)
    }

    fn second_pass(&self, report: &mut Report) -> Result<(), OrchestrateError> {
        let links = LinkTable::new().map_err(OrchestrateError::Links)?;
        let mut open: Vec<Level> = Vec::new();
        self.each(&mut |entry, selected| {
            while let Some(level) = open.pop_if(|level| !is_below(&entry.path, &level.entry.path)) {
                self.leave(level, report);
            }
            if let Some(level) = open.last_mut().filter(|_| self.options.delete) {
                level.names.push(entry.name().to_vec());
            }
            if selected {
                if let Some(device) = entry.link_device {
                    let first = links.first(device, entry.inode, &entry.path).map_err(OrchestrateError::Links)?;
                    if let Some(first) = first {
                        self.link(&entry, &first, report);
                    }
                }
            }
            if matches!(entry.node, Node::Directory) {
                open.push(Level { entry, selected, names: Vec::new() });
            }
            Ok(())
        })?;
        while let Some(level) = open.pop() {
            self.leave(level, report);
        }
        Ok(())
    }

    fn link(&self, entry: &Entry, first: &[u8], report: &mut Report) {
        match self.target.existing(entry) {
            Ok(Existing::Write) => {}
            Ok(Existing::Same) => return report.unchanged += 1,
            Ok(Existing::Keep) => return report.kept += 1,
            Err(error) => return self.failed(&entry.path, error.into()),
        }
        if !self.options.dry_run {
            if let Err(error) = self.target.hard_link(&entry.path, first) {
                return self.failed(&entry.path, error.into());
            }
        }
        self.counts.files.fetch_add(1, Ordering::SeqCst);
    }

    /// Finishes a directory when all below it is done.
    fn leave(&self, level: Level, report: &mut Report) {
        let Level { entry, selected, mut names } = level;
        if self.options.delete && selected {
            names.sort_unstable();
            let part = &self.options.path;
            let absolute =
                |path: &[u8]| if part.is_empty() { path.to_vec() } else { [part.as_slice(), b"/", path].concat() };
            let keep = |name: &[u8]| {
                let path =
                    if entry.path.is_empty() { name.to_vec() } else { [&entry.path, b"/".as_slice(), name].concat() };
                names.binary_search_by(|other| other.as_slice().cmp(name)).is_ok() || !self.selected(&absolute(&path))
            };
            let removed = &mut |path: &[u8]| {
                report.deleted += 1;
                self.monitor.item(&format!("removed {}", escape(path)));
            };
            if let Err(error) = self.target.delete_extra(&entry.path, &keep, self.options.dry_run, removed) {
                self.failed(&entry.path, error.into());
            }
        }
        if selected && !self.options.dry_run {
            if let Err(error) = self.target.finish_directory(&entry) {
                self.failed(&entry.path, error.into());
            }
        }
    }
}

struct Level {
    entry: Entry,
    selected: bool,
    names: Vec<Vec<u8>>,
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn current_owner() -> crate::format::tree::Owner {
    crate::format::tree::Owner {
        uid: uzers::get_effective_uid(),
        gid: uzers::get_effective_gid(),
        ..Default::default()
    }
}

struct FileBytes {
    file: File,
    offset: u64,
    left: u64,
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
struct SparseReader {
    extents: Vec<(u64, u64)>,
    index: usize,
    position: u64,
    size: u64,
    chunk: Option<(crate::repo::frames::ChunkBytes, usize)>,
}

impl SparseReader {
    fn new(extents: Option<&[crate::format::tree::Extent]>, size: u64) -> Self {
        let extents = match extents {
            Some(extents) => extents.iter().map(|extent| (extent.offset, extent.offset + extent.len)).collect(),
            None => vec![(0, size)],
        };
        SparseReader { extents, index: 0, position: 0, size, chunk: None }
    }

    fn read(&mut self, chunks: &mut ChunkReader, buffer: &mut [u8]) -> Result<usize, OrchestrateError> {
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

/// Writes one file of a tree, or a stream, to `output`; the bytes written. Holes are written as zeros.
pub fn to_stream(
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
            let why = format!("snapshot {short_id} is a stream and has no paths in it");
            return Err(OrchestrateError::Unfit(why));
        }
        SnapshotKind::Tree => {
            let entry = find_entry(repository, snapshot, short_id, path)?;
            match entry.node {
                Node::File { size, extents, content } => (content, extents, size),
                _ => {
                    let why = format!("/{} is not a regular file: use --target", escape(path));
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
