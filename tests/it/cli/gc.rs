//! What gc and forget say before they do it, and that what killed processes left goes.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use super::{Place, summary, text};
use crate::support::rows;

/// The lines of standard output that begin with this word.
fn lines<'t>(output: &'t str, word: &str) -> Vec<&'t str> {
    output.lines().filter(|line| line.starts_with(word)).collect()
}

#[test]
fn a_dry_run_of_gc_says_what_it_would_do_with_each_pack_and_why() {
    let place = Place::new();
    place.store("kept", &rows(1, 4000));
    let empty = text(&place.ok(&["gc", "--dry-run"]).stderr);
    assert!(empty.contains("0 packs would be condemned"), "{empty}");

    place.store("gone", &rows(2, 4000));
    place.ok(&["forget", "gone", "--unsafe-allow-remove-all"]);
    let output = place.ok(&["gc", "--dry-run"]);
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    // One pack of data, one of metadata, and nothing of the other snapshot's.
    let removed = lines(&out, "remove");
    assert_eq!(removed.len(), 2, "{out}");
    assert!(removed.iter().all(|line| line.contains("nothing of its") && line.contains("is needed")), "{out}");
    assert!(removed.iter().any(|line| line.contains("data pack")), "{out}");
    assert!(removed.iter().any(|line| line.contains("metadata pack")), "{out}");
    assert!(error.contains("2 packs would be condemned"), "{error}");
    assert_eq!(std::fs::read_dir(place.path().join("repo/tombstones")).unwrap().count(), 0);
    assert_eq!(text(&place.ok(&["gc", "--dry-run"]).stdout), out, "a dry run changed something");

    let waiting = text(&place.ok(&["gc"]).stderr);
    assert!(waiting.contains("2 packs condemned, 0 removed") && waiting.contains("the rest waits until"), "{waiting}");
    let pending = text(&place.ok(&["gc", "--dry-run"]).stderr);
    assert!(pending.contains("tombstone") && pending.contains("is pending"), "{pending}");
    let done = text(&place.ok(&["gc", "--grace", "0s"]).stderr);
    assert!(done.contains("2 removed"), "{done}");
}

#[test]
fn a_dry_run_of_gc_says_which_packs_would_be_rewritten_or_joined() {
    let place = Place::new();
    let tree = place.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("stays"), rows(1, 3000)).unwrap();
    std::fs::write(tree.join("goes"), rows(2, 3000)).unwrap();
    place.ok(&["backup", "--name", "tree", tree.to_str().unwrap()]);
    std::fs::remove_file(tree.join("goes")).unwrap();
    place.ok(&["backup", "--name", "tree", tree.to_str().unwrap()]);
    place.ok(&["forget", "--keep-last", "1"]);
    let out = text(&place.ok(&["gc", "--dry-run"]).stdout);
    let rewritten = lines(&out, "rewrite  data pack");
    assert!(rewritten.len() == 1 && rewritten[0].ends_with(" dead"), "{out}");

    for number in 0..33 {
        place.store(&format!("small-{number}"), &rows(number + 10, 5));
    }
    let out = text(&place.ok(&["gc", "--dry-run"]).stdout);
    let joined = lines(&out, "join     data pack");
    assert!(joined.len() > 30 && joined.iter().all(|line| line.contains("one of many small packs")), "{out}");
}

#[test]
fn a_dry_run_of_forget_says_which_snapshots_would_go_and_why() {
    let place = Place::new();
    for number in 0..3 {
        place.store("db", &rows(number, 10));
    }
    place.store("other", &rows(9, 10));
    let output = place.ok(&["forget", "--keep-last", "1", "--name", "db", "--dry-run"]);
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    let gone = lines(&out, "would forget");
    assert!(gone.len() == 2 && gone.iter().all(|line| line.contains("db  (no rule keeps it)")), "{out}");
    let kept = lines(&out, "keep");
    assert!(kept.len() == 1 && kept[0].contains("(") && !kept[0].contains("no rule"), "{out}");
    assert!(error.contains("2 would be forgotten"), "{error}");
    assert_eq!(place.count(), 4, "a dry run forgot something");

    let first = kept[0].split_whitespace().nth(1).unwrap().to_owned();
    let out = text(&place.ok(&["forget", &first, "--unsafe-allow-remove-all", "--dry-run"]).stdout);
    assert!(lines(&out, "would forget").len() == 1 && !out.contains("no rule"), "{out}");
    place.ok(&["forget", "--keep-last", "1", "--name", "db"]);
    assert_eq!(place.count(), 2);
}

/// A file in tmp/ stayed for a day, whatever `--grace` said, and who had made it was not known.
#[test]
fn what_a_killed_process_left_goes_with_the_next_gc_and_a_live_writer_loses_nothing() {
    let place = Place::new();
    place.store("db", &rows(1, 500));
    let mut command = place.command();
    let mut writer = command.args(["backup", "--stdin", "--name", "db"]).stdin(Stdio::piped()).spawn().unwrap();
    let (leases, tmp) = (place.path().join("repo/leases"), place.path().join("repo/tmp"));
    crate::support::pty::wait_until("the writer has its lease", || std::fs::read_dir(&leases).unwrap().count() == 1);
    let machine = blake3::hash(cairn::backend::host::machine().as_bytes()).to_hex()[..16].to_owned();
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let of_writer = tmp.join(format!(".tmp{}-{machine}-x", writer.id()));
    let of_dead = tmp.join(format!(".tmp{}-{machine}-x", dead.id()));
    let unknown = tmp.join(".tmp123-0123456789abcdef-x");
    for path in [&of_writer, &of_dead, &unknown] {
        std::fs::write(path, "half of a pack").unwrap();
    }
    let age = |path, seconds| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    age(&of_writer, 30 * 24 * 3600);
    let told = place.ok(&["gc", "--grace", "0s"]);
    assert!(text(&told.stderr).contains("1 unfinished files of killed processes removed"), "{}", text(&told.stderr));
    assert!(of_writer.exists() && !of_dead.exists() && unknown.exists());

    writer.stdin.take().unwrap().write_all(&rows(2, 500)).unwrap();
    assert!(writer.wait().unwrap().success());
    // Its file is a dead process's now, and the other one is old enough only without the day of grace.
    age(&unknown, 7200);
    assert_eq!(summary(&place.ok(&["--json", "gc"]))["debris"], 1);
    assert!(!of_writer.exists() && unknown.exists());
    assert_eq!(summary(&place.ok(&["--json", "gc", "--grace", "1h"]))["debris"], 1);
    assert!(!unknown.exists());
    assert!(place.ok(&["cat", "db"]).stdout == rows(2, 500));
}
