//! A signal ends the program wherever it waits: nothing is published, nothing is left running, no lease stays.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{Place, text};
use crate::support::pty::{Terminal, wait_until};

/// Sends a signal, and waits for the end. Without an end in two minutes the test fails, and no machine is so slow.
fn interrupt(child: &mut Child, signal: Signal) -> Option<i32> {
    kill_process(Pid::from_child(child), signal).unwrap();
    ended(child)
}

fn ended(child: &mut Child) -> Option<i32> {
    let mut status = None;
    wait_until("the program ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().code()
}

fn assert_nothing_left(place: &Place) {
    assert_eq!(place.count(), 0, "something was published");
    assert_eq!(std::fs::read_dir(place.path().join("repo/leases")).unwrap().count(), 0, "a lease was left");
    assert_eq!(std::fs::read_dir(place.path().join("repo/tmp")).unwrap().count(), 0, "debris was left");
    place.ok(&["check", "--read-data"]);
}

/// Whether a process of this id, as written to a file by itself, still runs.
fn runs(pid_file: &Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

fn is_written(file: &Path) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.ends_with('\n'))
}

fn has_lease(place: &Place) -> bool {
    std::fs::read_dir(place.path().join("repo/leases")).unwrap().count() > 0
}

/// A program that asks for a password on a terminal.
fn asking(place: &Place, terminal: &Terminal, args: &[&str]) -> Child {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("CAIRN_REPO", place.path().join("repo"));
    command.env("CAIRN_CACHE_DIR", place.path().join("cache")).args(args);
    terminal.controlling(&command).spawn().unwrap()
}

#[test]
fn the_password_prompt_was_deaf_to_signals() {
    let place = Place::new();
    for signal in [Signal::INT, Signal::TERM] {
        let terminal = Terminal::open();
        let mut child = asking(&place, &terminal, &["snapshots"]);
        terminal.wait_for("Password: ");
        wait_until("the echo is off", || !terminal.echoes());
        assert_eq!(interrupt(&mut child, signal), Some(130));
        assert!(terminal.echoes(), "the terminal was left without echo");
        terminal.wait_for("interrupted");
    }
    // As a user does it; with half of a password typed before.
    let terminal = Terminal::open();
    let mut child = asking(&place, &terminal, &["snapshots"]);
    wait_until("the echo is off", || !terminal.echoes());
    terminal.type_in(b"half\x03");
    assert_eq!(ended(&mut child), Some(130));
    assert!(terminal.echoes());
    assert!(!terminal.shown().contains("half"), "{}", terminal.shown());
}

#[test]
fn a_password_is_read_from_the_terminal_and_not_shown() {
    let place = Place::empty();
    let terminal = Terminal::open();
    let mut child = asking(&place, &terminal, &["init"]);
    terminal.wait_for("Password: ");
    wait_until("the echo is off", || !terminal.echoes());
    terminal.type_in(b"open sesame\n");
    terminal.wait_for("Again: ");
    wait_until("the echo is off", || !terminal.echoes());
    terminal.type_in(b"open sesame\n");
    assert_eq!(ended(&mut child), Some(0), "{}", terminal.shown());
    assert!(terminal.echoes());
    assert!(!terminal.shown().contains("sesame"), "{}", terminal.shown());
}

#[test]
fn a_password_command_that_hangs_is_ended() {
    let place = Place::new();
    let (script, pid) = (place.path().join("script"), place.path().join("pid"));
    std::fs::write(&script, format!("echo $$ > {}; exec sleep 1000", pid.display())).unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let _ = std::fs::remove_file(&pid);
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("CAIRN_REPO", place.path().join("repo"));
        command.arg("--password-command").arg(format!("sh {}", script.display())).arg("snapshots");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("the program runs", || is_written(&pid));
        assert_eq!(interrupt(&mut child, signal), Some(130));
        assert!(!runs(&pid), "the program was left running");
    }
}

#[test]
fn a_backup_of_an_idle_pipe_was_deaf_to_signals() {
    let place = Place::new();
    for (signal, before) in [(Signal::INT, b"".as_slice()), (Signal::TERM, b"some bytes")] {
        let mut command = place.command();
        command.args(["backup", "--stdin", "--name", "db"]).stdin(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(before).unwrap();
        wait_until("the backup holds a lease", || has_lease(&place));
        assert_eq!(interrupt(&mut child, signal), Some(130));
        drop(input);
        assert_nothing_left(&place);
    }
}

/// The command as a session starts it: whoever runs the tests may ignore SIGHUP, as `nohup` does, and that is inherited.
fn in_session(command: &Command) -> Command {
    let mut inside = Command::new("env");
    inside.arg("--default-signal=HUP").arg(command.get_program()).args(command.get_args()).env_clear();
    inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    inside
}

/// A terminal that goes away tells it twice: the shell does, and the kernel when the shell has ended.
#[test]
fn a_closed_session_killed_the_program_in_the_middle() {
    let place = Place::new();
    let mut command = in_session(place.command().args(["backup", "--stdin", "--name", "db"]));
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"some bytes").unwrap();
    wait_until("the backup holds a lease", || has_lease(&place));
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    // It may have ended meanwhile.
    let _ = kill_process(Pid::from_child(&child), Signal::HUP);
    assert_eq!(ended(&mut child), Some(130));
    drop(input);
    assert_nothing_left(&place);
}

#[test]
fn under_nohup_a_closed_session_changes_nothing() {
    let place = Place::new();
    let inside = place.command();
    let mut command = Command::new("nohup");
    command.arg(inside.get_program()).args(inside.get_args()).args(["backup", "--stdin", "--name", "db"]).env_clear();
    command.envs(inside.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    wait_until("the backup holds a lease", || has_lease(&place));
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    input.write_all(b"some bytes").unwrap();
    drop(input);
    assert_eq!(ended(&mut child), Some(0));
    assert_eq!(text(&place.ok(&["cat", "db"]).stdout), "some bytes");
}

/// Bytes of memory that a process has.
fn resident(child: &Child) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", child.id())).unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// It would take minutes, and ends with another code.
#[test]
fn a_key_derivation_does_not_outlast_a_signal() {
    let place = Place::empty();
    let password = place.path().join("password");
    std::fs::write(&password, "open sesame\n").unwrap();
    let repo = place.path().join("repo");
    let with_password = |args: &[&str]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("CAIRN_REPO", &repo);
        in_session(command.arg("--password-file").arg(&password).args(args))
    };
    assert!(with_password(&["init"]).output().unwrap().status.success());
    // The same key as if it had been made with the greatest cost that is accepted, bar memory.
    let key = std::fs::read_dir(repo.join("keys")).unwrap().next().unwrap().unwrap().path();
    let mut object: serde_json::Value = serde_json::from_slice(&std::fs::read(&key).unwrap()).unwrap();
    object["derivation"]["passes"] = 64.into();
    object["derivation"]["memory_kib"] = (512 << 10).into();
    let bytes = serde_json::to_vec(&object).unwrap();
    std::fs::remove_file(&key).unwrap();
    std::fs::write(repo.join("keys").join(blake3::hash(&bytes).to_string()), bytes).unwrap();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut child = with_password(&["snapshots"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("the derivation is under way", || resident(&child) > 64 << 20);
        assert_eq!(interrupt(&mut child, signal), Some(130));
        assert!(text(&child.wait_with_output().unwrap().stderr).contains("interrupted before the end"));
    }
}

/// A file below a folder.
fn file_below(folder: &Path, name: &str) -> std::path::PathBuf {
    let folders = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    folders.map(|folder| folder.join(name)).find(|file| file.exists()).unwrap()
}

/// It waits a minute for the index that another process holds, and then ends with another code.
#[test]
fn a_statement_of_the_index_does_not_outlast_a_signal() {
    let place = Place::new();
    place.store("db", b"some bytes");
    let index = file_below(&place.path().join("cache"), "index-1.sqlite");
    let holder = rusqlite::Connection::open(&index).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut child = place.command().args(["index", "rebuild"]).stderr(Stdio::null()).spawn().unwrap();
    let opened = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
        files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()).any(|file| file == index)
    };
    wait_until("it has opened the index", opened);
    assert_eq!(interrupt(&mut child, Signal::TERM), Some(130));
    holder.execute_batch("ROLLBACK").unwrap();
    place.ok(&["index", "rebuild"]);
    assert_eq!(text(&place.ok(&["cat", "db"]).stdout), "some bytes");
}

#[test]
fn a_program_that_hangs_was_left_running() {
    let place = Place::new();
    let pid = place.path().join("pid");
    // One that hangs beside its output, one that has closed it, and one whose child holds the output.
    for hangs in ["exec sleep 1000", "exec >&- 2>&-; exec sleep 1000", "sleep 1000 & wait"] {
        let _ = std::fs::remove_file(&pid);
        let script = format!("echo begun; echo $$ > {}; {hangs}", pid.display());
        let mut command = place.command();
        command.args(["backup", "--command", "--name", "dump", "--", "sh", "-c", &script]).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_until("the program runs", || is_written(&pid));
        wait_until("the backup holds a lease", || has_lease(&place));
        assert_eq!(interrupt(&mut child, Signal::INT), Some(130), "{hangs}");
        assert!(!runs(&pid), "left running: {hangs}");
        assert_nothing_left(&place);
    }
}

#[test]
fn a_restore_to_a_pipe_that_nobody_reads_was_deaf_to_signals() {
    let place = Place::new();
    place.store("db", &crate::support::rows(1, 100_000));
    for args in [["restore", "--stdout", "db"].as_slice(), &["cat", "db"]] {
        let mut child = place.command().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It writes until the pipe is full, and then waits in the system.
        wait_until("the pipe is full", || {
            let wait = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            let bytes = rustix::io::ioctl_fionread(child.stdout.as_ref().unwrap()).unwrap();
            wait.contains(") S ") && bytes > 0
        });
        assert_eq!(interrupt(&mut child, Signal::INT), Some(130));
        assert!(text(&child.wait_with_output().unwrap().stderr).contains("interrupted"));
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let place = Place::new();
    place.store("db", &crate::support::rows(1, 100_000));
    let mut child = place.command().args(["cat", "db"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let output = child.stdout.take().unwrap();
    wait_until("the pipe has something", || rustix::io::ioctl_fionread(&output).unwrap() > 0);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    // It may have ended meanwhile.
    let _ = kill_process(pid, Signal::TERM);
    assert_eq!(ended(&mut child), Some(130));
}
