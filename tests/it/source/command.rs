//! Programs as sources.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cairn::progress::Silent;
use cairn::source::SourceError;
use cairn::source::command::{Account, CommandSpec, CommandStream};

use crate::support::machine::{is_root_or_skip, scratch};

fn shell(script: &str) -> Vec<OsString> {
    ["/bin/sh", "-c", script].map(OsString::from).to_vec()
}

fn run(script: &str) -> (Vec<u8>, Result<(), SourceError>) {
    let mut stream = CommandStream::spawn(&shell(script), &Silent, |_| {}).unwrap();
    let mut output = Vec::new();
    stream.read_to_end(&mut output).unwrap();
    (output, stream.finish())
}

/// A server that hung kept a dump, and so a platform, waiting for ever.
#[test]
fn a_program_that_is_silent_for_too_long_is_ended_and_told() {
    let spec = CommandSpec::new(shell("echo begun; exec sleep 300"));
    let stream = CommandStream::start(&spec, || false, |_| {}).unwrap();
    let mut stream = stream.with_patience(Duration::from_millis(300));
    let mut output = Vec::new();
    let error = stream.read_to_end(&mut output).unwrap_err();
    assert_eq!(output, b"begun\n");
    assert!(error.kind() == std::io::ErrorKind::TimedOut && error.to_string().contains("silent"), "{error}");
    stream.finish().unwrap_err();
}

#[test]
fn output_is_good_only_with_status_zero() {
    let (output, result) = run("printf 'some\\0data'");
    assert_eq!(output, b"some\0data");
    result.unwrap();
    let (output, result) = run("printf partial; echo 'no such table' >&2; exit 3");
    assert_eq!(output, b"partial");
    let error = result.unwrap_err().to_string();
    for part in ["/bin/sh", "exit status 3", "no such table"] {
        assert!(error.contains(part), "{error}");
    }
    let error = run("kill -9 $$").1.unwrap_err().to_string();
    assert!(error.contains("signal 9"), "{error}");
}

#[test]
fn standard_error_is_forwarded_and_its_end_kept() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&lines);
    let script =
        "for i in 1 2 3; do echo line $i >&2; done; head -c 100000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1";
    let stream =
        CommandStream::spawn(&shell(script), &Silent, move |line| heard.lock().unwrap().push(line.to_owned())).unwrap();
    let Err(SourceError::Command { stderr, .. }) = stream.finish() else { panic!() };
    assert!(stderr.len() <= 4096 && stderr.ends_with("end\n"));
    let lines = lines.lock().unwrap();
    assert_eq!(lines[..3], ["line 1", "line 2", "line 3"]);
    assert!(lines.iter().all(|line| line.len() <= 4096) && lines.last().unwrap().ends_with("end"));
}

#[test]
fn a_program_that_does_not_start_is_named() {
    let error = CommandStream::spawn(&["/no/such/program".into()], &Silent, |_| {}).err().unwrap();
    assert!(matches!(&error, SourceError::Spawn { program, .. } if program == "/no/such/program"));
    assert!(CommandStream::spawn(&[], &Silent, |_| {}).is_err());
}

#[test]
fn dropping_it_kills_the_whole_group() {
    let (_dir, root) = scratch();
    let pids = root.join("pids");
    let script = format!("sleep 300 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", pids.display());
    let stream = CommandStream::spawn(&shell(&script), &Silent, |_| {}).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !pids.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let started = std::fs::read_to_string(&pids).unwrap();
    drop(stream);
    for pid in started.split_whitespace() {
        // A killed grandchild may stay for its reaper as a zombie: that is dead enough.
        let dead = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ") || stat.contains(") X ")
        };
        while !dead() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(dead(), "{pid} is still running");
    }
}

#[test]
fn a_program_that_is_not_read_to_its_end_fails() {
    let mut stream = CommandStream::spawn(&shell("exec cat /dev/zero"), &Silent, |_| {}).unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    assert!(matches!(stream.finish(), Err(SourceError::Command { .. })));
}

#[test]
fn a_daemon_that_keeps_standard_error_does_not_hold_us_up() {
    let start = Instant::now();
    let (_, result) = run("sleep 30 >/dev/null & echo x");
    result.unwrap();
    assert!(start.elapsed() < Duration::from_secs(15));
}

fn never() -> bool {
    false
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn as_another_user_nothing_of_ours_comes_along() {
    if !is_root_or_skip("a program as another user") {
        return;
    }
    let account = Account::named("nobody").unwrap();
    let script = "id -u; id -G; pwd; env | cut -d= -f1 | sort | tr '\\n' ' '";
    let spec = CommandSpec::new(shell(script)).user(&account).env("CAIRN_HINT", "x");
    let output = spec.run(1 << 10, MINUTE, &never).unwrap().output().unwrap();
    let text = String::from_utf8(output).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], [account.uid.to_string(), account.gid.to_string(), "/".to_owned()]);
    assert_eq!(lines[3].trim(), "CAIRN_HINT HOME LC_ALL LOGNAME PATH PWD USER");
}

#[test]
fn an_account_that_does_not_exist_is_named() {
    let error = Account::named("no-such-account").unwrap_err().to_string();
    assert!(error.contains("no-such-account"), "{error}");
}

#[test]
fn a_program_is_fed_and_told_the_end() {
    let mut stream = CommandStream::start(&CommandSpec::new(["sort"]).with_input(), never, |_| {}).unwrap();
    let mut input = stream.take_input().unwrap();
    assert!(stream.take_input().is_none());
    input.write_all(b"b\na\n").unwrap();
    drop(input);
    let mut output = String::new();
    stream.read_to_string(&mut output).unwrap();
    assert_eq!(output, "a\nb\n");
    stream.finish().unwrap();
}

#[test]
fn a_program_that_is_run_is_bounded_in_time_and_output() {
    let long = CommandSpec::new(["sleep", "300"]);
    let start = Instant::now();
    let error = long.run(10, Duration::from_millis(200), &never).unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }), "{error}");
    let closed = CommandSpec::new(shell("exec >&- 2>&-; exec sleep 300"));
    let error = closed.run(10, Duration::from_millis(200), &never).unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }), "{error}");
    let error = long.run(10, MINUTE, &|| true).unwrap_err();
    assert!(matches!(error, SourceError::Interrupted), "{error}");
    assert!(start.elapsed() < MINUTE);
    let error = CommandSpec::new(["cat", "/dev/zero"]).run(1 << 20, MINUTE, &never).unwrap_err();
    assert!(matches!(error, SourceError::Answer { .. }), "{error}");
    let finished = CommandSpec::new(shell("echo out; echo err >&2; exit 3")).run(10, MINUTE, &never).unwrap();
    assert_eq!((finished.stdout.as_slice(), finished.stderr.as_str()), (&b"out\n"[..], "err\n"));
    assert_eq!(finished.status.code(), Some(3));
    assert!(finished.output().is_err());
}

#[test]
fn a_silent_program_can_be_given_up_while_it_is_read_and_while_it_ends() {
    let stopped = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stopped);
    let spec = CommandSpec::new(["sleep", "300"]);
    let mut stream = CommandStream::start(&spec, move || asked.load(Ordering::Relaxed), |_| {}).unwrap();
    let pid = stream.id();
    let later = Arc::clone(&stopped);
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        later.store(true, Ordering::Relaxed);
    });
    let error = stream.read(&mut [0; 10]).unwrap_err();
    assert!(error.to_string().contains("interrupted"), "{error}");
    thread.join().unwrap();
    assert!(matches!(stream.finish(), Err(SourceError::Interrupted)));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

/// A profile may name any number of seconds.
#[test]
fn a_limit_beyond_the_end_of_the_clock_was_a_panic() {
    let finished = CommandSpec::new(["printf", "done"]).run(10, Duration::MAX, &|| false).unwrap();
    assert_eq!(finished.output().unwrap(), b"done");
}

#[test]
fn a_program_is_followed_line_by_line_to_its_end() {
    let never = || false;
    let mut lines = Vec::new();
    let long = "x".repeat(5000);
    let script =
        format!("echo one; echo two >&2; echo {long}; exec 1>&-; sleep 0.3; echo three >&2; printf four >&2; exit 4");
    let spec = CommandSpec::new(shell(&script));
    let finished = spec.follow(Duration::from_secs(60), &never, &mut |line| lines.push(line.to_owned())).unwrap();
    assert_eq!(finished.ended(), "exit status 4");
    assert!(finished.stderr.ends_with("three\nfour"), "{}", finished.stderr);
    let short: Vec<&str> = lines.iter().map(String::as_str).filter(|line| line.len() < 100).collect();
    assert!(["one", "two", "three", "four"].iter().all(|line| short.contains(line)), "{short:?}");
    // A line without an end comes in pieces, and nothing of it is lost.
    assert_eq!(lines.iter().map(|line| line.matches('x').count()).sum::<usize>(), 5000);

    let spec = CommandSpec::new(shell("yes & exec sleep 1000"));
    let error = spec.follow(Duration::from_millis(300), &never, &mut |_| {}).unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }), "{error}");
    let flag = AtomicBool::new(false);
    let error = spec.follow(Duration::from_secs(600), &|| flag.swap(true, Ordering::Relaxed), &mut |_| {}).unwrap_err();
    assert!(matches!(error, SourceError::Interrupted), "{error}");
}
