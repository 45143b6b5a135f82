//! Trees of a set made beside what they will replace, and put in.
//!
//! Invariants: everything that is written is read back and compared before anything is stopped for it; a tree that
//! lacks an entry is not put in; a file that replaces another is never written over it.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::format::ObjectId;
use crate::format::codec::escape_path;
use crate::format::record::PathText;
use crate::format::tree::Node;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::locate::entry;
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::journal::Undo;
use crate::orchestrate::platform::restore::{Old, Scene};
use crate::orchestrate::restore::{self, RestoreOptions};
use crate::progress::WithinStep;
use crate::repo::{Repository, SnapshotInfo};
use crate::source::SourceError;
use crate::source::files::swap::{Swap, make_directory};
use crate::source::files::{Overwrite, OwnerLookup, Patterns};

/// A label or a map has at most so many bytes.
const SMALL: u64 = 1 << 20;

/// A root of a snapshot, and where it goes.
#[derive(Clone, Debug)]
pub struct TreeSwap {
    /// The snapshot.
    pub snapshot: ObjectId,
    /// The root in it; none where something is only moved aside.
    pub root: Option<PathBuf>,
    /// Its place.
    pub swap: Swap,
}

/// A recorded path.
pub fn path(text: &PathText) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&text.0))
}

/// A path as trees have it.
pub fn inner(path: &Path) -> &[u8] {
    let path = path.as_os_str().as_bytes();
    path.strip_prefix(b"/").unwrap_or(path)
}

/// A small stream, whole.
pub fn small(scene: &Scene<'_>, snapshot: &ObjectId) -> Result<Vec<u8>, OrchestrateError> {
    small_stream(scene.order.repository, scene.snapshot(snapshot)?)
}

/// The same, of a snapshot that is known.
pub fn small_stream(repository: &Repository, info: &SnapshotInfo) -> Result<Vec<u8>, OrchestrateError> {
    if info.snapshot.content.bytes > SMALL {
        let (id, bytes) = (info.id.short(), info.snapshot.content.bytes);
        return Err(OrchestrateError::Unfit(format!("snapshot {id} has {bytes} bytes where {SMALL} are the most")));
    }
    let mut bytes = Vec::new();
    repository.small_stream(&info.snapshot.content)?.read_to_end(&mut bytes).map_err(read_failed)?;
    Ok(bytes)
}

/// A stream of the repository that cannot be read.
pub fn read_failed(source: std::io::Error) -> OrchestrateError {
    SourceError::Unreadable { action: "read", path: "what the set holds".to_owned(), source }.into()
}

/// What cannot be moved aside of what is there.
pub fn obstacles<'a>(swaps: impl IntoIterator<Item = &'a Swap>) -> Result<Vec<String>, OrchestrateError> {
    let mut found = Vec::new();
    for swap in swaps {
        found.extend(swap.obstacle()?);
    }
    Ok(found)
}

/// Makes all of them. What is made is taken away again if the run ends before it is in its place.
pub fn stage(scene: &Scene<'_>, step: &str, trees: &[TreeSwap], notes: &Notes<'_>) -> Result<(), OrchestrateError> {
    let swaps: Vec<Swap> = trees.iter().map(|tree| tree.swap.clone()).collect();
    scene.executor.step(step, Some(Undo::DiscardStaged { swaps }), || {
        let (mut files, mut bytes) = (0, 0);
        for tree in trees {
            let Some(root) = &tree.root else { continue };
            directories_above(scene, tree, root)?;
            let report = write(scene, step, &tree.snapshot, root, &tree.swap.staged, notes)?;
            let info = scene.snapshot(&tree.snapshot)?;
            let found = entry(scene.order.repository, &info.snapshot, inner(root))?;
            if found.is_some_and(|entry| !matches!(entry.node, Node::Directory)) {
                tree.swap.lift()?;
            }
            files += report.files;
            bytes += report.bytes;
        }
        Ok((format!("{files} files, {bytes} bytes, read back and equal"), ()))
    })
}

/// Makes the directories that a place is in, where they are missing: as they were recorded, since a server makes files of
/// its own in them.
fn directories_above(scene: &Scene<'_>, tree: &TreeSwap, root: &Path) -> Result<(), OrchestrateError> {
    let info = scene.snapshot(&tree.snapshot)?;
    for (steps, missing) in tree.swap.missing_above() {
        let recorded = root.ancestors().nth(steps).map(inner).filter(|path| !path.is_empty());
        let recorded = recorded.map(|path| entry(scene.order.repository, &info.snapshot, path)).transpose()?.flatten();
        make_directory(&missing, recorded.filter(|recorded| recorded.node == Node::Directory).as_ref())?;
    }
    Ok(())
}

/// Writes one root of a snapshot to a directory, and reads it back.
pub fn write(
    scene: &Scene<'_>,
    step: &str,
    snapshot: &ObjectId,
    root: &Path,
    target: &Path,
    notes: &Notes<'_>,
) -> Result<restore::Report, OrchestrateError> {
    write_tree(scene.order.repository, scene.snapshot(snapshot)?, step, root, target, notes)
}

/// The same, of a snapshot that is known.
pub fn write_tree(
    repository: &Repository,
    info: &SnapshotInfo,
    step: &str,
    root: &Path,
    target: &Path,
    notes: &Notes<'_>,
) -> Result<restore::Report, OrchestrateError> {
    let options = RestoreOptions {
        path: inner(root).to_vec(),
        target: target.to_owned(),
        include: Patterns::default(),
        exclude: Patterns::default(),
        overwrite: Overwrite::Always,
        delete: false,
        dry_run: false,
        verify: true,
        owner_lookup: OwnerLookup::Name,
    };
    let monitor = WithinStep::new(step, notes);
    let report = restore::to_directory(repository, &info.snapshot, &info.id.short(), &options, &monitor)?;
    if report.failed > 0 || report.owners_left > 0 {
        let (failed, left) = (report.failed, report.owners_left);
        let why = format!(
            "{failed} entries of {} could not be written or read back, and {left} do not have their owners",
            escape_path(root)
        );
        return Err(match (report.damaged, report.hindered == failed) {
            (0, true) => OrchestrateError::Hindered(why),
            (0, false) => OrchestrateError::Unfit(why),
            _ => OrchestrateError::Damaged(why),
        });
    }
    Ok(report)
}

/// Puts all of them in. `unit` works there: it is stopped, and undoing stops and starts it.
pub fn put_in(scene: &Scene<'_>, step: &str, trees: &[TreeSwap], unit: &str) -> Result<Vec<Old>, OrchestrateError> {
    let swaps: Vec<Swap> = trees
        .iter()
        .map(|tree| if tree.root.is_some() { tree.swap.clone().made() } else { Ok(tree.swap.clone()) })
        .collect::<Result<_, _>>()?;
    exchange(scene, step, swaps, unit)
}

/// Puts in what was made.
pub fn exchange(scene: &Scene<'_>, step: &str, swaps: Vec<Swap>, unit: &str) -> Result<Vec<Old>, OrchestrateError> {
    let start = !scene.census.ran(unit).is_empty();
    let undo = Undo::TakeBack { swaps: swaps.clone(), unit: unit.to_owned(), start };
    scene.executor.step(step, Some(undo), || {
        let mut aside = Vec::new();
        for swap in &swaps {
            if swap.put_in()? {
                aside.push(Old::Path(swap.clone()));
            }
        }
        let shown: Vec<String> = aside.iter().map(ToString::to_string).collect();
        let seen = if shown.is_empty() { "nothing was there before".to_owned() } else { shown.join("; ") };
        Ok((seen, aside))
    })
}
