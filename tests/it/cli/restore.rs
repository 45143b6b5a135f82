//! Restoring trees: what is replaced, removed and left.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Place, assert_fails, snapshot_tree, summary, text};

#[test]
fn a_restore_goes_on_where_it_was_and_writes_nothing_twice() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let (from, out) = (format!("t:{}", tree.display()), place.path().join("out"));
    let restore = |options: &[&str]| {
        let all = [&["--json", "restore", &from, "--target", out.to_str().unwrap()], options].concat();
        summary(&place.ok(&all))
    };
    assert_eq!(restore(&["--dry-run"])["files"], 5);
    assert!(!out.exists(), "a dry run made the target");
    assert_eq!(restore(&["--verify"])["verified_files"], 5);
    // As after an interruption: one file is missing, one is of an older state.
    std::fs::remove_file(out.join("a.txt")).unwrap();
    std::fs::write(out.join("keep/c.txt"), "something else").unwrap();
    let kept = restore(&[]);
    assert_eq!((&kept["files"], &kept["kept"], &kept["unchanged"]), (&1.into(), &1.into(), &3.into()), "{kept}");
    assert_eq!(std::fs::read_to_string(out.join("keep/c.txt")).unwrap(), "something else");
    let changed = restore(&["--overwrite", "changed"]);
    assert_eq!((&changed["files"], &changed["unchanged"]), (&1.into(), &4.into()), "{changed}");
    assert_eq!(std::fs::read_to_string(out.join("keep/c.txt")).unwrap(), "this is keep/c.txt");
    assert_eq!(restore(&["--overwrite", "always"])["files"], 5);
}

/// What changes when a file is written again, or anything about it is set again.
fn identities(root: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            let meta = std::fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                pending.push(path);
            } else {
                found.insert(path, (meta.ino(), meta.ctime(), meta.ctime_nsec()));
            }
        }
    }
    found
}

#[test]
fn a_restore_that_goes_on_leaves_finished_files_alone() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    std::fs::hard_link(tree.join("a.txt"), tree.join("hard")).unwrap();
    std::os::unix::fs::symlink("a.txt", tree.join("link")).unwrap();
    std::fs::set_permissions(tree.join("b.txt"), std::fs::Permissions::from_mode(0o640)).unwrap();
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let (from, out) = (format!("t:{}", tree.display()), place.path().join("out"));
    let again = ["restore", &from, "--overwrite", "changed", "--target", out.to_str().unwrap()];
    place.ok(&again);
    let before = identities(&out);
    assert_eq!(before.len(), 7);
    // A clock tick, so that a change would show.
    std::thread::sleep(std::time::Duration::from_millis(20));
    place.ok(&again);
    assert_eq!(identities(&out), before);
    std::fs::remove_file(out.join("keep/deep/d.log")).unwrap();
    std::fs::write(out.join("keep/c.txt"), "something else").unwrap();
    place.ok(&again);
    let mut after = identities(&out);
    let mut expected = before;
    for again in ["keep/deep/d.log", "keep/c.txt"] {
        assert_ne!(after.remove(&out.join(again)).unwrap(), expected.remove(&out.join(again)).unwrap());
    }
    assert_eq!(after, expected);
}

#[test]
fn delete_removes_what_the_snapshot_lacks_and_nothing_else() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let (from, out) = (format!("t:{}", tree.display()), place.path().join("out"));
    let target = ["restore", &from, "--target", out.to_str().unwrap()];
    place.ok(&target);
    std::fs::create_dir_all(out.join("extra/below")).unwrap();
    std::fs::write(out.join("extra/below/file"), "x").unwrap();
    std::fs::write(out.join("keep/new"), "x").unwrap();
    place.ok(&[&target[..], &["--delete", "--dry-run"]].concat());
    assert!(out.join("keep/new").exists() && out.join("extra").exists(), "a dry run removed something");
    place.fails(&[&target[..], &["--delete", "--exclude", "*.log"]].concat(), 1, &["--delete", "refused"]);
    place.ok(&[&target[..], &["--delete"]].concat());
    assert!(!out.join("keep/new").exists() && !out.join("extra").exists());
    assert!(out.join("keep/deep/d.log").exists() && out.join("a.txt").exists());
}

#[test]
fn delete_emptied_the_directories_on_the_way_to_what_was_backed_up() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    std::fs::write(tree.join("left.out"), "x").unwrap();
    place.ok(&["backup", "--name", "t", "--exclude", "*.out", tree.to_str().unwrap()]);
    // A machine of its own, which the snapshot knows one directory of.
    let machine = place.path().join("machine");
    let beside = machine.join(place.path().strip_prefix("/").unwrap()).join("beside");
    std::fs::create_dir_all(&beside).unwrap();
    std::fs::create_dir_all(machine.join("home/user")).unwrap();
    let target = ["restore", "t", "--target", machine.to_str().unwrap(), "--delete", "--overwrite", "changed"];
    place.ok(&target);
    let inside = machine.join(tree.strip_prefix("/").unwrap());
    std::fs::write(inside.join("extra"), "x").unwrap();
    std::fs::write(inside.join("left.out"), "x").unwrap();
    let planned = text(&place.ok(&[&target[..], &["--dry-run"]].concat()).stdout);
    let relative = inside.strip_prefix(&machine).unwrap().display();
    assert_eq!(planned, format!("delete {relative}/extra\n"));
    place.ok(&target);
    assert!(!inside.join("extra").exists() && inside.join("a.txt").exists());
    assert!(beside.exists() && machine.join("home/user").exists(), "what was never backed up was removed");
    assert!(inside.join("left.out").exists(), "what the backup left out was removed");
}

#[test]
fn a_dry_run_says_what_a_restore_does_and_a_directory_in_the_way_goes_only_with_delete() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let (from, out) = (format!("t:{}", tree.display()), place.path().join("out"));
    let restore = ["restore", &from, "--target", out.to_str().unwrap(), "--overwrite", "changed"];
    std::fs::create_dir_all(out.join("a.txt/in the way")).unwrap();
    let dry = place.run(&[&restore[..], &["--dry-run"]].concat());
    assert_fails(dry, 1, &["a.txt", "directory that is not empty"]);
    place.fails(&restore, 1, &["a.txt", "directory that is not empty"]);
    let planned = text(&place.ok(&[&restore[..], &["--delete", "--dry-run"]].concat()).stdout);
    assert!(planned.contains("delete a.txt\n") && planned.contains("replace a.txt\n"), "{planned}");
    place.ok(&[&restore[..], &["--delete"]].concat());
    assert!(out.join("a.txt").is_file());
    let again = text(&place.ok(&[&restore[..], &["--dry-run"]].concat()).stdout);
    assert_eq!(again, "");
    std::fs::write(out.join("a.txt"), "changed").unwrap();
    let planned = text(&place.ok(&["restore", &from, "--target", out.to_str().unwrap(), "--dry-run"]).stdout);
    assert_eq!(planned, "keep a.txt\n");
}

#[test]
fn includes_and_excludes_select_in_both_directions() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    place.ok(&["backup", "--name", "t", "--exclude", "*.tmp", tree.to_str().unwrap()]);
    let listed = text(&place.ok(&["ls", "t"]).stdout);
    assert!(listed.contains("keep/c.txt") && !listed.contains("e.tmp"), "{listed}");
    let from = format!("t:{}", tree.display());
    let out = place.path().join("some");
    place.ok(&["restore", &from, "--target", out.to_str().unwrap(), "--include", "keep", "--exclude", "*.log"]);
    assert!(out.join("keep/c.txt").exists());
    assert!(!out.join("keep/deep/d.log").exists() && !out.join("a.txt").exists());
    let none = format!("t:{}/nothing", tree.display());
    place.fails(&["restore", &none, "--target", out.to_str().unwrap()], 1, &["has no", "cairn ls"]);
}

#[test]
fn a_link_on_the_way_to_what_was_backed_up_gave_way_to_a_directory() {
    let place = Place::new();
    let machine = tempfile::tempdir().unwrap();
    let root = place.path().join("lib/units");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("a.service"), "restored").unwrap();
    place.ok(&["backup", "--name", "t", root.to_str().unwrap()]);
    // The same machine, on which what is above the root is a link to where everything is.
    let above = machine.path().join(place.path().strip_prefix("/").unwrap());
    std::fs::create_dir_all(above.join("usr/lib/units")).unwrap();
    std::os::unix::fs::symlink("usr/lib", above.join("lib")).unwrap();
    std::fs::write(above.join("usr/lib/units/a.service"), "there").unwrap();
    for overwrite in ["never", "changed", "always"] {
        let target = ["restore", "t", "--target", machine.path().to_str().unwrap(), "--overwrite", overwrite];
        place.fails(&target, 1, &["lib is no directory here", "SNAP:/PATH"]);
        assert_eq!(std::fs::read_link(above.join("lib")).unwrap(), std::path::Path::new("usr/lib"), "{overwrite}");
        assert_eq!(std::fs::read_to_string(above.join("usr/lib/units/a.service")).unwrap(), "there");
    }
    // As the message says.
    let (from, there) = (format!("t:{}", root.display()), above.join("usr/lib/units"));
    place.ok(&["restore", &from, "--target", there.to_str().unwrap(), "--overwrite", "changed"]);
    assert_eq!(std::fs::read_to_string(there.join("a.service")).unwrap(), "restored");
}
