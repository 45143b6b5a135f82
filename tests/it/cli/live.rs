//! What the person who runs a platform backup sees, from made-up events: on terminals of several widths, in a log, as
//! JSON, in the journal, and in systemd's status.

mod programs;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cairn::cli::live::screen::{Screen, Size};
use cairn::cli::live::{Live, Pace, Setup};
use cairn::cli::render::Output;
use cairn::progress::{Monitor, Notice, Phase, StepEvent, StepState, StepWork, StopFlag, WithinStep};

use crate::support::pty::{Terminal, wait_until};

const MIB: u64 = 1 << 20;

/// A stream that is kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A view, and where it goes.
struct Shown {
    live: Live,
    results: Kept,
    messages: Kept,
    stop: Arc<StopFlag>,
}

fn quick() -> Pace {
    let often = Duration::from_millis(20);
    Pace { frame: often, json: Duration::from_secs(1), log: Duration::from_secs(30), status: often }
}

impl Shown {
    fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let (results, messages, stop) = (Kept::default(), Kept::default(), Arc::new(StopFlag::default()));
        let mut setup = Setup {
            output: Output { json: false, quiet: false },
            results: Box::new(results.clone()),
            messages: Box::new(messages.clone()),
            screen: None,
            journal: None,
            notify: None,
            pace: quick(),
        };
        change(&mut setup);
        Shown { live: Live::with(setup, stop.clone()).unwrap(), results, messages, stop }
    }

    fn on_screen(columns: usize, rows: usize, unicode: bool) -> Self {
        let size = move || Size { columns, rows };
        Shown::with(|setup| setup.screen = Some(Screen { size: Box::new(size), unicode, colour: false }))
    }

    fn step(&self, step: &str, title: &str, state: StepState, detail: &str) {
        self.live.step(&StepEvent { step, title, state, detail });
    }

    fn wait_for(&self, words: &str) {
        wait_until(words, || self.messages.text().contains(words));
    }

    /// What a terminal of this size shows now, and what has scrolled off it, without empty lines.
    fn screen(&self, columns: u16, rows: u16) -> Vec<String> {
        screen(&self.messages.text(), columns, rows)
    }
}

fn screen(written: &str, columns: u16, rows: u16) -> Vec<String> {
    let mut terminal = vt100::Parser::new(rows.try_into().unwrap(), columns.try_into().unwrap(), 0);
    // As a terminal's driver does.
    terminal.process(written.replace('\n', "\r\n").as_bytes());
    terminal.screen().rows(0, columns).map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// Two components that work at the same time, as the executor has them.
fn two_components(shown: &Shown) {
    shown.step("capture-postgres", "Capture PostgreSQL", StepState::Running, "");
    shown.step("capture-config", "Capture configuration files", StepState::Running, "");
    std::thread::scope(|scope| {
        for (step, total) in [("capture-postgres", Some(400 * MIB)), ("capture-config", None)] {
            scope.spawn(move || {
                let within = WithinStep::new(step, &shown.live);
                within.begin(Phase::Backup, total);
                within.item("/a/file");
                (0..100).for_each(|_| within.advance(MIB));
            });
        }
    });
}

#[test]
fn two_components_at_once_have_a_line_each_and_what_ended_stays_above() {
    let shown = Shown::on_screen(120, 30, true);
    shown.step("stop-first:services", "Stop services", StepState::Running, "");
    shown.step("stop-first:services", "Stop services", StepState::Done, "inactive");
    two_components(&shown);
    let has = |words: &[&str]| shown.screen(120, 30).iter().any(|line| words.iter().all(|word| line.contains(word)));
    wait_until("both lines", || {
        has(&["Capture PostgreSQL: /a/file", "100.00 MiB of 400.00 MiB", "\u{2588}\u{2591}", "/s", "left"])
            && has(&["Capture configuration files", "100.00 MiB", "/s"])
    });
    assert_eq!(shown.screen(120, 30).len(), 3, "{:?}", shown.screen(120, 30));
    shown.live.within("capture-postgres", StepWork::End);
    shown.step("capture-postgres", "Capture PostgreSQL", StepState::Done, "snapshot abcd");
    wait_until("the ended one is above", || has(&["\u{2713} Capture PostgreSQL", "100.00 MiB", "snapshot abcd"]));
    let lines = shown.screen(120, 30);
    assert!(lines[0].starts_with("\u{2713} Stop services  0.0 s  inactive"), "{lines:?}");
    assert!(lines.len() == 3 && lines[2].contains("Capture configuration files"), "{lines:?}");
    shown.live.finish("");
    let lines = shown.screen(120, 30);
    assert!(lines.len() == 2 && lines.iter().all(|line| line.starts_with('\u{2713}')), "{lines:?}");
    assert_eq!(shown.results.text(), "");
}

#[test]
fn what_failed_and_what_could_not_be_undone_says_so_and_why() {
    for (unicode, signs) in [
        (true, ["\u{2717} failed:", "\u{21ba}", "\u{2717} not undone:"]),
        (false, ["failed:", "undone:", "not undone:"]),
    ] {
        let shown = Shown::on_screen(100, 30, unicode);
        for (state, detail) in [
            (StepState::Failed, "it did not stop within 90 s"),
            (StepState::Undone, "active"),
            (StepState::Stuck, "no such unit \u{e9}"),
        ] {
            shown.step("s", "Stop neo4j", StepState::Running, "");
            shown.step("s", "Stop neo4j", state, detail);
        }
        shown.live.finish("");
        let lines = shown.screen(100, 30);
        assert_eq!(lines.len(), 3, "{lines:?}");
        for (line, sign) in lines.iter().zip(signs) {
            assert!(line.starts_with(&format!("{sign} Stop neo4j  0.")), "{line}");
        }
        assert!(lines[0].ends_with("it did not stop within 90 s"), "{lines:?}");
        assert_eq!(shown.messages.text().is_ascii(), !unicode, "{lines:?}");
    }
    let shown = Shown::with(|setup| {
        let size = || Size { columns: 80, rows: 24 };
        setup.screen = Some(Screen { size: Box::new(size), unicode: true, colour: true });
    });
    shown.step("s", "t", StepState::Failed, "");
    shown.live.finish("");
    assert!(shown.messages.text().contains("\x1b[31m\u{2717} failed:\x1b[0m t"), "{:?}", shown.messages.text());
}

#[test]
fn text_from_servers_does_not_command_a_terminal_and_forges_no_line() {
    let hostile = "a\x1b[2J\x1b]0;owned\x07\u{202e}b\r\nc\u{9b}1A 100%";
    let safe = "a%1B[2J%1B]0;owned%07%E2%80%AEb%0D c%C2%9B1A 100%";
    let on_screen = Shown::on_screen(120, 30, true);
    let logged = Shown::with(|_| {});
    for shown in [&on_screen, &logged] {
        shown.step("s", hostile, StepState::Running, "");
        shown.live.within("s", StepWork::Begin(Phase::Backup, None));
        shown.live.within("s", StepWork::Item(hostile));
        shown.live.notice(Notice { subject: hostile.to_owned(), message: "m".to_owned() });
        shown.step("s", hostile, StepState::Failed, hostile);
        shown.live.finish("");
        let text = shown.messages.text();
        for part in ["\x1b[2J", "\x1b]", "\x07", "\u{202e}", "\u{9b}"] {
            assert!(!text.contains(part), "{text:?}");
        }
        assert!(text.contains(safe), "{text:?}");
    }
    assert_eq!(logged.messages.lines().len(), 3, "{:?}", logged.messages.text());
}

#[test]
fn a_narrow_terminal_has_a_row_a_step_and_nothing_is_left_of_it() {
    for unicode in [true, false] {
        let shown = Shown::on_screen(40, 20, unicode);
        two_components(&shown);
        shown.step("wide", "\u{4f60}\u{597d}\u{4e16}\u{754c} ".repeat(9).trim(), StepState::Running, "");
        shown.step("drain", "Wait until the queues of the platform are empty", StepState::Running, "");
        let has = |word: &str| shown.screen(40, 20).iter().any(|line| line.contains(word));
        wait_until("all lines", || has("25 %") && has("Capture conf") && has("Wait until"));
        let lines = shown.screen(40, 20);
        assert_eq!(lines.len(), 4, "{lines:?}");
        for line in &lines {
            let wide = unicode_width::UnicodeWidthStr::width(line.as_str());
            assert!(wide < 40, "{wide}: {line}");
        }
        let sign = if unicode { "\u{2026}" } else { "~" };
        assert!(lines.iter().filter(|line| line.contains(sign)).count() >= 2, "{lines:?}");
        shown.step("drain", "Wait until the queues of the platform are empty", StepState::Done, "0 left");
        shown.live.finish("");
        // What ended is whole, however long.
        let lines = shown.screen(40, 20);
        let whole = lines.concat().replace(' ', "");
        assert!(lines.len() == 2 && whole.contains("platformareempty") && whole.contains("0left"), "{lines:?}");
    }
}

#[test]
fn more_steps_than_rows_and_a_terminal_that_shrinks_leave_nothing_behind() {
    let columns = Arc::new(std::sync::atomic::AtomicUsize::new(100));
    let seen = columns.clone();
    let size = move || Size { columns: seen.load(std::sync::atomic::Ordering::SeqCst), rows: 6 };
    let shown = Shown::with(|setup| setup.screen = Some(Screen { size: Box::new(size), unicode: true, colour: false }));
    for number in 0..9 {
        shown.step(&number.to_string(), &format!("Step {number} of many"), StepState::Running, "");
    }
    wait_until("five rows", || shown.screen(100, 6).len() == 5);
    let before = shown.messages.text().len();
    columns.store(30, std::sync::atomic::Ordering::SeqCst);
    wait_until("a frame for the narrow one", || {
        let later = &shown.messages.text()[before..];
        // Five rows of 99 columns are four rows each in 30.
        later.contains("\x1b[20A\x1b[J") && later.contains("\x1b[5A\x1b[J")
    });
    shown.live.finish("");
}

#[test]
fn a_log_has_a_line_when_a_step_begins_ends_and_goes_on() {
    let shown = Shown::with(|setup| setup.pace.log = Duration::from_millis(300));
    shown.step("drain", "Wait until queues are empty", StepState::Running, "");
    two_components(&shown);
    shown.wait_for("working capture-postgres");
    shown.wait_for("working drain");
    shown.live.within("capture-postgres", StepWork::End);
    shown.step("capture-postgres", "Capture PostgreSQL", StepState::Failed, "no space left");
    shown.live.finish("");
    let lines = shown.messages.lines();
    let (time, rest) = lines[0].split_once(' ').unwrap();
    assert!(time.len() == 20 && time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    assert_eq!(rest, "running drain  Wait until queues are empty");
    let of = |word: &str| lines.iter().find(|line| line.contains(word)).unwrap();
    let working = of("working capture-postgres");
    assert!(working.contains("so far): backing up 100.00 MiB of 400.00 MiB, "), "{working}");
    let ended = of(" failed  capture-postgres  Capture PostgreSQL (");
    assert!(ended.contains(" s, 100.00 MiB, ") && ended.ends_with("/s): no space left"), "{ended}");
    assert!(!shown.messages.text().contains('\x1b') && shown.results.text().is_empty());
}

#[test]
fn what_a_step_waited_for_was_not_shown() {
    let wait = |shown: &Shown| {
        shown.step("drain", "Wait until every queue is empty", StepState::Running, "");
        shown.live.within("drain", StepWork::Item("waiting: providers 3"));
    };
    let shown = Shown::with(|setup| setup.pace.log = Duration::from_millis(100));
    wait(&shown);
    shown.wait_for(" so far): waiting: providers 3");
    for (columns, text) in
        [(100, "Wait until every queue is empty: waiting: providers 3"), (40, "waiting: providers 3")]
    {
        let shown = Shown::on_screen(columns, 10, true);
        wait(&shown);
        wait_until(text, || shown.screen(columns as u16, 10).iter().any(|line| line.contains(text)));
    }
    let shown = Shown::with(|setup| (setup.output.json, setup.pace.json) = (true, Duration::from_millis(10)));
    wait(&shown);
    wait_until("an object", || shown.results.text().contains("\"item\":\"waiting: providers 3\""));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(shown.results.lines().len(), 2, "it is told once: {}", shown.results.text());
}

#[test]
fn quiet_prints_what_failed_and_notices_only() {
    let shown = Shown::with(|setup| (setup.output.quiet, setup.pace.log) = (true, Duration::from_millis(20)));
    for state in [StepState::Running, StepState::Done, StepState::Failed, StepState::Undone, StepState::Stuck] {
        shown.step("s", "title", state, "");
    }
    shown.step("long", "a long one", StepState::Running, "");
    std::thread::sleep(Duration::from_millis(100));
    shown.live.notice(Notice { subject: "/etc/x".to_owned(), message: "unread".to_owned() });
    shown.live.finish("");
    let lines = shown.messages.lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].contains("failed  s") && lines[1].contains("stuck   s"), "{lines:?}");
    assert_eq!(lines[2], "cairn: /etc/x: unread");
}

#[test]
fn nothing_is_written_after_the_end_and_ending_twice_is_one_end() {
    let shown = Shown::on_screen(80, 24, true);
    two_components(&shown);
    shown.wait_for("Capture configuration files");
    shown.live.finish("");
    let (written, lines) = (shown.messages.text().len(), shown.screen(80, 24));
    assert!(lines.is_empty(), "{lines:?}");
    shown.step("late", "Late", StepState::Running, "");
    shown.step("late", "Late", StepState::Failed, "");
    shown.live.within("capture-postgres", StepWork::Advance(5));
    shown.live.finish("");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(shown.messages.text().len(), written);
}

#[test]
fn a_wish_to_stop_is_confirmed_once() {
    for on_screen in [true, false] {
        let shown = if on_screen { Shown::on_screen(100, 30, true) } else { Shown::with(|_| {}) };
        two_components(&shown);
        shown.stop.shared().store(true, std::sync::atomic::Ordering::SeqCst);
        let text = "stopping: what this run changed is undone first, which nothing ends but its end";
        shown.wait_for(text);
        std::thread::sleep(Duration::from_millis(100));
        shown.live.finish("");
        assert_eq!(shown.messages.text().matches(text).count(), 1, "{}", shown.messages.text());
        assert!(!on_screen || shown.screen(100, 30) == [text], "{:?}", shown.screen(100, 30));
    }
}

/// Set in the program that is this test's binary on a terminal of its own; `json` and `quiet` are what they say.
const INSIDE: &str = "CAIRN_TEST_VIEW";

/// A program that shows a made-up run on its own streams.
#[test]
fn the_program_on_a_terminal() {
    let Ok(how) = std::env::var(INSIDE) else { return };
    let output = Output { json: how == "json", quiet: how == "quiet" };
    let live = Live::new(output, Arc::new(StopFlag::default()), None).unwrap();
    for (step, state) in [("a", StepState::Running), ("b", StepState::Running), ("b", StepState::Failed)] {
        live.step(&StepEvent { step, title: "A step with a title of some length", state, detail: "" });
        std::thread::sleep(Duration::from_millis(300));
    }
    live.finish("");
}

/// What that program shows with this environment on a terminal of sixty columns, and what it prints.
fn program(how: &str, environment: &[(&str, &str)]) -> (String, String) {
    let terminal = Terminal::open();
    terminal.resize(60, 24);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "cli::live::the_program_on_a_terminal", "--nocapture"]);
    command.env_clear().env(INSIDE, how).envs(environment.iter().copied()).stdin(Stdio::null());
    let output = command.stderr(terminal.stream()).output().unwrap();
    assert!(output.status.success(), "{}", terminal.shown());
    terminal.say(" the end ");
    terminal.wait_for(" the end ");
    let shown = terminal.shown().replace("\r\n", "\n").replace(" the end ", "");
    (shown, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_terminal_and_the_environment_say_what_is_drawn() {
    let utf8 = ("LC_ALL", "C.UTF-8");
    let (shown, printed) = program("", &[("TERM", "xterm"), utf8]);
    assert!(shown.contains("\x1b[31m\u{2717} failed:\x1b[0m A step") && shown.contains("\x1b[2A\x1b[J"), "{shown:?}");
    assert_eq!(screen(&shown, 60, 24), ["\u{2717} failed: A step with a title of some length  0.3 s"], "{shown:?}");
    let running: Vec<&str> = shown.lines().filter(|line| line.contains('\u{280b}')).collect();
    assert!(!running.is_empty(), "{shown:?}");
    for line in running {
        let drawn = line.rsplit("\x1b[J").next().unwrap();
        assert_eq!(drawn.chars().count(), 59, "all columns but the last: {drawn:?}");
    }
    assert!(!printed.contains("A step"), "{printed}");
    let (shown, _) = program("", &[("TERM", "xterm"), ("NO_COLOR", "1"), ("LANG", "C")]);
    assert!(shown.is_ascii() && !shown.contains("\x1b[3"), "{shown:?}");
    assert_eq!(screen(&shown, 60, 24), ["failed: A step with a title of some length  0.3 s"], "{shown:?}");
    for environment in [&[("TERM", "dumb"), utf8][..], &[utf8]] {
        let (shown, _) = program("", environment);
        assert!(
            shown.lines().count() == 3 && !shown.contains('\x1b') && shown.contains("Z running a  A step"),
            "{shown:?}"
        );
    }
    let (shown, _) = program("quiet", &[("TERM", "xterm"), utf8]);
    assert!(shown.lines().count() == 1 && shown.contains("failed  b"), "{shown:?}");
    let (shown, printed) = program("json", &[("TERM", "xterm"), utf8]);
    let steps = printed.lines().filter(|line| line.contains("\"type\":\"step\"")).count();
    assert_eq!((steps, shown.as_str()), (3, ""), "{printed}");
}

/// A stream whose reader does not read until it is told to.
struct Blocked(Arc<Mutex<()>>);

impl Write for Blocked {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        drop(self.0.lock().unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_terminal_that_was_stopped_does_not_hold_up_the_run() {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    let shown = Shown::with(|setup| {
        let size = || Size { columns: 80, rows: 24 };
        setup.screen = Some(Screen { size: Box::new(size), unicode: true, colour: false });
        setup.messages = Box::new(Blocked(gate.clone()));
    });
    let begun = Instant::now();
    for number in 0..10_000 {
        let (step, title) = (number.to_string(), "Start a unit");
        shown.step(&step, title, StepState::Running, "");
        shown.live.within(&step, StepWork::Begin(Phase::Backup, None));
        shown.live.within(&step, StepWork::Advance(1));
        shown.step(&step, title, StepState::Undone, "active");
    }
    // It would never end; the limit is only there to say so.
    assert!(begun.elapsed() < Duration::from_secs(60));
    // Somebody who wants to stop is not held up by notices either.
    shown.stop.shared().store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(shown.live.interrupted());
    shown.live.notice(Notice { subject: "s".to_owned(), message: "m".to_owned() });
    drop(closed);
    shown.live.finish("");
}
