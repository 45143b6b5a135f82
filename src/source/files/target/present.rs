//! What is in the place of an entry now, to be compared by people.

use rustix::fs::{AtFlags, FileType, fstat, readlinkat, statat};
use rustix::io::Errno;

use super::beneath::split;
use super::{Entry, Node, Target, TargetError, kind, node};
use crate::format::tree::Owner;
use crate::source::files::metadata::Owners;

impl Target {
    /// What is at a path, without its content; `None` if nothing is.
    pub fn present(&self, path: &[u8]) -> Result<Option<Entry>, TargetError> {
        self.validate(path)?;
        let refused = |error| self.refused(path, "look at", error);
        let entry = |stat: &_, node| Ok(Some(Owners::default().entry(path.to_vec(), stat, node)));
        if path.is_empty() {
            let stat = fstat(&self.beneath.root().fd).map_err(refused)?;
            return entry(&stat, node(&stat));
        }
        let (above, name) = split(path);
        let parent = match self.beneath.directory(above) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|error| self.unreachable(path, error))?,
        };
        let stat = match statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(refused)?,
        };
        match kind(&stat) {
            FileType::Symlink => {
                let target = readlinkat(&parent.fd, name, Vec::new()).map_err(refused)?;
                entry(&stat, Node::Symlink { target: target.into_bytes() })
            }
            _ => entry(&stat, node(&stat)),
        }
    }

    /// The user and group that an entry of this owner gets here.
    pub fn owner_here(&self, owner: &Owner) -> (u32, u32) {
        self.owners.of(owner)
    }
}
