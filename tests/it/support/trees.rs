//! Directory trees on a real file system: one of everything that a backup has to bring back, and what other programs
//! see of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::fs::{lsetxattr, makedev, mkdirat, mknodat, openat, utimensat};

use super::machine::{is_root_or_skip, skip};

pub fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree as `find` sees it: path, type, mode, owner, time, links, length of files, target of links.
pub fn listing(root: &Path) -> Vec<Vec<u8>> {
    let format = r"%P|%y|%m|%U:%G|%T@|%n|%l|\0";
    let output = Command::new("find").arg(root).args(["-printf", format]).output().unwrap();
    assert!(output.status.success());
    let mut lines: Vec<Vec<u8>> = output.stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    lines.sort();
    lines
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    if let Err(error) = lsetxattr(path, name, value, XattrFlags::empty()) {
        skip(&format!("{name} is refused by this file system: {error}"));
    }
}

/// `user::rw-,user:1234:r--,group::r--,mask::r--,other::---` as the kernel stores it.
pub fn acl() -> Vec<u8> {
    let mut raw = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [(1u16, 6u16, !0u32), (2, 4, 1234), (4, 4, !0), (0x10, 4, !0), (0x20, 0, !0)] {
        raw.extend(tag.to_le_bytes());
        raw.extend(permissions.to_le_bytes());
        raw.extend(id.to_le_bytes());
    }
    raw
}

/// One of everything.
pub fn build(root: &Path) {
    let dir = root.join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("plain"), b"plain text").unwrap();
    fs::write(dir.join("empty"), b"").unwrap();
    fs::create_dir(dir.join("empty directory")).unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"caf\xe9 \xff\n")), b"not UTF-8").unwrap();
    fs::write(dir.join(OsStr::from_bytes(&[b'n'; 255])), b"long").unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(&[5; 4096], 1 << 20).unwrap();
    sparse.set_len(8 << 20).unwrap();
    fs::hard_link(dir.join("plain"), root.join("another name")).unwrap();
    symlink("plain", dir.join("link")).unwrap();
    symlink("/nowhere/\u{fc}", dir.join("dangling")).unwrap();
    fs::hard_link(dir.join("dangling"), dir.join("dangling too")).unwrap();
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
    drop(UnixListener::bind(dir.join("socket")).unwrap());
    fs::create_dir(root.join("closed")).unwrap();
    fs::write(root.join("closed/in"), b"x").unwrap();
    fs::write(root.join("set-id"), b"x").unwrap();
    if is_root_or_skip("making devices and giving files away") {
        mknodat(CWD, dir.join("null"), FileType::CharacterDevice, 0o600.into(), makedev(1, 3)).unwrap();
        mknodat(CWD, dir.join("block"), FileType::BlockDevice, 0o600.into(), makedev(300, 70_000)).unwrap();
        chown(dir.join("empty"), Some(1234), Some(5678)).unwrap();
        chown(root.join("set-id"), Some(1234), Some(5678)).unwrap();
        lchown(dir.join("link"), Some(4321), Some(8765)).unwrap();
        chown(root.join("closed"), Some(1234), None).unwrap();
        xattr(&dir.join("plain"), "trusted.cairn", b"\0binary\xff");
    }
    xattr(&dir.join("plain"), "user.empty", b"");
    xattr(&dir.join("sparse"), "user.large", &[9; 3000]);
    xattr(&dir.join("plain"), "system.posix_acl_access", &acl());
    xattr(&root.join("closed"), "system.posix_acl_default", &acl());
    fs::set_permissions(root.join("set-id"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o1500)).unwrap();
    set_time(&dir.join("plain"), 1_000_000_000, 987_654_321);
    set_time(&dir.join("empty"), -1_000, 1);
    set_time(&dir.join("link"), 1_234_567_890, 5);
    set_time(&dir.join("fifo"), 1, 0);
    set_time(&dir, 999_999_999, 999_999_999);
    set_time(root, 42, 42);
}

/// Takes the socket of [`build`] away, which no restore makes.
pub fn remove_socket(root: &Path) {
    fs::remove_file(root.join("dir/socket")).unwrap();
    set_time(&root.join("dir"), 999_999_999, 999_999_999);
}

/// Lets whoever is not root remove what [`build`] made.
pub fn reopen(root: &Path) {
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

/// Makes a chain of directories too deep for any path, with a file at its end.
pub fn deep_tree(root: &Path, levels: usize) {
    let mut at = openat(CWD, root, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    for level in 0..levels {
        mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
        if level % 500 == 0 {
            let file = openat(&at, "z", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600)).unwrap();
            rustix::io::write(file, b"half way").unwrap();
        }
        at = openat(&at, "d", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let file = openat(&at, "bottom", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o640)).unwrap();
    rustix::io::write(file, b"deep").unwrap();
}
