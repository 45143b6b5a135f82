//! Servers that fail while they are captured, and what was captured of them brought back. Every scenario leaves the machine
//! as it found it, so that several share one.

mod absent;
mod after;
mod back;
mod cuts;
mod drills;
mod failures;
mod guide;
mod kills;
mod lost;
mod nightly;
mod restores;
mod room;
mod timed;
mod versions;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Platform;
use crate::servers::PATIENCE;

const JOURNAL: &str = "/var/lib/cairn/journal";

/// A profile that stops one service besides those of servers: what is shown here is not their order.
/// Its last table is that of Redis, so that a line can follow.
const BARE: &str = r#"
[services]
first = ["eclecticiq-platform-backend-opentaxii"]
workers = []
others = []
[processes]
rules = []
pid-files = []
[systemd]
settle-seconds = 0
[redis]
drain-timeout-seconds = 120
"#;

/// A name, and what is shown.
type Scenario = (&'static str, fn(&Platform));

/// What a program said.
struct Ended {
    code: Option<i32>,
    text: String,
    summary: Value,
}

impl Ended {
    fn new(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned();
        let last = String::from_utf8_lossy(&output.stdout).lines().last().map(serde_json::from_str);
        Ended { code: output.status.code(), text, summary: last.and_then(Result::ok).unwrap_or_default() }
    }

    #[track_caller]
    fn must(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }

    fn set(&self) -> &Value {
        &self.summary["record"]
    }

    fn component(&self, name: &str) -> &Value {
        super::component(self.set(), name)
    }

    /// A component that failed with these words in its record.
    #[track_caller]
    fn failed(&self, name: &str, words: &[&str]) {
        let component = self.component(name);
        let told = component["warnings"].to_string();
        assert_eq!(component["status"], "failed", "{component:#}");
        assert_eq!(component["parts"], Value::Array(Vec::new()));
        for word in words {
            assert!(told.contains(word), "{word:?} is not in {told}");
        }
    }

    /// Components that are whole.
    #[track_caller]
    fn complete(&self, names: &[&str]) {
        for name in names {
            assert_eq!(self.component(name)["status"], "complete", "{}", self.text);
        }
    }

    fn part(&self, component: &str, role: &str) -> &str {
        let parts = self.component(component)["parts"].as_array().unwrap();
        let part = parts.iter().find(|part| part["role"] == role).unwrap_or_else(|| panic!("no {role}: {}", self.text));
        part["snapshot"].as_str().unwrap()
    }
}

/// A program in the machine that runs until its standard input ends.
struct Held(Child);

impl Held {
    /// Starts it, and waits for its first line.
    fn start(platform: &Platform, argv: &[&str]) -> Self {
        let mut command = platform.lab.command(argv);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{argv:?} ended before it was ready");
        Held(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A run under way.
struct Running<'a> {
    platform: &'a Platform,
    child: Child,
}

impl Running<'_> {
    /// Waits until a step has begun.
    #[track_caller]
    fn begins(&mut self, step: &str) {
        assert!(self.reaches("begin", step), "the run ended without {step}");
    }

    /// Waits until the journal has an entry of a step, whose name begins so; false if the run ended without.
    #[track_caller]
    fn reaches(&mut self, entry: &str, step: &str) -> bool {
        let wanted = format!("{{\"entry\":\"{entry}\",\"step\":\"{step}");
        let started = Instant::now();
        let journal = self.platform.lab.path(JOURNAL);
        while !std::fs::read_to_string(&journal).unwrap_or_default().contains(&wanted) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(started.elapsed() < PATIENCE, "{entry} {step} does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Kills the program once the journal has an entry of a step; false if the program was faster.
    #[track_caller]
    fn is_cut_at(&mut self, entry: &str, step: &str) -> bool {
        if !self.reaches(entry, step) {
            return false;
        }
        match self.program() {
            Some(pid) => kill_process(pid, Signal::KILL).is_ok(),
            None => false,
        }
    }

    /// Sends a signal to the program itself: our child only entered the machine for it.
    fn signal(&self, signal: Signal) {
        kill_process(self.program().unwrap(), signal).unwrap();
    }

    fn program(&self) -> Option<Pid> {
        let parent = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    fn ended(self) -> Ended {
        Ended::new(&self.child.wait_with_output().unwrap())
    }
}

impl Platform {
    fn write(&self, path: &str, text: &str) {
        let path = self.lab.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Writes a profile that changes the built-in one; its path.
    fn profile(&self, name: &str, changes: &str) -> String {
        let path = format!("/root/{name}.toml");
        self.write(&path, &format!("extends = \"eclecticiq-centos\"\nname = \"{name}\"\n{changes}"));
        path
    }

    fn argv_of<'a>(command: &'a str, profile: &'a str, options: &[&'a str]) -> Vec<&'a str> {
        Platform::argv(&[&["platform", command, "--profile", profile], options].concat())
    }

    /// The tasks of the lab's clock come and go.
    fn backup(&self, profile: &str, options: &[&str]) -> Ended {
        let options = [options, &["--allow", "celery", "--allow", "queues"]].concat();
        Ended::new(&self.lab.run(&Platform::argv_of("backup", profile, &options)))
    }

    fn begin(&self, command: &str, profile: &str, options: &[&str]) -> Running<'_> {
        let allowed: &[&str] = if command == "backup" { &["--allow", "celery", "--allow", "queues"] } else { &[] };
        self.run(&Platform::argv_of(command, profile, &[options, allowed].concat()))
    }

    fn run(&self, argv: &[&str]) -> Running<'_> {
        let mut command = self.lab.command(argv);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running { platform: self, child }
    }

    /// What each active unit runs: the same as long as nobody started it anew.
    fn processes(&self) -> BTreeMap<String, String> {
        let active: Vec<String> = self.active().into_iter().collect();
        let units: Vec<&str> = active.iter().map(String::as_str).collect();
        let shown = self.lab.ok(&[&["systemctl", "show", "-P", "MainPID"], units.as_slice()].concat());
        let pids = shown.lines().filter(|line| !line.is_empty()).map(str::to_owned);
        let processes: BTreeMap<String, String> = active.iter().cloned().zip(pids).collect();
        assert_eq!(processes.len(), active.len(), "{shown}");
        processes
    }

    fn elasticsearch(&self, path: &str) -> Value {
        let answer = self.lab.ok(&["curl", "-s", &format!("http://localhost:9200/{path}")]);
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    fn ask_elasticsearch(&self, method: &str, path: &str, body: &str) {
        let (url, json) = (format!("http://localhost:9200/{path}"), "content-type: application/json");
        self.lab.ok(&["curl", "-sf", "-X", method, "-H", json, "--data-binary", body, &url]);
    }

    /// The snapshots that Elasticsearch has, and whether all of them are whole.
    fn snapshots(&self) -> Vec<(String, String)> {
        let listed = self.elasticsearch("_snapshot/backup/_all");
        let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
        let listed = listed["snapshots"].as_array().cloned().unwrap_or_default();
        listed.iter().map(|one| (text(one, "snapshot"), text(one, "state"))).collect()
    }

    fn sql(&self, database: &str, sql: &str) -> String {
        self.lab.ok(&[
            "runuser",
            "-u",
            "postgres",
            "--",
            "psql",
            "-AtqX",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            database,
            "-c",
            sql,
        ])
    }

    fn redis(&self, arguments: &[&str]) -> String {
        self.lab.ok(&[&["redis-cli"], arguments].concat())
    }

    /// Waits until a consumer has taken everything out of a queue.
    fn await_empty(&self, queue: &str) {
        let started = Instant::now();
        while self.redis(&["LLEN", queue]) != "0" {
            assert!(started.elapsed() < PATIENCE, "nobody takes anything out of {queue}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asserts that no run left anything: no journal, a repository of Elasticsearch that can be written to, no snapshot that
    /// is still being taken, and Neo4j up.
    #[track_caller]
    fn is_clean(&self) {
        let journal = std::fs::read_to_string(self.lab.path(JOURNAL)).unwrap_or_default();
        assert_eq!(journal, "");
        let registered = self.elasticsearch("_snapshot").to_string();
        assert!(!registered.contains(r#""readonly":"true""#), "{registered}");
        assert!(!self.snapshots().iter().any(|(_, state)| state == "IN_PROGRESS"), "{:?}", self.snapshots());
        assert!(self.lab.is_active("neo4j") && self.lab.is_active("postgresql-11"));
        assert_eq!(self.redis(&["KEYS", "cairn:*"]), "");
    }
}

/// Looks at the arguments of every process, all the while.
struct Arguments {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<String>,
}

impl Arguments {
    fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = std::collections::BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                    seen.extend(std::fs::read(entry.path().join("cmdline")).ok());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            seen.into_iter().map(|one| String::from_utf8_lossy(&one).replace('\0', " ") + "\n").collect()
        });
        Arguments { stop, thread }
    }

    fn seen(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Scenarios, named by their module and function.
macro_rules! scenarios {
    ($($module:ident::$name:ident),+ $(,)?) => {
        [$((concat!(stringify!($module), "::", stringify!($name)), $module::$name as fn(&Platform))),+]
    };
}

/// Failures of servers on a platform with all its services.
#[test]
fn whatever_a_server_does_the_others_are_saved_and_everything_is_up_again() {
    let scenarios = scenarios![
        failures::online_nothing_is_stopped,
        failures::three_that_fail_are_told_and_two_are_saved,
        failures::programs_that_are_killed_make_the_set_partial,
        failures::neo4j_that_does_not_stop_is_up_again,
        room::a_full_repository_leaves_the_platform_up,
        failures::what_was_purged_goes_back_if_the_set_does_not_hold_it,
        kills::a_run_killed_while_it_captures_is_undone,
        cuts::a_run_that_is_asked_to_stop_while_a_server_is_captured_leaves_nothing,
        cuts::an_unfinished_snapshot_of_elasticsearch_does_not_stay,
        cuts::a_full_run_killed_in_the_middle_of_two_captures_or_near_its_end_is_undone,
        nightly::the_packaged_unit_captures_all_components,
        absent::servers_that_are_down_are_told_and_stay_so,
    ];
    if scenarios.iter().any(|one| wanted(one.0))
        && let Some(platform) = Platform::boot()
    {
        run(&platform, &scenarios);
    }
}

/// What was captured is restored.
#[test]
fn each_component_that_was_captured_comes_back_equal() {
    let scenarios = scenarios![
        restores::a_full_backup_is_restored,
        restores::the_files_of_postgresql_make_the_same_cluster,
        restores::a_base_backup_under_writes_recovers,
        versions::version_11_is_captured,
        restores::the_dump_of_redis_has_every_key,
        drills::a_full_set_is_proven_beside_the_platform,
        drills::the_files_of_postgresql_are_proven_and_tablespaces_are_left_alone,
        absent::an_edited_path_repo_stays_only_if_it_served,
        absent::an_edit_of_path_repo_that_was_cut_off_is_taken_back,
    ];
    let power = wanted("kills::power_is_lost_and_resume_waits_for_the_servers");
    if !power && !scenarios.iter().any(|one| wanted(one.0)) {
        return;
    }
    let Some(mut platform) = Platform::boot() else { return };
    if power {
        kills::power_is_lost_and_resume_waits_for_the_servers(&mut platform);
    }
    run(&platform, &scenarios);
}

/// What is left to do after a restore.
#[test]
fn indices_are_filled_and_migrated_and_packages_are_found() {
    let scenarios = scenarios![
        after::indices_are_filled_from_postgresql_while_the_platform_is_stopped,
        after::a_migration_survives_the_death_of_its_starter,
        after::packages_that_were_not_ingested_are_listed,
    ];
    if scenarios.iter().any(|one| wanted(one.0))
        && let Some(platform) = Platform::boot()
    {
        run(&platform, &scenarios);
    }
}

/// Whether a scenario is to be shown: all are, unless `CAIRN_TEST_SCENARIOS` has parts of some names, separated by commas.
fn wanted(name: &str) -> bool {
    std::env::var("CAIRN_TEST_SCENARIOS").map_or(true, |some| some.split(',').any(|one| name.contains(one)))
}

/// Runs each scenario, also after one that failed: the machine's boot is what takes time.
fn run(platform: &Platform, scenarios: &[Scenario]) {
    let mut failed = Vec::new();
    for (name, scenario) in scenarios.iter().filter(|one| wanted(one.0)) {
        let (before, started) = (platform.active(), Instant::now());
        let ended = catch_unwind(AssertUnwindSafe(|| {
            scenario(platform);
            assert_eq!(platform.active(), before, "{name}");
            platform.is_clean();
        }));
        println!("{name}: {:.1} s", started.elapsed().as_secs_f64());
        failed.extend(ended.err().map(|_| *name));
    }
    assert!(failed.is_empty(), "these failed: {failed:?}");
}
