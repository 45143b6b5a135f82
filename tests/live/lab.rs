//! A whole platform in a machine of its own: systemd is its first process, and PostgreSQL, Elasticsearch, Neo4j, Redis, Celery
//! workers and stand-ins for the platform's services are units under their real names, with configuration files at
//! their real paths (`scripts/live/make-root`, `tests/live/lab/files`).
//!
//! The machine is a container (`systemd-nspawn`) over read-only layers, with its own network. It can lose its power and boot
//! again from the same disk. It ends with the thread that booted it, whatever happens to that.

mod systemd;
pub mod units;

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::servers::{PATIENCE, jars, skip};

/// Everything that a platform consists of, in the order in which it is stopped.
pub const PLATFORM: [&str; 7] = [
    "eclecticiq-platform-backend-services",
    "eclecticiq-platform-backend-workers",
    "nginx",
    "neo4j",
    "elasticsearch",
    "redis",
    "postgresql-11",
];

/// Two labs with the large servers at a time, since each takes up to two gigabytes of memory; and one without them beside
/// them. They wait for servers more than they work.
static LARGE: Turns = Turns { free: Mutex::new(2), freed: Condvar::new() };
static SMALL: Turns = Turns { free: Mutex::new(1), freed: Condvar::new() };

/// A machine. Dropping it is a power failure, after which its disk is thrown away.
pub struct Lab {
    child: Child,
    leader: Pid,
    name: String,
    layers: Vec<PathBuf>,
    directory: TempDir,
    binds: Vec<String>,
    _turn: Turn,
}

/// How many labs may be there at once.
struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A lab's right to be there.
struct Turn(&'static Turns);

impl Turns {
    fn take(&'static self) -> Turn {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.freed.wait_while(free, |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

impl Lab {
    /// Boots a machine on which these units are started, and waits until they are. `None` if it cannot be had here.
    pub fn boot(units: &[&str]) -> Option<Self> {
        let turns = if units.contains(&"elasticsearch") { &LARGE } else { &SMALL };
        let turn = turns.take();
        let (layers, binds) = match ingredients(units) {
            Ok(found) => found,
            Err(why) => {
                skip(&why);
                return None;
            }
        };
        // On the file system of the cache: /tmp may be one on which overlayfs cannot write.
        let directory = tempfile::Builder::new().prefix("lab-").tempdir_in(layers[0].parent().unwrap()).unwrap();
        let name = format!("cairn-{}", directory.path().file_name().unwrap().to_str().unwrap().replace('_', "-"));
        let wanted = directory.path().join("upper/etc/systemd/system/multi-user.target.wants");
        std::fs::create_dir_all(&wanted).unwrap();
        for unit in units {
            let file = ["etc", "usr/lib"].map(|place| format!("{place}/systemd/system/{unit}.service"));
            let file = file.iter().find(|file| layers[0].join(file).exists()).unwrap();
            symlink(Path::new("/").join(file), wanted.join(format!("{unit}.service"))).unwrap();
        }
        let (child, leader) = start(&name, directory.path(), &layers, &binds);
        let lab = Lab { child, leader, name, layers, directory, binds, _turn: turn };
        lab.await_units();
        Some(lab)
    }

    /// A program in the machine, as root, with nothing in its environment.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.entering()).args(argv).stdin(Stdio::null());
        command
    }

    fn entering(&self) -> Vec<String> {
        let leader = self.leader.as_raw_nonzero().to_string();
        let entering = ["-t", &leader, "-m", "-u", "-i", "-p", "-n", "-C", "--wdns=/", "--", "env", "-i"];
        let environment = ["HOME=/root", "LC_ALL=C", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
        entering.iter().chain(&environment).map(|text| (*text).to_owned()).collect()
    }

    /// Runs a program in the machine to its end.
    pub fn run(&self, argv: &[&str]) -> Output {
        self.command(argv).output().unwrap()
    }

    /// Runs a program in the machine that has to succeed, and returns what it printed.
    pub fn ok(&self, argv: &[&str]) -> String {
        let output = self.run(argv);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{argv:?}: {}\n{stdout}\n{stderr}", output.status);
        stdout.trim_end().to_owned()
    }

    /// A program of this machine's that runs one in the lab, for those who take only a program's name.
    pub fn wrapper(&self, program: &str) -> PathBuf {
        let path = self.directory.path().join(format!("run-{program}"));
        let text = format!("#!/bin/sh\nexec nsenter {} {program} \"$@\"\n", self.entering().join(" "));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// A file of the lab, seen from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.leader.as_raw_nonzero()))
    }

    /// The number of its first process, seen from outside.
    pub fn leader(&self) -> String {
        self.leader.as_raw_nonzero().to_string()
    }

    /// Fills the databases: as many megabytes as `CAIRN_LAB_MEGABYTES` says, 20 without it. Returns the number of entities.
    pub fn load(&self, seed: u32) -> u64 {
        let size = std::env::var("CAIRN_LAB_MEGABYTES").unwrap_or("20".to_owned());
        self.ok(&["/opt/lab/load", &size, &seed.to_string()]).parse().unwrap()
    }

    /// Whether a unit is active.
    pub fn is_active(&self, unit: &str) -> bool {
        self.run(&["systemctl", "is-active", "-q", unit]).status.success()
    }

    /// A power failure. Everything that runs is gone at once; the disk stays as it is.
    pub fn lose_power(&mut self) {
        let _ = kill_process(self.leader, Signal::KILL);
        self.must_end();
    }

    /// Boots again from the same disk.
    pub fn boot_again(&mut self) {
        self.begin_again();
        self.await_units();
    }

    /// The same, without waiting for its units.
    pub fn begin_again(&mut self) {
        (self.child, self.leader) = start(&self.name, self.directory.path(), &self.layers, &self.binds);
    }

    /// Switches the machine off in an orderly way.
    pub fn shut_down(&mut self) {
        self.ok(&["systemctl", "poweroff", "--no-block"]);
        self.must_end();
    }

    /// The processes that are left of the machine.
    pub fn processes(&self) -> Vec<String> {
        let listed = |group: &PathBuf| std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let pids: Vec<String> = self
            .control_groups()
            .iter()
            .flat_map(|group| listed(group).lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        pids
    }

    fn control_groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in ["systemd", "unified", ""] {
            let mut waiting = vec![Path::new("/sys/fs/cgroup").join(hierarchy).join(&self.name)];
            while let Some(group) = waiting.pop() {
                let Ok(entries) = std::fs::read_dir(&group) else { continue };
                waiting.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
                found.push(group);
            }
        }
        found
    }

    /// Waits until its units are up.
    pub fn await_units(&self) {
        let started = Instant::now();
        loop {
            let output = self.run(&["systemctl", "is-system-running"]);
            match String::from_utf8_lossy(&output.stdout).trim() {
                "running" => return,
                "degraded" => panic!("{}\n{}", self.ok(&["systemctl", "--failed", "--no-pager"]), self.log()),
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
            assert!(started.elapsed() < PATIENCE, "the lab does not come up: {output:?}\n{}", self.log());
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn must_end(&mut self) {
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "the lab does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // While its container exists its number is its own: nobody but us waits for it.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(self.leader, Signal::KILL);
            let _ = self.child.wait();
        }
        for group in self.control_groups().iter().rev() {
            let _ = std::fs::remove_dir(group);
        }
    }
}

/// The layers of the disk, uppermost first, and what is bound into it; `Err` says why they cannot be had.
fn ingredients(units: &[&str]) -> Result<(Vec<PathBuf>, Vec<String>), String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/live/make-root");
    let output = Command::new(script).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("scripts/live/make-root: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let layers = String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect();
    let mut binds = vec![format!("{}:/usr/local/bin/cairn", env!("CARGO_BIN_EXE_cairn"))];
    let servers = [("elasticsearch", "es"), ("neo4j", "neo4j")].into_iter().filter(|(unit, _)| units.contains(unit));
    let names: Vec<&str> = servers.map(|(_, name)| name).collect();
    for name in &names {
        binds.push(format!("{}:/opt/jars/{name}", jars(name)?.display()));
    }
    if !names.is_empty() {
        let java = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .find_map(|directory| directory.join("java").canonicalize().ok())
            .ok_or("java is not installed")?;
        binds.push(format!("{}:/opt/jdk", java.ancestors().nth(2).unwrap_or(&java).display()));
        // Debian keeps a JDK's settings here, and links to them.
        let settings = std::fs::read_dir("/etc").unwrap().flatten().map(|entry| entry.path());
        let java = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("java-"));
        binds.extend(settings.filter(java).map(|path| path.display().to_string()));
    }
    Ok((layers, binds))
}

/// Starts the container and finds its first process.
fn start(name: &str, directory: &Path, layers: &[PathBuf], binds: &[String]) -> (Child, Pid) {
    let log = File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/live/boot-root"))
        .arg(name)
        .arg(directory)
        .args(layers)
        .arg("--")
        .args(binds.iter().map(|bind| format!("--bind-ro={bind}")))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let started = Instant::now();
    loop {
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        for pid in children.split_whitespace().map(|pid| pid.parse().unwrap()) {
            // The container's helper on the way to its first process is no first process.
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let inside = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            let running = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if inside.split_whitespace().nth(1) == Some("1") && running.trim() == "systemd" {
                return (child, Pid::from_raw(pid).unwrap());
            }
        }
        let log = || std::fs::read_to_string(directory.join("log")).unwrap_or_default();
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the lab ended with {status}:\n{}", log());
        }
        assert!(started.elapsed() < PATIENCE, "the lab does not boot:\n{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn boots() {
    let Some(mut lab) = Lab::boot(&PLATFORM) else { return };
    for unit in PLATFORM {
        assert!(lab.is_active(unit), "{unit}");
    }
    assert!(lab.ok(&["cairn", "--version"]).starts_with("cairn "));
    let entities = lab.load(1);

    let platform = |user: &str, arguments: &[&str]| {
        let program = "/opt/eclecticiq-platform-backend/bin/eiq-platform";
        let settings = "EIQ_PLATFORM_SETTINGS=/etc/eclecticiq/platform_settings.py";
        lab.run(&[&["runuser", "-u", user, "--", "env", settings, program, "search"], arguments].concat())
    };
    let reindexed = platform("eclecticiq", &["reindex", "--index=stix*"]);
    assert!(reindexed.status.success() && reindexed.stdout.is_empty(), "{reindexed:?}");
    assert!(!platform("root", &["upgrade"]).status.success(), "it is not run as root");

    lab.ok(&["sh", "-c", "cd /opt/eclecticiq-platform-backend && celery -A tasks call tasks.write --queue=providers --args '[\"/tmp/done\"]'"]);
    let started = Instant::now();
    while !lab.path("/tmp/done").exists() {
        assert!(started.elapsed() < PATIENCE, "the task was not done");
        std::thread::sleep(Duration::from_millis(100));
    }

    lab.ok(&["systemctl", "stop", "eclecticiq-platform-backend-worker*.service"]);
    assert!(!lab.is_active("eclecticiq-platform-backend-worker@common"));

    lab.lose_power();
    assert!(lab.processes().is_empty());
    lab.boot_again();
    let count = "SELECT count(*) FROM entity";
    let rows = lab.ok(&["runuser", "-u", "postgres", "--", "psql", "-AtX", "-d", "platform", "-c", count]);
    assert_eq!(rows, entities.to_string());
    assert!(lab.is_active("eclecticiq-platform-backend-worker@common"));

    lab.shut_down();
    assert!(lab.processes().is_empty(), "{:?}", lab.processes());
}
