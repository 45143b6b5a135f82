//! Real processes that share one index while it is damaged, healed, and made anew.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};

use super::together::{finish, waiting_backup};
use super::{Place, summary, text};
use crate::support::{next_day, rows};

/// A repository of three days of one dump, and the days.
fn days() -> (Place, Vec<Vec<u8>>) {
    let place = Place::new();
    let mut days = vec![rows(1, 3000)];
    for day in 1..3 {
        days.push(next_day(&days[day - 1], day as u64));
    }
    for (number, day) in days.iter().enumerate() {
        place.store(&format!("day-{number}"), day);
    }
    (place, days)
}

/// The newest of the index files.
fn index(place: &Place) -> PathBuf {
    let folder = fs::read_dir(place.path().join("cache")).unwrap().next().unwrap().unwrap().path();
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "sqlite")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

fn spawn(place: &Place, args: &[&str]) -> Child {
    place.command().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended_well(what: &str, child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{what}: {}", text(&output.stderr));
    output
}

/// The kept index is the one that is made from the packs alone, and nothing has to be put right in it.
fn assert_whole(place: &Place, what: &str) {
    let kept = summary(&place.ok(&["--json", "index", "stats"]));
    let mut fresh = place.command();
    let fresh = fresh.env_remove("CAIRN_CACHE_DIR").arg("--cache-dir").arg(place.path().join("fresh"));
    let fresh = fresh.args(["--json", "index", "stats"]).output().unwrap();
    assert_eq!(kept, summary(&fresh), "{what}");
    fs::remove_dir_all(place.path().join("fresh")).unwrap();
    let told = text(&place.ok(&["check"]).stderr);
    assert!(!told.contains("index"), "{what}: {told}");
}

#[test]
fn an_index_rebuild_failed_the_backup_beside_it() {
    let (place, days) = days();
    let day = next_day(&days[2], 9);
    let mut child = waiting_backup(&place, "db");
    let (first, rest) = day.split_at(day.len() / 2);
    child.stdin.as_mut().unwrap().write_all(first).unwrap();
    place.ok(&["index", "rebuild"]);
    finish(child, rest);
    assert!(place.ok(&["cat", "db"]).stdout == day);
    assert_whole(&place, "after the rebuild");
    place.ok(&["check", "--read-data"]);
}

#[test]
fn a_check_beside_an_index_rebuild_found_damage_where_there_is_none() {
    let (place, days) = days();
    for _ in 0..5 {
        let children: Vec<_> = [["index", "rebuild"].as_slice(), &["check"], &["index", "rebuild"], &["check"]]
            .map(|args| (args, spawn(&place, args)))
            .into();
        for (args, child) in children {
            ended_well(&format!("{args:?}"), child);
        }
    }
    assert!(place.ok(&["cat", "day-0"]).stdout == days[0]);
    assert_whole(&place, "after the rebuilds");
}

/// Each is found only by whoever looks.
const DAMAGE: [(&str, &str); 3] = [
    ("frames are missing", "DELETE FROM frame WHERE first % 2 = 1 OR depth > 0"),
    ("chunks are missing", "DELETE FROM chunk WHERE no % 3 = 0"),
    ("packs have other frames", "UPDATE pack SET sum = sum + 1"),
];

#[test]
fn processes_that_heal_one_index_at_once_all_end_well() {
    let (place, days) = days();
    let everybody = |what: &str| {
        let read = spawn(&place, &["cat", "day-1"]);
        let others = [["check"].as_slice(), &["index", "rebuild"], &["check", "--read-data"], &["verify", "--all"]];
        let others = others.map(|args| (args, spawn(&place, args)));
        assert!(ended_well(what, read).stdout == days[1], "{what}");
        for (args, child) in others {
            ended_well(&format!("{what}: {args:?}"), child);
        }
        assert_whole(&place, what);
    };
    for (what, script) in DAMAGE {
        for _ in 0..3 {
            rusqlite::Connection::open(index(&place)).unwrap().execute_batch(script).unwrap();
            everybody(what);
        }
    }
    for round in 0..6 {
        // Pages in the middle, which SQLite itself calls malformed.
        let file = fs::File::options().write(true).open(index(&place)).unwrap();
        let len = file.metadata().unwrap().len();
        file.write_all_at(&vec![0xa5; len as usize / 3], len / 8 * round / 2).unwrap();
        everybody("pages are overwritten");
    }
}
