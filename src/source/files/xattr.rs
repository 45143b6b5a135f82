//! Extended attributes, POSIX access lists among them, of things that need not be opened.
//!
//! A name in an open directory is reached by way of `/proc/self/fd`, which takes neither a long path nor an open
//! file. Where `/proc` is not mounted, only the attributes of what can be opened are read.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, lgetxattr,
    listxattr, llistxattr, lremovexattr, lsetxattr, openat, removexattr, setxattr, statat,
};
use rustix::io::Errno;

use super::metadata::kind;
use crate::format::tree::{MAX_COMPONENT, MAX_XATTR_BYTES, MAX_XATTRS};

/// Names and values, sorted by name.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// The access list that a directory hands to what is made in it.
pub const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// The access list of a file or directory.
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// Whose attributes.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// What is open here, perhaps only as a path.
    Open(BorrowedFd<'a>),
    /// A name in a directory; a symbolic link is not followed.
    Named(BorrowedFd<'a>, &'a [u8]),
}

/// Why attributes are not complete.
#[derive(Debug)]
pub enum Failure {
    /// The system refused.
    System(Errno),
    /// More than the format holds.
    TooMany { what: &'static str, found: usize, limit: usize },
}

impl Place<'_> {
    fn proc_path(&self) -> Vec<u8> {
        let (fd, name) = match self {
            Place::Open(fd) => (fd.as_raw_fd(), &[][..]),
            Place::Named(fd, name) => (fd.as_raw_fd(), *name),
        };
        let mut path = format!("/proc/self/fd/{fd}").into_bytes();
        if !name.is_empty() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    }

    fn list(&self, path: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Place::Open(_) => listxattr(path, buffer),
            Place::Named(..) => llistxattr(path, buffer),
        }
    }

    fn get(&self, path: &[u8], name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Place::Open(_) => getxattr(path, name, buffer),
            Place::Named(..) => lgetxattr(path, name, buffer),
        }
    }

    /// Whether it has this attribute.
    pub fn has(&self, name: &[u8]) -> bool {
        self.get(&self.proc_path(), name, &mut [0; 1]).map_or_else(|error| error == Errno::RANGE, |_| true)
    }

    /// Sets an attribute.
    pub fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        let path = self.proc_path();
        match self {
            Place::Open(fd) => match fsetxattr(fd, name, value, XattrFlags::empty()) {
                Err(Errno::BADF) => setxattr(path, name, value, XattrFlags::empty()),
                other => other,
            },
            Place::Named(..) => lsetxattr(path, name, value, XattrFlags::empty()),
        }
    }

    /// Removes an attribute; one that is not there is no error.
    pub fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        let path = self.proc_path();
        let removed = match self {
            Place::Open(fd) => match fremovexattr(fd, name) {
                Err(Errno::BADF) => removexattr(path, name),
                other => other,
            },
            Place::Named(..) => lremovexattr(path, name),
        };
        match removed {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            other => other,
        }
    }

    /// Reads all attributes. What could be read is kept whatever fails; the first failure is told.
    pub fn read(&self) -> (Attributes, Option<Failure>) {
        let path = self.proc_path();
        let mut buffer = [0; 4096];
        match self.list(&path, &mut buffer) {
            Ok(0) | Err(Errno::OPNOTSUPP) => (Vec::new(), None),
            Ok(len) => collect(&buffer[..len], |name, value| self.get(&path, name, value)),
            Err(Errno::RANGE) => {
                let mut large = vec![0; 64 << 10];
                match self.list(&path, &mut large) {
                    Ok(len) => collect(&large[..len], |name, value| self.get(&path, name, value)),
                    Err(error) => (Vec::new(), Some(Failure::System(error))),
                }
            }
            Err(Errno::NOENT) => self.read_open(),
            Err(error) => (Vec::new(), Some(Failure::System(error))),
        }
    }

    /// For when `/proc` does not lead to it: it vanished, or `/proc` is not mounted.
    fn read_open(&self) -> (Attributes, Option<Failure>) {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let (fd, name) = match self {
            Place::Open(fd) => return read_descriptor(*fd),
            Place::Named(fd, name) => (fd, *name),
        };
        let opened = match statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| kind(&stat)) {
            Ok(FileType::RegularFile | FileType::Directory) => openat(fd, name, flags, Mode::empty()),
            // There is no other way to its attributes, and it rarely has any.
            Ok(_) => return (Vec::new(), None),
            Err(error) => Err(error),
        };
        match opened {
            Ok(fd) => read_descriptor(fd.as_fd()),
            Err(error) => (Vec::new(), Some(Failure::System(error))),
        }
    }
}

fn read_descriptor(fd: BorrowedFd<'_>) -> (Attributes, Option<Failure>) {
    let mut names = vec![0; 64 << 10];
    match flistxattr(fd, names.as_mut_slice()) {
        Ok(len) => collect(&names[..len], |name, value| fgetxattr(fd, name, value)),
        Err(Errno::OPNOTSUPP | Errno::BADF) => (Vec::new(), None),
        Err(error) => (Vec::new(), Some(Failure::System(error))),
    }
}

fn collect(names: &[u8], get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>) -> (Attributes, Option<Failure>) {
    let (mut attributes, mut failure, mut bytes) = (Attributes::new(), None, 0);
    // The kernel's own limit of one value.
    let mut value = vec![0; 64 << 10];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let len = match get(name, &mut value) {
            Ok(len) => len,
            Err(Errno::NODATA) => continue,
            Err(error) => {
                failure.get_or_insert(Failure::System(error));
                continue;
            }
        };
        bytes += name.len() + len;
        let limits = [
            ("the number of its extended attributes", attributes.len() + 1, MAX_XATTRS),
            ("the length of its extended attributes", bytes, MAX_XATTR_BYTES),
            ("the length of an extended attribute's name", name.len(), MAX_COMPONENT),
        ];
        match limits.into_iter().find(|(_, found, limit)| found > limit) {
            Some((what, found, limit)) => {
                failure.get_or_insert(Failure::TooMany { what, found, limit });
                bytes -= name.len() + len;
            }
            None => attributes.push((name.to_vec(), value[..len].to_vec())),
        }
    }
    attributes.sort_unstable();
    (attributes, failure)
}
