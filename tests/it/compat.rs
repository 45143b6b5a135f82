//! Golden repositories: what a released format wrote, every later version reads, and so does the independent reader.
//! One folder a format version in `tests/golden`; each must be listed here, so that none is forgotten.

mod make;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::spec::{deepest, reader};

const KNOWN: [&str; 1] = ["v1"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { assert!(fs::copy(&path, &target).is_ok()) }
    }
}

/// A copy, so that nothing a test does reaches the golden one.
fn copy_of(version: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    copy(&golden().join(version), directory.path());
    // Empty folders are not kept by git.
    for folder in ["sets", "tombstones", "leases", "forgotten", "tmp"] {
        fs::create_dir_all(directory.path().join("repo").join(folder)).unwrap();
    }
    directory
}

/// The program, which must succeed.
fn cairn(place: &Path, credential: &str, args: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("CAIRN_REPO", place.join("repo")).env("CAIRN_CACHE_DIR", place.join("cache"));
    let file = place.join(if credential == "--key-file" { "key" } else { "password" });
    let output = command.arg("-q").arg(credential).arg(file).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    hex::encode(digest.as_ref())
}

/// The ids that `--json snapshots` printed, oldest first.
fn snapshots(output: &Output) -> Vec<String> {
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    let all = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let snapshots = all.filter(|line| line["type"] == "snapshot");
    snapshots.map(|line| line["id"].as_str().unwrap().to_owned()).collect()
}

/// Every entry of a tree with all that whoever is not root can bring back, one a line: paths in hexadecimal.
fn describe(root: &Path) -> BTreeSet<String> {
    let (mut found, mut pending) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("link-to-{}", hex::encode(fs::read_link(&path).unwrap().as_os_str().as_bytes()))
        } else if kind.is_file() {
            format!("{}-{}-links-{}", sha256(&fs::read(&path).unwrap()), meta.len(), meta.nlink())
        } else {
            "special".to_owned()
        };
        let name = hex::encode(path.strip_prefix(root).unwrap().as_os_str().as_bytes());
        let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        found.insert(format!("{:o} {time} {content} {name}", meta.mode()));
    }
    found
}

/// What a golden repository holds, as its maker wrote it down: streams with the hash of their content, trees with
/// where they were and their entries.
#[derive(Default)]
struct Expected {
    streams: Vec<(String, String)>,
    trees: Vec<(String, PathBuf, BTreeSet<String>)>,
}

impl Expected {
    fn read(place: &Path) -> Self {
        let mut expected = Expected::default();
        for line in fs::read_to_string(place.join("expected")).unwrap().lines() {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            match words[0] {
                "stream" => expected.streams.push((words[1].to_owned(), words[2].to_owned())),
                "tree" => expected.trees.push((words[1].to_owned(), words[2].into(), BTreeSet::new())),
                _ => drop(expected.trees.last_mut().unwrap().2.insert(line.strip_prefix("entry ").unwrap().to_owned())),
            }
        }
        expected
    }
}

#[test]
fn every_golden_repository_is_known_here() {
    let mut found: Vec<String> = fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, KNOWN);
}

#[test]
fn golden_repositories_have_what_a_reader_can_meet() {
    for version in KNOWN {
        let count =
            |kind: &str| fs::read_dir(golden().join(version).join("repo").join(kind)).map_or(0, Iterator::count);
        for (kind, least) in [("keys", 2), ("sets", 1), ("proofs", 1), ("forgotten", 2), ("tombstones", 1)] {
            assert!(count(kind) >= least, "{version} has {} {kind}", count(kind));
        }
        let expected = Expected::read(&golden().join(version));
        assert_eq!((expected.streams.len(), expected.trees.len()), (7, 2));
    }
}

#[test]
fn golden_repositories_restore_byte_by_byte_and_take_new_backups() {
    for version in KNOWN {
        let directory = copy_of(version);
        let place = directory.path();
        let expected = Expected::read(place);
        let ids = expected.streams.iter().map(|(id, _)| id).chain(expected.trees.iter().map(|(id, ..)| id));
        assert_eq!(
            snapshots(&cairn(place, "--password-file", &["--json", "snapshots"])),
            ids.cloned().collect::<Vec<_>>()
        );
        cairn(place, "--key-file", &["check", "--read-data"]);
        for (id, hash) in &expected.streams {
            assert_eq!(sha256(&cairn(place, "--key-file", &["cat", id]).stdout), *hash, "{version}: {id}");
        }
        for (id, root, entries) in &expected.trees {
            let (part, out) = (format!("{id}:{}", root.display()), place.join(id));
            cairn(place, "--key-file", &["restore", &part, "--target", out.to_str().unwrap(), "--verify"]);
            assert_eq!(describe(&out), *entries, "{version}: {id}");
        }
        cairn(place, "--key-file", &["backup", "--name", "dump", "/etc/passwd"]);
        cairn(place, "--key-file", &["forget", "--keep-last", "1"]);
        cairn(place, "--key-file", &["gc", "--grace", "0s"]);
        cairn(place, "--key-file", &["gc", "--grace", "0s"]);
        cairn(place, "--key-file", &["check", "--read-data"]);
        let (id, root, entries) = expected.trees.last().unwrap();
        let (part, out) = (format!("{id}:{}", root.display()), place.join("after gc"));
        cairn(place, "--key-file", &["restore", &part, "--target", out.to_str().unwrap(), "--verify"]);
        assert_eq!(describe(&out), *entries, "{version}: {id} after gc");
    }
}

#[test]
fn the_independent_reader_reads_golden_repositories() {
    for version in KNOWN {
        let directory = copy_of(version);
        let place = directory.path();
        let read = |args: &[&str]| {
            let output = reader(&place.join("repo"), &place.join("password"), args)?;
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(output.stdout)
        };
        let Some(verified) = read(&["verify", "--all"]) else { return };
        assert!(deepest(&verified) >= 3, "{}", String::from_utf8_lossy(&verified));
        let expected = Expected::read(place);
        for (id, hash) in &expected.streams {
            assert_eq!(sha256(&read(&["cat", id]).unwrap()), *hash, "{version}: {id}");
        }
        for (id, root, entries) in &expected.trees {
            let out = place.join(id);
            read(&["restore", id, out.to_str().unwrap()]).unwrap();
            assert_eq!(describe(&out.join(root.strip_prefix("/").unwrap())), *entries, "{version}: {id}");
        }
    }
}
