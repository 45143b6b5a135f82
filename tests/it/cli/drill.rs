//! `cairn platform drill` without the platform's servers: configuration, queues, and servers that do not come up. Real
//! ones are in `tests/live/platform/servers/drills.rs`.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cairn::format::ObjectId;
use cairn::format::record::PathText;
use cairn::format::set::{
    Component, ConfigFacts, DatabaseFacts, Facts, KeyFile, Part, PostgresFacts, RedisFacts, Status,
};
use cairn::orchestrate::platform::state::StateDir;
use cairn::source::redis::encoding::{Encoder, KeyKind};
use cairn::source::scratch::Scratch;
use serde_json::{Value, json};

use super::sets::{newest, open};
use super::{Place, summary, text};
use crate::sets::set_of;
use crate::support::machine::{Tmpfs, has_program_or_skip};

/// A platform of one file of configuration and two queues.
struct Platform {
    place: Place,
    profile: PathBuf,
}

impl Platform {
    fn new(more: &str) -> Self {
        let place = Place::new();
        // Servers run as accounts of their own, so they have to get there.
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
        let platform = Platform { profile: place.path().join("profile.toml"), place };
        fs::create_dir(platform.path("etc")).unwrap();
        fs::write(platform.path("etc/app.conf"), "level = 1\n").unwrap();
        platform.configure(more);
        platform
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn configure(&self, more: &str) {
        let here = self.place.path().display();
        let text = format!(
            "extends = 'none'\nname = 'p'\ncomponents = ['config', 'postgres', 'redis']\n[state]\ndirectory = '{here}/state'\n\
             [config.groups.mine]\npaths = ['{here}/etc']\n[redis]\nqueues = ['tasks']\ningestion-queues = ['inbound']\n{more}\n"
        );
        fs::write(&self.profile, text).unwrap();
    }

    fn argv<'a>(&'a self, command: &'a str, options: &[&'a str]) -> Vec<&'a str> {
        let profile = self.profile.to_str().unwrap();
        [&["--json", "platform", command, "--profile", profile], options].concat()
    }

    fn run(&self, command: &str, options: &[&str]) -> Output {
        self.place.run(&self.argv(command, options))
    }

    #[track_caller]
    fn drill(&self, code: i32, options: &[&str]) -> Value {
        let output = self.run("drill", options);
        assert_eq!(output.status.code(), Some(code), "{}\n{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(self.left(), Vec::<PathBuf>::new(), "nothing is left of it");
        summary(&output)
    }

    /// Directories of drills, and the journal.
    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.place.path()).unwrap().map(|entry| entry.unwrap().path());
        let is_drill = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("cairn-drill-");
        let journal = self.path("state/journal");
        entries.filter(is_drill).chain(journal.exists().then_some(journal)).collect()
    }

    /// What is proven of the newest set.
    fn proof(&self) -> Value {
        let output = text(&self.place.ok(&["--json", "platform", "sets"]).stdout);
        let mut sets = output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        sets.rfind(|line| line["type"] == "set").unwrap()["proof"].clone()
    }

    /// A set of configuration, and of these components besides.
    fn publish(&self, keys: &[PathBuf], others: Vec<Component>) -> ObjectId {
        self.publish_at("2026-03-01T02:00:00Z", keys, others)
    }

    fn publish_at(&self, time: &str, keys: &[PathBuf], others: Vec<Component>) -> ObjectId {
        self.place.ok(&["-q", "backup", "--name", "p.config.tree", self.path("etc").to_str().unwrap()]);
        let repository = open(&self.place);
        let mut set = set_of(time, Status::Complete, &[newest(&repository)]);
        let key = |path: &PathBuf| KeyFile {
            path: PathText(path.to_str().unwrap().as_bytes().to_vec()),
            named_by: None,
            present: true,
        };
        let keys = keys.iter().map(key).collect();
        set.components[0].facts = Some(Facts::Config(ConfigFacts { absent: Vec::new(), keys }));
        set.components.extend(others);
        repository.publish_set(&set).unwrap()
    }

    fn component(&self, name: &str, role: &str, stored: &[u8], facts: Facts) -> Component {
        self.place.store(&format!("p.{name}.{role}"), stored);
        let snapshot = newest(&open(&self.place));
        Component {
            name: name.to_owned(),
            status: Status::Complete,
            parts: vec![Part { role: role.to_owned(), snapshot, bytes: stored.len() as u64, stored_bytes: 1 }],
            versions: BTreeMap::new(),
            facts: Some(facts),
            warnings: Vec::new(),
            milliseconds: 1,
        }
    }

    /// Queues with one task and two elements that came in, of which so many are recorded.
    fn queues(&self, recorded: u64) -> Component {
        let (mut out, mut encoder) = (Vec::new(), Encoder::default());
        encoder.start(&mut out);
        for (key, elements) in [("tasks", &["a"][..]), ("inbound", &["b", "c"])] {
            encoder.key(&mut out, key, KeyKind::List).unwrap();
            elements.iter().for_each(|element| encoder.element(&mut out, &[element.as_bytes()]).unwrap());
            encoder.end_key(&mut out).unwrap();
        }
        encoder.finish(&mut out);
        let queues = BTreeMap::from([("tasks".to_owned(), 1), ("inbound".to_owned(), recorded)]);
        self.component("redis", "queues", &out, Facts::Redis(RedisFacts { queues, purged: BTreeMap::new() }))
    }

    fn dump(&self) -> Component {
        let facts = PostgresFacts {
            method: "dump".to_owned(),
            system_id: "1".to_owned(),
            timeline: 1,
            lsn: "0/1".to_owned(),
            base: None,
            databases: vec![DatabaseFacts { name: "postgres".to_owned(), tables: Vec::new() }],
        };
        self.component("postgres", "dump", b"-- a dump", Facts::Postgres(facts))
    }
}

#[track_caller]
fn state<'a>(summary: &'a Value, component: &str) -> &'a Value {
    let all = summary["components"].as_array().unwrap_or_else(|| panic!("{summary:#}"));
    all.iter().find(|one| one["component"] == component).unwrap_or_else(|| panic!("no {component}: {summary:#}"))
}

#[test]
fn what_is_equal_is_proven_and_chosen_by_time() {
    let platform = Platform::new("");
    let key = platform.path("etc/app.conf");
    let set = platform.publish(&[key], vec![platform.queues(2)]);
    let restore = |point: &[&str]| platform.run("restore", &[point, &["--only", "config", "--dry-run"]].concat());
    let points: [&[&str]; 2] = [&["--at", "2999-01-01"], &["--set", "latest-verified"]];
    for point in points {
        let refused = restore(point);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stdout));
        assert!(text(&refused.stderr).contains("unverified"), "{}", text(&refused.stderr));
    }

    let shown = platform.drill(0, &["--dry-run"]);
    assert_eq!(shown["dry_run"], true);
    assert_eq!(platform.proof(), Value::Null);
    // One component after the other, on other days: together they prove the set.
    let page = platform.path("report.html");
    let first = platform.drill(0, &["--only", "config", "--report", page.to_str().unwrap()]);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("and proven") && page.contains("redis: it was not asked for"), "{page}");
    assert_eq!((&first["set"], state(&first, "config")["state"].as_str()), (&json!(set), Some("proven")), "{first:#}");
    let proof = platform.proof();
    assert!(proof["proven"].is_null() && proof["components"]["config"]["time"].is_string(), "{proof:#}");
    // That is enough for who wants it alone.
    assert!(restore(points[0]).status.success());
    let whole = platform.run("restore", &["--at", "2999-01-01", "--dry-run"]);
    assert!(text(&whole.stderr).contains("unverified"), "{}", text(&whole.stderr));
    let second = platform.drill(0, &["--only", "redis"]);
    assert!(state(&second, "redis")["detail"].as_str().unwrap().contains("3 elements of 2 queues"), "{second:#}");
    let proof = platform.proof();
    assert_eq!(proof["proven"], proof["components"]["config"]["time"], "as of the older one: {proof:#}");
    for point in points {
        let chosen = restore(point);
        assert!(chosen.status.success(), "{}", text(&chosen.stderr));
        let plan: Value = serde_json::from_str(text(&chosen.stdout).lines().next().unwrap()).unwrap();
        assert_eq!((&plan["set"], &plan["proven"]), (&json!(set), &proof["proven"]));
    }

    let listed = text(&platform.place.ok(&["--json", "snapshots", "--name", "p.config.tree"]).stdout);
    let snapshot: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert_eq!(snapshot["verified"], proof["components"]["config"]["time"]);
    assert_eq!((&snapshot["drill"]["set"], &snapshot["drill"]["component"]), (&json!(set), &"config".into()));
    assert!(text(&platform.place.ok(&["snapshots"]).stdout).contains("drill "));
    let table = text(&platform.place.ok(&["platform", "sets"]).stdout);
    let day = proof["proven"].as_str().unwrap().split('T').next().unwrap();
    assert!(table.contains("PROVEN") && table.contains(day), "{table}");
    platform.place.ok(&["check", "--read-data"]);
}

#[test]
fn a_difference_is_named_and_proves_nothing() {
    let platform = Platform::new("");
    let missing = platform.path("etc/lost.key");
    platform.publish(std::slice::from_ref(&missing), vec![platform.queues(3)]);
    let page = platform.path("report.html");
    let output = platform.run("drill", &["--report", page.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    let words = [missing.to_str().unwrap(), "the queue inbound has 2 elements read through, and 3 were recorded"];
    for word in words {
        assert!(text(&output.stderr).contains(word), "{word}: {}", text(&output.stderr));
    }
    let summary = summary(&output);
    assert_eq!((&summary["proofs"], &state(&summary, "config")["state"]), (&json!([]), &"different".into()));
    let (proof, found) = (platform.proof(), &summary["findings"]);
    assert_eq!((&proof["proven"], found.as_array().unwrap().len(), platform.left()), (&Value::Null, 2, Vec::new()));
    let different = &proof["different"]["config"];
    assert_eq!(different["outcome"], "different", "{proof:#}");
    assert!(different["differences"][0].as_str().unwrap().contains("lost.key"), "{proof:#}");
    let day = different["time"].as_str().unwrap().split('T').next().unwrap();
    let table = text(&platform.place.ok(&["platform", "sets"]).stdout);
    assert!(table.contains(&format!("DIFFERENT {day}")), "{table}");
    let table = text(&platform.place.ok(&["snapshots"]).stdout);
    assert!(table.contains(&format!("DIFFERENT {}", &day[5..])), "{table}");
    let page = fs::read_to_string(page).unwrap();
    for word in [&words[..], &["<h1>Drill of backup set", "What differs", "Exit status</dt>\n<dd>1<"]].concat() {
        assert!(page.contains(word), "{word}: {page}");
    }
    assert!(!page.contains("state complete\""), "{page}");

    // It is a failure also where the rest is proven.
    let set = platform.publish(&[], vec![platform.queues(3)]).to_string();
    let summary = platform.drill(1, &["--set", &set]);
    let states = ["config", "redis"].map(|component| state(&summary, component)["state"].clone());
    assert_eq!((states, summary["proofs"].as_array().unwrap().len()), (["proven".into(), "different".into()], 1));
}

#[test]
fn a_set_is_judged_by_the_components_that_are_wanted() {
    let platform = Platform::new("");
    let older = platform.publish_at("2026-03-01T02:00:00Z", &[], vec![platform.queues(2)]);
    platform.drill(0, &[]);
    let newer = platform.publish_at("2026-03-02T02:00:00Z", &[], vec![platform.queues(3)]);
    platform.drill(1, &[]);
    let different = json!(["unverified", "different"]);
    let chosen: [(&[&str], _, _); 5] = [
        (&["--only", "config"], newer, Value::Null),
        (&["--skip", "redis,postgres"], newer, Value::Null),
        (&["--only", "redis", "--requeue"], older, different.clone()),
        (&["--only", "config,redis", "--requeue"], older, different.clone()),
        (&[], older, different),
    ];
    for (options, set, passed) in chosen {
        for point in [&["--at", "2999-01-01"][..], &["--set", "latest-verified"]] {
            let output = platform.run("restore", &[point, options, &["--dry-run"]].concat());
            let told = text(&output.stdout);
            let plan = told.lines().next().unwrap_or_else(|| panic!("{options:?}: {}", text(&output.stderr)));
            let plan: Value = serde_json::from_str(plan).unwrap();
            assert_eq!((&plan["set"], &plan["passed"][0]["flaws"]), (&json!(set), &passed), "{options:?} {plan:#}");
        }
    }
}

#[test]
fn a_damaged_pack_is_found_and_takes_the_older_proof_back() {
    let platform = Platform::new("");
    let set = platform.publish(&[], Vec::new());
    platform.drill(0, &[]);
    let restore = |point: &str| platform.run("restore", &["--set", point, "--only", "config", "--dry-run"]);
    assert!(restore("latest-verified").status.success());
    for pack in fs::read_dir(platform.path("repo/data")).unwrap() {
        for pack in fs::read_dir(pack.unwrap().path()).unwrap() {
            let path = pack.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 3;
            bytes[middle] ^= 1;
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            fs::write(&path, bytes).unwrap();
        }
    }
    let summary = platform.drill(1, &[]);
    assert_eq!(state(&summary, "config")["state"], "failed", "{summary:#}");
    let proof = platform.proof();
    assert_eq!((&proof["proven"], &proof["components"]), (&Value::Null, &json!({})), "{proof:#}");
    assert_eq!(proof["different"]["config"]["outcome"], "failed", "{proof:#}");
    let listed = text(&platform.place.ok(&["--json", "snapshots"]).stdout);
    let snapshot: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert_eq!((&snapshot["verified"], &snapshot["drill"]), (&Value::Null, &Value::Null), "{snapshot:#}");
    assert_eq!(snapshot["different"]["drill"]["outcome"], "failed", "{snapshot:#}");
    assert!(text(&platform.place.ok(&["platform", "sets"]).stdout).contains("FAILED "));
    for point in ["latest-verified", "latest"] {
        let refused = restore(point);
        assert_eq!(refused.status.code(), Some(1), "{point}: {}", text(&refused.stdout));
        assert!(text(&refused.stderr).contains("unverified and different"), "{}", text(&refused.stderr));
    }
    assert!(restore(&set.to_string()).status.success());
}

/// Noise of this many bytes: nothing shrinks it.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    let mut source = blake3::Hasher::new().update(&bytes.to_le_bytes()).finalize_xof();
    source.fill(&mut noise);
    noise
}

/// Changes a byte near the beginning of every pack of data.
fn damage(platform: &Platform) {
    for pack in fs::read_dir(platform.path("repo/data")).unwrap() {
        for pack in fs::read_dir(pack.unwrap().path()).unwrap() {
            let path = pack.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            let Some(byte) = bytes.get_mut(4 << 10) else { continue };
            *byte ^= 1;
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            fs::write(&path, bytes).unwrap();
        }
    }
}

#[test]
fn a_full_disk_takes_nothing_back_and_hides_no_damage() {
    let platform = Platform::new("");
    fs::write(platform.path("etc/a"), noise(2 << 20)).unwrap();
    fs::write(platform.path("etc/z"), noise(12 << 20)).unwrap();
    platform.publish(&[], vec![platform.queues(2)]);
    platform.drill(0, &[]);
    let proof = platform.proof();
    assert!(proof["proven"].is_string(), "{proof:#}");

    let small = platform.path("small");
    fs::create_dir(&small).unwrap();
    let Some(_mounted) = Tmpfs::mount(&small, "6m") else { return };
    fs::set_permissions(&small, Permissions::from_mode(0o755)).unwrap();
    let on_it = ["--scratch", small.to_str().unwrap(), "--only", "config"];
    let summary = platform.drill(1, &on_it);
    let config = state(&summary, "config");
    assert_eq!(config["state"], "hindered", "{summary:#}");
    assert!(config["detail"].as_str().unwrap().contains("make room"), "{config:#}");
    assert_eq!((platform.proof(), &summary["findings"]), (proof, &json!([])), "it says nothing of the set");

    damage(&platform);
    let summary = platform.drill(1, &on_it);
    let config = state(&summary, "config");
    assert_eq!(config["state"], "failed", "{summary:#}");
    let proof = platform.proof();
    assert_eq!(
        (&proof["proven"], &proof["different"]["config"]["outcome"]),
        (&Value::Null, &json!("failed")),
        "{proof:#}"
    );
}

#[test]
fn a_server_that_refuses_its_dump_is_told_from_one_that_does_not_work() {
    if !has_program_or_skip("redis-server") {
        return;
    }
    let user = uzers::get_current_username().unwrap().into_string().unwrap();
    let server = format!("[drill.redis]\nuser = '{user}'\n");
    let platform = Platform::new(&format!("{server}command = ['redis-server', '{{configuration}}/redis.conf']"));
    fs::write(platform.path("dump.rdb"), "this is no dump of Redis").unwrap();
    platform.place.ok(&["-q", "backup", "--name", "p.redis.rdb", platform.path("dump.rdb").to_str().unwrap()]);
    let snapshot = newest(&open(&platform.place));
    let mut redis = platform.queues(2);
    redis.parts.push(Part { role: "rdb".to_owned(), snapshot, bytes: 24, stored_bytes: 1 });
    platform.publish(&[], vec![redis]);

    platform.configure(&format!("{server}command = ['sh', '-c', 'echo never; exit 7']"));
    let summary = platform.drill(1, &["--only", "redis"]);
    assert_eq!(state(&summary, "redis")["state"], "not-started", "it starts on nothing, either: {summary:#}");
    assert_eq!(platform.proof(), Value::Null);

    platform.configure(&format!("{server}command = ['redis-server', '{{configuration}}/redis.conf']"));
    let summary = platform.drill(1, &["--only", "redis"]);
    let redis = state(&summary, "redis");
    assert_eq!(redis["state"], "failed", "{summary:#}");
    assert!(redis["detail"].as_str().unwrap().contains("does start on nothing"), "{redis:#}");
    assert_eq!(platform.proof()["different"]["redis"]["outcome"], "failed");
}

#[test]
fn what_has_no_server_is_said_and_the_rest_is_proven() {
    let platform = Platform::new("[postgres]\nbin-directory = '/nowhere'");
    platform.publish(&[], vec![platform.dump(), platform.queues(2)]);
    let summary = platform.drill(3, &[]);
    let postgres = state(&summary, "postgres");
    assert_eq!(postgres["state"], "not-started", "{summary:#}");
    assert!(postgres["detail"].as_str().unwrap().contains("/nowhere/postgres"), "{summary:#}");
    assert_eq!(summary["proofs"].as_array().unwrap().len(), 2);
    let proof = platform.proof();
    assert!(proof["proven"].is_null() && proof["components"]["redis"].is_object(), "{proof:#}");
    // Alone, nothing at all is proven.
    platform.drill(1, &["--only", "postgres"]);

    let user = uzers::get_current_username().unwrap().into_string().unwrap();
    let never = "command = ['sh', '-c', 'echo not today; exit 7']";
    platform.configure(&format!("[drill.redis]\nuser = '{user}'\n{never}"));
    let summary = platform.drill(1, &["--only", "redis"]);
    let redis = state(&summary, "redis");
    assert_eq!(redis["state"], "not-started", "{summary:#}");
    for word in ["exit status 7", "not today"] {
        assert!(redis["detail"].as_str().unwrap().contains(word), "{word}: {redis:#}");
    }
    assert_eq!(platform.proof(), proof, "that says nothing of the data, and takes nothing back");
    platform.configure(&format!("[drill]\nstart-timeout-seconds = 1\n[drill.redis]\nuser = '{user}'\n{SLEEP}"));
    let summary = platform.drill(1, &["--only", "redis"]);
    let told = state(&summary, "redis")["detail"].as_str().unwrap().to_owned();
    assert!(told.contains("is not ready") && told.contains("asleep"), "{told}");
}

#[test]
fn a_place_that_servers_cannot_enter_is_refused() {
    let platform = Platform::new("");
    platform.publish(&[], Vec::new());
    let closed = platform.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let output = platform.run("drill", &["--scratch", closed.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot enter"), "{}", text(&output.stderr));
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
}

#[test]
fn the_newest_set_is_that_of_the_backup_that_was_waited_for() {
    let platform = Platform::new("");
    platform.publish(&[], Vec::new());
    let state = StateDir::open(&platform.path("state")).unwrap();
    let lock = state.lock(Duration::ZERO, &|| false).unwrap();
    let mut command = platform.place.command();
    command.args(platform.argv("drill", &["--wait", "60"])).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It has opened the repository and waits: nothing that it does later could be known before.
    let waits = || {
        let links = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
        let is_lock = |path: PathBuf| path.starts_with(platform.path("state"));
        links.filter_map(|link| fs::read_link(link.ok()?.path()).ok()).any(is_lock)
    };
    wait_for("it waits for the lock", waits);
    let newer = platform.publish_at("2026-03-02T02:00:00Z", &[], Vec::new());
    drop(lock);
    let mut told = String::new();
    child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(child.wait().unwrap().success(), "{told}");
    let summary: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(summary["set"], json!(newer), "{told}");
}

#[test]
fn times_that_no_number_holds_together_were_a_panic() {
    let platform = Platform::new("");
    let mut queues = platform.queues(2);
    queues.milliseconds = u64::MAX;
    platform.publish(&[], vec![queues]);
    for (command, options) in
        [("drill", &["--dry-run"][..]), ("restore", &["--set", "latest", "--dry-run", "--requeue"])]
    {
        let output = platform.run(command, options);
        let told = text(&output.stdout);
        assert!(
            told.contains(&format!("\"estimate_seconds\":{}", u64::MAX.div_ceil(1000))),
            "{told}{}",
            text(&output.stderr)
        );
    }
}

/// A server that comes up, and is never ready.
const SLEEP: &str = "command = ['sh', '-c', 'echo asleep; sleep 1000 & sleep 1000']";

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A drill that waits for such a server, and the directory where that works.
fn hanging(platform: &Platform) -> (Child, Scratch) {
    let mut command = platform.place.command();
    let page = platform.path("report.html");
    let options = ["--only", "redis", "--report", page.to_str().unwrap()];
    command.args(platform.argv("drill", &options)).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let directory = || platform.left().into_iter().find(|path| path.is_dir());
    wait_for("its server runs", || directory().is_some_and(|path| Scratch::at(&path).processes().unwrap().len() == 3));
    (child, Scratch::at(&directory().unwrap()))
}

/// A process that works in a directory, and has nothing to do with drills.
struct Bystander(Child);

impl Bystander {
    fn new(directory: &Path) -> Self {
        Bystander(Command::new("sleep").arg("1000").current_dir(directory).stdout(Stdio::null()).spawn().unwrap())
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_drill_that_is_killed_or_stopped_leaves_nothing() {
    let user = uzers::get_current_username().unwrap().into_string().unwrap();
    let platform = Platform::new(&format!("[drill.redis]\nuser = '{user}'\n{SLEEP}"));
    platform.publish(&[], vec![platform.queues(2)]);

    let (mut child, scratch) = hanging(&platform);
    let page = fs::read_to_string(platform.path("report.html")).unwrap();
    assert!(page.contains("under way, or killed"), "{page}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!((platform.left(), scratch.processes().unwrap().len()), (Vec::new(), 0));

    for next in ["resume", "drill"] {
        let (mut child, scratch) = hanging(&platform);
        let mut other = Bystander::new(scratch.path());
        child.kill().unwrap();
        child.wait().unwrap();
        // What it was for is gone, and its servers know nothing of that.
        assert_eq!((platform.left().len(), scratch.processes().unwrap().len()), (2, 3));
        let options: &[&str] = if next == "drill" { &["--only", "config"] } else { &[] };
        let output = platform.run(next, options);
        assert!(output.status.success(), "{next}: {}", text(&output.stderr));
        assert_eq!((platform.left(), scratch.processes().unwrap().len()), (Vec::new(), 0), "{next}");
        assert!(other.lives(), "{next} ended what was none of its business");
    }
}
