//! Restore: a snapshot, or part of it, into a directory or a stream.
//!
//! Two passes over the tree. The first makes directories and specials and hands files to worker threads; the second, when
//! all files are there, makes hard links, removes what is extra, and gives directories their metadata from the deepest
//! up. Memory: one tree block, the names of one directory for each level of the current path, the frames' cache.
//!
//! Invariants: a failure of one entry is counted and named and costs no other; success is reported only when every
//! selected entry is there.

mod above;
mod delete;
mod report;
pub mod stream;

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::format::codec::escape;
use crate::format::record::{Snapshot, SnapshotKind};
use crate::format::tree::{Entry, FileTime, Node, compare_paths};
use crate::orchestrate::error::OrchestrateError;
use crate::orchestrate::restore::report::Counts;
pub use crate::orchestrate::restore::report::Report;
use crate::orchestrate::restore::stream::{FileBytes, SparseReader};
use crate::progress::{Monitor, Notice, Phase};
use crate::repo::index::Location;
use crate::repo::reader::{ChunkReader, Prefetch};
use crate::repo::{RepoError, Repository, chain};
use crate::source::files::link::LinkTable;
use crate::source::files::{Outcome, Overwrite, OwnerLookup, Patterns, State, Target, TargetOptions};

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
    /// Remove what the snapshot does not have, at and below the paths that were backed up.
    pub delete: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Read everything back and compare it.
    pub verify: bool,
    /// How owners are found.
    pub owner_lookup: OwnerLookup,
}

struct Restore<'a> {
    /// What the backup left out: it is never removed as extra.
    left_out: Patterns,
    repository: &'a Repository,
    options: &'a RestoreOptions,
    monitor: &'a dyn Monitor,
    snapshot: &'a Snapshot,
    /// None only in a dry run, where the directory does not exist.
    target: Option<Target>,
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
    if !options.path.is_empty() && snapshot.kind == SnapshotKind::Stream {
        let why = format!("snapshot {short_id} is a stream and has no paths in it: leave out :/PATH");
        return Err(OrchestrateError::Unfit(why));
    }
    if options.delete && !(options.include.is_empty() && options.exclude.is_empty()) {
        let why = "--delete with --include or --exclude is refused: what was left out would be removed";
        return Err(OrchestrateError::Unfit(why.to_owned()));
    }
    let settings =
        TargetOptions { overwrite: options.overwrite, owner_lookup: options.owner_lookup, ..TargetOptions::default() };
    // A dry run makes no directory; where there is none, nothing is in the way.
    let target = if options.dry_run {
        Target::open_existing(&options.target, settings)?
    } else {
        Some(Target::open(&options.target, settings)?)
    };
    let (counts, fatal) = (Counts::default(), Mutex::new(None));
    let left_out = Patterns::new(snapshot.excludes.iter().map(|glob| &glob.0))?;
    let restore = Restore { left_out, repository, options, monitor, snapshot, target, counts, fatal };
    monitor.begin(Phase::Restore, Some(restore.total()?));
    let mut report = Report::default();
    restore.run(short_id, &mut report).map_err(|error| restore.counts.with_damage(error))?;
    monitor.end();
    restore.counts.tell(&mut report);
    report.owners_left = restore.target.as_ref().map_or(0, Target::owners_left);
    if report.owners_left > 0 {
        let message = format!("{} entries do not have their owners: only root can give files away", report.owners_left);
        monitor.notice(Notice { subject: escape(options.target.as_os_str().as_bytes()), message });
    }
    Ok(report)
}

impl Restore<'_> {
    /// Both passes.
    fn run(&self, short_id: &str, report: &mut Report) -> Result<(), OrchestrateError> {
        let found = std::thread::scope(|scope| {
            let (sender, receiver) = bounded(QUEUE);
            let count = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 16);
            for _ in 0..count {
                let (restore, receiver): (_, Receiver<Job>) = (self, receiver.clone());
                scope.spawn(move || restore.work(&receiver));
            }
            drop(receiver);
            match self.snapshot.kind {
                SnapshotKind::Tree => self.first_pass(&sender, report),
                SnapshotKind::Stream => self.send_stream(&sender, report),
            }
        })?;
        self.check()?;
        if !found {
            let path = format!("/{}", escape(&self.options.path));
            return Err(OrchestrateError::NoPath { snapshot: short_id.to_owned(), path });
        }
        if self.snapshot.kind == SnapshotKind::Tree {
            self.second_pass(report)?;
        }
        self.check()
    }

    /// How much there is to restore. Of a part it is counted from its entries, so that the time left is right.
    fn total(&self) -> Result<u64, OrchestrateError> {
        let RestoreOptions { path, include, exclude, .. } = self.options;
        if self.snapshot.kind == SnapshotKind::Stream || (path.is_empty() && include.is_empty() && exclude.is_empty()) {
            return Ok(self.snapshot.summary.bytes);
        }
        let mut total = 0;
        self.each(&mut |entry, selected| {
            total += entry.content().filter(|_| selected).map_or(0, |content| content.bytes);
            Ok(())
        })?;
        Ok(total)
    }

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
        let full = matches!(&error, OrchestrateError::Target(error) if error.is_final());
        self.counts.failed(&error);
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

    fn selected(&self, entry: &Entry) -> bool {
        let (options, is_directory) = (self.options, matches!(entry.node, Node::Directory));
        (options.include.is_empty() || options.include.covers(&entry.path, is_directory))
            && !options.exclude.covers(&entry.path, is_directory)
    }

    /// What the target says, unless this is a dry run.
    fn apply(&self, act: impl FnOnce(&Target) -> Outcome, path: &[u8]) -> bool {
        let Some(target) = self.target.as_ref().filter(|_| !self.options.dry_run) else { return true };
        match act(target) {
            Ok(complaints) => {
                complaints.into_iter().for_each(|error| self.failed(path, error.into()));
                true
            }
            Err(error) => {
                self.failed(path, error.into());
                false
            }
        }
    }

    /// Whether an entry is to be written; counts it and tells of it if not.
    fn wanted(&self, entry: &Entry, report: &mut Report) -> bool {
        let state = match self.target.as_ref().map(|target| target.existing(entry)) {
            None => State::Absent,
            Some(Ok(state)) => state,
            Some(Err(error)) => {
                self.failed(&entry.path, error.into());
                return false;
            }
        };
        match (state, self.options.overwrite) {
            (State::Absent, _) => {
                self.planned("write", &entry.path);
                true
            }
            (State::Obstructed, Overwrite::Changed | Overwrite::Always) => {
                self.planned("replace", &entry.path);
                self.clear(entry, report)
            }
            (_, Overwrite::Always) | (State::Different, Overwrite::Changed) => {
                self.planned("replace", &entry.path);
                true
            }
            (State::Finished, _) => {
                report.unchanged += 1;
                self.monitor.advance(entry.content().map_or(0, |content| content.bytes));
                self.apply(|target| target.refresh(entry), &entry.path);
                if self.options.verify && entry.content().is_some() {
                    self.verify(entry);
                }
                false
            }
            (State::Different | State::Obstructed, Overwrite::Never) => {
                report.kept += 1;
                self.planned("keep", &entry.path);
                let message = "it exists and differs, and is kept: see --overwrite".to_owned();
                self.monitor.notice(Notice { subject: escape(&entry.path), message });
                false
            }
        }
    }

    /// In a dry run, tells what would be done.
    fn planned(&self, action: &'static str, path: &[u8]) {
        if self.options.dry_run {
            self.monitor.action(action, &escape(path));
        }
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
            let selected = self.selected(&entry);
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
        if self.leads_elsewhere(entry) {
            let why = format!(
                "{0} is no directory here, and only on the way to what was backed up: it is kept, and nothing below it is \
                 restored; restore that by SNAP:/PATH to a --target of its own",
                escape(&entry.path)
            );
            return self.failed(&entry.path, OrchestrateError::Unfit(why));
        }
        if self.apply(|target| target.directory(entry).map(|()| Vec::new()), &entry.path) {
            report.directories += 1;
        }
    }

    fn other(&self, entry: Entry, files: &Sender<Job>, report: &mut Report) {
        match entry.node {
            Node::Socket => {
                report.skipped += 1;
                let message = "it is a socket, which only the program that listens on it can make: it is not restored";
                return self.monitor.notice(Notice { subject: escape(&entry.path), message: message.to_owned() });
            }
            Node::Unread => {
                report.skipped += 1;
                let message = "the backup could not read it, so it is not restored".to_owned();
                return self.monitor.notice(Notice { subject: escape(&entry.path), message });
            }
            _ => {}
        }
        if !self.wanted(&entry, report) {
            return;
        }
        if matches!(entry.node, Node::File { .. }) {
            // The workers live as long as this pass.
            let _ = files.send(Job { entry });
            return;
        }
        if self.apply(|target| target.special(&entry), &entry.path) {
            report.others += 1;
        }
    }

    fn send_stream(&self, files: &Sender<Job>, report: &mut Report) -> Result<bool, OrchestrateError> {
        let content = self.snapshot.content;
        let time = self.snapshot.time;
        let mtime = FileTime { seconds: time.as_second(), nanoseconds: time.subsec_nanosecond().unsigned_abs() };
        let entry = Entry {
            path: self.snapshot.name.clone().into_bytes(),
            node: Node::File { size: content.bytes, extents: None, content },
            mode: 0o600,
            owner: current_owner(),
            mtime,
            ctime: FileTime::default(),
            inode: 0,
            link_device: None,
            unstable: false,
            xattrs: Vec::new(),
        };
        self.other(entry, files, report);
        Ok(true)
    }

    fn work(&self, jobs: &Receiver<Job>) {
        let mut last = None;
        for job in jobs {
            if self.monitor.interrupted()
                || self.fatal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
            {
                continue;
            }
            let Job { entry } = job;
            match self.write_file(&entry, &mut last) {
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

    /// `last` is where the last chunk of the file before was found.
    fn write_file(&self, entry: &Entry, last: &mut Option<Location>) -> Result<u64, OrchestrateError> {
        let bytes = entry.content().map_or(0, |content| content.bytes);
        let Some(target) = self.target.as_ref().filter(|_| !self.options.dry_run) else { return Ok(bytes) };
        let mut chunks = self.chunks(entry)?.beside(last.take());
        let file = target.begin_file(entry)?;
        let mut position = 0;
        while let Some(chunk) = chunks.next_chunk()? {
            if self.monitor.interrupted() {
                return Err(RepoError::Interrupted.into());
            }
            file.write_at(position, &chunk)?;
            position += chunk.len() as u64;
            self.monitor.advance(chunk.len() as u64);
        }
        *last = chunks.last().cloned();
        for complaint in file.finish(entry)? {
            self.failed(&entry.path, complaint.into());
        }
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
        let Some(target) = &self.target else { return Ok(false) };
        let file = target.read_back(&entry.path)?;
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
            if selected && let Some(device) = entry.link_device {
                let first = links.first(device, entry.inode, &entry.path).map_err(OrchestrateError::Links)?;
                if let Some(first) = first {
                    self.link(&entry, &first, report);
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
        if self.wanted(entry, report)
            && self.apply(|target| target.hard_link(entry, first).map(|()| Vec::new()), &entry.path)
        {
            self.counts.files.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Finishes a directory when all below it is done.
    fn leave(&self, level: Level, report: &mut Report) {
        let Level { entry, selected, mut names } = level;
        if self.options.delete && selected && self.was_read_whole(&entry) {
            names.sort_unstable();
            self.delete_extra(&entry, &names, report);
        }
        if selected {
            self.apply(|target| target.finish_directory(&entry), &entry.path);
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
