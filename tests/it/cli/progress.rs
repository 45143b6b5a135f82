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
    let commands: [(&[&str], &str, &str); 10] = [
        (&["backup", "--force", "--name", "t", &tree], "backing up", "left"),
        (&restore, "restoring", "left"),
        (&["check"], "checking", "left"),
        (&["check", "--read-data"], "reading back", "left"),
        (&["verify", "t"], "reading back", "left"),
        (&["check"], "following", "left"),
        (&["gc"], "following", "left"),
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

/// What nothing is known of before has a rate all the same: a stream, and paths until they were counted.
#[test]
fn a_first_backup_shows_what_it_has_read_and_how_fast() {
    let place = Place::new();
    let file = place.path().join("dump");
    std::fs::write(&file, crate::support::noise("dump", 8 << 20)).unwrap();
    let back_up = || {
        let terminal = Terminal::open();
        let mut command = place.command();
        command.args(["backup", "--stdin", "--name", "dump"]).stdin(std::fs::File::open(&file).unwrap());
        command.env("TERM", "xterm").stdout(Stdio::null()).stderr(terminal.stream());
        assert!(command.status().unwrap().success(), "{}", terminal.shown());
        terminal.say(" the end ");
        terminal.wait_for(" the end ");
        terminal.shown()
    };
    let first = back_up();
    assert!(first.contains("backing up") && first.contains("B/s ") && !first.contains("left"), "{first:?}");
    // The next one is measured by the one before.
    let second = back_up();
    assert!(second.contains("/8.00 MiB") && second.contains("B/s ") && second.contains("left"), "{second:?}");
    for number in 0..20 {
        let name = format!("tree{number}");
        let shown = drawn(&place, &[], &["backup", "--name", &name, file.to_str().unwrap()]);
        assert!(shown.contains("backing up") && shown.contains("B/s "), "{shown:?}");
        // On a machine that is busy the backup may have ended before it was counted.
        if shown.contains("/8.00 MiB") && shown.contains("left") {
            return;
        }
    }
    panic!("in none of 20 first backups a total was shown");
}

/// Lets the first file wait until it was told how much there is.
struct Waits {
    told: std::sync::Mutex<std::sync::mpsc::Sender<u64>>,
    heard: std::sync::Mutex<std::sync::mpsc::Receiver<u64>>,
    total: std::sync::atomic::AtomicU64,
}

impl cairn::progress::Monitor for Waits {
    fn total(&self, total: u64) {
        self.told.lock().unwrap().send(total).unwrap();
    }

    fn wants_total(&self) -> bool {
        true
    }

    fn item(&self, name: &str) {
        if name.ends_with("first") {
            let patience = std::time::Duration::from_secs(60);
            let total = self.heard.lock().unwrap().recv_timeout(patience).unwrap_or(0);
            self.total.store(total, std::sync::atomic::Ordering::SeqCst);
        }
    }
}

#[test]
fn paths_are_counted_beside_their_first_backup() {
    use cairn::orchestrate::backup;
    let (memory, tree) = (crate::support::memory::Memory::new(), tempfile::tempdir().unwrap());
    crate::support::init(memory.as_ref());
    let backend: std::sync::Arc<dyn cairn::backend::Backend> = memory;
    for (name, len) in [("first", 1000), ("second", 234), ("left-out", 9)] {
        std::fs::write(tree.path().join(name), vec![7; len]).unwrap();
    }
    let (told, heard) = std::sync::mpsc::channel();
    let monitor = Waits { told: told.into(), heard: heard.into(), total: 0.into() };
    let exclude = cairn::source::files::Patterns::new([b"left-out".as_slice()]).unwrap();
    let paths = backup::TreeOptions { roots: vec![tree.path().to_owned()], exclude, ..Default::default() };
    let options = crate::support::options("t");
    backup::tree(&crate::support::open(&backend), paths, &options, &monitor).unwrap();
    assert_eq!(monitor.total.into_inner(), 1234);
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
