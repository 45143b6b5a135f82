//! What the program says and does when something in the repository is damaged.

use std::path::PathBuf;

use serde_json::Value;

use super::{Place, summary, text};

/// The objects of a folder of the repository, the one written last at the end.
fn objects(place: &Place, folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![place.path().join("repo").join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    found
}

fn flip(path: &std::path::Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn lines(place: &Place, args: &[&str], kind: &str) -> Vec<Value> {
    let stdout = text(&place.run(args).stdout);
    let values = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    values.filter(|value| value["type"] == kind).collect()
}

#[test]
fn one_damaged_snapshot_is_told_and_stops_nothing_that_does_not_need_it() {
    let place = Place::new();
    place.store("db", b"one");
    let tree = super::snapshot_tree(&place);
    place.ok(&["backup", "--name", "tree", tree.to_str().unwrap()]);
    place.store("db", b"two");
    let damaged = objects(&place, "snapshots").pop().unwrap();
    let id = damaged.file_name().unwrap().to_str().unwrap().to_owned();
    flip(&damaged, 70);

    let output = place.ok(&["snapshots"]);
    assert!(text(&output.stderr).contains(&id), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("CANNOT BE READ"), "{}", text(&output.stdout));
    let found = lines(&place, &["--json", "snapshots"], "damaged");
    assert!(found.len() == 1 && found[0]["id"] == id && found[0]["name"] == "db", "{found:?}");
    assert_eq!(summary(&place.ok(&["--json", "snapshots"]))["damaged"], 1);

    // The newest of the name is not the newest that can be read, and that is said.
    for selection in ["db", "latest", "db@2099-01-01"] {
        let output = place.ok(&["ls", selection]);
        assert!(text(&output.stderr).contains("it may be what"), "{selection}: {}", text(&output.stderr));
    }
    let output = place.ok(&["cat", "db"]);
    assert_eq!(text(&output.stdout), "one");
    let output = place.ok(&["ls", "tree"]);
    assert!(!text(&output.stderr).contains("it may be what"), "{}", text(&output.stderr));
    place.fails(&["cat", &id[..8]], 1, &["cannot be read", &id]);

    place.ok(&["restore", "tree", "--target", place.path().join("out").to_str().unwrap()]);
    place.ok(&["diff", "tree", "tree"]);
    place.ok(&["stats"]);
    place.ok(&["verify", "tree"]);
    place.fails(&["verify", "--all"], 1, &["1 snapshots could not be verified"]);
    place.fails(&["find", "a.txt"], 1, &["could not be searched"]);
    assert!(text(&place.run(&["find", "a.txt"]).stdout).contains("a.txt"));
    let output = place.run(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains(&id), "{}", text(&output.stdout));
    place.store("db", b"three");
    assert_eq!(text(&place.ok(&["cat", "db"]).stdout), "three");

    place.fails(&["gc", "--grace", "0s"], 1, &[&id, "forget"]);
    place.fails(&["forget", "--keep-last", "1"], 1, &["refused", &id]);
    place.fails(&["forget", "tree", "--unsafe-allow-remove-all"], 1, &["refused", &id]);
    place.fails(&["forget", &id[..8]], 1, &["refused", &id]);
    place.ok(&["forget", &id[..8], "--unsafe-allow-remove-all"]);
    let output = place.ok(&["snapshots"]);
    assert!(output.stderr.is_empty() || !text(&output.stderr).contains(&id), "{}", text(&output.stderr));
    place.ok(&["gc", "--grace", "0s"]);
    place.ok(&["check"]);
}

/// Until now only `--force` did not rely on what a check had just called unreadable.
#[test]
fn a_backup_after_a_check_relied_on_what_the_check_could_not_read() {
    let bytes = crate::support::rows(1, 20_000);
    for (folder, between) in [("data", None), ("meta", None), ("data", Some(["index", "rebuild"]))] {
        let place = Place::new();
        let tree = place.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("file"), &bytes[..bytes.len() / 2]).unwrap();
        let back_up = || {
            place.store("db", &bytes);
            place.ok(&["backup", "--name", "tree", tree.to_str().unwrap()]);
        };
        back_up();
        objects(&place, folder).iter().for_each(|pack| flip(pack, 50));
        place.fails(&["check", "--read-data"], 1, &["problems"]);
        if let Some(command) = between {
            place.ok(&command);
        }
        back_up();
        assert!(place.ok(&["cat", "db"]).stdout == bytes, "{folder}");
        let file = tree.join("file");
        assert!(place.ok(&["cat", "tree", file.to_str().unwrap()]).stdout == bytes[..bytes.len() / 2], "{folder}");
        // What is readable is not stored again and again.
        let before = objects(&place, "data").len();
        place.store("db", &bytes);
        assert_eq!(objects(&place, "data").len(), before, "{folder}");
    }
}

#[test]
fn a_damaged_last_key_was_answered_with_the_advice_to_check_which_needs_a_key() {
    let place = Place::new();
    flip(&objects(&place, "keys")[0], 70);
    for command in ["snapshots", "check"] {
        let output = place.run(&[command]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("put the object back into `keys`") && !told.contains("cairn check"), "{told}");
    }
}

/// Where a pack's frames begin.
const FIRST_FRAME: usize = 40;

#[test]
fn a_restore_brings_all_files_but_those_of_a_damaged_frame_and_names_them() {
    let place = Place::new();
    let (tree, out) = (place.path().join("tree"), place.path().join("out"));
    std::fs::create_dir(&tree).unwrap();
    for number in 0..6 {
        std::fs::write(tree.join(format!("large{number}")), crate::support::noise(&number.to_string(), 2 << 20))
            .unwrap();
        std::fs::write(tree.join(format!("small{number}")), format!("this is {number}")).unwrap();
    }
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let pack = objects(&place, "data").pop().unwrap();
    // In the middle of all the frames, far from the footer.
    flip(&pack, FIRST_FRAME + pack.metadata().unwrap().len() as usize / 2);
    let from = format!("t:{}", tree.display());
    let output = place.run(&["restore", &from, "--target", out.to_str().unwrap()]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let mut failed = 0;
    for entry in std::fs::read_dir(&tree).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        match std::fs::read(out.join(&name)) {
            Ok(found) => assert!(found == std::fs::read(tree.join(&name)).unwrap(), "{name} is not what it was"),
            Err(_) => {
                failed += 1;
                let line = told.lines().find(|line| line.contains(&name)).unwrap_or_else(|| panic!("{name}: {told}"));
                let pack = pack.file_name().unwrap().to_str().unwrap();
                assert!(line.contains(pack) && line.contains("cairn check --read-data"), "{line}");
            }
        }
    }
    // A frame of 1 MiB of files that have 2 MiB each, and of their small neighbours.
    assert!((1..=4).contains(&failed), "{failed} files are lost");
    assert!(told.contains(&format!("{failed} entries could not be restored")), "{told}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 12 - failed, "something unfinished was left");
}

#[test]
fn what_reads_a_truncated_or_missing_pack_says_so_and_ends_with_1() {
    for (how, told) in [("truncated", "is truncated or damaged"), ("missing", "is in no readable pack")] {
        let place = Place::new();
        let tree = super::snapshot_tree(&place);
        place.store("db", &crate::support::noise("db", 100_000));
        place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
        for pack in objects(&place, "data") {
            match how {
                "truncated" => std::fs::write(&pack, &std::fs::read(&pack).unwrap()[..FIRST_FRAME + 20]).unwrap(),
                _ => std::fs::remove_file(&pack).unwrap(),
            }
        }
        // With what this machine remembers of the pack, and without.
        for (round, told) in [("remembered", told), ("forgotten", "is in no readable pack")] {
            let out = place.path().join(round);
            let restore = ["restore", "t", "--target", out.to_str().unwrap()];
            place.fails(&["cat", "db"], 1, &[told, "cairn check"]);
            place.fails(&restore, 1, &["a.txt", told, "cairn check", "entries could not be restored"]);
            let output = place.run(&["verify", "--all"]);
            let lines = text(&output.stdout);
            assert_eq!(
                lines.lines().filter(|line| line.contains("NOT verified") && line.contains(told)).count(),
                2,
                "{lines}"
            );
            super::assert_fails(output, 1, &["2 snapshots could not be verified"]);
            let output = place.run(&["check"]);
            assert_eq!(output.status.code(), Some(1), "{how}, {round}: {}", text(&output.stdout));
            // What needs no data is there all the same.
            place.ok(&["ls", "t"]);
            std::fs::remove_dir_all(place.path().join("cache")).unwrap();
        }
    }
}
