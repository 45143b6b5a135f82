//! What `check`, `verify` and `restore --verify` find, and what they leave behind.

use std::fs;
use std::path::PathBuf;

use rusqlite::Connection;
use serde_json::Value;

use super::{Place, snapshot_tree, summary, text};
use crate::support::noise;

/// The index file of a place's only repository.
fn index(place: &Place) -> Connection {
    let folder = fs::read_dir(place.path().join("cache")).unwrap().next().unwrap().unwrap().path();
    Connection::open(folder.join("index-1.sqlite")).unwrap()
}

fn data_packs(place: &Place) -> Vec<PathBuf> {
    let folders = fs::read_dir(place.path().join("repo/data")).unwrap();
    folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap()).map(|pack| pack.unwrap().path()).collect()
}

/// The subjects and messages of the problems that a check found.
fn problems(place: &Place, args: &[&str]) -> String {
    let output = place.run(&[&["--json"], args].concat());
    let found = text(&output.stdout)
        .lines()
        .filter(|line| line.contains("\"type\":\"problem\""))
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(output.status.code(), Some(if found.is_empty() { 0 } else { 1 }), "{}", text(&output.stderr));
    found
}

#[test]
fn check_tells_of_an_index_that_differs_from_the_packs_and_mends_it() {
    let bytes = noise("stream", 200_000);
    for change in [
        "UPDATE frame SET stored_len = stored_len - 1",
        "UPDATE frame SET offset = offset + 1",
        "UPDATE pack SET header = zeroblob(length(header))",
        "DELETE FROM frame",
        "DELETE FROM chunk",
        "UPDATE chunk SET no = no + 1000000",
    ] {
        let place = Place::new();
        place.store("db", &bytes);
        assert_eq!(problems(&place, &["check"]), "");
        index(&place).execute(change, []).unwrap();
        let told = text(&place.ok(&["check"]).stderr);
        assert!(told.contains("index: it was damaged and was made right from the packs"), "{change}: {told}");
        let told = text(&place.ok(&["check", "--read-data"]).stderr);
        assert!(!told.contains("damaged"), "{change}: {told}");
        assert!(place.ok(&["cat", "db"]).stdout == bytes, "{change}");
    }
}

#[test]
fn a_backup_beside_a_wrong_index_publishes_nothing_that_cannot_be_read() {
    let bytes = noise("stream", 200_000);
    for change in [
        "UPDATE frame SET offset = offset + 1",
        "DELETE FROM frame",
        "DELETE FROM chunk",
        "UPDATE chunk SET no = (SELECT max(no) FROM chunk) - no + 1000",
        "DELETE FROM pack",
    ] {
        let place = Place::new();
        place.store("db", &bytes);
        index(&place).execute(change, []).unwrap();
        let copy = place.path().join("copy");
        fs::write(&copy, &bytes).unwrap();
        let output = place.run(&["backup", "--name", "file", copy.to_str().unwrap()]);
        place.ok(&["index", "rebuild"]);
        assert_eq!(problems(&place, &["check", "--read-data"]), "", "{change}");
        if output.status.success() {
            assert!(place.ok(&["cat", "file", copy.to_str().unwrap()]).stdout == bytes, "{change}");
        }
    }
}

#[test]
fn a_sample_reads_its_share_of_the_packs() {
    let place = Place::new();
    for number in 0..10 {
        // Streams of other names share nothing, so each is a pack of data and one of metadata.
        place.store(&format!("db{number}"), &noise(&number.to_string(), 50_000));
    }
    let read = |args: &[&str]| summary(&place.ok(&[&["--json", "check"], args].concat()));
    let packs = read(&[])["packs"].as_u64().unwrap();
    assert!(packs >= 10, "{packs}");
    assert_eq!(read(&[])["packs_read"], 0, "nothing is read unless it is asked for");
    let all = read(&["--read-data"]);
    assert_eq!(all["packs_read"], packs);
    assert!(all["bytes_read"].as_u64().unwrap() >= 500_000);
    assert_eq!(read(&["--read-data", "--sample", "100"])["bytes_read"], all["bytes_read"]);
    for percent in [1u64, 10, 50, 99] {
        let wanted = (packs * percent).div_ceil(100);
        let sample = read(&["--read-data", "--sample", &percent.to_string()]);
        assert_eq!(sample["packs_read"], wanted, "{percent} % of {packs}");
        assert!(sample["bytes_read"].as_u64() < all["bytes_read"].as_u64() || wanted == packs);
    }
    assert_eq!(read(&["--read-data", "--sample", "0.001"])["packs_read"], 1, "less than one pack is one");
    place.fails(&["check", "--read-data", "--sample", "101"], 2, &["--sample"]);
    place.fails(&["check", "--sample", "10"], 2, &["--read-data"]);
}

#[test]
fn a_sample_is_chosen_anew_each_time() {
    let place = Place::new();
    for number in 0..4 {
        place.store(&format!("db{number}"), &noise(&number.to_string(), 20_000));
    }
    let pack = data_packs(&place).pop().unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[50] ^= 1;
    fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&pack, &bytes).unwrap();
    // At half of the packs a hundred samples miss it once in 2^100 runs of this test.
    let found = (0..100).any(|_| !problems(&place, &["check", "--read-data", "--sample", "50"]).is_empty());
    assert!(found, "the same packs were read again and again");
}

#[test]
fn restore_verify_finds_a_file_that_only_looks_restored() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let (whole, out) = (format!("t:{}", tree.display()), place.path().join("out"));
    let restore = ["restore", &whole, "--target", out.to_str().unwrap()];
    place.ok(&restore);
    // The same length and time: only reading it back tells.
    let file = out.join("keep/c.txt");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "this is keep/c.TXT").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    place.ok(&restore);
    let found = place.run(&[&["--json"], &restore[..], &["--verify"]].concat());
    assert_eq!(found.status.code(), Some(1));
    let error = text(&found.stderr);
    assert!(error.contains("keep/c.txt") && error.contains("differs from the snapshot"), "{error}");
    let counts: Value =
        serde_json::from_str(text(&found.stdout).lines().find(|line| line.contains("\"type\":\"summary\"")).unwrap())
            .unwrap();
    assert_eq!((&counts["failed"], &counts["verified_files"]), (&1.into(), &4.into()), "{counts}");
    place.ok(&[&restore[..], &["--overwrite", "always", "--verify"]].concat());
    assert_eq!(fs::read(&file).unwrap(), b"this is keep/c.txt");
}

#[test]
fn verify_records_a_proof_only_of_what_it_could_read() {
    let place = Place::new();
    place.store("good", &noise("good", 100_000));
    let good_packs = data_packs(&place);
    place.store("bad", &noise("bad", 100_000));
    let bad = data_packs(&place).into_iter().find(|pack| !good_packs.contains(pack)).unwrap();
    let proofs = || fs::read_dir(place.path().join("repo/proofs")).unwrap().count();
    let verified = || -> Vec<bool> {
        let lines = text(&place.ok(&["--json", "snapshots"]).stdout);
        let all = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|line| line["type"] == "snapshot").map(|line| line["verified"].is_string()).collect()
    };
    assert_eq!((proofs(), verified()), (0, vec![false, false]));
    let mut bytes = fs::read(&bad).unwrap();
    bytes[50] ^= 1;
    fs::set_permissions(&bad, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&bad, &bytes).unwrap();
    let output = place.run(&["--json", "verify", "--all"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let lines = text(&output.stdout);
    let proof = lines.lines().find(|line| line.contains("\"type\":\"proof\"")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(proof).unwrap()["bytes"], 100_000);
    assert!(lines.contains("\"verified\":1") && lines.contains("\"failed\":1"), "{lines}");
    assert!(lines.contains(bad.file_name().unwrap().to_str().unwrap()) || lines.contains("frame 0"), "{lines}");
    assert_eq!((proofs(), verified()), (1, vec![true, false]));
    place.fails(&["verify", "bad"], 1, &["could not be verified"]);
    assert_eq!(proofs(), 1, "a failed verify recorded a proof");
    place.ok(&["verify", "good"]);
    assert_eq!(verified(), [true, false]);
}
