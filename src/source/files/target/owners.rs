//! Whose a restored entry is to be: the recorded names as this machine knows them, or the recorded numbers.
//!
//! After a reinstallation the user `postgres` often has another number. By name, what was his is his again; by number it
//! would be somebody else's. A name that this machine does not know, or that was not recorded, leaves the number.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

use crate::format::tree::Owner;

/// How an owner is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnerLookup {
    /// By the recorded name, and by number where this machine has no such name.
    #[default]
    Name,
    /// By the recorded number alone: for trees of other systems.
    Number,
}

/// Names that were looked up are remembered up to this many: a hostile tree may name any number of them.
const REMEMBERED: usize = 1024;

/// Finds owners. Each name is asked for once: an answer may come from a directory server.
#[derive(Debug, Default)]
pub struct OwnerIds {
    lookup: OwnerLookup,
    users: Mutex<HashMap<Vec<u8>, Option<u32>>>,
    groups: Mutex<HashMap<Vec<u8>, Option<u32>>>,
}

impl OwnerIds {
    /// Finds owners in this way.
    pub fn new(lookup: OwnerLookup) -> Self {
        OwnerIds { lookup, ..OwnerIds::default() }
    }

    /// The user and group that an entry of this owner gets here.
    pub fn of(&self, owner: &Owner) -> (u32, u32) {
        if self.lookup == OwnerLookup::Number {
            return (owner.uid, owner.gid);
        }
        let user = |name: &OsStr| uzers::get_user_by_name(name).map(|user| user.uid());
        let group = |name: &OsStr| uzers::get_group_by_name(name).map(|group| group.gid());
        let uid = remembered(&self.users, &owner.user, user).unwrap_or(owner.uid);
        let gid = remembered(&self.groups, &owner.group, group).unwrap_or(owner.gid);
        (uid, gid)
    }
}

fn remembered(
    known: &Mutex<HashMap<Vec<u8>, Option<u32>>>,
    name: &[u8],
    ask: impl FnOnce(&OsStr) -> Option<u32>,
) -> Option<u32> {
    // A name with a zero byte cannot be asked for.
    if name.is_empty() || name.contains(&0) {
        return None;
    }
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(id) = known.get(name) {
        return *id;
    }
    let id = ask(OsStr::from_bytes(name));
    if known.len() < REMEMBERED {
        known.insert(name.to_vec(), id);
    }
    id
}
