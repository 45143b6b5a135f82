//! What a walk reads and a target writes is the same tree, as other programs see it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use cairn::format::tree::Node;
use cairn::source::TargetError;
use cairn::source::files::{Target, TargetOptions};
use proptest::prelude::{Just, Strategy, prop_oneof, proptest};
use rustix::fs::{AtFlags, CWD, FileType, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat, utimensat};

use super::{deep_tree, essence, is_root, load, restore, scratch};

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree as `find` sees it: path, type, mode, owner, time, links, length of files, target of links.
fn listing(root: &Path) -> Vec<Vec<u8>> {
    let format = r"%P|%y|%m|%U:%G|%T@|%n|%l|\0";
    let output = Command::new("find").arg(root).args(["-printf", format]).output().unwrap();
    assert!(output.status.success());
    let mut lines: Vec<Vec<u8>> = output.stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    lines.sort();
    lines
}

fn xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    let set = lsetxattr(path, name, value, XattrFlags::empty());
    if let Err(error) = set {
        println!("skipped: {name} on {} is refused here: {error}", path.display());
    }
    set.is_ok()
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
fn build(root: &Path) {
    let dir = root.join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("plain"), b"plain text").unwrap();
    fs::write(dir.join("empty"), b"").unwrap();
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
    if is_root() {
        mknodat(CWD, dir.join("null"), FileType::CharacterDevice, 0o600.into(), makedev(1, 3)).unwrap();
        mknodat(CWD, dir.join("block"), FileType::BlockDevice, 0o600.into(), makedev(300, 70_000)).unwrap();
        chown(dir.join("empty"), Some(1234), Some(5678)).unwrap();
        chown(root.join("set-id"), Some(1234), Some(5678)).unwrap();
        lchown(dir.join("link"), Some(4321), Some(8765)).unwrap();
        chown(root.join("closed"), Some(1234), None).unwrap();
        xattr(&dir.join("plain"), "trusted.cairn", b"\0binary\xff");
    } else {
        println!("skipped: devices and owners need root");
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

#[test]
fn every_kind_of_file_comes_back() {
    for without_openat2 in [false, true] {
        let (_dir, root) = scratch();
        let (from, to) = (root.join("from"), root.join("to"));
        fs::create_dir(&from).unwrap();
        build(&from);
        let tree = load(&from);
        let target = Target::open(&to, TargetOptions { without_openat2, ..Default::default() }).unwrap();
        let complaints = restore(&tree, &target);
        assert!(
            matches!(&complaints[..], [TargetError::Skipped { path, .. }] if path.ends_with("dir/socket")),
            "{complaints:?}"
        );
        fs::remove_file(from.join("dir/socket")).unwrap();
        set_time(&from.join("dir"), 999_999_999, 999_999_999);
        let without: Vec<_> = tree.into_iter().filter(|(entry, _)| entry.node != Node::Socket).collect();
        assert_eq!(essence(&load(&to)), essence(&without));
        assert_eq!(listing(&to), listing(&from));
        let blocks = |root: &Path| fs::metadata(root.join("dir/sparse")).unwrap().blocks();
        assert_eq!(blocks(&to), blocks(&from), "holes stay holes");
        let inode = |path: &str| fs::metadata(to.join(path)).unwrap().ino();
        assert_eq!(inode("dir/plain"), inode("another name"));
        // Once more over what is there: the same again.
        let complaints = restore(&without, &target);
        assert!(complaints.is_empty(), "{complaints:?}");
        assert_eq!(listing(&to), listing(&from));
        fs::set_permissions(to.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(from.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn a_tree_deeper_than_any_path_comes_back_and_is_removed() {
    for without_openat2 in [false, true] {
        let (_dir, root) = scratch();
        let (from, to) = (root.join("from"), root.join("to"));
        fs::create_dir(&from).unwrap();
        deep_tree(&from, 3000);
        let tree = load(&from);
        let options = TargetOptions { without_openat2, ..Default::default() };
        let complaints = restore(&tree, &Target::open(&to, options).unwrap());
        assert!(complaints.is_empty(), "{complaints:?}");
        assert_eq!(essence(&load(&to)), essence(&tree));
        let top = Target::open(&root, options).unwrap();
        let mut names = Vec::new();
        let removed = top.delete_extra(b"", &[], super::target::all(cairn::source::files::Removal::Apply), &mut |p| {
            names.push(p.to_vec())
        });
        let removed = removed.unwrap();
        assert!(removed.complaints.is_empty(), "{:?}", removed.complaints);
        assert_eq!(removed.entries, 2 * (3000 + 7 + 1));
        assert_eq!(names, [b"from".to_vec(), b"to".to_vec()]);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }
}

#[derive(Clone, Debug)]
enum Thing {
    Directory(u32),
    File(Vec<u8>, u32),
    Hole(u64, u64),
    Link(Vec<u8>),
    Fifo,
    Twin,
}

fn comes_back(things: Vec<(Vec<u8>, Thing, i64)>) {
    let (_dir, root) = scratch();
    let (from, to) = (root.join("from"), root.join("to"));
    fs::create_dir(&from).unwrap();
    let mut made = Vec::new();
    let mut previous = None;
    for (path, thing, time) in &things {
        let path = from.join(OsStr::from_bytes(path));
        // Where another thing has the name already, or a file is in the way, there is one thing less.
        let Some(parent) = path.parent() else { continue };
        if fs::create_dir_all(parent).is_err() || path.symlink_metadata().is_ok() {
            continue;
        }
        match thing {
            Thing::Directory(_) => fs::create_dir(&path).unwrap(),
            Thing::File(data, mode) => {
                fs::write(&path, data).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                previous = Some(path.clone());
            }
            Thing::Hole(at, len) => {
                let file = File::create(&path).unwrap();
                file.write_all_at(b"data", *at).unwrap();
                file.set_len(at + 4 + len).unwrap();
            }
            Thing::Link(to) => symlink(OsStr::from_bytes(to), &path).unwrap(),
            Thing::Fifo => mknodat(CWD, &path, FileType::Fifo, 0o640.into(), 0).unwrap(),
            Thing::Twin => match &previous {
                Some(previous) => fs::hard_link(previous, &path).unwrap(),
                None => continue,
            },
        }
        made.push((path, thing, *time));
    }
    for (path, thing, time) in made.iter().rev() {
        if let Thing::Directory(mode) = thing {
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        set_time(path, *time, time.rem_euclid(1_000_000_000));
    }
    let tree = load(&from);
    let complaints = restore(&tree, &Target::open(&to, TargetOptions::default()).unwrap());
    assert!(complaints.is_empty(), "{complaints:?}");
    assert_eq!(essence(&load(&to)), essence(&tree));
    assert_eq!(listing(&to), listing(&from));
}

fn things() -> impl Strategy<Value = Vec<(Vec<u8>, Thing, i64)>> {
    let name = proptest::collection::vec(proptest::sample::select(b"ab-.0 \xc3\xff".to_vec()), 1..4)
        .prop_filter("a name", |name| name != b"." && name != b"..");
    let path = proptest::collection::vec(name, 1..4).prop_map(|names| names.join(&b'/'));
    let bytes = || proptest::collection::vec(1u8.., 1..200);
    let thing = prop_oneof![
        (0o700u32..0o1000).prop_map(Thing::Directory),
        (proptest::collection::vec(proptest::num::u8::ANY, 0..20_000), 0o600u32..0o1000)
            .prop_map(|(data, mode)| Thing::File(data, mode | 0o600)),
        (0u64..1 << 24, 0u64..1 << 22).prop_map(|(at, len)| Thing::Hole(at, len)),
        bytes().prop_map(Thing::Link),
        Just(Thing::Fifo),
        Just(Thing::Twin),
    ];
    proptest::collection::vec((path, thing, -1_000_000_000i64..4_000_000_000), 0..25)
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, ..Default::default() })]
    #[test]
    fn any_tree_comes_back(things in things()) {
        comes_back(things);
    }
}
