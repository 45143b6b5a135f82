//! What a walk finds, in which order, and what it says of what it cannot read.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cairn::format::tree::{Node, compare_paths};
use cairn::source::SourceError;
use cairn::source::files::{Found, Walk, WalkOptions};
use proptest::prelude::{Strategy, proptest};
use rustix::fs::{XattrFlags, lsetxattr};

use super::{load, prefix, relative, walk};
use crate::support::machine::{Tmpfs, as_nobody, scratch, skip};
use crate::support::trees::deep_tree;

fn below(found: &[Found], root: &Path) -> Vec<String> {
    let prefix = prefix(root);
    let names = found.iter().filter_map(|found| relative(&found.entry.path, &prefix));
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[test]
fn parents_of_a_root_come_first_and_nothing_beside_them() {
    let (_dir, root) = scratch();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/beside"), "").unwrap();
    fs::write(root.join("a/b/c/file"), "x").unwrap();
    let (mut found, missed) = walk(&[&root.join("a/b")], &[]);
    assert!(missed.is_empty());
    let listed = lsetxattr(root.join("a"), "user.parent", b"yes", XattrFlags::empty()).is_ok();
    for found in &mut found {
        found.complete().unwrap();
    }
    assert_eq!(found[0].entry.path, b"");
    assert_eq!(below(&found, &root), ["", "a", "a/b", "a/b/c", "a/b/c/file"]);
    let parent = found.iter().find(|f| f.entry.path == prefix(&root.join("a"))).unwrap();
    let meta = fs::metadata(root.join("a")).unwrap();
    assert_eq!(parent.entry.node, Node::Directory);
    assert_eq!((parent.entry.mode, parent.entry.inode), (meta.mode() & 0o7777, meta.ino()));
    match listed {
        true => assert_eq!(parent.entry.xattrs, [(b"user.parent".to_vec(), b"yes".to_vec())]),
        false => skip("this file system has no extended attributes"),
    }
}

#[test]
fn nested_and_repeated_roots_are_walked_once() {
    let (_dir, root) = scratch();
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/f"), "").unwrap();
    let odd = root.join("a/./b/../b");
    let (found, _) = walk(&[&root.join("a/b"), &root.join("a"), &root.join("a"), &odd], &[]);
    assert_eq!(below(&found, &root), ["", "a", "a/b", "a/b/f"]);
}

#[test]
fn a_link_as_root_stays_a_link_and_links_above_it_are_followed() {
    let (_dir, root) = scratch();
    fs::create_dir_all(root.join("real/in")).unwrap();
    symlink("real", root.join("link")).unwrap();
    let (found, _) = walk(&[&root.join("link")], &[]);
    let last = &found.last().unwrap().entry;
    assert_eq!(last.node, Node::Symlink { target: b"real".to_vec() });
    let (found, missed) = walk(&[&root.join("link/in")], &[]);
    assert!(missed.is_empty());
    assert_eq!(below(&found, &root), ["", "link", "link/in"]);
    // Both: the data counts for more than the link.
    let (found, missed) = walk(&[&root.join("link"), &root.join("link/in")], &[]);
    assert!(missed.is_empty());
    assert_eq!(below(&found, &root), ["", "link", "link/in"]);
    // `..` behind a link leads to the parent of what the link leads to.
    fs::create_dir_all(root.join("x/y")).unwrap();
    fs::write(root.join("x/here"), "").unwrap();
    symlink("x/y", root.join("far")).unwrap();
    let (found, _) = walk(&[&root.join("far/../here")], &[]);
    assert_eq!(below(&found, &root), ["", "x", "x/here"]);
}

#[test]
fn excludes_leave_out_whole_directories_but_never_the_roots() {
    let (_dir, root) = scratch();
    for dir in ["keep/cache/deep", "keep/src", "cache"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for file in ["keep/cache/deep/f", "keep/src/a.tmp", "keep/src/a.rs", "cache/inside"] {
        fs::write(root.join(file), "").unwrap();
    }
    let absolute = format!("{}/keep/src/a.rs", root.display());
    let (found, _) = walk(&[&root.join("keep"), &root.join("cache")], &["cache", "*.tmp"]);
    assert_eq!(below(&found, &root), ["", "cache", "cache/inside", "keep", "keep/src", "keep/src/a.rs"]);
    let (found, _) = walk(&[&root.join("keep")], &[&absolute]);
    assert!(!below(&found, &root).contains(&"keep/src/a.rs".to_owned()));
}

#[test]
fn names_of_any_bytes_and_of_255_bytes() {
    let (_dir, root) = scratch();
    let long = vec![b'n'; 255];
    for name in [&b"\xff\xfe caf\xe9"[..], b"new\nline", b"-rf", &long] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let names: Vec<_> = load(&root).into_iter().skip(1).map(|(entry, data)| (entry.path, data)).collect();
    let expected = [&b"-rf"[..], b"new\nline", &long, b"\xff\xfe caf\xe9"].map(|n| (n.to_vec(), n.to_vec()));
    assert_eq!(names, expected);
}

#[test]
fn a_tree_deeper_than_any_path_is_walked_with_few_open_files() {
    let (_dir, root) = scratch();
    deep_tree(&root, 3000);
    fs::create_dir(root.join("e")).unwrap();
    let options = WalkOptions { roots: vec![root.clone()], ..WalkOptions::default() };
    let (mut most, mut count, mut last) = (0, 0, Vec::new());
    for (index, item) in Walk::new(options).unwrap().enumerate() {
        let found = item.unwrap();
        if index % 300 == 0 {
            let mine = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
            most = most.max(mine.filter(|path| path.starts_with(&root)).count());
        }
        last = found.entry.path.clone();
        count += 1;
    }
    assert!(count > 3000 + 7 && most < 64, "{count} entries, {most} open");
    assert_eq!(relative(&last, &prefix(&root)), Some(&b"z"[..]), "the way back up leads to the siblings");
    let loaded = load(&root);
    let bottom = loaded.iter().find(|(entry, _)| entry.name() == b"bottom").unwrap();
    assert!(bottom.0.path.len() > 4096 && bottom.1 == b"deep");
    assert_eq!(loaded.iter().filter(|(entry, data)| entry.name() == b"z" && data == b"half way").count(), 6);
}

#[test]
fn a_directory_moved_away_on_the_way_up_loses_only_itself() {
    let (_dir, root) = scratch();
    let chain: PathBuf = std::iter::repeat_n("d", 60).collect();
    fs::create_dir_all(root.join(&chain)).unwrap();
    let upper: PathBuf = std::iter::repeat_n("d", 5).collect();
    fs::write(root.join(&upper).join("z"), "").unwrap();
    fs::write(root.join("z"), "").unwrap();
    let options = WalkOptions { roots: vec![root.clone()], ..WalkOptions::default() };
    let mut walk = Walk::new(options).unwrap();
    let bottom = root.join(&chain);
    let at_bottom = walk.by_ref().map(|item| item.unwrap()).find(|f| f.entry.path == prefix(&bottom));
    assert!(at_bottom.is_some());
    // Neither the way up from below nor the way down by name leads to this one any more.
    fs::rename(root.join(&upper).join("d"), root.join("moved")).unwrap();
    fs::rename(root.join(&upper), root.join("moved too")).unwrap();
    fs::create_dir(root.join(&upper)).unwrap();
    let rest: Vec<_> = walk.collect();
    let errors: Vec<_> = rest.iter().filter_map(|item| item.as_ref().err()).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(matches!(errors[0].error, SourceError::Changed { .. }), "{errors:?}");
    assert_eq!(errors[0].entry.as_ref().unwrap().path, prefix(&root.join(&upper).join("z")));
    let last = rest.last().unwrap().as_ref().unwrap();
    assert_eq!(last.entry.path, prefix(&root.join("z")), "the siblings of its parents are still there");
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_found() {
    let (_dir, root) = scratch();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(root.join("closed")).unwrap();
    fs::write(root.join("closed/in"), "").unwrap();
    fs::write(root.join("a"), "a").unwrap();
    fs::write(root.join("secret"), "s").unwrap();
    fs::write(root.join("z"), "z").unwrap();
    for name in ["closed", "secret"] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o0)).unwrap();
    }
    let there = root.clone();
    let (names, missed, opened) = as_nobody(move || {
        let (mut found, missed) = walk(&[&there], &[]);
        let names = below(&found, &there);
        let files = found.iter_mut().filter(|found| matches!(found.entry.node, Node::File { .. }));
        let opened: Vec<bool> = files.map(|found| found.open().is_ok()).collect();
        (names, missed, opened)
    });
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(names, ["", "a", "secret", "z"]);
    assert_eq!(opened, [true, false, true]);
    assert_eq!(missed.len(), 1);
    let entry = missed[0].entry.as_ref().unwrap();
    assert_eq!((&entry.node, entry.path.clone()), (&Node::Unread, prefix(&root.join("closed"))));
    assert_eq!(entry.inode, fs::metadata(root.join("closed")).unwrap().ino(), "what is known is recorded");
    let SourceError::Unreadable { path, source, .. } = &missed[0].error else { panic!("{:?}", missed[0].error) };
    assert_eq!(path, root.join("closed").to_str().unwrap());
    assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
}

#[test]
fn a_missing_root_and_a_vanished_file_are_missed() {
    let (_dir, root) = scratch();
    fs::write(root.join("a"), "").unwrap();
    fs::write(root.join("b"), "").unwrap();
    let (found, missed) = walk(&[&root.join("a"), &root.join("nothing/here")], &[]);
    assert_eq!(below(&found, &root), ["", "a"]);
    assert!(matches!(&missed[0].error, SourceError::Vanished { path } if path.ends_with("/nothing")));
    let options = WalkOptions { roots: vec![root.clone()], ..WalkOptions::default() };
    let mut walk = Walk::new(options).unwrap();
    walk.by_ref().find(|item| item.as_ref().unwrap().entry.path == prefix(&root)).unwrap().unwrap();
    fs::remove_file(root.join("a")).unwrap();
    let missed = walk.next().unwrap().unwrap_err();
    assert!(matches!(missed.error, SourceError::Vanished { .. }));
    assert_eq!(missed.entry.unwrap().node, Node::Unread);
    assert_eq!(walk.next().unwrap().unwrap().entry.path, prefix(&root.join("b")));
}

#[test]
fn a_directory_that_becomes_a_link_is_not_followed() {
    let (_dir, root) = scratch();
    fs::create_dir_all(root.join("in/dir")).unwrap();
    fs::create_dir(root.join("out")).unwrap();
    fs::write(root.join("out/secret"), "").unwrap();
    let options = WalkOptions { roots: vec![root.join("in")], ..WalkOptions::default() };
    let mut walk = Walk::new(options).unwrap();
    walk.by_ref().find(|item| item.as_ref().unwrap().entry.path == prefix(&root.join("in"))).unwrap().unwrap();
    fs::remove_dir(root.join("in/dir")).unwrap();
    symlink("../out", root.join("in/dir")).unwrap();
    let rest: Vec<_> = walk.map(|item| item.unwrap().entry).collect();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].node, Node::Symlink { target: b"../out".to_vec() });
}

fn order_is_that_of_the_format(paths: Vec<Vec<u8>>) {
    let (_dir, root) = scratch();
    for path in &paths {
        let path = root.join(OsStr::from_bytes(path));
        // A name may be taken by a file already: then there is one path less.
        if path.parent().is_some_and(|parent| fs::create_dir_all(parent).is_ok()) && !path.is_dir() {
            let _ = fs::write(&path, "");
        }
    }
    let (found, missed) = walk(&[&root], &[]);
    assert!(missed.is_empty());
    let order: Vec<Vec<u8>> = found.iter().map(|found| found.entry.path.clone()).collect();
    let mut sorted = order.clone();
    sorted.sort_by(|a, b| compare_paths(a, b));
    sorted.dedup();
    assert_eq!(order, sorted);
    let listed = std::process::Command::new("find").arg(&root).arg("-print0").output().unwrap().stdout;
    let mut listed: Vec<Vec<u8>> =
        listed.split(|b| *b == 0).filter(|p| !p.is_empty()).map(|p| p[1..].to_vec()).collect();
    listed.sort_by(|a, b| compare_paths(a, b));
    let below: Vec<Vec<u8>> = order.into_iter().filter(|path| relative(path, &prefix(&root)).is_some()).collect();
    assert_eq!(below, listed, "what find finds");
}

fn paths() -> impl Strategy<Value = Vec<Vec<u8>>> {
    // Bytes around the slash, and what is not UTF-8.
    let byte = proptest::sample::select(b"ab-.0!+ \xc3\xff\x01".to_vec());
    let name = proptest::collection::vec(byte, 1..5).prop_filter("a name", |name| name != b"." && name != b"..");
    let path = proptest::collection::vec(name, 1..5).prop_map(|names| names.join(&b'/'));
    proptest::collection::vec(path, 0..40)
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 40, ..Default::default() })]
    #[test]
    fn a_walk_has_the_order_of_a_tree(paths in paths()) {
        order_is_that_of_the_format(paths);
    }
}

#[test]
fn one_file_system_leaves_out_what_is_mounted_but_not_a_root_on_it() {
    let (_dir, root) = scratch();
    for directory in ["here/sub", "disk"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("here/sub/f"), "x").unwrap();
    let Some(mounted) = Tmpfs::mount(&root.join("disk"), "1m") else { return };
    fs::create_dir_all(mounted.path().join("wanted/deep")).unwrap();
    fs::create_dir_all(mounted.path().join("other")).unwrap();
    let walked = |roots: Vec<PathBuf>, one_file_system| {
        let options = WalkOptions { roots, one_file_system, ..WalkOptions::default() };
        let found: Vec<_> = Walk::new(options).unwrap().map(|item| item.unwrap().entry.path).collect();
        let inside = found.iter().filter_map(|path| relative(path, &prefix(&root)));
        inside.map(|path| String::from_utf8(path.to_vec()).unwrap()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(walked(vec![root.clone()], true), " disk here here/sub here/sub/f");
    let everything = " disk disk/other disk/wanted disk/wanted/deep here here/sub here/sub/f";
    assert_eq!(walked(vec![root.clone()], false), everything);
    assert_eq!(
        walked(vec![root.join("here"), root.join("disk/wanted")], true),
        " disk disk/wanted disk/wanted/deep here here/sub here/sub/f"
    );
    // The root on the other file system makes that one belong to the walk: it is named.
    assert_eq!(walked(vec![root.clone(), root.join("disk/wanted")], true), everything);
}
