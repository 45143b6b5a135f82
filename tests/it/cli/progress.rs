//! A bar with rate and time left is drawn on a terminal, and on nothing else.

use std::process::Stdio;

use super::{Place, text};
use crate::support::pty::Terminal;

/// Runs with a terminal as standard error; what was drawn there.
fn drawn(place: &Place, options: &[&str], args: &[&str]) -> String {
    let terminal = Terminal::open();
    let mut command = place.command();
    command.args(options).args(args).env("TERM", "xterm").stdout(Stdio::null()).stderr(terminal.stream());
    assert!(command.status().unwrap().success(), "{args:?}: {}", terminal.shown());
    // All that was written before this has been shown when this is.
    terminal.say(" the end ");
    terminal.wait_for(" the end ");
    terminal.shown()
}

fn prepared() -> (Place, String) {
    let place = Place::new();
    let tree = place.path().join("tree");
    std::fs::create_dir_all(tree.join("part")).unwrap();
    for number in 0..200 {
        std::fs::write(tree.join(format!("file{number}")), crate::support::noise(&number.to_string(), 20_000)).unwrap();
        std::fs::write(tree.join(format!("part/file{number}")), crate::support::noise(&number.to_string(), 2_000))
            .unwrap();
    }
    let tree = tree.to_str().unwrap().to_owned();
    place.ok(&["backup", "--name", "t", &tree]);
    (place, tree)
}

#[test]
fn every_long_command_draws_a_bar_on_a_terminal_and_nowhere_else() {
    let (place, tree) = prepared();
    let out = place.path().join("out");
    let restore = ["restore", "t", "--overwrite", "always", "--target", out.to_str().unwrap()];
    let commands: [(&[&str], &str, &str); 9] = [
        (&["backup", "--force", "--name", "t", &tree], "backing up", "left"),
        (&restore, "restoring", "left"),
        (&["check"], "checking", "left"),
        (&["check", "--read-data"], "reading back", "left"),
        (&["verify", "t"], "reading back", "left"),
        (&["gc"], "following", "/s"),
        (&["find", "file1"], "searching", "left"),
        (&["diff", "t", "t"], "comparing", "left"),
        (&["index", "rebuild"], "indexing", "left"),
    ];
    for (args, word, time) in commands {
        let shown = drawn(&place, &[], args);
        assert!(shown.contains(word) && shown.contains("/s ") && shown.contains(time), "{args:?}: {shown:?}");
        for quiet in ["--quiet", "--json"] {
            let shown = drawn(&place, &[quiet], args);
            assert!(!shown.contains(word) && !shown.contains('\r'), "{quiet} {args:?}: {shown:?}");
        }
        let shown = text(&place.ok(args).stderr);
        assert!(!shown.contains(word) && !shown.contains(['\r', '\x1b']), "{args:?}: {shown:?}");
    }
}

#[test]
fn a_restore_of_a_part_counted_the_whole_snapshot() {
    let (place, tree) = prepared();
    let (from, out) = (format!("t:{tree}/part"), place.path().join("out"));
    let shown = drawn(&place, &[], &["restore", &from, "--target", out.to_str().unwrap()]);
    assert!(shown.contains("/390.62 KiB"), "{shown:?}");
    let only = ["restore", "t", "--include", "file199", "--target", out.to_str().unwrap(), "--overwrite", "always"];
    let shown = drawn(&place, &[], &only);
    assert!(shown.contains("/21.48 KiB"), "{shown:?}");
}

#[test]
fn rates_have_no_decimals_that_nobody_reads() {
    let (place, _) = prepared();
    let shown = drawn(&place, &[], &["find", "file1"]);
    let rate = shown.split("/s ").next().unwrap().rsplit(' ').next().unwrap();
    assert!(!rate.is_empty() && rate.bytes().all(|b| b.is_ascii_digit()), "{rate:?} in {shown:?}");
}
