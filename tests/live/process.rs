//! Real processes: leftovers of a platform, and what is no part of it.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cairn::source::SourceError;
use cairn::source::process::machine::{bytes_beneath, connections, free_space, logins};
use cairn::source::process::pidfile::{PidFile, PidState, find};
use cairn::source::process::table::Rules;
use cairn::source::process::terminate::{Ending, Patience, terminate};
use cairn::source::process::{CelerySettings, Process, ProcessId, ProcessRule, ProcessSettings};
use rustix::process::Signal;

use crate::servers::redis::Redis;
use crate::servers::{PATIENCE, skip};

/// A shell that runs a script, with an argument that only this scenario has.
struct Shell {
    child: Child,
    marker: String,
}

impl Shell {
    fn start(name: &str, script: &str) -> Self {
        let marker = format!("cairn-test-{name}-{}", std::process::id());
        // Once it has written, traps are set. It waits by itself: a child that it started would have its arguments, too,
        // until it becomes another program.
        let script = format!("{script}\necho ready; read never");
        let mut child = Command::new("sh")
            .args(["-c", &script, &marker])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
        Shell { child, marker }
    }

    fn rules(&self) -> Rules {
        let rule = ProcessRule { name: "shell".to_owned(), arguments: vec![self.marker.clone()], ..Default::default() };
        Rules::new(&[rule]).unwrap()
    }

    fn id(&self) -> ProcessId {
        let found = self.rules().find().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].0.id.pid, found[0].1.as_str()), (self.child.id(), "shell"));
        found[0].0.id
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn end(id: ProcessId, terminate_ms: u64) -> (Result<Ending, SourceError>, Vec<Signal>) {
    let patience = Patience { terminate: Duration::from_millis(terminate_ms), kill: PATIENCE };
    let mut signals = Vec::new();
    let ending = terminate(id, patience, &|| false, &mut |_, signal| signals.push(signal));
    (ending, signals)
}

#[test]
fn a_process_is_asked_and_then_killed() {
    let obedient = Shell::start("obedient", "");
    let id = obedient.id();
    let (ending, signals) = end(id, 60_000);
    assert_eq!((ending.unwrap(), signals), (Ending::Terminated, vec![Signal::TERM]));
    let (ending, signals) = end(id, 60_000);
    assert_eq!((ending.unwrap(), signals), (Ending::Gone, vec![]), "it is a zombie now, which nothing can end");

    let stubborn = Shell::start("stubborn", "trap '' TERM");
    let (ending, signals) = end(stubborn.id(), 300);
    assert_eq!((ending.unwrap(), signals), (Ending::Killed, vec![Signal::TERM, Signal::KILL]));
}

#[test]
fn a_number_that_another_process_has_now_is_not_signalled() {
    let mut shell = Shell::start("reused", "");
    let id = shell.id();
    let earlier = ProcessId { start: id.start - 1, ..id };
    assert!(!earlier.is_alive().unwrap());
    let (ending, signals) = end(earlier, 1000);
    assert_eq!((ending.unwrap(), signals), (Ending::Gone, vec![]));
    assert!(shell.child.try_wait().unwrap().is_none(), "it runs on");
}

#[test]
fn waiting_for_a_process_can_be_interrupted() {
    let stubborn = Shell::start("interrupted", "trap '' TERM");
    let begun = Instant::now();
    let patience = Patience { terminate: PATIENCE, kill: PATIENCE };
    let stop = || begun.elapsed() > Duration::from_millis(300);
    let ending = terminate(stubborn.id(), patience, &stop, &mut |_, _| {});
    assert!(matches!(ending, Err(SourceError::Interrupted)), "{ending:?}");
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[test]
fn we_and_those_that_started_us_are_never_found() {
    let everyone = ProcessRule { name: "all".to_owned(), arguments: vec!["*".to_owned()], ..Default::default() };
    let shell = Shell::start("everyone", "");
    let found = Rules::new(&[everyone]).unwrap().find().unwrap();
    let pids: Vec<u32> = found.iter().map(|(process, _)| process.id.pid).collect();
    assert!(pids.contains(&shell.child.id()));
    let mut pid = std::process::id();
    while pid > 0 {
        assert!(!pids.contains(&pid), "{pid} is ours");
        pid = Process::read(pid).unwrap().unwrap().parent;
    }
    let error = Rules::new(&[ProcessRule::default()]).err().unwrap().to_string();
    assert!(error.contains("every process would fit"), "{error}");
    Rules::new(&ProcessSettings::default().rules).unwrap();
}

#[test]
fn a_stale_pid_file_goes_and_that_of_a_living_process_stays() {
    let shell = Shell::start("pidfiles", "");
    let rules = shell.rules();
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("run-platform");
    std::fs::create_dir(&below).unwrap();
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    std::fs::write(below.join("alive.pid"), format!("{}\n/some/more\n", shell.child.id())).unwrap();
    std::fs::write(below.join("stale.pid"), ended.id().to_string()).unwrap();
    std::fs::write(below.join("foreign.pid"), std::process::id().to_string()).unwrap();
    std::fs::write(below.join("garbage.pid"), "not a number").unwrap();
    std::fs::write(below.join("huge.pid"), vec![b'9'; 1 << 20]).unwrap();
    std::os::unix::fs::symlink(below.join("stale.pid"), below.join("link.pid")).unwrap();
    std::fs::write(below.join("other"), "1").unwrap();

    let pattern = format!("{}/run-*/*.pid", directory.path().display());
    let found = find(&[pattern.clone(), pattern], &rules).unwrap();
    let states: Vec<(&str, &PidState)> =
        found.iter().map(|file| (file.path.file_name().unwrap().to_str().unwrap(), &file.state)).collect();
    assert!(
        matches!(
            states[..],
            [
                ("alive.pid", PidState::Alive(_)),
                ("foreign.pid", PidState::Foreign(_)),
                ("garbage.pid", PidState::Unusable(_)),
                ("huge.pid", PidState::Unusable(_)),
                ("link.pid", PidState::Unusable(_)),
                ("stale.pid", PidState::Stale(_)),
            ]
        ),
        "{states:?}"
    );
    for file in &found {
        assert_eq!(file.remove_stale().unwrap(), file.path.ends_with("stale.pid"), "{file:?}");
    }
    let absent = PidFile::read(&below.join("stale.pid"), &rules).unwrap();
    assert_eq!(absent.state, PidState::Absent);
    assert!(below.join("alive.pid").exists() && below.join("foreign.pid").exists());
}

#[test]
fn a_pid_file_that_was_written_again_meanwhile_stays() {
    let shell = Shell::start("rewritten", "");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("worker.pid");
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    std::fs::write(&path, ended.id().to_string()).unwrap();
    let stale = PidFile::read(&path, &shell.rules()).unwrap();
    assert_eq!(stale.state, PidState::Stale(ended.id()));
    std::fs::write(&path, shell.child.id().to_string()).unwrap();
    assert!(!stale.remove_stale().unwrap());
    assert!(path.exists());
}

#[test]
fn connections_to_a_port_are_seen() {
    for host in ["127.0.0.1", "::1"] {
        let Ok(listener) = TcpListener::bind((host, 0)) else {
            skip(&format!("no {host} here"));
            continue;
        };
        let address = listener.local_addr().unwrap();
        let count = || connections(&[address.port()]).unwrap()[&address.port()].clone();
        assert_eq!(count().count, 0, "listening is no connection");
        let clients = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
        let seen = count();
        assert_eq!((seen.count, seen.from_here, seen.remote.len()), (2, 2, 0), "both ends are here");
        assert!(clients.iter().all(|client| seen.peers.contains(&client.local_addr().unwrap())), "{seen:?}");
    }
}

#[test]
fn logins_and_free_space_are_told() {
    let line = ["echo", "root     pts/0        2026-11-25 10:00 (10.0.0.1)"].map(str::to_owned);
    let found = logins(&line, &|| false).unwrap();
    assert_eq!((found[0].user.as_str(), found[0].terminal.as_str()), ("root", "pts/0"));
    assert!(found[0].detail.ends_with("(10.0.0.1)"));
    logins(&ProcessSettings::default().who, &|| false).unwrap();

    let here = free_space(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert!(here.bytes > 0 && here.bytes < here.total);
    let absent = free_space(&Path::new(env!("CARGO_MANIFEST_DIR")).join("no/such/directory")).unwrap();
    assert_eq!((absent.device, absent.directory.as_path()), (here.device, Path::new(env!("CARGO_MANIFEST_DIR"))));

    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("below")).unwrap();
    std::fs::write(directory.path().join("below/a"), [0; 1000]).unwrap();
    std::fs::write(directory.path().join("b"), [0; 24]).unwrap();
    std::os::unix::fs::symlink("/usr", directory.path().join("link")).unwrap();
    let link = "/usr".len() as u64;
    assert_eq!(bytes_beneath(directory.path(), &|| false).unwrap(), 1024 + link, "a link is not followed");
    assert_eq!(bytes_beneath(&directory.path().join("nowhere"), &|| false).unwrap(), 0);
    assert!(matches!(bytes_beneath(directory.path(), &|| true), Err(SourceError::Interrupted)));
}

#[test]
fn celery_says_what_its_workers_do() {
    let Some(server) = Redis::start(&[]) else { return };
    let Some(celery) = server.celery() else { return };
    let command = [celery.program("celery").to_str().unwrap(), "-A", "tasks"].map(str::to_owned).to_vec();
    let settings = CelerySettings {
        command,
        user: None,
        directory: Some(celery.directory().to_owned()),
        answer_timeout_seconds: 2,
        ..Default::default()
    };
    let nobody = settings.inspect(&|| false).unwrap().unwrap();
    assert!(nobody.workers.is_empty() && nobody.active == 0);
    assert!(CelerySettings::default().inspect(&|| false).unwrap().is_none());

    celery.send("providers", 3, 600.0, None);
    let worker = celery.work("providers");
    let begun = Instant::now();
    loop {
        let busy = settings.inspect(&|| false).unwrap().unwrap();
        if busy.active == 1 && busy.reserved > 0 {
            assert!(busy.workers.contains("worker@lab"));
            assert!(busy.examples.iter().all(|task| task.name == "tasks.nap"), "{busy:?}");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{busy:?}");
    }
    let rule = ProcessRule {
        name: "worker".to_owned(),
        arguments: vec!["*celery*".to_owned(), "worker@lab".to_owned()],
        ..Default::default()
    };
    let found = Rules::new(&[rule]).unwrap().find().unwrap();
    assert!(found.iter().any(|(process, _)| process.id.pid == worker.pid()));
}
