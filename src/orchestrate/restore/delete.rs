//! What `--delete` removes from a target.
//!
//! Invariants: what the snapshot names is never removed, not even what the backup could not read; nor is what the backup
//! left out by a pattern, or did not look at: the directories on the way to what was backed up are in the snapshot, but
//! most of what is in them is not, and a restore that took its word for it would empty a machine.

use super::{Report, Restore, is_below};
use crate::format::codec::escape;
use crate::format::tree::Entry;
use crate::source::TargetError;
use crate::source::files::{Extra, Removal, Removed};

impl Restore<'_> {
    /// Whether the backup read this directory whole.
    pub(super) fn was_read_whole(&self, directory: &Entry) -> bool {
        let path = self.original(&directory.path);
        self.snapshot.paths.iter().any(|root| {
            let root = root.0.strip_prefix(b"/").unwrap_or(&root.0);
            path == root || is_below(&path, root)
        })
    }

    /// Removes what is in a directory and not among its names, which are sorted.
    pub(super) fn delete_extra(&self, entry: &Entry, names: &[Vec<u8>], report: &mut Report) {
        let Some(target) = &self.target else { return };
        let spares = |path: &[u8], is_directory| self.spares(path, is_directory);
        let visit = &mut |path: &[u8]| self.monitor.action("delete", &escape(path));
        match target.delete_extra(&entry.path, names, self.extra(&spares), visit) {
            Ok(removed) => self.count_removed(&entry.path, removed, report),
            Err(error) => self.failed(&entry.path, error.into()),
        }
    }

    /// Makes way for an entry where a directory with something in it stands; false when it stays.
    pub(super) fn clear(&self, entry: &Entry, report: &mut Report) -> bool {
        let Some(target) = &self.target else { return true };
        let in_the_way = || TargetError::DirectoryInTheWay { path: escape(&entry.path) };
        if !self.options.delete {
            self.failed(&entry.path, in_the_way().into());
            return false;
        }
        let spares = |path: &[u8], is_directory| self.spares(path, is_directory);
        match target.remove_obstacle(&entry.path, self.extra(&spares)) {
            Ok(removed) => {
                let stays = removed.spared > 0 || !removed.complaints.is_empty();
                if removed.entries > 0 {
                    self.monitor.action("delete", &escape(&entry.path));
                }
                self.count_removed(&entry.path, removed, report);
                if stays {
                    self.failed(&entry.path, in_the_way().into());
                }
                !stays
            }
            Err(error) => {
                self.failed(&entry.path, error.into());
                false
            }
        }
    }

    /// The path that an entry of the target had when it was backed up.
    fn original(&self, relative: &[u8]) -> Vec<u8> {
        match (self.options.path.as_slice(), relative) {
            (b"", relative) => relative.to_vec(),
            (part, b"") => part.to_vec(),
            (part, relative) => [part, b"/", relative].concat(),
        }
    }

    fn spares(&self, path: &[u8], is_directory: bool) -> bool {
        self.left_out.matches(&self.original(path), is_directory)
    }

    fn extra<'s>(&self, spares: &'s dyn Fn(&[u8], bool) -> bool) -> Extra<'s> {
        Extra { removal: if self.options.dry_run { Removal::DryRun } else { Removal::Apply }, spares }
    }

    fn count_removed(&self, path: &[u8], removed: Removed, report: &mut Report) {
        report.deleted += removed.entries;
        removed.complaints.into_iter().for_each(|error| self.failed(path, error.into()));
    }
}
