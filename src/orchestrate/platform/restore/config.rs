//! Configuration and keys: each file that differs, with what it was kept aside.
//!
//! Invariant: no file is written over before a copy of it is kept, and before the whole tree was read from the
//! repository. What a server changes while it works (the groups' `changing`) is left alone: it belongs to that server's
//! own component.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::format::ObjectId;
use crate::format::codec::{escape, escape_path, unescape};
use crate::format::set;
use crate::format::tree::{Entry, Node};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::locate::entry;
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::journal::Undo;
use crate::orchestrate::platform::profile::Component;
use crate::orchestrate::platform::restore::plan::{Draft, Intent, Look, Work, part, step};
use crate::orchestrate::platform::restore::trees::{self, TreeSwap};
use crate::orchestrate::platform::restore::{Back, Old, Scene};
use crate::orchestrate::platform::store::Role;
use crate::orchestrate::restore::{self, RestoreOptions};
use crate::progress::{Monitor, WithinStep};
use crate::repo::{Repository, SnapshotInfo};
use crate::source::files::keep::Kept;
use crate::source::files::swap::{Swap, real};
use crate::source::files::{Overwrite, OwnerLookup, Patterns};

const STAGE: &str = "stage-config";
const PUT: &str = "put-config";

/// So many changed files are listed in a plan.
const LISTED: usize = 20;
/// So many files may change: more is no configuration.
const MAX_CHANGES: usize = 1 << 20;

/// What is done.
#[derive(Clone, Debug)]
pub struct ConfigWork {
    snapshot: ObjectId,
    /// Where the tree is read to before anything is changed.
    staged: Swap,
    scope: Scope,
    /// Where the files go that are written over.
    kept: Kept,
}

/// Which files are meant, and where they are on this machine.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Beneath this.
    pub root: PathBuf,
    /// What goes where.
    pub places: Vec<Place>,
    /// What is left alone.
    pub exclude: Patterns,
    /// The same, for people.
    left_alone: Vec<String>,
}

impl Scope {
    /// Looks where each root of the snapshot goes.
    pub fn new(look: &Look<'_>, info: &SnapshotInfo) -> Result<Self, OrchestrateError> {
        let changing = look.profile.config.groups.values().flat_map(|group| &group.changing);
        let globs: Vec<Vec<u8>> = changing.map(|path| Patterns::literal(path)).collect();
        Ok(Scope {
            root: look.options.target_root.clone(),
            places: places(look, info)?,
            exclude: Patterns::new(&globs)?,
            left_alone: globs.iter().map(|glob| escape(glob)).collect(),
        })
    }
}

/// A root of the snapshot on this machine.
#[derive(Clone, Debug)]
pub struct Place {
    /// The root, as trees have it.
    pub root: Vec<u8>,
    /// The directory that it is, or that it is in. Links on the way to it are followed here and now: were the path
    /// restored from the top, `/lib`, which is a directory in the tree, would take the place of a link to `/usr/lib`.
    pub directory: PathBuf,
}

impl Place {
    /// The path of an entry beneath the directory; `None` past the root.
    pub fn beneath(&self, entry: &Entry) -> Option<Vec<u8>> {
        match entry.path.strip_prefix(self.root.as_slice())? {
            // One file keeps its name.
            [] if entry.node != Node::Directory => Some(entry.name().to_vec()),
            [] => Some(Vec::new()),
            [b'/', rest @ ..] => Some(rest.to_vec()),
            _ => None,
        }
    }

    /// A path beneath the directory, whole.
    pub fn path(&self, beneath: &[u8]) -> PathBuf {
        match beneath {
            [] => self.directory.clone(),
            beneath => self.directory.join(OsStr::from_bytes(beneath)),
        }
    }
}

/// Files that a restore would write.
#[derive(Debug, Default)]
struct Changes {
    new: Vec<PathBuf>,
    replaced: Vec<PathBuf>,
}

/// Looks what differs.
pub fn draft(look: &Look<'_>, found: &set::Component) -> Result<Draft, OrchestrateError> {
    let stored = part(&found.parts, Role::TREE)?;
    let info = look.snapshot(stored)?;
    let state = &look.profile.state.directory;
    let work = ConfigWork {
        snapshot: info.id,
        staged: Swap::plan(&state.join("configuration"), look.mark)?,
        scope: Scope::new(look, info)?,
        kept: Kept::new(&state.join(format!("configuration.before-{}", look.mark)), &look.options.target_root),
    };
    let changes = work.changes(look.repository, info, &Deaf(look.stop))?;
    let component = Component::Config;
    let (root, left_alone) = (&work.scope.root, &work.scope.left_alone);
    let mut notes: Vec<String> = (!left_alone.is_empty())
        .then(|| format!("left alone, because a server changes them: {}", left_alone.join(", ")))
        .into_iter()
        .chain(listed(root, "is not there, and comes back", &changes.new))
        .collect();
    notes.extend(listed(root, "differs, and is replaced", &changes.replaced));
    let intent = Intent {
        component,
        into: vec![escape_path(root)],
        replaces: vec![format!("{} files, kept in {}", changes.replaced.len(), escape_path(work.kept.directory()))],
        bytes: stored.bytes,
        notes,
        steps: vec![
            step(component, STAGE, "read the configuration from the repository, all of it", true),
            step(component, PUT, "keep each file that differs aside, and put the restored one in its place", true),
        ],
        work: Work::Config(work),
    };
    Ok(Draft { intent, obstacles: Vec::new(), space: vec![(state.clone(), stored.bytes.saturating_mul(2))] })
}

/// Where each root goes. One that the snapshot does not hold was absent when it was made.
fn places(look: &Look<'_>, info: &SnapshotInfo) -> Result<Vec<Place>, OrchestrateError> {
    let (mut places, beneath) = (Vec::new(), real(&look.options.target_root)?);
    for path in &info.snapshot.paths {
        let root = trees::inner(&trees::path(path)).to_vec();
        let Some(entry) = entry(look.repository, &info.snapshot, &root)? else { continue };
        let place = look.options.target_root.join(OsStr::from_bytes(&root));
        let directory = match entry.node {
            Node::Directory => place.clone(),
            _ => place.parent().map_or_else(|| look.options.target_root.clone(), Path::to_owned),
        };
        let directory = real(&directory)?;
        // Were it followed, what was to be looked at first would be in force.
        if !directory.starts_with(&beneath) {
            let (place, out) = (escape_path(&place), escape_path(&directory));
            return Err(OrchestrateError::Unfit(format!(
                "a link on the way to {place} leads to {out}, which is not beneath {}: name another directory",
                escape_path(&beneath)
            )));
        }
        places.push(Place { root, directory });
    }
    Ok(places)
}

fn listed<'a>(root: &'a Path, what: &'a str, paths: &'a [PathBuf]) -> impl Iterator<Item = String> + 'a {
    let more = paths.len().saturating_sub(LISTED);
    let some = paths.iter().take(LISTED).map(move |path| format!("{} {what}", escape_path(&root.join(path))));
    some.chain((more > 0).then(|| format!("and {more} more of which each {what}")))
}

impl ConfigWork {
    fn options(&self, place: &Place, dry_run: bool) -> RestoreOptions {
        RestoreOptions {
            path: place.root.clone(),
            target: place.directory.clone(),
            include: Patterns::default(),
            exclude: self.scope.exclude.clone(),
            overwrite: Overwrite::Changed,
            delete: false,
            dry_run,
            verify: !dry_run,
            owner_lookup: OwnerLookup::Name,
        }
    }

    /// What would be written, and what is there of it.
    fn changes(
        &self,
        repository: &Repository,
        info: &SnapshotInfo,
        monitor: &dyn Monitor,
    ) -> Result<Changes, OrchestrateError> {
        let mut changes = Changes::default();
        for place in &self.scope.places {
            let listener = Listener { outer: monitor, heard: Mutex::default() };
            restore::to_directory(repository, &info.snapshot, &info.id.short(), &self.options(place, true), &listener)?;
            let beneath = place.directory.strip_prefix(&self.scope.root).unwrap_or(&place.directory);
            for (replaces, path) in listener.heard.into_inner().unwrap_or_else(PoisonError::into_inner) {
                let path = unescape(&path).map_err(crate::repo::RepoError::from)?;
                let into = if replaces { &mut changes.replaced } else { &mut changes.new };
                into.push(beneath.join(OsStr::from_bytes(&path)));
            }
        }
        if changes.new.len() + changes.replaced.len() >= MAX_CHANGES {
            return Err(OrchestrateError::Unfit(format!(
                "more than {MAX_CHANGES} files of configuration would change"
            )));
        }
        Ok(changes)
    }
}

/// Hears what a dry run would do.
struct Listener<'a> {
    outer: &'a dyn Monitor,
    heard: Mutex<Vec<(bool, String)>>,
}

impl Monitor for Listener<'_> {
    fn action(&self, action: &'static str, path: &str) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() < MAX_CHANGES {
            heard.push((action == "replace", path.to_owned()));
        }
    }

    fn interrupted(&self) -> bool {
        self.outer.interrupted()
    }
}

/// Hears nothing but the wish to stop.
struct Deaf<'a>(&'a (dyn Fn() -> bool + Sync));

impl Monitor for Deaf<'_> {
    fn interrupted(&self) -> bool {
        (self.0)()
    }
}

/// Reads the whole tree from the repository.
pub fn stage(scene: &Scene<'_>, work: &ConfigWork, notes: &Notes<'_>) -> Result<(), OrchestrateError> {
    let root = Some(PathBuf::from("/"));
    let tree = TreeSwap { snapshot: work.snapshot, root, swap: work.staged.clone() };
    trees::stage(scene, STAGE, &[tree], notes)
}

/// Puts each file that differs in its place.
pub fn put_in(scene: &Scene<'_>, work: &ConfigWork, notes: &Notes<'_>) -> Result<Back, OrchestrateError> {
    let (executor, repository) = (scene.executor, scene.order.repository);
    let info = scene.snapshot(&work.snapshot)?;
    let (seen, aside) = executor.step(PUT, Some(Undo::PutBackFiles { kept: work.kept.clone() }), || {
        let changes = work.changes(repository, info, notes)?;
        let changed = changes.replaced.len() + changes.new.len() > 0;
        if changed {
            work.kept.keep(&changes.replaced, &changes.new, &executor.stop())?;
        }
        let monitor = WithinStep::new(PUT, notes);
        let mut verified = 0;
        for place in &work.scope.places {
            let options = work.options(place, false);
            let report = restore::to_directory(repository, &info.snapshot, &info.id.short(), &options, &monitor)?;
            if report.failed > 0 || report.owners_left > 0 {
                let (failed, left) = (report.failed, report.owners_left);
                let why = format!("{failed} files could not be written or read back, {left} do not have their owners");
                return Err(OrchestrateError::Unfit(why));
            }
            verified += report.verified_files;
        }
        let (new, replaced) = (changes.new.len(), changes.replaced.len());
        let seen = format!("{verified} files read back and equal: {new} are new, {replaced} were replaced");
        let old = || Old::Files { count: changes.replaced.len(), place: work.kept.clone() };
        let aside = Vec::from_iter(changed.then(old));
        Ok((seen.clone(), (seen, aside)))
    })?;
    work.staged.discard_staged()?;
    Ok(Back { compared: Some(seen), aside })
}
