//! Backup: paths, a stream, or a program's output into one snapshot.
//!
//! Invariants: a stream is read whole, never taken as unchanged; a file is taken as unchanged only when size, mtime,
//! ctime and inode equal those of the same path in a snapshot of the same host, and its content is still there; what
//! cannot be read is recorded and counted, and never stops the rest; a program's output is published only after the
//! program succeeded.

mod look;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, PathBuf};
use std::time::Instant;

use jiff::Timestamp;

use crate::format::ObjectId;
use crate::format::content::Content;
use crate::format::record::{PathText, Snapshot, SnapshotKind, Summary};
use crate::format::tree::{Entry, Node};
use crate::orchestrate::ahead;
use crate::orchestrate::backup::look::{Known, Seen, Small, Whole};
use crate::orchestrate::error::OrchestrateError;
use crate::progress::{Monitor, Notice, Phase};
use crate::repo::records::{DamagedSnapshot, Snapshots};
use crate::repo::writer::{CopyError, Tree, Writer};
use crate::repo::{RepoError, Repository, SnapshotInfo, chain};
use crate::source::SourceError;
use crate::source::command::CommandStream;
use crate::source::files::{Found, Missed, Patterns, Walk, WalkOptions, absolute_root};
use crate::source::wait::StandardInput;

/// Which snapshot a backup is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The newest of the same name and kind, this host's preferred.
    Newest,
    /// None: everything is read, nothing is a delta of a neighbour.
    None,
    /// This one.
    Snapshot(ObjectId),
}

/// What every backup is told.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The snapshot's name.
    pub name: String,
    /// The snapshot's tags.
    pub tags: BTreeMap<String, String>,
    /// The snapshot compared with.
    pub parent: Parent,
    /// Read everything: files that seem unchanged, and what is stored already before it is relied on.
    pub force: bool,
}

/// What a backup of paths is told besides.
#[derive(Debug, Clone, Default)]
pub struct TreeOptions {
    /// The paths.
    pub roots: Vec<PathBuf>,
    /// What is left out.
    pub exclude: Patterns,
    /// Stay on the file systems of the paths.
    pub one_file_system: bool,
    /// Absolute paths below which files change and vanish while they are read, as those of a server at work: that is
    /// no failure there.
    pub changing: Vec<PathBuf>,
    /// What the bases of a frame may cost a reader, in KiB of decoded bytes, where less than the usual pays.
    pub max_base_work_kib: Option<u32>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What a backup did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The snapshot; none after a dry run.
    pub id: Option<ObjectId>,
    /// The snapshot compared with.
    pub parent: Option<ObjectId>,
    /// Counts.
    pub summary: Summary,
}

struct Run<'r> {
    repository: &'r Repository,
    options: &'r BackupOptions,
    time: Timestamp,
    started: Instant,
    previous: Option<ObjectId>,
    parent: Option<SnapshotInfo>,
}

impl<'r> Run<'r> {
    /// Chooses the parent. Called when the writer holds its lease, so that the parent's data stays.
    fn prepare(
        repository: &'r Repository,
        options: &'r BackupOptions,
        kind: SnapshotKind,
        monitor: &dyn Monitor,
    ) -> Result<Self, OrchestrateError> {
        crate::format::name::validate(&options.name).map_err(RepoError::from)?;
        let Snapshots { found: snapshots, damaged, .. } = repository.readable_snapshots()?;
        for DamagedSnapshot { id, message, .. } in damaged {
            // It may be the one to compare with; without it more is stored.
            monitor.notice(Notice { subject: format!("snapshot {id}"), message });
        }
        let previous = snapshots.last().map(|info| info.id);
        let fits = |info: &SnapshotInfo| info.snapshot.kind == kind;
        let parent = match options.parent {
            Parent::None => None,
            Parent::Snapshot(id) => {
                let found = snapshots.into_iter().find(|info| info.id == id).filter(fits);
                let why = || format!("snapshot {} cannot be the parent: it is of the other kind, or gone", id.short());
                Some(found.ok_or_else(|| OrchestrateError::Unfit(why()))?)
            }
            Parent::Newest => {
                let named = |info: &SnapshotInfo| fits(info) && info.snapshot.name == options.name;
                let ours = |info: &SnapshotInfo| named(info) && info.snapshot.host == repository.host();
                let newest = snapshots.iter().rev().find(|info| ours(info));
                newest.or_else(|| snapshots.iter().rev().find(|info| named(info))).cloned()
            }
        };
        if let Some(parent) = &parent {
            monitor.item(&format!("compared with {}", parent.id.short()));
        }
        Ok(Run { repository, options, time: Timestamp::now(), started: Instant::now(), previous, parent })
    }

    fn parent_content(&self) -> Option<Content> {
        self.parent.as_ref().map(|info| info.snapshot.content).filter(|content| content.bytes > 0)
    }

    fn publish(
        self,
        mut writer: Writer<'_>,
        kind: SnapshotKind,
        (paths, excludes): (Vec<PathText>, Vec<PathText>),
        content: Content,
        mut summary: Summary,
    ) -> Result<Outcome, OrchestrateError> {
        let written = writer.flush()?;
        summary.new_bytes = written.new_bytes;
        summary.stored_bytes = written.stored_bytes;
        summary.milliseconds = self.started.elapsed().as_millis() as u64;
        let parent = self.parent.map(|info| info.id);
        let snapshot = Snapshot {
            name: self.options.name.clone(),
            host: self.repository.host().to_owned(),
            time: self.time,
            kind,
            paths,
            excludes,
            tags: self.options.tags.clone(),
            content,
            parent,
            previous: self.previous,
            summary,
            program: concat!("cairn ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let id = writer.publish(&snapshot)?;
        Ok(Outcome { id: Some(id), parent, summary })
    }
}

fn begin<'r>(
    repository: &'r Repository,
    options: &BackupOptions,
    monitor: &'r dyn Monitor,
) -> Result<Writer<'r>, RepoError> {
    let mut writer = Writer::begin(repository, monitor)?;
    if options.force {
        writer.read_back();
    }
    Ok(writer)
}

/// Stores a stream.
pub fn stream(
    repository: &Repository,
    source: &mut dyn Read,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<Outcome, OrchestrateError> {
    let (run, writer, content) = read_stream(repository, source, options, monitor)?;
    publish_stream(run, writer, content)
}

/// Stores standard input.
pub fn standard_input(
    repository: &Repository,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<Outcome, OrchestrateError> {
    stream(repository, &mut StandardInput::new(monitor).map_err(OrchestrateError::Input)?, options, monitor)
}

/// Stores a program's output, if the program succeeds.
pub fn command(
    repository: &Repository,
    argv: &[OsString],
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<Outcome, OrchestrateError> {
    let source = CommandStream::spawn(argv, monitor, |line| tracing::info!(target: "command", "{line}"))?;
    checked(repository, source, CommandStream::finish, options, monitor).map(|(outcome, ())| outcome)
}

/// Stores a stream whose end does not say whether it is whole: `finish` does, and only then it is published.
pub fn checked<S: Read, T>(
    repository: &Repository,
    mut source: S,
    finish: impl FnOnce(S) -> Result<T, SourceError>,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<(Outcome, T), OrchestrateError> {
    let failed = |error: SourceError| match monitor.interrupted() {
        true => RepoError::Interrupted.into(),
        false => OrchestrateError::from(error),
    };
    let (run, writer, content) = match read_stream(repository, &mut source, options, monitor) {
        Ok(read) => read,
        // The source knows better than its reader what was wrong: it says so in its error, or at its end.
        Err(OrchestrateError::Input(error)) => {
            return Err(match error.downcast::<SourceError>() {
                Ok(known) => failed(known),
                Err(error) => finish(source).map_or_else(failed, |_| OrchestrateError::Input(error)),
            });
        }
        Err(error) => return Err(error),
    };
    match finish(source) {
        Ok(value) => Ok((publish_stream(run, writer, content)?, value)),
        Err(error) => {
            writer.abandon()?;
            Err(failed(error))
        }
    }
}

fn read_stream<'r>(
    repository: &'r Repository,
    source: &mut dyn Read,
    options: &'r BackupOptions,
    monitor: &'r dyn Monitor,
) -> Result<(Run<'r>, Writer<'r>, Content), OrchestrateError> {
    let mut writer = begin(repository, options, monitor)?;
    let run = Run::prepare(repository, options, SnapshotKind::Stream, monitor)?;
    monitor.begin(Phase::Backup, run.parent_content().map(|content| content.bytes));
    let content = writer.content(run.parent_content(), source).map_err(|error| match error {
        CopyError::Source(_) if monitor.interrupted() => RepoError::Interrupted.into(),
        CopyError::Source(error) => OrchestrateError::Input(error),
        CopyError::Repo(error) => error.into(),
    })?;
    monitor.end();
    Ok((run, writer, content))
}

fn publish_stream(run: Run<'_>, writer: Writer<'_>, content: Content) -> Result<Outcome, OrchestrateError> {
    let summary = Summary { bytes: content.bytes, read_bytes: content.bytes, ..Summary::default() };
    run.publish(writer, SnapshotKind::Stream, Default::default(), content, summary)
}

/// Stores paths.
pub fn tree(
    repository: &Repository,
    tree: TreeOptions,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<Outcome, OrchestrateError> {
    let roots = existing_roots(&tree.roots)?;
    let excludes = tree.exclude.globs().iter().cloned().map(PathText).collect();
    let all = WalkOptions { roots: tree.roots, excludes: tree.exclude, one_file_system: tree.one_file_system };
    let walk = Walk::new(all.clone())?;
    let mut summary = Summary::default();
    if tree.dry_run {
        let run = Run::prepare(repository, options, SnapshotKind::Tree, monitor)?;
        return dry_run(&run, walk, options.force, summary, monitor);
    }
    let mut writer = begin(repository, options, monitor)?;
    if let Some(kib) = tree.max_base_work_kib {
        writer.limit_base_work(kib);
    }
    let run = Run::prepare(repository, options, SnapshotKind::Tree, monitor)?;
    monitor.begin(Phase::Backup, run.parent.as_ref().map(|info| info.snapshot.summary.bytes));
    let mut out = writer.tree(run.parent_content())?;
    let known = known(&run, options.force)?;
    let how = How { changing: Changing::new(&tree.changing), monitor };
    let unknown = (run.parent.is_none() && monitor.wants_total()).then_some(all);
    ahead::beside(unknown, monitor, || store_all(walk, &mut writer, &mut out, known, &how, &mut summary))?;
    let content = writer.finish_tree(out)?;
    monitor.end();
    let paths = roots.iter().map(|root| PathText(root.as_os_str().as_bytes().to_vec())).collect();
    run.publish(writer, SnapshotKind::Tree, (paths, excludes), content, summary)
}

fn store_all(
    walk: Walk,
    writer: &mut Writer<'_>,
    out: &mut Tree,
    known: Known,
    how: &How<'_>,
    summary: &mut Summary,
) -> Result<(), OrchestrateError> {
    std::thread::scope(|scope| {
        for seen in look::ahead(scope, walk, known) {
            if how.monitor.interrupted() {
                return Err(RepoError::Interrupted.into());
            }
            let entry = match seen? {
                Err(missed) if how.changing.may_vanish(&missed) => continue,
                Err(missed) => miss(*missed, summary, how.monitor),
                Ok(seen) => store(writer, seen, how, summary)?,
            };
            let Some(entry) = entry else { continue };
            count(&entry, summary);
            writer.push(out, entry)?;
        }
        Ok(())
    })
}

/// The roots that are there, absolute. One that is missing is told by the walk; without any there is no backup.
fn existing_roots(roots: &[PathBuf]) -> Result<Vec<PathBuf>, OrchestrateError> {
    let mut there = Vec::new();
    let mut missing = None;
    for root in roots {
        let path = || crate::format::codec::escape(root.as_os_str().as_bytes());
        match root.symlink_metadata() {
            // As the walk takes it, so that a restore finds it in the tree.
            Ok(_) => there.push(absolute_root(root)?),
            Err(source) => missing = Some(SourceError::Unreadable { action: "read", path: path(), source }),
        }
    }
    match missing {
        Some(error) if there.is_empty() => Err(OrchestrateError::NoRoots(error)),
        _ => Ok(there),
    }
}

/// Counts and tells what could not be read; what is recorded of it.
fn miss(missed: Missed, summary: &mut Summary, monitor: &dyn Monitor) -> Option<Entry> {
    summary.unread += 1;
    notice(monitor, &missed.error);
    missed.entry
}

fn known(run: &Run<'_>, force: bool) -> Result<Known, OrchestrateError> {
    let tree = run.parent_content().map(|content| run.repository.tree(&content)).transpose()?;
    let host = run.parent.as_ref().map(|info| info.snapshot.host.as_str());
    Ok(Known::new(tree, !force && host == Some(run.repository.host())))
}

/// How entries are stored.
struct How<'a> {
    changing: Changing,
    monitor: &'a dyn Monitor,
}

/// Where files may change and vanish while they are read, as paths of entries.
struct Changing(Vec<Vec<u8>>);

impl Changing {
    fn new(paths: &[PathBuf]) -> Self {
        let part = |path: Component<'_>| match path {
            Component::Normal(name) => Some(name.as_bytes().to_vec()),
            _ => None,
        };
        let entry_path = |path: &PathBuf| path.components().filter_map(part).collect::<Vec<_>>().join(&b'/');
        Changing(paths.iter().map(entry_path).collect())
    }

    fn holds(&self, path: &[u8]) -> bool {
        let below =
            |above: &Vec<u8>| path.strip_prefix(above.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'));
        self.0.iter().any(below)
    }

    fn may_vanish(&self, missed: &Missed) -> bool {
        matches!(missed.error, SourceError::Vanished { .. })
            && missed.entry.as_ref().is_some_and(|entry| self.holds(&entry.path))
    }
}

/// Stores an entry; `None` for one that has vanished where that is expected.
fn store(
    writer: &mut Writer<'_>,
    seen: Seen,
    how: &How<'_>,
    summary: &mut Summary,
) -> Result<Option<Entry>, OrchestrateError> {
    let How { changing, monitor } = how;
    let Seen { mut found, before, unchanged, read } = seen;
    let expected = changing.holds(&found.entry.path);
    let before_content = before.as_ref().and_then(|entry| entry.content().copied());
    if let Some(before) = before.filter(|_| unchanged) {
        let there = before_content.map_or(Ok(true), |content| writer.has_content(&content))?;
        if there {
            if let Some(content) = before_content {
                summary.unchanged_files += 1;
                monitor.advance(content.bytes);
            }
            found.entry.node = before.node;
            found.entry.xattrs = before.xattrs;
            return Ok(Some(found.entry));
        }
    }
    // What lacks only attributes is stored all the same.
    let (attributes, content) = match read {
        Some(Small { attributes, content }) => (attributes, content),
        None => (found.complete(), None),
    };
    if let Err(error) = attributes {
        let vanished = matches!(error, SourceError::Vanished { .. });
        if expected && vanished {
            return Ok(None);
        }
        summary.unread += 1;
        notice(*monitor, &error);
        if vanished && matches!(found.entry.node, Node::File { .. }) {
            // Its content would be missed a second time.
            return Ok(Some(found.into_unread()));
        }
    }
    if !matches!(found.entry.node, Node::File { .. }) {
        return Ok(Some(found.entry));
    }
    monitor.item(&crate::format::codec::escape(&found.entry.path));
    let parent = before_content.filter(|content| content.bytes > 0);
    match read_file(writer, &mut found, content, parent) {
        Ok(true) => {}
        Ok(false) if expected => found.entry.unstable = true,
        Ok(false) => {
            summary.unread += 1;
            found.entry.unstable = true;
            let path = format!("/{}", crate::format::codec::escape(&found.entry.path));
            let what = "it was written to twice; what was stored may be a mixture";
            notice(*monitor, &SourceError::Changed { path, what });
        }
        Err(OrchestrateError::Source(SourceError::Vanished { .. })) if expected => return Ok(None),
        Err(OrchestrateError::Source(error)) => {
            summary.unread += 1;
            notice(*monitor, &error);
            return Ok(Some(found.into_unread()));
        }
        Err(error) => return Err(error),
    }
    summary.read_bytes += found.entry.content().map_or(0, |content| content.bytes);
    Ok(Some(found.entry))
}

/// Stores a file, of which `content` may have been read already; reads it once more if it changed meanwhile. False when it changed
/// again.
fn read_file(
    writer: &mut Writer<'_>,
    found: &mut Found,
    mut content: Option<Result<Whole, SourceError>>,
    parent: Option<Content>,
) -> Result<bool, OrchestrateError> {
    let mut stable = false;
    for _ in 0..2 {
        let (content, state) = match content.take() {
            Some(read) => {
                let Whole { bytes, state } = read?;
                let content = writer.content(parent, &mut bytes.as_slice()).map_err(|error| match error {
                    CopyError::Source(error) => OrchestrateError::Input(error),
                    CopyError::Repo(error) => error.into(),
                })?;
                (content, state)
            }
            None => {
                let mut reader = found.open()?;
                let content = match writer.content(parent, &mut reader) {
                    Err(CopyError::Source(error)) => return Err(reader.failure(error).into()),
                    Err(CopyError::Repo(error)) => return Err(error.into()),
                    Ok(content) => content,
                };
                (content, reader.finish()?)
            }
        };
        stable = state.stable;
        found.entry.node = Node::File { size: state.size, extents: state.extents, content };
        if stable {
            break;
        }
    }
    Ok(stable)
}

fn count(entry: &Entry, summary: &mut Summary) {
    match &entry.node {
        Node::File { content, .. } => {
            summary.files += 1;
            summary.bytes += content.bytes;
        }
        Node::Directory => summary.directories += 1,
        Node::Unread => {}
        _ => summary.others += 1,
    }
}

fn notice(monitor: &dyn Monitor, error: &SourceError) {
    monitor.notice(Notice { subject: "source".to_owned(), message: chain(error) });
}

/// Counts what a backup would read; reads and writes nothing.
fn dry_run(
    run: &Run<'_>,
    walk: Walk,
    force: bool,
    mut summary: Summary,
    monitor: &dyn Monitor,
) -> Result<Outcome, OrchestrateError> {
    monitor.begin(Phase::Backup, None);
    let mut known = known(run, force)?;
    for item in walk {
        if monitor.interrupted() {
            return Err(RepoError::Interrupted.into());
        }
        let entry = match item {
            Err(missed) => match miss(*missed, &mut summary, monitor) {
                Some(entry) => entry,
                None => continue,
            },
            Ok(found) => found.entry,
        };
        let before = known.advance_to(&entry.path)?;
        let unchanged = before.is_some_and(|before| known.is_unchanged(&entry, &before));
        count(&entry, &mut summary);
        if let Node::File { size, .. } = entry.node {
            summary.bytes += size;
            if unchanged {
                summary.unchanged_files += 1;
            } else {
                summary.read_bytes += size;
            }
        }
    }
    monitor.end();
    summary.milliseconds = run.started.elapsed().as_millis() as u64;
    Ok(Outcome { id: None, parent: run.parent.as_ref().map(|info| info.id), summary })
}
