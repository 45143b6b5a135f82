//! A backup set put back onto the platform by `cairn platform restore`.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::{Ended, Scenario, guide, lost, run, timed};
use crate::platform::{Platform, REPOSITORY};

const CONFIG: &str = "/etc/eclecticiq-neo4j/neo4j.conf";
pub const DATA: &str = "/media/pgsql/11/data";
/// An index that is closed.
pub(super) const CLOSED: &str = "audit-2019";
const BEGUN: [&str; 5] = ["--set", "latest", "--new-cluster", DATA, "--close-existing"];

impl Platform {
    pub(super) fn restore(&self, profile: &str, options: &[&str]) -> Ended {
        Ended::new(&self.lab.run(&Platform::argv_of("restore", profile, options)))
    }

    /// Directories of the lower layer of an overlay cannot be renamed, unlike those of a machine.
    fn own_data(&self) {
        self.lab.ok(&["systemctl", "stop", "postgresql-11"]);
        let script = format!("cp -a {DATA} {DATA}.own && rm -rf {DATA} && mv {DATA}.own {DATA}");
        self.lab.ok(&["sh", "-ec", &script]);
        self.lab.ok(&["systemctl", "start", "postgresql-11"]);
    }

    fn count(&self, index: &str) -> u64 {
        self.elasticsearch(&format!("{index}/_count"))["count"].as_u64().unwrap_or(u64::MAX)
    }

    /// What the platform holds, in a few words.
    fn holds(&self) -> [String; 3] {
        let rows = self.sql("platform", "SELECT count(*), sum(length(data::text)) FROM entity");
        let documents = ["stix", "audit"].map(|index| self.count(index));
        let documents = format!("{documents:?} {}", self.closed());
        [rows, documents, std::fs::read_to_string(self.lab.path(CONFIG)).unwrap()]
    }

    /// Makes an index that is closed.
    pub(super) fn close_an_index(&self) {
        for number in 1..=3 {
            self.ask_elasticsearch("PUT", &format!("{CLOSED}/_doc/{number}?refresh"), r#"{"title": "kept"}"#);
        }
        self.ask_elasticsearch("POST", &format!("{CLOSED}/_close"), "");
        self.elasticsearch("_cluster/health?wait_for_status=yellow&timeout=60s");
    }

    /// Its state, and how many documents it has.
    fn closed(&self) -> String {
        let listed = self.elasticsearch(&format!("_cat/indices/{CLOSED}?format=json&h=status&expand_wildcards=all"));
        let counted = self.elasticsearch(&format!("{CLOSED}/_stats/docs?forbid_closed_indices=false"));
        format!("{:?} {:?}", listed.pointer("/0/status"), counted.pointer("/_all/primaries/docs/count"))
    }

    /// Loses and gains some of everything.
    fn change(&self) {
        self.sql("platform", "DELETE FROM entity WHERE random() < 0.5");
        self.sql("platform", "CREATE TABLE IF NOT EXISTS later (n int)");
        self.ask_elasticsearch("DELETE", "audit", "");
        if self.closed().contains("close") {
            self.ask_elasticsearch("POST", &format!("{CLOSED}/_open?wait_for_active_shards=1"), "");
            self.ask_elasticsearch("POST", &format!("{CLOSED}/_doc?refresh"), r#"{"title": "later"}"#);
        }
        self.ask_elasticsearch("POST", "stix/_doc?refresh", r#"{"title": "later"}"#);
        let text = std::fs::read_to_string(self.lab.path(CONFIG)).unwrap();
        std::fs::write(self.lab.path(CONFIG), text + "# broken\n").unwrap();
    }

    /// What restores have moved aside or left half made.
    fn beside(&self) -> String {
        let script = "find /media /etc /var/lib/cairn /db-backup -name '*.before-*' -o -name '*.cairn-new-*' -o -name 'cairn-restore-*'";
        self.lab.ok(&["sh", "-ec", &format!("{{ {script}; }} | sort")])
    }

    /// The packs of data in the repository.
    fn packs(&self) -> Vec<PathBuf> {
        let listed = self.lab.ok(&["find", &format!("{REPOSITORY}/data"), "-type", "f"]);
        listed.lines().map(PathBuf::from).collect()
    }
}

#[track_caller]
pub(super) fn state<'a>(ended: &'a Ended, component: &str) -> &'a Value {
    let all = ended.summary["components"].as_array().unwrap_or_else(|| panic!("{}", ended.text));
    all.iter().find(|one| one["component"] == component).unwrap_or_else(|| panic!("{component}: {}", ended.text))
}

/// On a machine of its own: others leave a new cluster behind, which does not read the platform's file of settings.
#[test]
fn a_platform_whose_log_is_archived_comes_back_by_a_time() {
    let Some(platform) = Platform::boot() else { return };
    platform.own_data();
    let whole: Scenario = ("timed", timed::the_whole_platform_comes_back_by_a_time_and_postgresql_at_that_very_moment);
    run(&platform, &[whole]);
}

#[test]
fn a_backup_set_comes_back_onto_the_platform() {
    let Some(platform) = Platform::boot() else { return };
    platform.own_data();
    let scenarios: [Scenario; 7] = [
        ("back", everything_comes_back_and_is_compared),
        ("back killed", a_restore_that_is_killed_is_undone),
        ("lost wiped", lost::what_was_wiped_comes_back_from_the_set_of_that_time),
        ("lost mounted", lost::a_data_directory_that_is_a_mount_point_gets_its_content_back),
        ("guide", guide::the_guide_leads_through_an_upgrade_and_a_disaster),
        ("back damaged", what_is_damaged_fails_and_the_rest_comes_back),
        ("back files", the_files_of_postgresql_come_back),
    ];
    run(&platform, &scenarios);
    let saved = lost::saved(&platform);
    drop(platform);
    if let Some(saved) = saved {
        lost::a_fresh_machine_becomes_the_one_that_was_lost(&saved);
    }
}

fn everything_comes_back_and_is_compared(platform: &Platform) {
    let profile = platform.profile("back", "");
    platform.close_an_index();
    let before = platform.holds();
    assert!(before[1].contains("close"), "{}", before[1]);
    platform.backup(&profile, &[]).must(0).complete(&["config", "postgres", "elasticsearch", "neo4j", "redis"]);

    // A set that nobody has proven is not taken by its time without being asked for.
    let none = platform.restore(&profile, &["--at", "2999-01-01", "--yes"]).must(1);
    assert!(none.text.contains("unverified"), "{}", none.text);
    // Nor is anything begun with something in the way.
    let refused = platform.restore(&profile, &["--set", "latest", "--yes"]).must(1);
    for word in ["the cluster is not empty", "platform", "--new-cluster", "are there already", "--close-existing"] {
        assert!(refused.text.contains(word), "{word:?}: {}", refused.text);
    }
    platform.lab.ok(&["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", "/mnt"]);
    let small = platform.restore(&profile, &["--set", "latest", "--yes", "--new-cluster", "/mnt/data"]).must(1);
    platform.lab.ok(&["umount", "/mnt"]);
    assert!(small.text.contains("bytes free, and"), "{}", small.text);

    platform.change();
    let changed = platform.holds();
    assert_ne!(changed, before);
    let options = ["--at", "2999-01-01", "--allow", "unverified", "--new-cluster", DATA, "--close-existing"];
    let shown = platform.restore(&profile, &[&options[..], &["--dry-run"]].concat()).must(0);
    for word in [CONFIG, "load-postgres", "swap-neo4j", "restore-elasticsearch"] {
        assert!(shown.text.contains(word), "{word}: {}", shown.text);
    }
    let unasked = platform.restore(&profile, &options).must(2);
    assert!(unasked.text.contains("--yes"), "{}", unasked.text);
    assert_eq!((platform.holds(), platform.beside()), (changed, String::new()));

    let restored = platform.restore(&profile, &[&options[..], &["--yes"]].concat()).must(0);
    assert_eq!(platform.holds(), before);
    assert_eq!(platform.sql("platform", "SELECT to_regclass('later')"), "");
    for component in ["config", "postgres", "elasticsearch", "neo4j"] {
        assert_eq!(state(&restored, component)["state"], "restored", "{}", restored.text);
        // What was there is still there, under the name that is told.
        assert_ne!(state(&restored, component)["aside"], Value::Array(Vec::new()), "{component}");
    }
    let beside = platform.beside();
    assert!(beside.contains(&format!("{DATA}.before-")) && beside.contains("neo4j.before-"), "{beside}");
    assert!(!beside.contains("cairn-new") && !beside.contains("cairn-restore"), "{beside}");
    let again = platform.restore(&profile, &[&options[..], &["--yes", "--discard-old"]].concat()).must(0);
    assert_eq!(state(&again, "neo4j")["aside"], Value::Array(Vec::new()), "{}", again.text);
    assert_eq!((platform.holds(), platform.beside()), (before, beside.clone()), "only its own is discarded");
    let script = "rm -rf $(find /media /var/lib/cairn -name '*.before-*')";
    platform.lab.ok(&["sh", "-ec", script]);
}

/// The steps at which a restore of a component is killed.
const KILLS: [(&str, &[&str]); 4] = [
    ("config", &["put-config"]),
    ("postgres", &["make-postgres", "swap-postgres", "load-postgres", "compare-postgres"]),
    (
        "elasticsearch",
        &["stage-elasticsearch", "aside-elasticsearch", "restore-elasticsearch", "compare-elasticsearch"],
    ),
    ("neo4j", &["stage-neo4j", "swap-neo4j", "compare-neo4j"]),
];

fn a_restore_that_is_killed_is_undone(platform: &Platform) {
    let profile = platform.profile("back", "");
    platform.change();
    // What is closed now is to be so again.
    platform.ask_elasticsearch("POST", &format!("{CLOSED}/_close"), "");
    platform.elasticsearch("_cluster/health?wait_for_status=yellow&timeout=60s");
    let (changed, active) = (platform.holds(), platform.active());
    for (component, steps) in KILLS {
        for (at, step) in steps.iter().enumerate() {
            let mut restore =
                platform.begin("restore", &profile, &[&BEGUN[..], &["--yes", "--only", component]].concat());
            restore.begins(step);
            // At once, and in the middle.
            std::thread::sleep(Duration::from_millis(300 * (at as u64 % 2)));
            restore.signal(Signal::KILL);
            restore.ended();
            let resume = |code| Ended::new(&platform.lab.run(&Platform::argv_of("resume", &profile, &[]))).must(code);
            let told = resume(0);
            // What nobody would look for is named, with how it goes.
            if *step == "compare-elasticsearch" {
                assert!(told.text.contains("/_snapshot/backup/before-restore-"), "{}", told.text);
            }
            assert_eq!(platform.active(), active, "{step}");
            assert_eq!((platform.holds(), platform.beside()), (changed.clone(), String::new()), "{step}");
            platform.is_clean();
            assert_eq!(resume(0).summary["undone"], 0, "{step}");
        }
    }
    // Nothing of that keeps it from coming back.
    platform.restore(&profile, &[&BEGUN[..], &["--yes", "--discard-old"]].concat()).must(0);
    assert_ne!(platform.holds(), changed);
    platform.ask_elasticsearch("DELETE", CLOSED, "");
}

fn what_is_damaged_fails_and_the_rest_comes_back(platform: &Platform) {
    let profile = platform.profile("damaged", "");
    platform.backup(&profile, &["--only", "config"]).must(0);
    let known = platform.packs();
    platform.backup(&profile, &["--only", "config,postgres"]).must(0);
    // What came with the second is of its dump.
    for pack in platform.packs().iter().filter(|pack| !known.contains(pack)) {
        let path = platform.lab.path(pack.to_str().unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let before = platform.holds();
    std::fs::write(platform.lab.path(CONFIG), "broken").unwrap();
    let restored = platform.restore(&profile, &[&BEGUN[..4], &["--yes"]].concat()).must(3);
    assert_eq!(state(&restored, "config")["state"], "restored", "{}", restored.text);
    assert_eq!(state(&restored, "postgres")["state"], "failed", "{}", restored.text);
    assert_eq!(platform.holds(), before);
    assert!(!platform.beside().contains(DATA), "{}", platform.beside());
    // Packs with one bit turned would stay in the way of later scenarios.
    platform.lab.ok(&["sh", "-ec", &format!("rm -rf {REPOSITORY}")]);
    assert!(platform.cairn(&["init"]).status.success());
}

fn the_files_of_postgresql_come_back(platform: &Platform) {
    for method in ["files", "base"] {
        let profile = platform.profile(method, &format!("[postgres]\nmethod = \"{method}\"\n"));
        let before = platform.holds();
        platform.backup(&profile, &["--only", "postgres"]).must(0);
        platform.sql("platform", "DELETE FROM entity WHERE random() < 0.5");
        assert_ne!(platform.holds(), before);
        let restored = platform.restore(&profile, &["--set", "latest", "--yes", "--discard-old"]).must(0);
        assert_eq!(state(&restored, "postgres")["state"], "restored", "{}", restored.text);
        assert_eq!(platform.holds(), before, "{method}");
    }
}
