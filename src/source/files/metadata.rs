//! From what the system says of a file to an entry's fields.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Mutex;

use rustix::fs::{FileType, Stat, XattrFlags};
use rustix::io::Errno;

use crate::format::tree::{Entry, FileTime, MAX_XATTR_BYTES, MAX_XATTRS, Node, Owner};
use crate::format::{FormatError, content::Content};

/// Extended attributes, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Names of users and groups, looked up once each.
#[derive(Default)]
pub struct Names {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl Names {
    fn owner(&mut self, uid: u32, gid: u32) -> Owner {
        use std::os::unix::ffi::OsStrExt;
        let user = self.users.entry(uid).or_insert_with(|| {
            uzers::get_user_by_uid(uid).map(|user| user.name().as_bytes().to_vec()).unwrap_or_default()
        });
        let group = self.groups.entry(gid).or_insert_with(|| {
            uzers::get_group_by_gid(gid).map(|group| group.name().as_bytes().to_vec()).unwrap_or_default()
        });
        Owner { uid, gid, user: user.clone(), group: group.clone() }
    }
}

/// Ids of users and groups by name on this machine, looked up once each.
#[derive(Default)]
pub struct Ids {
    known: Mutex<HashMap<(bool, Vec<u8>), Option<u32>>>,
}

impl Ids {
    /// The ids for an owner: by name where this machine knows the name, else the numbers stored.
    pub fn of(&self, owner: &Owner) -> (u32, u32) {
        let user = |name: &std::ffi::OsStr| uzers::get_user_by_name(name).map(|user| user.uid());
        let group = |name: &std::ffi::OsStr| uzers::get_group_by_name(name).map(|group| group.gid());
        let uid = self.look_up(true, &owner.user, &user).unwrap_or(owner.uid);
        let gid = self.look_up(false, &owner.group, &group).unwrap_or(owner.gid);
        (uid, gid)
    }

    fn look_up(&self, user: bool, name: &[u8], find: &dyn Fn(&std::ffi::OsStr) -> Option<u32>) -> Option<u32> {
        use std::os::unix::ffi::OsStrExt;
        if name.is_empty() || name.contains(&0) {
            return None;
        }
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *known.entry((user, name.to_vec())).or_insert_with(|| find(std::ffi::OsStr::from_bytes(name)))
    }
}

/// Last change of the content.
pub fn mtime(stat: &Stat) -> FileTime {
    FileTime { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }
}

/// Last change of the inode.
pub fn ctime(stat: &Stat) -> FileTime {
    FileTime { seconds: stat.st_ctime, nanoseconds: stat.st_ctime_nsec as u32 }
}

/// An entry with all that `stat` tells. A symlink has no target yet, a file no content.
pub fn entry(path: Vec<u8>, stat: &Stat, names: &mut Names) -> Entry {
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let node = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Node::Directory,
        FileType::RegularFile => {
            Node::File { size: stat.st_size.max(0) as u64, extents: None, content: Content::EMPTY }
        }
        FileType::Symlink => Node::Symlink { target: Vec::new() },
        FileType::Fifo => Node::Fifo,
        FileType::CharacterDevice => Node::CharDevice { major: device.0, minor: device.1 },
        FileType::BlockDevice => Node::BlockDevice { major: device.0, minor: device.1 },
        FileType::Socket => Node::Socket,
        FileType::Unknown => Node::Unread,
    };
    let linked = stat.st_nlink > 1 && matches!(node, Node::File { .. });
    Entry {
        path,
        node,
        mode: stat.st_mode & 0o7777,
        owner: names.owner(stat.st_uid, stat.st_gid),
        mtime: mtime(stat),
        ctime: ctime(stat),
        inode: stat.st_ino,
        link_device: linked.then_some(stat.st_dev),
        unstable: false,
        xattrs: Vec::new(),
    }
}

/// The path by which the system reaches a name in an open directory, or the open file itself for an empty name.
pub fn proc_path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}", directory.as_raw_fd()).into_bytes();
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

/// Why attributes could not be read.
#[derive(Debug)]
pub enum XattrError {
    /// The system refused.
    Io(Errno),
    /// There are more than a tree holds.
    Unfit(FormatError),
}

impl From<Errno> for XattrError {
    fn from(error: Errno) -> Self {
        XattrError::Io(error)
    }
}

/// Reads the attributes of an open file or directory.
pub fn xattrs_of(file: BorrowedFd<'_>) -> Result<Xattrs, XattrError> {
    collect(&|buffer| rustix::fs::flistxattr(file, buffer), &|name, buffer| rustix::fs::fgetxattr(file, name, buffer))
}

/// Reads the attributes of a name in an open directory, which may be a symbolic link.
pub fn xattrs_at(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Xattrs, XattrError> {
    let path = proc_path(directory, name);
    collect(&|buffer| rustix::fs::llistxattr(path.as_slice(), buffer), &|name, buffer| {
        rustix::fs::lgetxattr(path.as_slice(), name, buffer)
    })
}

type List<'a> = dyn Fn(&mut [u8]) -> Result<usize, Errno> + 'a;
type Get<'a> = dyn Fn(&CStr, &mut [u8]) -> Result<usize, Errno> + 'a;

fn collect(list: &List<'_>, get: &Get<'_>) -> Result<Xattrs, XattrError> {
    let names = match sized(list) {
        Err(Errno::NOTSUP | Errno::PERM) => return Ok(Vec::new()),
        result => result?,
    };
    let mut xattrs = Vec::new();
    let mut bytes = 0;
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let value = match sized(&|buffer| get(name, buffer)) {
            // Removed meanwhile, or not for us to see.
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            result => result?,
        };
        bytes += name.count_bytes() + value.len();
        for (what, found, limit) in
            [("attribute count", xattrs.len() + 1, MAX_XATTRS), ("attribute bytes", bytes, MAX_XATTR_BYTES)]
        {
            if found > limit {
                let (found, limit) = (found as u64, limit as u64);
                return Err(XattrError::Unfit(FormatError::TooLarge { what, found, limit }));
            }
        }
        xattrs.push((name.to_bytes().to_vec(), value));
    }
    xattrs.sort();
    Ok(xattrs)
}

fn sized(call: &dyn Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = [0; 1024];
    match call(&mut buffer) {
        Ok(len) => return Ok(buffer[..len].to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    // The kernel gives no more than 64 KiB for either call.
    let mut buffer = vec![0; 64 << 10];
    let len = call(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Makes the attributes of an open file or directory equal to these.
pub fn set_xattrs(file: BorrowedFd<'_>, wanted: &Xattrs) -> Result<(), Errno> {
    let present = match xattrs_of(file) {
        Ok(present) => present,
        Err(XattrError::Io(error)) => return Err(error),
        Err(XattrError::Unfit(_)) => Vec::new(),
    };
    for (name, _) in present.iter().filter(|(name, _)| !wanted.iter().any(|(other, _)| other == name)) {
        // Some attributes belong to the system and stay (security labels).
        let _ = rustix::fs::fremovexattr(file, name.as_slice());
    }
    for (name, value) in wanted {
        if !present.iter().any(|(other, old)| other == name && old == value) {
            rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty())?;
        }
    }
    Ok(())
}
