//! `cairn platform reindex` and `migrate` with programs of the tests' own in the place of the platform's.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use super::{assert_fails, summary, text};
use crate::support::machine::{is_root, skip};

const PATIENCE: Duration = Duration::from_secs(120);

/// A profile whose programs are shell scripts, and a state directory.
struct After {
    directory: TempDir,
}

impl After {
    /// `reindex` and `upgrade` are scripts; the directory is `$DIR`, and the index `$1`.
    fn new(reindex: &str, upgrade: &str, more: &str) -> Self {
        let after = After { directory: tempfile::tempdir().unwrap() };
        let path = after.path().display().to_string();
        after.write("reindex", reindex);
        after.write("upgrade", upgrade);
        let profile = format!(
            r#"extends = "none"
name = "after"
[state]
directory = "{path}/state"
[after-restore]
environment = {{ DIR = "{path}" }}
reindex = ["/bin/sh", "{path}/reindex", "{{index}}"]
indices = ["audit", "documents", "stix*"]
upgrade = ["/bin/sh", "{path}/upgrade"]
{more}
"#
        );
        let rules = if profile.contains("[processes]") { "" } else { "[processes]\nrules = []\n" };
        after.write("profile.toml", &format!("{profile}{rules}"));
        after
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TZ", "UTC").stdin(Stdio::null());
        command.current_dir(self.path()).arg("platform").args(arguments).args(["--profile", "profile.toml"]);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn ends(&self, arguments: &[&str], code: i32) -> Output {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        output
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits until a file has these words.
    fn until(&self, name: &str, words: &str) -> PathBuf {
        let started = Instant::now();
        while !self.read(name).contains(words) {
            assert!(started.elapsed() < PATIENCE, "{name} has no {words:?}: {:?}", self.read(name));
            std::thread::sleep(Duration::from_millis(10));
        }
        self.path().join(name)
    }

    fn status(&self) -> Value {
        summary(&self.run(&["migrate", "--status", "--json"]))
    }

    fn until_state(&self, state: &str) -> Value {
        let started = Instant::now();
        loop {
            let status = self.status();
            if status["state"] == state {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it is not {state}: {status}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn pid(text: &str) -> Pid {
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

/// Waits until a process is gone, or nothing but its entry in the table of processes is left.
fn is_gone(pid: Pid) {
    let (started, path) = (Instant::now(), format!("/proc/{}/status", pid.as_raw_nonzero()));
    while std::fs::read_to_string(&path).is_ok_and(|status| !status.contains("State:\tZ")) {
        assert!(started.elapsed() < PATIENCE, "{path} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn each_index_is_filled_in_order_and_one_that_fails_keeps_no_other_from_it() {
    let script = r#"echo "$1" >> "$DIR/calls"; echo progress; [ "$1" != documents ] || {
        i=0; while [ $i -lt 30 ]; do i=$((i + 1)); echo "reason $i" >&2; done; printf 'no\033[2J server\n' >&2; exit 7; }"#;
    let after = After::new(script, "", "");
    after.write("stix-1", "a shell would have found this");
    let output = after.ends(&["reindex"], 1);
    assert_eq!(after.read("calls"), "audit\ndocuments\nstix*\n");
    let table = text(&output.stdout);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(words, [["done", "audit"], ["failed", "documents"], ["done", "stix*"]]);
    for word in ["exit status 7", "reason 30", "no%1B[2J server"] {
        assert!(table.contains(word), "{word} is not in {table}");
    }
    assert!(!table.contains("reason 5 "), "only the last lines are told: {table}");
    assert!(text(&output.stderr).contains("2 of 3 indices are filled from PostgreSQL; 1 failed"));

    let output = after.ends(&["reindex", "--only", "stix*,audit", "--json"], 0);
    assert_eq!(after.read("calls"), "audit\ndocuments\nstix*\naudit\nstix*\n");
    let told = text(&output.stdout);
    let steps: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let done = |step: &str| steps.iter().any(|one| one["step"] == step && one["state"] == "done");
    assert!(done("reindex:audit") && done("reindex:stix*"), "{told}");
    assert_eq!(steps.iter().filter(|one| one["type"] == "index").count(), 2);
    assert_eq!((&summary(&output)["done"], &summary(&output)["failed"]), (&2.into(), &0.into()));
    assert_fails(after.run(&["reindex", "--only", "stix"]), 2, &["\"stix\" is no index", "audit, documents, stix*"]);
}

#[test]
fn a_stop_ends_the_program_that_runs_and_no_other_is_begun() {
    let after = After::new(r#"echo $$ > "$DIR/pid.new"; mv "$DIR/pid.new" "$DIR/pid"; exec sleep 1000"#, "", "");
    let child = after.start(&["reindex", "--json"]);
    after.until("pid", "\n");
    assert_fails(after.run(&["reindex"]), 11, &["another run is at work here"]);
    assert_fails(after.run(&["migrate"]), 11, &["another run is at work here"]);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    is_gone(pid(&after.read("pid")));
    let told = text(&output.stdout);
    let of = |state: &str| told.matches(&format!("\"state\":\"{state}\"")).count();
    assert_eq!((of("interrupted"), of("not-begun")), (1, 2), "{told}");
}

#[test]
fn a_program_that_takes_too_long_is_ended_and_told() {
    let after = After::new("echo $$ > \"$DIR/pid\"; exec sleep 1000", "", "timeout-seconds = 1");
    let output = after.ends(&["reindex", "--only", "audit"], 1);
    assert!(text(&output.stdout).contains("did not end, and was killed"), "{}", text(&output.stdout));
    is_gone(pid(&after.read("pid")));
}

#[test]
fn indices_are_not_filled_while_the_platform_runs_or_after_a_run_that_was_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("stand-in");
    std::fs::write(&own, "echo ready; read line").unwrap();
    let rules = format!("[processes]\nrules = [{{ name = \"ours\", arguments = [\"{}\"] }}]", own.display());
    let after = After::new(r#"echo "$1" >> "$DIR/calls""#, "exit 1", &rules);
    let mut command = Command::new("/bin/sh");
    let mut running = command.arg(&own).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(running.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    assert_fails(after.run(&["reindex"]), 1, &["the platform runs", "stand-in", "cairn platform stop"]);
    drop(running.stdin.take());
    running.wait().unwrap();
    after.ends(&["reindex", "--only", "audit"], 0);
    assert_eq!(after.read("calls"), "audit\n");

    let begin = r#"{"entry":"begin","step":"stop","title":"stop x","time":"2026-01-01T00:00:00Z","undo":{"do":"start-units","units":["x"],"down":[]}}"#;
    after.write("state/journal", &format!("{begin}\n"));
    for command in ["reindex", "migrate"] {
        assert_fails(after.run(&[command]), 1, &["cairn platform resume"]);
    }
    // One that was stopped on purpose is what is asked for.
    after.write("state/journal", &format!("{begin}\n{{\"entry\":\"at-rest\",\"time\":\"2026-01-01T00:00:00Z\"}}\n"));
    after.ends(&["reindex", "--only", "audit"], 0);
}

/// Where systemd runs this machine, a unit of its would be started: the live tests have a machine for that.
fn may_start_here() -> bool {
    let here = !(is_root() && Path::new("/run/systemd/system").is_dir());
    if !here {
        skip("it would start a unit of this machine");
    }
    here
}

#[test]
fn a_migration_outlives_the_session_that_started_it_and_runs_once() {
    if !may_start_here() {
        return;
    }
    let script = r#"echo $$ >> "$DIR/calls"; while [ ! -e "$DIR/go" ]; do sleep 0.05; done; cat "$DIR/says"; exit "$(cat "$DIR/code")""#;
    let after = After::new("", script, "");
    after.write("says", "");
    after.write("code", "0");
    assert_eq!(after.status()["state"], "none");

    // The shell and all that it started are killed once the migration has begun.
    let program = assert_cmd::cargo::cargo_bin!("cairn").display().to_string();
    let line =
        format!("{program} platform migrate --profile profile.toml > begun.new 2>&1; mv begun.new begun; sleep 1000");
    let mut shell = Command::new("/bin/sh");
    let mut shell = shell.args(["-c", &line]).current_dir(after.path()).process_group(0).spawn().unwrap();
    after.until("begun", "the migration has begun");
    after.until("calls", "\n");
    kill_process_group(Pid::from_child(&shell), Signal::HUP).unwrap();
    kill_process_group(Pid::from_child(&shell), Signal::KILL).unwrap();
    shell.wait().unwrap();

    let again = after.ends(&["migrate"], 0);
    assert!(text(&again.stderr).contains("a migration runs already"), "{}", text(&again.stderr));
    assert_eq!(after.status()["state"], "running");
    assert_fails(after.run(&["reindex"]), 11, &["another run is at work here"]);

    // Who watches may leave, and come back.
    let watching = after.start(&["migrate", "--watch"]);
    std::thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_child(&watching), Signal::INT).unwrap();
    let left = watching.wait_with_output().unwrap();
    assert_fails(left, 130, &["the migration goes on"]);

    let watching = after.start(&["migrate", "--watch"]);
    after.write("go", "");
    let ended = watching.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), text(&ended.stdout)), (Some(0), String::new()), "{}", text(&ended.stderr));
    assert!(text(&ended.stderr).contains("without a message: all is well"));
    assert_eq!(after.read("calls").lines().count(), 1);
}

#[test]
fn what_a_migration_says_is_no_success_and_one_that_is_killed_is_told() {
    if !may_start_here() {
        return;
    }
    let script = r#"cat "$DIR/says"; while [ -e "$DIR/hold" ]; do sleep 0.05; done; exit "$(cat "$DIR/code")""#;
    let after = After::new("", script, "");
    after.write("says", "index stix has\x1b[2J no alias\n");
    after.write("code", "0");
    let begun = after.run(&["migrate"]);
    assert!(matches!(begun.status.code(), Some(0 | 3)), "{}", text(&begun.stderr));
    let ended = after.ends(&["migrate", "--watch"], 3);
    assert_eq!(text(&ended.stdout), "index stix has%1B[2J no alias\n");
    assert!(text(&ended.stderr).contains("no message means success"), "{}", text(&ended.stderr));
    let status = after.status();
    assert_eq!((&status["state"], &status["record"]["ended"]["lines"]), (&"ended".into(), &1.into()), "{status}");
    assert_eq!(status["last_lines"][0], "index stix has\u{1b}[2J no alias");

    after.write("code", "5");
    let begun = after.run(&["migrate"]);
    assert!(matches!(begun.status.code(), Some(0 | 1)), "{}", text(&begun.stderr));
    assert_fails(after.run(&["migrate", "--watch"]), 1, &["the migration failed", "exit status 5"]);

    after.write("hold", "");
    after.ends(&["migrate"], 0);
    let status = after.until_state("running");
    let worker = pid(&status["record"]["process"].to_string());
    kill_process(worker, Signal::KILL).unwrap();
    after.until_state("cut-off");
    std::fs::remove_file(after.path().join("hold")).unwrap();
    assert_fails(after.run(&["migrate", "--watch"]), 1, &["was cut off", "run `cairn platform migrate` again"]);

    // One that is asked to end says so.
    after.write("hold", "");
    after.ends(&["migrate"], 0);
    let worker = pid(&after.until_state("running")["record"]["process"].to_string());
    kill_process(worker, Signal::TERM).unwrap();
    after.until_state("ended");
    assert_fails(after.run(&["migrate", "--status"]), 1, &["interrupted: its program was killed"]);
}
