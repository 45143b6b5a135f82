//! A platform that is lost: all of it is wiped, its disk is another one, or another machine is in its place. What comes
//! back is compared table by table, index by index and label by label, by a program that knows nothing of cairn.

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::back::{DATA, state};
use super::wanted;
use crate::lab::PLATFORM;
use crate::platform::{Platform, REPOSITORY};
use crate::servers::PATIENCE;

/// Configuration that servers need, and that is wiped.
const LOST: [&str; 3] = ["/etc/eclecticiq-neo4j", "/etc/eclecticiq-nginx/ssl", "/etc/eclecticiq-postgres"];
const POSTGRES: &str = "postgresql-11";

impl Platform {
    /// What its databases hold.
    pub fn contents(&self, psql: &[&str]) -> String {
        self.write("/root/contents.py", include_str!("contents.py"));
        self.lab.ok(&[&["python3", "/root/contents.py"], psql].concat())
    }

    pub fn in_shell(&self, script: &str) {
        self.lab.ok(&["sh", "-ec", script]);
    }
}

/// Waits until a set that is made now is later than one that is chosen by its time: to the second.
fn until_after(time: jiff::Timestamp) {
    let started = Instant::now();
    while jiff::Timestamp::now().as_second() <= time.as_second() {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All databases and a part of the configuration.
pub fn wipe(platform: &Platform) {
    let indices = platform.elasticsearch("_cat/indices?format=json&expand_wildcards=open");
    for index in indices.as_array().unwrap() {
        platform.ask_elasticsearch("DELETE", index["index"].as_str().unwrap(), "");
    }
    let lost = LOST.join(" ");
    platform.in_shell(&format!("systemctl stop {POSTGRES} neo4j; rm -rf {DATA} /media/neo4j/data {lost}"));
}

pub fn what_was_wiped_comes_back_from_the_set_of_that_time(platform: &Platform) {
    let profile = platform.profile("wiped", "");
    let first = platform.contents(&[]);
    for kind in ["table platform public.entity", "index stix", "label Entity", "relationship RELATED"] {
        assert!(first.lines().any(|line| line.starts_with(kind)), "{kind}: {first}");
    }
    let set = platform.backup(&profile, &[]).must(0).summary["set"].clone();
    let time = jiff::Timestamp::now();
    until_after(time);
    platform.lab.ok(&["/opt/lab/load", "1", "3"]);
    let second = platform.backup(&profile, &[]).must(0).summary["set"].clone();
    assert_ne!(platform.contents(&[]), first);

    wipe(platform);
    let at = time.to_string();
    let point = ["--at", at.as_str(), "--allow", "unverified", "--yes"];
    // Where servers read their configuration, it comes first.
    let refused = platform.restore(&profile, &[&point[..], &["--new-cluster", DATA]].concat()).must(1);
    assert!(refused.text.contains("neo4j.conf"), "{}", refused.text);
    platform.restore(&profile, &[&point[..], &["--only", "config"]].concat()).must(0);
    for path in LOST {
        assert!(platform.lab.path(path).is_dir(), "{path}");
    }
    let options = ["--new-cluster", DATA, "--skip", "config", "--discard-old"];
    let restored = platform.restore(&profile, &[&point[..], &options].concat()).must(0);
    assert_eq!(restored.summary["set"], set, "not {second}: {}", restored.text);
    assert_eq!(platform.contents(&[]), first);

    // The later one is as whole.
    let latest = ["--set", "latest", "--only", "postgres", "--new-cluster", DATA, "--discard-old", "--yes"];
    assert_eq!(platform.restore(&profile, &latest).must(0).summary["set"], second);
    let lines =
        |text: &str| text.lines().filter(|line| !line.starts_with("table")).map(str::to_owned).collect::<Vec<_>>();
    let now = platform.contents(&[]);
    assert_eq!(lines(&now), lines(&first));
    assert_ne!(now, first);
    platform.in_shell("rm -rf /var/lib/cairn/*.before-*");
}

/// Where the data directory is a disk of its own.
pub fn a_data_directory_that_is_a_mount_point_gets_its_content_back(platform: &Platform) {
    let mounted = |undo: bool| {
        let there = "mkdir /mnt/kept; cp -a DATA/. /mnt/kept";
        let mount = "mount -t tmpfs -o size=400m,mode=700 tmpfs DATA; chown postgres: DATA";
        let script = if undo {
            format!("{there}; umount DATA; find DATA -mindepth 1 -delete")
        } else {
            format!("{there}; {mount}")
        };
        let script = format!(
            "systemctl stop {POSTGRES}; {script}; cp -a /mnt/kept/. DATA; rm -r /mnt/kept; systemctl start {POSTGRES}"
        );
        platform.in_shell(&script.replace("DATA", DATA));
    };
    mounted(false);
    let count = || platform.sql("platform", "SELECT count(*), sum(length(data)) FROM entity");
    let within = || platform.lab.ok(&["find", DATA, "-maxdepth", "1", "-name", ".*", "!", "-name", "."]);
    let first = count();
    for method in ["dump", "files"] {
        let name = format!("mounted-{method}");
        let profile = platform.profile(&name, &format!("[postgres]\nmethod = \"{method}\"\n"));
        platform.backup(&profile, &["--only", "postgres"]).must(0);
        platform.sql("platform", "DELETE FROM entity WHERE random() < 0.5");
        let (changed, active) = (count(), platform.active());
        assert_ne!(changed, first);
        let (options, steps): (&[&str], &[&str]) = match method {
            "dump" => (
                &["--set", "latest", "--yes", "--new-cluster", DATA],
                &["make-postgres", "swap-postgres", "load-postgres", "compare-postgres"],
            ),
            _ => (&["--set", "latest", "--yes"], &["swap-postgres", "compare-postgres"]),
        };
        for step in steps {
            let mut restore = platform.begin("restore", &profile, options);
            assert!(restore.is_cut_at("begin", step), "{method} {step}");
            restore.ended();
            platform.begin("resume", &profile, &[]).ended().must(0);
            assert_eq!((platform.active(), within()), (active.clone(), String::new()), "{method} {step}");
            platform.is_clean();
        }
        let restored = platform.restore(&profile, options).must(0);
        assert_eq!(state(&restored, "postgres")["state"], "restored", "{}", restored.text);
        assert!(restored.text.contains(&format!("{DATA}/.before-")), "{}", restored.text);
        assert_eq!(count(), first);
        // What was moved aside there is not captured, and goes with the next.
        let old = within();
        assert!(old.contains("/.before-"), "{old}");
        platform.backup(&profile, &["--only", "postgres"]).must(0);
        let listed = platform.cairn(&["find", "**/.before-*"]);
        assert!(!String::from_utf8_lossy(&listed.stdout).contains(".before-"), "{listed:?}");
        platform.in_shell(&format!("rm -rf {DATA}/.before-*"));
    }
    the_room_that_ends_in_the_middle_is_told(platform, &first);
    mounted(true);
    assert_eq!(count(), first);
}

/// The plan found room, and somebody else took it.
fn the_room_that_ends_in_the_middle_is_told(platform: &Platform, first: &str) {
    let profile = "/root/mounted-dump.toml";
    let mut restore = platform.begin("restore", profile, &["--set", "latest", "--yes", "--new-cluster", DATA]);
    restore.begins("stop-first");
    platform.lab.run(&["dd", "if=/dev/zero", &format!("of={DATA}/filler"), "bs=64k"]);
    let failed = restore.ended().must(1);
    assert!(failed.text.contains("No space left on device"), "{}", failed.text);
    platform.in_shell(&format!("rm {DATA}/filler; test -z \"$(find {DATA} -maxdepth 1 -name '.?*')\""));
    assert_eq!(platform.sql("platform", "SELECT count(*), sum(length(data)) FROM entity"), first);
    platform.is_clean();
}

/// What another machine needs to become the one that is lost.
pub struct Saved {
    repository: TempDir,
    contents: String,
}

pub const ELSEWHERE: &str = "lost elsewhere";

/// A backup, and a copy of the repository that survives the machine.
pub fn saved(platform: &Platform) -> Option<Saved> {
    if !wanted(ELSEWHERE) {
        return None;
    }
    platform.backup(&platform.profile("moved", ""), &[]).must(0);
    let repository = tempfile::tempdir().unwrap();
    let from = platform.lab.path(REPOSITORY).join(".");
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(repository.path()).status().unwrap();
    assert!(copied.success());
    Some(Saved { repository, contents: platform.contents(&[]) })
}

/// Nothing but the software is there: another name, another port of PostgreSQL, and its data elsewhere.
pub fn a_fresh_machine_becomes_the_one_that_was_lost(saved: &Saved) {
    let started = Instant::now();
    let Some(platform) = Platform::with_units(&PLATFORM) else { return };
    let (to, data) = (platform.lab.path("/srv"), "/srv/pgsql/data");
    std::fs::remove_dir_all(to.join("backup")).unwrap();
    let copied =
        std::process::Command::new("cp").arg("-a").arg(saved.repository.path()).arg(to.join("backup")).status();
    assert!(copied.unwrap().success());
    let unit = "[Service]\nExecStart=\nExecStart=/usr/pgsql-11/bin/postgres -D /srv/pgsql/data -p 5433\n";
    platform.write(&format!("/etc/systemd/system/{POSTGRES}.service.d/moved.conf"), unit);
    platform.in_shell(&format!("hostname fresh; systemctl daemon-reload; systemctl stop {POSTGRES}"));
    let profile = platform.profile(
        "moved",
        "[postgres]\nport = 5433\ndata-directories = [\"/srv/pgsql/data\"]\n[systemd]\nsettle-seconds = 0\n",
    );

    // Its own sets are others.
    platform.backup(&profile, &["--only", "config"]).must(0);
    let latest = ["--set", "latest", "--yes"];
    let refused = platform.restore(&profile, &latest).must(1);
    assert!(refused.text.contains("name one with --host") && refused.text.contains("fresh, lab"), "{}", refused.text);
    let from = [&latest[..], &["--host", "lab"]].concat();

    // Looked at beside what is there.
    let conf = "/etc/eclecticiq-neo4j/neo4j.conf";
    std::fs::write(platform.lab.path(conf), "# of the fresh machine\n").unwrap();
    platform.restore(&profile, &[&from[..], &["--only", "config", "--target-root", "/srv/look"]].concat()).must(0);
    let read = |path: &str| std::fs::read_to_string(platform.lab.path(path)).unwrap();
    assert_eq!(read(conf), "# of the fresh machine\n");
    assert!(read(&format!("/srv/look{conf}")).contains("dbms.directories.data"));

    platform.restore(&profile, &[&from[..], &["--only", "config"]].concat()).must(0);
    assert_eq!(read(conf), read(&format!("/srv/look{conf}")));
    let restored =
        platform.restore(&profile, &[&from[..], &["--skip", "config", "--new-cluster", data]].concat()).must(0);
    for component in ["postgres", "elasticsearch", "neo4j"] {
        assert_eq!(state(&restored, component)["state"], "restored", "{}", restored.text);
    }
    assert_eq!(state(&restored, "postgres")["aside"], Value::Array(Vec::new()), "nothing was there");
    assert_eq!(platform.contents(&["-p", "5433"]), saved.contents);
    println!("{ELSEWHERE}: {:.1} s", started.elapsed().as_secs_f64());
}
