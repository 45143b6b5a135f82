//! Makes a golden repository: once for each released format, never again for an old one. It is small and has what a
//! reader can meet: deltas upon deltas, two versions of a tree, several keys, a proof, a backup set, packs that a gc
//! rewrote, a snapshot that was forgotten since, and the tombstone of a gc that waits.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use cairn::backend::local::Local;
use cairn::format::key::Credential;
use cairn::format::set::Status;
use cairn::progress::Silent;
use cairn::repo::{OpenOptions, Repository};
use rustix::fs::{CWD, FileType, mknodat};

use super::{cairn, describe, sha256, snapshots};
use crate::sets::set_of;
use crate::support::{next_day, noise, rows};

const KEY: &[u8; 32] = b"golden key file of 32 bytes ....";

/// `CAIRN_GOLDEN=NEW-DIRECTORY cargo test --test it compat::make -- --ignored`
#[test]
#[ignore = "it makes a new golden repository, in the directory that CAIRN_GOLDEN names"]
fn make_a_golden_repository() {
    let out = std::env::var_os("CAIRN_GOLDEN").expect("set CAIRN_GOLDEN to a directory that does not exist yet");
    let out = std::path::absolute(out).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("key"), KEY).unwrap();
    fs::write(out.join("password"), "golden-password\n").unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| cairn(&out, "--key-file", args);
    let store = |name: &str, bytes: &[u8]| {
        fs::write(scratch.path().join("stream"), bytes).unwrap();
        let path = scratch.path().join("stream");
        run(&["backup", "--name", name, "--command", "--", "cat", path.to_str().unwrap()]);
        format!("stream {} {}\n", newest(&out), sha256(bytes))
    };
    run(&["init"]);
    run(&["key", "add", "--label", "password", "--new-password-file", out.join("password").to_str().unwrap()]);

    // What only the first needs is as much as what both need: gc writes the pack anew.
    store("mixed", &[noise("dead", 60_000), rows(7, 1500)].concat());
    let mut expected = store("kept", &rows(7, 1500));
    run(&["forget", "mixed", "--unsafe-allow-remove-all"]);
    let mut written = 0;
    for _ in 0..2 {
        let report = run(&["--json", "gc", "--grace", "0s"]).stdout;
        let summary = String::from_utf8(report).unwrap().lines().last().unwrap().to_owned();
        written += serde_json::from_str::<serde_json::Value>(&summary).unwrap()["packs_written"].as_u64().unwrap();
    }
    assert!(written > 0, "gc wrote no pack anew");

    let mut day = rows(1, 3000);
    for number in 0..6 {
        expected += &store("dump", &day);
        day = next_day(&day, number);
    }
    let tree = scratch.path().join("tree");
    make_tree(&tree);
    for version in 0..2 {
        fs::write(tree.join("sub/changing"), rows(20, 300 + version)).unwrap();
        run(&["backup", "--name", "tree", tree.to_str().unwrap()]);
        expected += &format!("tree {} {}\n", newest(&out), tree.display());
        describe(&tree).iter().for_each(|line| expected += &format!("entry {line}\n"));
    }
    run(&["verify", "latest"]);
    publish_set(&out);

    store("forgotten", &rows(9, 200));
    run(&["forget", "forgotten", "--unsafe-allow-remove-all"]);
    run(&["gc"]);
    run(&["check", "--read-data"]);
    fs::write(out.join("expected"), expected).unwrap();
    fs::remove_dir_all(out.join("cache")).unwrap();
}

fn newest(out: &Path) -> String {
    snapshots(&cairn(out, "--key-file", &["--json", "snapshots"])).pop().unwrap()
}

fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("sub/deep/empty")).unwrap();
    for number in 0..30 {
        fs::write(root.join(format!("sub/file{number}.json")), rows(number, 1 + number as usize % 7)).unwrap();
    }
    fs::write(root.join("big"), noise("big", 40_000)).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"start", 0).unwrap();
    sparse.write_all_at(b"end", 1 << 20).unwrap();
    symlink("sub/file1.json", root.join("link")).unwrap();
    fs::hard_link(root.join("big"), root.join("sub/hard")).unwrap();
    mknodat(CWD, root.join("fifo"), FileType::Fifo, 0o640.into(), 0).unwrap();
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"odd\xff\nname");
    fs::write(root.join(odd), "odd").unwrap();
    fs::set_permissions(root.join("sub/file2.json"), Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(root.join("sub/deep"), Permissions::from_mode(0o1750)).unwrap();
}

fn publish_set(out: &Path) {
    let backend = Arc::new(Local::open(&out.join("repo")).unwrap());
    let options = OpenOptions { cache: None, host: "golden".to_owned() };
    let repository = Repository::open(backend, &Credential::KeyFile((*KEY).into()), &options, &Silent).unwrap();
    let members: Vec<_> = repository.snapshots().unwrap().iter().rev().take(2).map(|info| info.id).collect();
    repository.publish_set(&set_of("2026-03-01T02:00:00Z", Status::Complete, &members)).unwrap();
}
