//! What a walk reads and a target writes is the same tree, as other programs see it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use cairn::format::tree::Node;
use cairn::source::TargetError;
use cairn::source::files::{Target, TargetOptions};
use proptest::prelude::{Just, Strategy, prop_oneof, proptest};
use rustix::fs::{CWD, FileType, mknodat};

use super::{essence, load, restore};
use crate::support::machine::scratch;
use crate::support::trees::{build, deep_tree, listing, remove_socket, reopen, set_time};

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
        remove_socket(&from);
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
        reopen(&to);
        reopen(&from);
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
