//! Real servers for the scenarios: each value owns its process, and ends it when it is dropped.

pub mod elasticsearch;
pub mod neo4j;
pub mod postgres;
pub mod redis;

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to start or stop. Machines may be slow and busy.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Says that the running scenario is skipped; where nothing may be skipped, that is a failure.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let forbidden = std::env::var_os("CAIRN_TEST_NO_SKIPS").is_some_and(|value| !value.is_empty() && value != "0");
    assert!(!forbidden, "{test} would be skipped, and CAIRN_TEST_NO_SKIPS is set: {why}");
    // Past the test harness, which keeps what a passing test prints to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// A port on which nobody listens just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The directory with a server's JARs and our launcher for it; `Err` says why it cannot be had.
pub fn jars(name: &str) -> Result<PathBuf, String> {
    if Command::new("java").arg("-version").stderr(Stdio::null()).status().is_err() {
        return Err("java is not installed".to_owned());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/live/fetch-jars");
    let output = Command::new(script).arg(name).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        false => Err(format!("scripts/live/fetch-jars {name}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// A Java program that runs until it is told to end.
pub struct Java {
    child: Child,
    log: PathBuf,
}

impl Java {
    /// Starts a launcher from [`jars`].
    pub fn start(jars: &Path, options: &[&str], main: &str, arguments: &[&str], log: &Path) -> Self {
        let output = File::create(log).unwrap();
        let child = Command::new("java")
            .args(options)
            .arg("-cp")
            .arg(format!("{0}/lib/*:{0}/classes", jars.display()))
            .arg(main)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Java { child, log: log.to_owned() }
    }

    /// What it printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Panics if it ended by itself.
    pub fn must_run(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the server ended with {status}:\n{}", self.log());
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stops all its threads until [`Java::thaw`]. The signal alone says little: on a busy machine a thread goes on for a
    /// while, and answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let started = Instant::now();
        while !self.is_frozen() {
            assert!(started.elapsed() < PATIENCE, "the server did not freeze:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_frozen(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat"))).all(|stat| {
            // A thread that has ended meanwhile answers nothing.
            stat.map_or(true, |stat| stat.rsplit_once(')').is_some_and(|(_, state)| state.starts_with(" T ")))
        })
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end, and waits for that.
    pub fn stop(&mut self) {
        if self.child.try_wait().unwrap().is_some() {
            return;
        }
        self.signal(Signal::TERM);
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "the server did not stop:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Java {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
