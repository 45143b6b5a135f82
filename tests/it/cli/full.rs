//! Full storage: of the repository it ends the run, of a restore's target it stops the restore, and both go on when
//! there is room.

use std::fs;
use std::path::Path;
use std::process::Output;

use super::{Place, assert_fails, summary, text};
use crate::support::machine::Tmpfs;
use crate::support::noise;
use crate::support::trees::listing;

/// Files and bytes below a directory.
fn used(directory: &Path) -> (usize, u64) {
    let mut sum = (0, 0);
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let meta = entry.metadata().unwrap();
        let (files, bytes) = if meta.is_dir() { used(&entry.path()) } else { (1, meta.len()) };
        sum = (sum.0 + files, sum.1 + bytes);
    }
    sum
}

#[test]
fn a_full_repository_ends_a_tree_backup_with_1_and_the_next_one_works_when_there_is_room() {
    let place = Place::empty();
    let mount = place.path().join("small");
    fs::create_dir(&mount).unwrap();
    let Some(mounted) = Tmpfs::mount(&mount, "40m") else { return };
    let repo = mount.join("repo");
    let on = |args: &[&str]| -> Output { place.command().arg("--repo").arg(&repo).args(args).output().unwrap() };
    let ok = |args: &[&str]| {
        let output = on(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        output
    };
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("first"), "the first").unwrap();
    ok(&["init"]);
    ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let (packs, before) = (used(&repo.join("data")), used(&repo));
    // More than two packs, so that some are there when the space ends.
    for number in 0..15 {
        fs::write(tree.join(format!("large-{number}")), noise(&number.to_string(), 4 << 20)).unwrap();
    }
    let failed = on(&["--json", "backup", "--name", "t", tree.to_str().unwrap()]);
    assert!(text(&failed.stdout).contains("\"exit_code\":1"), "{}", text(&failed.stdout));
    assert!(!text(&failed.stdout).contains("notice"), "a file was blamed: {}", text(&failed.stdout));
    assert_fails(failed, 1, &["no space left", "small/repo", "cairn gc --grace 0s"]);
    assert_eq!(summary(&ok(&["--json", "snapshots"]))["snapshots"], 1, "nothing was published");
    assert_eq!(ok(&["cat", "t", tree.join("first").to_str().unwrap()]).stdout, b"the first");
    ok(&["check", "--read-data"]);
    // With the storage as full as can be, gc has room enough to give back what the failed run wrote.
    ok(&["gc", "--grace", "0s"]);
    ok(&["gc", "--grace", "0s"]);
    assert_eq!(used(&repo.join("data")), packs, "a pack that no snapshot needs is still there");
    assert_eq!(used(&repo).0, before.0, "debris is left");
    mounted.remount("size=120m");
    ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let out = place.path().join("out");
    ok(&["restore", &format!("t:{}", tree.display()), "--target", out.to_str().unwrap(), "--verify"]);
    assert_eq!(listing(&out), listing(&tree));
    ok(&["check", "--read-data"]);
}

#[test]
fn a_restore_into_a_full_target_says_so_and_goes_on_when_there_is_room() {
    let place = Place::new();
    let (tree, out) = (place.path().join("tree"), place.path().join("out"));
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::create_dir(&out).unwrap();
    for number in 0..12 {
        fs::write(tree.join(format!("sub/{number:02}")), noise(&number.to_string(), 1 << 20)).unwrap();
    }
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let Some(mounted) = Tmpfs::mount(&out, "5m") else { return };
    let whole = format!("t:{}", tree.display());
    let restore = ["--json", "restore", &whole, "--target", out.to_str().unwrap()];
    let failed = place.run(&restore);
    assert!(text(&failed.stdout).contains("\"type\":\"error\""), "{}", text(&failed.stdout));
    assert_fails(failed, 1, &["out/sub/", "No space left", "make room in the target", "restore again"]);
    let names: Vec<_> = fs::read_dir(out.join("sub")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name.len() == 2), "a temporary file is left: {names:?}");
    for name in &names {
        let (is, was) = (fs::read(out.join("sub").join(name)).unwrap(), fs::read(tree.join("sub").join(name)).unwrap());
        assert!(is == was, "half a file stands under its name: {}", name.display());
    }
    mounted.remount("size=40m");
    let resumed = summary(&place.ok(&restore));
    assert_eq!((&resumed["unchanged"], &resumed["kept"]), (&names.len().into(), &0.into()), "{resumed}");
    assert_eq!(resumed["files"], 12 - names.len());
    assert!(!names.is_empty(), "nothing was restored before the space ended");
    assert_eq!(listing(&out), listing(&tree));
}
