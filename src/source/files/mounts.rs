//! Which file systems a walk stays on, when it is told to stay on those of its roots.
//!
//! Of a directory on another file system only the names that lead to a further root are looked at: whoever names `/` and
//! `/mnt/disk` gets both, and nothing else of what is mounted.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, statat};

use super::plan;
use crate::source::SourceError;

/// The file systems of some roots.
pub struct FileSystems {
    devices: HashSet<u64>,
    /// Paths of the roots, without the leading slash.
    roots: Vec<Vec<u8>>,
}

impl FileSystems {
    /// Those of these roots. A root that is not there has none; the walk will say so.
    pub fn of(roots: &[PathBuf]) -> Result<Self, SourceError> {
        let mut found = FileSystems { devices: HashSet::new(), roots: Vec::new() };
        for root in roots {
            let path = plan::absolute(root)?;
            if let Ok(stat) = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
                found.devices.insert(stat.st_dev);
            }
            found.roots.push(path.as_os_str().as_bytes()[1..].to_vec());
        }
        Ok(found)
    }

    /// True when a directory of this device belongs to the walk.
    pub fn contain(&self, device: u64) -> bool {
        self.devices.contains(&device)
    }

    /// The names in a directory that lead to roots below it.
    pub fn names_towards_roots(&self, directory: &[u8]) -> BTreeSet<&[u8]> {
        let below = |root: &&[u8]| root.len() > directory.len() && root.starts_with(directory);
        let names = self.roots.iter().map(Vec::as_slice).filter(below).filter_map(|root| {
            let rest = &root[directory.len()..];
            let rest = if directory.is_empty() { rest } else { rest.strip_prefix(b"/")? };
            rest.split(|byte| *byte == b'/').next()
        });
        names.collect()
    }
}
