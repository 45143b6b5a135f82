//! The index deleted, cut short, or put back from an older state: every command works, and answers as with a whole one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::browse::{objects, words};
use super::{Place, summary, text};
use crate::support::{next_day, rows};

/// A repository after backups, a forget and a gc, with a kept index, and an older copy of that.
struct World {
    place: Place,
    tree: PathBuf,
    older: Vec<u8>,
    next: Vec<u8>,
}

impl World {
    fn new() -> World {
        let place = Place::new();
        let tree = place.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let days = (1..5).fold(vec![rows(1, 2000)], |mut days, day| {
            days.push(next_day(&days[days.len() - 1], day));
            days
        });
        let mut older = Vec::new();
        for (number, day) in days[..4].iter().enumerate() {
            place.store("db", day);
            fs::write(tree.join(format!("file-{number}")), rows(number as u64 + 50, 300)).unwrap();
            fs::write(tree.join("changes"), rows(number as u64 + 70, 300)).unwrap();
            place.ok(&["backup", "--name", "tree", tree.to_str().unwrap()]);
            if number == 1 {
                older = fs::read(index(place.path())).unwrap();
            }
        }
        place.ok(&["verify", "db"]);
        place.ok(&["forget", "--keep-last", "3"]);
        place.ok(&["gc", "--grace", "0s"]);
        // Something for a gc to do.
        place.ok(&["forget", "--keep-last", "2"]);
        World { place, tree, older, next: days[4].clone() }
    }

    /// A copy to work on.
    fn copy(&self) -> Place {
        let copy = Place::empty();
        let from = ["repo", "cache"].map(|name| self.place.path().join(name));
        assert!(Command::new("cp").arg("-a").args(from).arg(copy.path()).status().unwrap().success());
        copy
    }
}

/// The index of the only repository below a place.
fn index(place: &Path) -> PathBuf {
    let folder = fs::read_dir(place.join("cache")).unwrap().next().unwrap().unwrap().path();
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.to_string_lossy().contains("sqlite")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

/// What a command printed for programs, without what differs from run to run.
fn answers(place: &Place, args: &[&str], input: Option<&[u8]>) -> Vec<Value> {
    let mut command = place.command();
    let is_content = args[0] == "cat" || args.contains(&"--stdout");
    command
        .args((!is_content).then_some("--json"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(bytes) = input {
        let file = place.path().join("input");
        fs::write(&file, bytes).unwrap();
        command.stdin(fs::File::open(file).unwrap());
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    if is_content {
        return vec![text(&output.stdout).into()];
    }
    let lines = text(&output.stdout);
    let mut lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // What is another in each run: times, and the id of a record that has one.
    let others: &[&str] = match args[0] {
        "backup" => &["snapshot", "milliseconds"],
        "verify" => &["time", "milliseconds"],
        _ => &[],
    };
    for line in &mut lines {
        others.iter().for_each(|field| drop(line.as_object_mut().unwrap().remove(*field)));
    }
    lines
}

#[test]
fn every_command_heals_a_stale_index_by_itself() {
    let world = World::new();
    let trees = words(&objects(&world.place, "snapshot", &["snapshots", "--name", "tree"]), "id");
    let file = world.tree.join("changes");
    let (file, target) = (file.to_str().unwrap(), "target");
    let whole = format!("tree:{file}");
    let tables: [(&[&str], Option<&[u8]>); 17] = [
        (&["snapshots"], None),
        (&["ls", "tree"], None),
        (&["find", "file-*"], None),
        (&["diff", &trees[0], "tree"], None),
        (&["cat", "db"], None),
        (&["cat", "tree", file], None),
        (&["restore", &whole, "--stdout"], None),
        (&["restore", "tree", "--verify", "--target", target], None),
        (&["stats"], None),
        (&["index", "stats"], None),
        (&["forget", "--dry-run", "--keep-last", "1"], None),
        (&["check", "--read-data"], None),
        (&["verify", "--all"], None),
        (&["gc", "--dry-run"], None),
        (&["gc", "--grace", "0s"], None),
        (&["backup", "--stdin", "--name", "db"], Some(&world.next)),
        (&["index", "rebuild"], None),
    ];
    for (args, input) in tables {
        let run = |place: &Place| {
            let target = place.path().join("target");
            let args: Vec<&str> =
                args.iter().map(|word| if *word == "target" { target.to_str().unwrap() } else { word }).collect();
            let answers = answers(place, &args, input);
            let stats = summary(&place.ok(&["--json", "index", "stats"]));
            assert_eq!(place.run(&["check"]).status.code(), Some(0), "{args:?}");
            (answers, stats, place.ok(&["cat", "db"]).stdout)
        };
        let intact = world.copy();
        let expected = run(&intact);
        for damage in ["deleted", "cut short", "older"] {
            let copy = world.copy();
            let file = index(copy.path());
            let bytes = fs::read(&file).unwrap();
            match damage {
                "deleted" => fs::remove_file(&file).unwrap(),
                "cut short" => fs::write(&file, &bytes[..bytes.len() / 2]).unwrap(),
                _ => fs::write(&file, &world.older).unwrap(),
            }
            let found = run(&copy);
            assert_eq!(found.0, expected.0, "{args:?}, index {damage}");
            assert_eq!(found.1, expected.1, "{args:?}, index {damage}");
            assert!(found.2 == expected.2, "{args:?}, index {damage}");
        }
    }
}
