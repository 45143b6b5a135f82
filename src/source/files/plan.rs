//! Which roots a walk has: made absolute, without duplicates and roots inside other roots.
//!
//! The parents of a root are followed as the operator named them, symbolic links included; a root that is itself a
//! symbolic link stays one. `..` means what the system takes it for, so the part of a path up to its last `..` is
//! resolved first.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::format::codec::escape;
use crate::source::SourceError;

/// A directory on the way to a root, or a root.
#[derive(Debug, Default)]
pub struct Plan {
    /// True for a root: everything below belongs to the walk.
    pub whole: bool,
    /// The next components on the way to further roots. Those below a root matter only if it is a symbolic link:
    /// then it is taken for the directory it leads to, since a tree cannot hold both.
    pub below: BTreeMap<Vec<u8>, Plan>,
}

impl Plan {
    /// The plan for these roots.
    pub fn new(roots: &[PathBuf]) -> Result<Self, SourceError> {
        let mut plan = Plan::default();
        for root in roots {
            let absolute = absolute(root)?;
            let names = absolute.components().filter_map(|part| match part {
                Component::Normal(name) => Some(name.as_bytes()),
                _ => None,
            });
            plan.add(names);
        }
        Ok(plan)
    }

    fn add<'a>(&mut self, names: impl Iterator<Item = &'a [u8]>) {
        let mut at = self;
        for name in names {
            at = at.below.entry(name.to_vec()).or_default();
        }
        at.whole = true;
    }
}

/// A root's path from the top.
pub fn absolute(path: &Path) -> Result<PathBuf, SourceError> {
    resolve(path).map_err(|source| SourceError::Root { path: escape(path.as_os_str().as_bytes()), source })
}

fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    let whole = std::path::absolute(path)?;
    let parts: Vec<Component<'_>> = whole.components().collect();
    match parts.iter().rposition(|part| *part == Component::ParentDir) {
        None => Ok(whole),
        Some(last) => {
            let resolved = parts[..=last].iter().collect::<PathBuf>().canonicalize()?;
            Ok(parts[last + 1..].iter().fold(resolved, |path, part| path.join(part)))
        }
    }
}
