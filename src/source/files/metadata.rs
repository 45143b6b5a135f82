//! From what the system says of a file to a tree's entry.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Stat, major, minor};

use crate::format::content::Content;
use crate::format::tree::{Entry, FileTime, MAX_TEXT, Node, Owner};

/// Last change of the content.
pub fn modified(stat: &Stat) -> FileTime {
    FileTime { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }
}

/// Last change of the inode.
pub fn changed(stat: &Stat) -> FileTime {
    FileTime { seconds: stat.st_ctime, nanoseconds: stat.st_ctime_nsec as u32 }
}

/// What kind of file it is.
pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Names of users and groups. Each id is asked for once: an answer may come from a directory server.
#[derive(Default)]
pub struct Owners {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl Owners {
    fn of(&mut self, stat: &Stat) -> Owner {
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        let fitting = |name: &std::ffi::OsStr| name.as_bytes().get(..MAX_TEXT.min(name.len())).map(<[u8]>::to_vec);
        let user = self
            .users
            .entry(uid)
            .or_insert_with(|| uzers::get_user_by_uid(uid).and_then(|user| fitting(user.name())).unwrap_or_default());
        let group = self.groups.entry(gid).or_insert_with(|| {
            uzers::get_group_by_gid(gid).and_then(|group| fitting(group.name())).unwrap_or_default()
        });
        Owner { uid, gid, user: user.clone(), group: group.clone() }
    }

    /// An entry without extended attributes. The node is the caller's, who may have read more than the status.
    pub fn entry(&mut self, path: Vec<u8>, stat: &Stat, node: Node) -> Entry {
        let linked = stat.st_nlink > 1 && kind(stat) != FileType::Directory;
        Entry {
            path,
            node,
            mode: stat.st_mode & 0o7777,
            owner: self.of(stat),
            mtime: modified(stat),
            ctime: changed(stat),
            inode: stat.st_ino,
            link_device: linked.then_some(stat.st_dev),
            unstable: false,
            xattrs: Vec::new(),
        }
    }
}

/// An entry of which nothing is known but that it is there.
pub fn unread(path: Vec<u8>) -> Entry {
    Entry {
        path,
        node: Node::Unread,
        mode: 0,
        owner: Owner::default(),
        mtime: FileTime::default(),
        ctime: FileTime::default(),
        inode: 0,
        link_device: None,
        unstable: false,
        xattrs: Vec::new(),
    }
}

/// The node for everything but symbolic links, whose target is not in the status.
pub fn node(stat: &Stat) -> Node {
    let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
    match kind(stat) {
        FileType::Directory => Node::Directory,
        FileType::RegularFile => {
            Node::File { size: stat.st_size.max(0) as u64, extents: None, content: Content::EMPTY }
        }
        FileType::Fifo => Node::Fifo,
        FileType::Socket => Node::Socket,
        FileType::CharacterDevice => Node::CharDevice { major, minor },
        FileType::BlockDevice => Node::BlockDevice { major, minor },
        FileType::Symlink | FileType::Unknown => Node::Unread,
    }
}
