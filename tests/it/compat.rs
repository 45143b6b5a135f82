//! Golden repositories: what a released format wrote, every later version reads. One folder a format version in
//! `tests/golden`; each must be listed here, so that none is forgotten.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const KNOWN: [&str; 1] = ["v1"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { assert!(std::fs::copy(&path, &target).is_ok()) }
    }
}

/// The program on a copy, so that nothing a test does reaches the golden one.
fn cairn(place: &Path, credential: &str, args: &[&str]) -> Output {
    // Empty folders are not kept by git.
    for folder in ["sets", "tombstones", "leases", "forgotten", "tmp"] {
        std::fs::create_dir_all(place.join("repo").join(folder)).unwrap();
    }
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
    command.env_clear().env("CAIRN_REPO", place.join("repo")).env("CAIRN_CACHE_DIR", place.join("cache"));
    let file = place.join(if credential == "--key-file" { "key" } else { "password" });
    let output = command.arg("-q").arg(credential).arg(file).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    hex::encode(digest.as_ref())
}

#[test]
fn every_golden_repository_is_known_here() {
    let mut found: Vec<String> = std::fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, KNOWN);
}

#[test]
fn golden_repositories_restore_and_take_new_backups() {
    for version in KNOWN {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        copy(&golden().join(version), place);
        let listed = cairn(place, "--password-file", &["--json", "snapshots"]).stdout;
        let snapshots: Vec<serde_json::Value> = String::from_utf8(listed)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &serde_json::Value| line["type"] == "snapshot")
            .collect();
        let expected = std::fs::read_to_string(place.join("expected")).unwrap();
        cairn(place, "--key-file", &["check", "--read-data"]);
        let (mut streams, mut files) = (0, 0);
        for line in expected.lines() {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            let content = if words[0] == "stream" {
                streams += 1;
                cairn(place, "--key-file", &["cat", snapshots[streams - 1]["id"].as_str().unwrap()])
            } else {
                files += 1;
                cairn(place, "--key-file", &["cat", "tree", words[2]])
            };
            assert_eq!(sha256(&content.stdout), words[1], "{version}: {line}");
        }
        assert_eq!((streams, files), (5, 6));
        cairn(place, "--key-file", &["backup", "--name", "dump", "/etc/passwd"]);
        cairn(place, "--key-file", &["forget", "--keep-last", "1"]);
        cairn(place, "--key-file", &["gc", "--grace", "0s"]);
        cairn(place, "--key-file", &["check", "--read-data"]);
    }
}
