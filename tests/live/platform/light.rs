//! A platform that boots in seconds: its units run nothing but `sleep`, and there is no database but Redis. What becomes of
//! units, processes and queues is the same, and nobody consumes a queue by surprise.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Platform, summary};
use crate::servers::PATIENCE;

const UNITS: [&str; 3] = ["eclecticiq-platform-backend-services", "eclecticiq-platform-backend-workers", "redis"];
pub const PROFILE: &str = "/root/profile.toml";
/// Where a report is written.
pub const PAGE: &str = "/root/report.html";
pub const JOURNAL: &str = "/var/lib/cairn/journal";

pub const CONTENT: &str = r#"
extends = "eclecticiq-centos"
name = "light"
components = ["config", "redis"]

# Few steps. What else the services take down with them, the profile does not name.
[services]
others = ["eclecticiq-platform-backend-scheduler", "eclecticiq-platform-backend-web"]

[services.health]
ports = ["localhost:6379"]
timeout-seconds = 30

[systemd]
settle-seconds = 0
stop-timeout-seconds = 60
start-timeout-seconds = 60

[processes]
terminate-timeout-seconds = 1
"#;

pub struct Light(pub Platform);

impl Deref for Light {
    type Target = Platform;

    fn deref(&self) -> &Platform {
        &self.0
    }
}

impl Light {
    pub fn boot() -> Option<Self> {
        let light = Light(Platform::with_units(&UNITS)?);
        let services = ["graphindex", "ingestion", "opentaxii", "scheduler", "searchindex", "web", "worker@"];
        for service in services {
            let unit = format!("eclecticiq-platform-backend-{service}.service");
            light.drop_in(&unit, "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n");
        }
        light.lab.ok(&["systemctl", "daemon-reload"]);
        light.lab.ok(&["systemctl", "restart", UNITS[0], UNITS[1]]);
        light.settle();
        // What the real units put there before they were replaced is consumed by nobody any more.
        light.lab.ok(&["redis-cli", "FLUSHALL"]);
        light.write(PROFILE, CONTENT);
        Some(light)
    }

    /// Makes a unit that systemd has to know of before it can be started.
    pub fn add_unit(&self, unit: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{unit}"), text);
        self.lab.ok(&["systemctl", "daemon-reload"]);
    }

    /// Writes a program that users may run.
    pub fn add_program(&self, path: &str, text: &str) {
        self.write(path, text);
        self.lab.ok(&["chmod", "755", path]);
    }

    /// Waits until systemd has nothing left to do: what a unit only wants, nobody else waits for.
    pub fn settle(&self) {
        let started = Instant::now();
        while self.lab.ok(&["systemctl", "list-jobs"]) != "No jobs running." {
            assert!(started.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Changes a unit. It has to be loaded again.
    pub fn drop_in(&self, unit: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{unit}.d/zz-test.conf"), text);
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.lab.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// `cairn platform COMMAND` with the profile.
    pub fn platform(&self, command: &str, options: &[&str]) -> Output {
        self.cairn(&[&["platform", command, "--profile", PROFILE], options].concat())
    }

    /// The same, and it has to end with this status; the last object that it printed.
    pub fn ends(&self, command: &str, options: &[&str], status: i32) -> Value {
        let output = self.platform(command, options);
        assert_eq!(output.status.code(), Some(status), "{}", shown(&output));
        if output.stdout.is_empty() { Value::Null } else { summary(&output) }
    }

    /// Starts a command without waiting for it.
    pub fn start(&self, command: &str, options: &[&str]) -> Running<'_> {
        let arguments = [&["platform", command, "--profile", PROFILE], options].concat();
        let mut command = self.lab.command(&Platform::argv(&arguments));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running { light: self, child: Some(child) }
    }

    /// Whole lines of the journal.
    pub fn entries(&self) -> usize {
        let journal = std::fs::read(self.lab.path(JOURNAL)).unwrap_or_default();
        journal.iter().filter(|byte| **byte == b'\n').count()
    }

    pub fn has_journal(&self) -> bool {
        self.lab.path(JOURNAL).exists()
    }

    /// What processes the units run: the same as long as nobody started one anew.
    pub fn processes(&self) -> BTreeMap<String, String> {
        let units = Vec::from_iter(self.active());
        let names: Vec<&str> = units.iter().map(String::as_str).collect();
        let ids = self.lab.ok(&[&["systemctl", "show", "-P", "InvocationID"], names.as_slice()].concat());
        let ids: Vec<String> = ids.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        assert_eq!(ids.len(), units.len());
        units.into_iter().zip(ids).collect()
    }

    pub fn redis(&self, arguments: &[&str]) -> Vec<String> {
        let answer = self.lab.ok(&[&["redis-cli"], arguments].concat());
        answer.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
    }

    /// Makes a queue hold just these.
    pub fn fill(&self, queue: &str, elements: &[&str]) {
        self.redis(&["DEL", queue]);
        if !elements.is_empty() {
            self.redis(&[&["RPUSH", queue], elements].concat());
        }
    }

    pub fn queue(&self, queue: &str) -> Vec<String> {
        self.redis(&["LRANGE", queue, "0", "-1"])
    }

    /// Asserts that nothing of a run is left behind.
    pub fn is_clean(&self) {
        assert!(!self.has_journal(), "{}", std::fs::read_to_string(self.lab.path(JOURNAL)).unwrap_or_default());
        assert_eq!(self.redis(&["KEYS", "cairn:*"]), Vec::<String>::new());
    }

    /// The report that was written.
    pub fn page(&self) -> String {
        std::fs::read_to_string(self.lab.path(PAGE)).unwrap()
    }

    /// How many backup sets there are.
    pub fn sets(&self) -> u64 {
        std::fs::read_dir(self.lab.path("/srv/backup/sets")).map_or(0, |sets| sets.count() as u64)
    }
}

/// Everything that a program printed.
pub fn shown(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{stdout}\n{stderr}", output.status)
}

/// A run under way.
pub struct Running<'a> {
    light: &'a Light,
    child: Option<Child>,
}

impl Running<'_> {
    fn child(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }

    /// Waits until the journal has so many entries; false if the run ended before.
    pub fn reaches(&mut self, entries: usize) -> bool {
        self.waits_until(|light| light.entries() >= entries)
    }

    /// Waits until something is so; false if the run ended before.
    pub fn waits_until(&mut self, is_so: impl Fn(&Light) -> bool) -> bool {
        let started = Instant::now();
        loop {
            if is_so(self.light) {
                return true;
            }
            if self.child().try_wait().unwrap().is_some() {
                return false;
            }
            assert!(started.elapsed() < PATIENCE, "{}", self.light.entries());
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Waits until a step has begun.
    pub fn begins(&mut self, step: &str) -> bool {
        let begun = format!("{{\"entry\":\"begin\",\"step\":\"{step}\"");
        self.waits_until(|light| std::fs::read_to_string(light.lab.path(JOURNAL)).unwrap_or_default().contains(&begun))
    }

    /// Sends a signal to the program itself: our child only entered the machine for it. One that has ended gets none.
    pub fn signal(&mut self, signal: Signal) {
        let parent = self.child().id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        if let Some(pid) = children.split_whitespace().next() {
            let _ = kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), signal);
        }
    }

    /// Stops the program in its tracks for as long as `meanwhile` takes.
    pub fn frozen(&mut self, meanwhile: impl FnOnce(&Light)) {
        // Who entered the machine for it stops with it, and goes on with it.
        let parent = self.child().id();
        let stopped =
            || std::fs::read_to_string(format!("/proc/{parent}/stat")).is_ok_and(|stat| stat.contains(") T "));
        self.signal(Signal::STOP);
        let started = Instant::now();
        while !stopped() {
            assert!(started.elapsed() < PATIENCE, "it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        meanwhile(self.light);
        kill_process(Pid::from_raw(parent.cast_signed()).unwrap(), Signal::CONT).unwrap();
    }

    /// The program's end.
    pub fn ended(mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    /// The end of a program that is killed.
    pub fn killed(mut self) {
        self.signal(Signal::KILL);
        self.ended();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal(Signal::KILL);
            let _ = self.child().wait();
        }
    }
}
