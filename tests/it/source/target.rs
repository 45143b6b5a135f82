//! What a target does with hostile entries, with what is there already, and without privileges.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use cairn::format::content::Content;
use cairn::format::tree::{Extent, FileTime, Node};
use cairn::source::TargetError;
use cairn::source::files::{Extra, Overwrite, OwnerLookup, OwnerPolicy, Removal, State, Target, TargetOptions};
use rustix::fs::XattrFlags;

use super::{entry, file, write};
use crate::support::machine::{as_nobody, is_root_or_skip, scratch, skip};
use crate::support::trees::acl;

fn open(root: &Path) -> Target {
    Target::open(root, TargetOptions::default()).unwrap()
}

pub fn all(removal: Removal) -> Extra<'static> {
    Extra { removal, spares: &|_, _| false }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn link(path: &str, target: &str) -> cairn::format::tree::Entry {
    entry(path, Node::Symlink { target: target.as_bytes().to_vec() })
}

#[test]
fn hostile_paths_are_refused() {
    let (_dir, root) = scratch();
    let target = open(&root.join("in/t"));
    for path in ["..", "../x", "a/../../x", "a/..", ".", "a/./b", "/etc/x", "a//b", "a/", "a\0b"] {
        let refused = |error: TargetError| assert!(matches!(error, TargetError::HostilePath { .. }), "{path}: {error}");
        refused(target.begin_file(&file(path, b"x")).err().unwrap());
        refused(target.directory(&entry(path, Node::Directory)).unwrap_err());
        refused(target.finish_directory(&entry(path, Node::Directory)).unwrap_err());
        refused(target.special(&link(path, "x")).unwrap_err());
        refused(target.hard_link(&file(path, b"x"), b"f").unwrap_err());
        refused(target.hard_link(&file("f", b"x"), path.as_bytes()).unwrap_err());
        refused(target.existing(&file(path, b"x")).unwrap_err());
        refused(target.refresh(&file(path, b"x")).unwrap_err());
        refused(target.delete_extra(path.as_bytes(), &[], all(Removal::Apply), &mut |_| {}).unwrap_err());
    }
    assert!(target.begin_file(&file("", b"x")).is_err());
    assert!(target.begin_file(&file(&"n".repeat(256), b"x")).is_err());
    assert_eq!(names(&root.join("in")), ["t"]);
    assert!(names(&root.join("in/t")).is_empty());
}

#[test]
fn links_in_the_target_are_never_followed() {
    for without_openat2 in [false, true] {
        let (_dir, root) = scratch();
        let (inside, outside) = (root.join("in"), root.join("out"));
        fs::create_dir_all(inside.join("real/sub")).unwrap();
        fs::create_dir_all(outside.join("sub")).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink("real", inside.join("local")).unwrap();
        symlink(outside.join("secret"), inside.join("file")).unwrap();
        let target = Target::open(&inside, TargetOptions { without_openat2, ..Default::default() }).unwrap();
        for parent in ["link", "local", "link/sub", "local/sub", "file"] {
            let path = format!("{parent}/x");
            let in_the_way =
                |error: TargetError| assert!(matches!(error, TargetError::ParentInTheWay { .. }), "{error}");
            in_the_way(target.begin_file(&file(&path, b"x")).err().unwrap());
            in_the_way(target.special(&link(&path, "x")).unwrap_err());
            in_the_way(target.directory(&entry(&path, Node::Directory)).unwrap_err());
            in_the_way(target.existing(&file(&path, b"x")).unwrap_err());
            in_the_way(target.hard_link(&file("y", b"x"), path.as_bytes()).unwrap_err());
            in_the_way(target.delete_extra(parent.as_bytes(), &[], all(Removal::Apply), &mut |_| {}).unwrap_err());
        }
        assert!(target.finish_directory(&entry("link", Node::Directory)).is_err());
        // What goes in a link's own place replaces the link.
        write(&target, &file("file", b"new"), b"new").unwrap();
        target.directory(&entry("link", Node::Directory)).unwrap();
        write(&target, &file("link/x", b"new"), b"new").unwrap();
        assert_eq!(names(&inside), ["file", "link", "local", "real"]);
        assert_eq!(fs::read(inside.join("file")).unwrap(), b"new");
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
        assert_eq!(names(&outside), ["secret", "sub"]);
        assert!(names(&outside.join("sub")).is_empty() && names(&inside.join("real/sub")).is_empty());
    }
}

#[test]
fn a_link_swapped_in_meanwhile_leads_nowhere() {
    let (_dir, root) = scratch();
    let (inside, outside) = (root.join("in"), root.join("out"));
    fs::create_dir(&outside).unwrap();
    let target = open(&inside);
    target.directory(&entry("d", Node::Directory)).unwrap();
    let mut writer = target.begin_file(&file("d/begun", b"12")).unwrap();
    writer.write_all(b"1").unwrap();
    fs::rename(inside.join("d"), inside.join("moved")).unwrap();
    symlink(&outside, inside.join("d")).unwrap();
    writer.write_all(b"2").unwrap();
    writer.finish(&file("d/begun", b"12")).unwrap();
    write(&target, &file("d/later", b"x"), b"x").unwrap();
    assert!(target.finish_directory(&entry("d", Node::Directory)).is_err());
    assert_eq!(names(&inside.join("moved")), ["begun", "later"], "an open directory stays what it was");
    assert!(names(&outside).is_empty());
    assert!(matches!(open(&inside).begin_file(&file("d/x", b"")), Err(TargetError::ParentInTheWay { .. })));
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let (_dir, root) = scratch();
    let target = open(&root);
    fs::write(root.join("f"), "old").unwrap();
    let mut new = file("f", b"new content");
    new.owner.uid += 1;
    let mut writer = target.begin_file(&new).unwrap();
    writer.write_all(b"new").unwrap();
    assert_eq!(fs::read(root.join("f")).unwrap(), b"old");
    assert_eq!(names(&root).len(), 2);
    if is_root_or_skip("giving files away") {
        let mode = fs::metadata(root.join(&names(&root)[0])).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o600, "nobody else reads it before it has its owner");
    }
    drop(writer);
    assert_eq!(names(&root), ["f"]);
    let mut writer = target.begin_file(&new).unwrap();
    writer.write_all(b"new").unwrap();
    assert!(matches!(writer.finish(&new), Err(TargetError::Incomplete { written: 3, expected: 11, .. })));
    let writer = target.begin_file(&new).unwrap();
    assert!(matches!(writer.write_at(10, b"ab"), Err(TargetError::Incomplete { .. })));
    assert!(matches!(writer.write_at(u64::MAX, b"ab"), Err(TargetError::Incomplete { .. })));
    drop(writer);
    assert_eq!((names(&root), fs::read(root.join("f")).unwrap()), (vec!["f".to_owned()], b"old".to_vec()));
    new.owner.uid -= 1;
    write(&target, &new, b"new content").unwrap();
    assert_eq!((names(&root), fs::read(root.join("f")).unwrap()), (vec!["f".to_owned()], b"new content".to_vec()));
}

#[test]
fn content_may_come_in_any_order_from_several_threads() {
    let (_dir, root) = scratch();
    let target = open(&root);
    let mut sparse = entry("sparse", Node::Directory);
    let extents = [(0, 10), (100, 1), (1 << 20, 989)].map(|(offset, len)| Extent { offset, len }).to_vec();
    let content = Content { bytes: 1000, ..Content::EMPTY };
    sparse.node = Node::File { size: 2 << 20, extents: Some(extents), content };
    let data: Vec<u8> = (0..1000u32).map(|i| (i % 251) as u8 + 1).collect();
    let writer = target.begin_file(&sparse).unwrap();
    std::thread::scope(|scope| {
        for (index, part) in data.chunks(7).enumerate().collect::<Vec<_>>().into_iter().rev() {
            let writer = &writer;
            scope.spawn(move || writer.write_at(index as u64 * 7, part).unwrap());
        }
    });
    writer.finish(&sparse).unwrap();
    let mut expected = vec![0; 2 << 20];
    expected[..10].copy_from_slice(&data[..10]);
    expected[100] = data[10];
    expected[1 << 20..][..989].copy_from_slice(&data[11..]);
    assert_eq!(fs::read(root.join("sparse")).unwrap(), expected);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let target = &target;
            scope.spawn(move || {
                for index in 0..50 {
                    let path = format!("some/dir{}/{thread}-{index}", index % 5);
                    write(target, &file(&path, path.as_bytes()), path.as_bytes()).unwrap();
                }
            });
        }
    });
    for index in 0..5 {
        assert_eq!(names(&root.join(format!("some/dir{index}"))).len(), 40);
    }
}

#[test]
fn hostile_sizes_end_in_an_error_and_leave_nothing() {
    let (_dir, root) = scratch();
    let target = open(&root);
    let sparse = |size, extents: &[(u64, u64)], bytes| {
        let extents = Some(extents.iter().map(|(offset, len)| Extent { offset: *offset, len: *len }).collect());
        entry("f", Node::File { size, extents, content: Content { bytes, ..Content::EMPTY } })
    };
    for hostile in [
        sparse(u64::MAX, &[], 0),
        sparse(i64::MAX as u64, &[], 0),
        sparse(10, &[(u64::MAX, u64::MAX), (u64::MAX, u64::MAX)], 4),
        sparse(10, &[(0, 2)], 4),
    ] {
        assert!(write(&target, &hostile, b"data").is_err() || write(&target, &hostile, b"").is_err(), "{hostile:?}");
        assert!(names(&root).is_empty());
    }
}

#[test]
fn device_numbers_beyond_the_kernels_are_refused() {
    let (_dir, root) = scratch();
    let target = open(&root);
    for (major, minor) in [(0x1001, 3), (1, 0x10_0003), (u32::MAX, u32::MAX)] {
        let error = target.special(&entry("null", Node::CharDevice { major, minor })).unwrap_err();
        assert!(matches!(error, TargetError::Io { .. }), "{error}");
        assert!(target.special(&entry("disk", Node::BlockDevice { major, minor })).is_err());
    }
    assert!(names(&root).is_empty());
}

#[test]
fn nothing_is_replaced_unless_that_is_allowed() {
    let (_dir, root) = scratch();
    let never = Target::open(&root, TargetOptions { overwrite: Overwrite::Never, ..Default::default() }).unwrap();
    fs::write(root.join("file"), "old").unwrap();
    symlink("old", root.join("link")).unwrap();
    fs::create_dir_all(root.join("full/in")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    let exists = |result: Result<Vec<TargetError>, TargetError>| {
        assert!(matches!(result, Err(TargetError::Exists { .. })), "{result:?}");
    };
    for name in ["file", "link", "empty"] {
        exists(write(&never, &file(name, b"new"), b"new"));
        exists(never.special(&link(name, "new")));
    }
    write(&never, &file("first", b"new"), b"new").unwrap();
    exists(never.hard_link(&file("file", b""), b"first").map(|()| Vec::new()));
    exists(never.directory(&entry("file", Node::Directory)).map(|()| Vec::new()));
    assert_eq!(fs::read(root.join("file")).unwrap(), b"old");
    assert_eq!(names(&root), ["empty", "file", "first", "full", "link"]);
    drop(never);
    let changed = open(&root);
    let in_the_way = |result: Result<Vec<TargetError>, TargetError>| {
        assert!(matches!(result, Err(TargetError::DirectoryInTheWay { .. })), "{result:?}");
    };
    in_the_way(write(&changed, &file("full", b"new"), b"new"));
    in_the_way(changed.special(&link("full", "new")));
    in_the_way(changed.hard_link(&file("full", b""), b"first").map(|()| Vec::new()));
    write(&changed, &file("empty", b"new"), b"new").unwrap();
    changed.special(&link("file", "new")).unwrap();
    changed.hard_link(&file("link", b"new"), b"first").unwrap();
    changed.hard_link(&file("link", b"new"), b"first").unwrap();
    assert_eq!(names(&root), ["empty", "file", "first", "full", "link"]);
    assert_eq!(fs::read_link(root.join("file")).unwrap(), Path::new("new"));
    assert_eq!(fs::metadata(root.join("link")).unwrap().ino(), fs::metadata(root.join("first")).unwrap().ino());
}

#[test]
fn an_earlier_restore_is_recognised_and_its_metadata_put_right() {
    let (_dir, root) = scratch();
    let target = open(&root);
    let wanted = file("d/f", b"data");
    assert_eq!(target.existing(&wanted).unwrap(), State::Absent);
    write(&target, &wanted, b"data").unwrap();
    assert_eq!(target.existing(&wanted).unwrap(), State::Finished);
    let mut other = wanted.clone();
    other.mtime.nanoseconds += 1;
    assert_eq!(target.existing(&other).unwrap(), State::Different);
    assert_eq!(target.existing(&file("d/f", b"longer")).unwrap(), State::Different);
    assert_eq!(target.existing(&link("d/f", "x")).unwrap(), State::Different);
    assert_eq!(target.existing(&entry("d/f", Node::Directory)).unwrap(), State::Different);
    assert_eq!(target.existing(&entry("d", Node::Directory)).unwrap(), State::Finished);
    target.special(&link("l", "x")).unwrap();
    assert_eq!(target.existing(&link("l", "x")).unwrap(), State::Finished);
    assert_eq!(target.existing(&link("l", "y")).unwrap(), State::Different);
    fs::set_permissions(root.join("d/f"), fs::Permissions::from_mode(0o777)).unwrap();
    let inode = fs::metadata(root.join("d/f")).unwrap().ino();
    assert!(target.refresh(&wanted).unwrap().is_empty());
    let now = fs::metadata(root.join("d/f")).unwrap();
    assert_eq!((now.mode() & 0o7777, now.ino()), (0o755, inode));
    assert_eq!(target.existing(&wanted).unwrap(), State::Finished);
}

#[test]
fn set_id_bits_are_given_to_the_recorded_owner_only() {
    let (_dir, root) = scratch();
    let target = Target::open(&root, TargetOptions { owner: OwnerPolicy::Never, ..Default::default() }).unwrap();
    let mut wanted = file("f", b"x");
    (wanted.mode, wanted.owner.uid) = (0o6755, 1234);
    let complaints = write(&target, &wanted, b"x").unwrap();
    assert!(matches!(&complaints[..], [TargetError::Metadata { .. }]), "{complaints:?}");
    assert_eq!(fs::metadata(root.join("f")).unwrap().mode() & 0o7777, 0o2755);
    drop(target);
    if !is_root_or_skip("giving files away") {
        return;
    }
    assert!(write(&open(&root), &wanted, b"x").unwrap().is_empty());
    let now = fs::metadata(root.join("f")).unwrap();
    assert_eq!((now.mode() & 0o7777, now.uid()), (0o6755, 1234));
    // A change of owner clears the bits of a file that had them: they are set again.
    std::os::unix::fs::chown(root.join("f"), Some(1), None).unwrap();
    fs::set_permissions(root.join("f"), fs::Permissions::from_mode(0o6755)).unwrap();
    assert!(open(&root).refresh(&wanted).unwrap().is_empty());
    let now = fs::metadata(root.join("f")).unwrap();
    assert_eq!((now.mode() & 0o7777, now.uid()), (0o6755, 1234));
}

#[test]
fn an_owner_is_found_by_name_and_by_number_where_the_name_is_unknown_or_not_wanted() {
    if !is_root_or_skip("giving files away") {
        return;
    }
    let (_dir, root) = scratch();
    let target = |owner_lookup| Target::open(&root, TargetOptions { owner_lookup, ..Default::default() }).unwrap();
    let (by_name, by_number) = (target(OwnerLookup::Name), target(OwnerLookup::Number));
    let nobody = fs::read_to_string("/etc/passwd").unwrap();
    let nobody = nobody.lines().find(|line| line.starts_with("nobody:")).unwrap().to_owned();
    let nobody: u32 = nobody.split(':').nth(2).unwrap().parse().unwrap();
    let mut wanted = file("f", b"x");
    (wanted.mode, wanted.owner.uid, wanted.owner.gid) = (0o4755, 4242, 4243);
    wanted.owner.user = b"nobody".to_vec();
    wanted.owner.group = b"no such group here".to_vec();
    let restored = |target: &Target| {
        assert!(write(target, &wanted, b"x").unwrap().is_empty());
        let now = fs::metadata(root.join("f")).unwrap();
        (now.uid(), now.gid(), now.mode() & 0o7777)
    };
    assert_eq!(restored(&by_name), (nobody, 4243, 0o4755));
    assert_eq!(restored(&by_number), (4242, 4243, 0o4755));
}

#[test]
fn without_privileges_each_loss_is_told_and_the_rest_goes_on() {
    let (_dir, root) = scratch();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    let there = root.join("t");
    let (owned, device, quiet, closed) = as_nobody(move || {
        let always = TargetOptions { owner: OwnerPolicy::Always, ..Default::default() };
        let target = Target::open(&there, always).unwrap();
        let mut foreign = file("foreign", b"x");
        (foreign.owner.uid, foreign.owner.gid) = (0, 0);
        if rustix::process::geteuid().is_root() {
            panic!("this must not run as root");
        }
        let owned = write(&target, &foreign, b"x").unwrap();
        let device = target.special(&entry("null", Node::CharDevice { major: 1, minor: 3 })).unwrap_err();
        drop(target);
        let target = Target::open(&there, TargetOptions::default()).unwrap();
        foreign.path = b"quiet".to_vec();
        let quiet = write(&target, &foreign, b"x").unwrap();
        // A directory that an earlier restore finished and closed can be written to again.
        let mut closed = entry("closed", Node::Directory);
        closed.mode = 0o500;
        let inner = file("closed/f", b"x");
        for _ in 0..2 {
            target.directory(&closed).unwrap();
            write(&target, &inner, b"x").unwrap();
            assert!(target.finish_directory(&closed).unwrap().is_empty());
        }
        (owned, device, quiet, fs::metadata(there.join("closed")).unwrap().mode() & 0o777)
    });
    assert!(matches!(&owned[..], [TargetError::Metadata { path, .. }] if path.ends_with("/foreign")), "{owned:?}");
    assert!(matches!(&device, TargetError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied));
    assert!(!device.is_final());
    assert!(quiet.is_empty(), "{quiet:?}");
    assert_eq!(closed, 0o500);
    assert_eq!(fs::read(root.join("t/foreign")).unwrap(), b"x");
    fs::set_permissions(root.join("t/closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn an_access_list_of_the_target_is_not_inherited() {
    let (_dir, root) = scratch();
    if rustix::fs::setxattr(&root, "system.posix_acl_default", &acl(), XattrFlags::empty()).is_err() {
        return skip("this file system has no access lists");
    }
    let target = open(&root);
    let (mut directory, wanted) = (entry("d", Node::Directory), file("d/f", b"x"));
    directory.mode = 0o711;
    target.directory(&directory).unwrap();
    write(&target, &wanted, b"x").unwrap();
    write(&target, &file("g", b"x"), b"x").unwrap();
    assert!(target.finish_directory(&directory).unwrap().is_empty());
    for (name, mode) in [("d", 0o711), ("d/f", 0o755), ("g", 0o755)] {
        let path = root.join(name);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{name}");
        let size = rustix::fs::listxattr(&path, &mut [0u8; 1000][..]).unwrap();
        assert_eq!(size, 0, "{name}");
    }
}

#[test]
fn extra_files_are_removed_and_links_to_elsewhere_are_not_followed() {
    let (_dir, root) = scratch();
    let (inside, outside) = (root.join("in"), root.join("out"));
    fs::create_dir_all(inside.join("d/extra/deep/er")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    for name in ["keep", "gone", "extra/f", "extra/deep/g"] {
        fs::write(inside.join("d").join(name), "").unwrap();
    }
    symlink(&outside, inside.join("d/extra/link")).unwrap();
    symlink(&outside, inside.join("d/a link")).unwrap();
    let target = open(&inside);
    let run = |removal| {
        let mut names = Vec::new();
        let mut visit = |path: &[u8]| names.push(String::from_utf8(path.to_vec()).unwrap());
        let removed =
            target.delete_extra(b"d", &[b"keep".to_vec(), b"unseen".to_vec()], all(removal), &mut visit).unwrap();
        assert!(removed.complaints.is_empty());
        (names, removed.entries)
    };
    let expected = (["d/a link", "d/extra", "d/gone"].map(str::to_owned).to_vec(), 8);
    assert_eq!(run(Removal::DryRun), expected);
    assert_eq!(names(&inside.join("d")), ["a link", "extra", "gone", "keep"]);
    assert_eq!(run(Removal::Apply), expected);
    assert_eq!(names(&inside.join("d")), ["keep"]);
    assert_eq!(names(&outside), ["kept"]);
    assert_eq!(run(Removal::Apply), (Vec::new(), 0));
    assert_eq!(target.delete_extra(b"none", &[], all(Removal::Apply), &mut |_| {}).unwrap().entries, 0);
}

#[test]
fn what_is_spared_stays_with_the_directories_on_the_way_to_it() {
    let (_dir, root) = scratch();
    fs::create_dir_all(root.join("d/extra/deep")).unwrap();
    for name in ["extra/gone", "extra/deep/kept.bak", "extra/deep/gone", "also.bak"] {
        fs::write(root.join("d").join(name), "").unwrap();
    }
    let target = open(&root);
    let spares: &dyn Fn(&[u8], bool) -> bool = &|path, _| path.ends_with(b".bak");
    for removal in [Removal::DryRun, Removal::Apply] {
        let removed = target.delete_extra(b"d", &[], Extra { removal, spares }, &mut |_| {}).unwrap();
        assert_eq!((removed.entries, removed.spared, removed.complaints.len()), (2, 2, 0), "{removal:?}");
    }
    assert_eq!(names(&root.join("d")), ["also.bak", "extra"]);
    assert_eq!(names(&root.join("d/extra")), ["deep"]);
    assert_eq!(names(&root.join("d/extra/deep")), ["kept.bak"]);
}

#[test]
fn what_a_killed_restore_left_is_removed_by_the_next_one() {
    let (_dir, root) = scratch();
    fs::create_dir(root.join("d")).unwrap();
    let debris = root.join("d").join(format!(".cairn-{}", "0123456789abcdef".repeat(2)));
    let not_ours = root.join("d/.cairn-notes");
    for path in [&debris, &not_ours] {
        fs::write(path, "").unwrap();
    }
    let running = open(&root);
    let second = open(&root);
    second.directory(&entry("d", Node::Directory)).unwrap();
    assert!(debris.exists(), "another restore is running: it may be its file");
    let writer = running.begin_file(&file("d/f", b"")).unwrap();
    running.directory(&entry("d", Node::Directory)).unwrap();
    assert!(!debris.exists() && not_ours.exists());
    writer.finish(&file("d/f", b"")).unwrap();
}

#[test]
fn the_metadata_of_a_fifo_is_set_without_opening_it() {
    let (_dir, root) = scratch();
    let target = open(&root);
    let mut fifo = entry("fifo", Node::Fifo);
    fifo.mode = 0o641;
    assert!(target.special(&fifo).unwrap().is_empty());
    assert!(target.special(&fifo).unwrap().is_empty(), "again, over the first");
    let now = fs::metadata(root.join("fifo")).unwrap();
    assert_eq!((now.mode() & 0o7777, now.mtime(), now.mtime_nsec()), (0o641, 1_000_000_000, 123_456_789));
    for (node, what) in [(Node::Socket, "socket"), (Node::Unread, "could not be read")] {
        let error = target.special(&entry("s", node)).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    assert_eq!(names(&root), ["fifo"]);
}

#[test]
fn zeros_are_written_and_times_before_1970_kept() {
    let (_dir, root) = scratch();
    let target = open(&root);
    let data = vec![0; 1 << 16];
    let mut wanted = file("zeros", &data);
    wanted.mtime = FileTime { seconds: -5, nanoseconds: 999_999_999 };
    write(&target, &wanted, &data).unwrap();
    let now = fs::metadata(root.join("zeros")).unwrap();
    assert_eq!((now.mtime(), now.mtime_nsec(), now.len()), (-5, 999_999_999, 1 << 16));
    assert!(now.blocks() * 512 >= 1 << 16, "what was data stays data");
    let copy = File::open(root.join("zeros")).unwrap();
    let mut read = vec![1; 1 << 16];
    copy.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read, data);
}

#[test]
fn a_full_target_stops_the_restore() {
    let io = |error: rustix::io::Errno| TargetError::Io { action: "write", path: String::new(), source: error.into() };
    assert!(io(rustix::io::Errno::NOSPC).is_final() && io(rustix::io::Errno::ROFS).is_final());
    assert!(!io(rustix::io::Errno::ACCESS).is_final());
}
