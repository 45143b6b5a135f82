//! Real processes that are killed at random moments, whatever they are at. Afterwards the repository is sound, every
//! published snapshot restores as it was, the next backup works, and a gc takes away what was left.
//!
//! Each command is first run to its end, to know how long it takes here; then it is killed within that time. The seed
//! is printed, and may be given as `CAIRN_TEST_SEED`; what happens when is up to the machine, of course.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::{Place, summary, text};
use crate::support::rows;

/// How long new rounds are begun. Every command is killed once in any case.
const TIME: Duration = Duration::from_secs(20);

/// A small generator: the rounds of a seed are the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        let given = std::env::var("CAIRN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = given.unwrap_or_else(now);
        println!("CAIRN_TEST_SEED={seed}");
        Random(seed)
    }

    /// One for a thread, the same in every run.
    pub fn at(seed: u64) -> Random {
        Random(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// What a snapshot holds.
#[derive(Clone, PartialEq)]
pub enum Saved {
    Stream(Vec<u8>),
    Tree(BTreeMap<PathBuf, Vec<u8>>),
}

/// The files of a directory.
pub fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

impl Place {
    /// Ids of the published snapshots.
    pub fn ids(&self) -> Vec<String> {
        let lines = text(&self.ok(&["--json", "snapshots"]).stdout);
        let objects = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        objects.filter(|object| object["type"] == "snapshot").map(|o| o["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Reads a snapshot back; the error if that fails. `scratch` is made anew.
    pub fn saved(&self, id: &str, like: &Saved, tree: &Path, scratch: &Path) -> Result<Saved, String> {
        let stream = matches!(like, Saved::Stream(_));
        let _ = fs::remove_dir_all(scratch);
        let part = format!("{id}:{}", tree.to_str().unwrap());
        let output = match stream {
            true => self.run(&["cat", id]),
            false => self.run(&["restore", &part, "--target", scratch.to_str().unwrap()]),
        };
        match (output.status.success(), stream) {
            (false, _) => Err(text(&output.stderr)),
            (true, true) => Ok(Saved::Stream(output.stdout)),
            (true, false) => Ok(Saved::Tree(files(scratch))),
        }
    }
}

const COMMANDS: [&str; 8] = ["tree", "stream", "forget", "gc", "restore", "key", "verify", "init"];

struct World {
    place: Place,
    random: Random,
    tree: PathBuf,
    stream: Vec<u8>,
    model: BTreeMap<String, Saved>,
    /// How long each command takes when it is not killed.
    takes: BTreeMap<&'static str, Duration>,
    rounds: u64,
}

impl World {
    fn new() -> World {
        let place = Place::new();
        let tree = place.path().join("tree");
        fs::create_dir_all(tree.join("deep/er")).unwrap();
        for number in 0..40 {
            fs::write(tree.join(format!("deep/{number}")), rows(number, 40 * number as usize)).unwrap();
        }
        let (random, stream) = (Random::new(), rows(99, 10_000));
        World { place, random, tree, stream, model: BTreeMap::new(), takes: BTreeMap::new(), rounds: 0 }
    }

    fn change_sources(&mut self) {
        let mut random = |limit| self.random.below(limit);
        let (added, changed, removed) = (random(1000), random(40), random(40));
        fs::write(self.tree.join(format!("deep/er/{added}")), rows(random(1 << 40), 500)).unwrap();
        fs::write(self.tree.join(format!("deep/{changed}")), rows(random(1 << 40), 1000)).unwrap();
        let _ = fs::remove_file(self.tree.join(format!("deep/{removed}")));
        let at = random(self.stream.len() as u64) as usize;
        let end = self.stream.len().min(at + 30_000);
        self.stream.splice(at..end, rows(random(1 << 40), 400));
    }

    fn command(&self, what: &str) -> Command {
        let mut command = self.place.command();
        let path = |name: &str| self.place.path().join(name);
        match what {
            "tree" => command.args(["backup", "--name", "tree"]).arg(&self.tree),
            "stream" => command.args(["backup", "--stdin", "--name", "stream"]).stdin(self.input()),
            "forget" => command.args(["forget", "--keep-last", "3"]),
            "gc" => command.args(["gc", "--grace", "0s"]),
            "restore" => {
                command.arg("restore").arg(format!("tree:{}", self.tree.to_str().unwrap()));
                command.args(["--overwrite", "changed", "--target"]).arg(path("restored"))
            }
            "key" => command.args(["key", "add", "--new-key-file"]).arg(path(&format!("key-{}", self.rounds))),
            "verify" => command.args(["verify", "--all"]),
            _ => command.arg("--repo").arg(path("another")).arg("init"),
        };
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The stream as a file that is read as standard input.
    fn input(&self) -> fs::File {
        let path = self.place.path().join("input");
        fs::File::create(&path).unwrap().write_all(&self.stream).unwrap();
        fs::File::open(path).unwrap()
    }

    /// Runs a command to its end and notes how long it takes.
    fn run(&mut self, what: &'static str) {
        let started = Instant::now();
        let status = self.command(what).status().unwrap();
        assert!(status.success(), "{what} ended with {status}");
        self.takes.insert(what, started.elapsed());
        self.adopt();
    }

    /// Kills a command at a random moment.
    fn kill(&mut self, what: &'static str) {
        let mut child = self.command(what).spawn().unwrap();
        let time = self.takes[what].as_micros() as u64;
        std::thread::sleep(Duration::from_micros(self.random.below(time * 11 / 10 + 1)));
        child.kill().unwrap();
        child.wait().unwrap();
        self.adopt();
    }

    /// A snapshot that is there and was not is one of the sources as they are now; one that was and is not must have
    /// been forgotten.
    fn adopt(&mut self) {
        let there = self.place.ids();
        let tree = Saved::Tree(files(&self.tree));
        for id in there.iter().filter(|id| !self.model.contains_key(*id)).cloned().collect::<Vec<_>>() {
            let is_stream = self.place.run(&["cat", &id]).status.success();
            self.model.insert(id, if is_stream { Saved::Stream(self.stream.clone()) } else { tree.clone() });
        }
        self.model.retain(|id, _| there.contains(id));
    }

    fn assert_whole(&mut self, after: &str) {
        let check = self.place.run(&["check", "--read-data"]);
        assert!(check.status.success(), "after {after}: {}{}", text(&check.stdout), text(&check.stderr));
        for (id, expected) in &self.model {
            let found = self.place.saved(id, expected, &self.tree, &self.place.path().join("scratch"));
            match found {
                Ok(found) => assert!(found == *expected, "after {after}: snapshot {id} came back different"),
                Err(error) => panic!("after {after}: snapshot {id}: {error}"),
            }
        }
    }

    /// What was begun is finished by doing it again.
    fn resume(&mut self, what: &'static str) {
        let another = self.place.path().join("another");
        match what {
            "init" => {
                let opens = || self.place.run(&["--repo", another.to_str().unwrap(), "check"]).status.success();
                assert!(opens() || self.command("init").status().unwrap().success(), "init cannot be repeated");
                assert!(opens());
                fs::remove_dir_all(&another).unwrap();
            }
            "restore" => {
                assert!(self.command("restore").status().unwrap().success(), "the restore cannot go on");
                let newest = self.place.ok(&["--json", "snapshots", "--name", "tree"]);
                let line = text(&newest.stdout).lines().rev().nth(1).unwrap().to_owned();
                let object: serde_json::Value = serde_json::from_str(&line).unwrap();
                let expected = &self.model[object["id"].as_str().unwrap()];
                assert!(Saved::Tree(files(&self.place.path().join("restored"))) == *expected);
                fs::remove_dir_all(self.place.path().join("restored")).unwrap();
            }
            "forget" => {
                self.change_sources();
                self.run("tree");
                self.run("stream");
            }
            _ => {}
        }
    }

    fn assert_collected(&self) {
        let report = summary(&self.place.ok(&["--json", "gc", "--grace", "0s"]));
        assert!(report["waiting_for"].is_null() && report["waiting_until"].is_null(), "{report}");
        for kind in ["leases", "tmp", "tombstones"] {
            assert_eq!(fs::read_dir(self.place.path().join("repo").join(kind)).unwrap().count(), 0, "{kind}: {report}");
        }
        let plan = summary(&self.place.ok(&["--json", "gc", "--grace", "0s", "--dry-run"]));
        assert_eq!(plan["planned"].as_array().unwrap().len(), 0, "{plan}");
    }
}

#[test]
fn a_process_killed_at_any_moment_leaves_every_published_snapshot_whole() {
    let mut world = World::new();
    for what in COMMANDS {
        world.change_sources();
        world.run(what);
        if what == "init" || what == "restore" {
            world.resume(what);
        }
    }
    let started = Instant::now();
    let mut kills = BTreeMap::<&str, u64>::new();
    while kills.len() < COMMANDS.len() || started.elapsed() < TIME {
        // Each once, then at random.
        let number = if kills.len() < COMMANDS.len() { kills.len() } else { world.random.below(8) as usize };
        let what = COMMANDS[number];
        world.rounds += 1;
        // More keys than a repository may have would be refused.
        let what = if what == "key" && world.rounds > 40 { "gc" } else { what };
        world.change_sources();
        world.kill(what);
        world.assert_whole(what);
        world.resume(what);
        *kills.entry(what).or_default() += 1;
    }
    println!("{kills:?}");
    world.run("tree");
    world.run("stream");
    world.assert_collected();
    world.assert_whole("everything");
}
