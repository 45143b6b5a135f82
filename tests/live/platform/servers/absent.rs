//! Servers that are not there, and an Elasticsearch that does not allow its repository.

use std::time::Instant;

use rustix::process::Signal;

use super::cuts::resume_twice;
use super::{BARE, Ended};
use crate::platform::Platform;
use crate::servers::PATIENCE;

/// What cannot be looked at while servers are down.
const UNKNOWN: [&str; 8] = [
    "postgres-sessions",
    "postgres-programs",
    "elasticsearch-activity",
    "elasticsearch-health",
    "elasticsearch-path-repo",
    "elasticsearch-repository",
    "elasticsearch-space",
    "neo4j-activity",
];

pub fn servers_that_are_down_are_told_and_stay_so(platform: &Platform) {
    let down = ["elasticsearch", "postgresql-11", "neo4j"];
    platform.lab.ok(&[&["systemctl", "stop"], down.as_slice()].concat());
    let profile = platform.profile("absent", BARE);
    let before = platform.active();
    // Without being told that it may, nothing is begun.
    let ended = platform.backup(&profile, &["--skip", "redis"]).must(1);
    assert!(ended.text.contains("elasticsearch-health") && ended.summary["set"].is_null(), "{}", ended.text);
    let allowed = UNKNOWN.iter().flat_map(|check| ["--allow", check]);
    let options: Vec<&str> = ["--skip", "redis"].into_iter().chain(allowed).collect();
    let ended = platform.backup(&profile, &options).must(3);
    assert_eq!(platform.active(), before, "what was down stays down");
    ended.failed("postgres", &["/var/run/postgresql/.s.PGSQL.5432"]);
    ended.failed("elasticsearch", &["http://localhost:9200", "refused"]);
    ended.complete(&["config", "neo4j"]);
    assert!(ended.component("neo4j")["warnings"].to_string().contains("does not run"), "{}", ended.text);
    assert_eq!(ended.component("redis")["warnings"][0], "it was left out on request");
    platform.lab.ok(&[&["systemctl", "start"], down.as_slice()].concat());
}

const FILE: &str = "/etc/eclecticiq-elasticsearch/elasticsearch.yml";
/// What stands in it without `path.repo`.
const BEFORE: &str = "# of the operator\ncluster.name: lab # not\n\n# the end, without a line break";

pub fn an_edited_path_repo_stays_only_if_it_served(platform: &Platform) {
    let path = platform.lab.path(FILE);
    let original = std::fs::read(&path).unwrap();
    platform.write(FILE, BEFORE);
    platform.lab.ok(&["systemctl", "restart", "elasticsearch"]);
    let profile = platform.profile("editing", BARE);
    let process = || platform.processes()["elasticsearch.service"].clone();
    let allows =
        || platform.elasticsearch("_nodes/settings?filter_path=nodes.*.settings.path.repo") != serde_json::json!({});
    let has_copy = || platform.lab.path("/var/lib/cairn/elasticsearch.yml.before").exists();
    // Just started, it is red for a moment, and the preflight would refuse it.
    let healthy = || drop(platform.elasticsearch("_cluster/health?wait_for_status=yellow&timeout=60s"));
    let unchanged = |ended: &Ended| {
        healthy();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), BEFORE, "{}", ended.text);
        assert!(!allows(), "it still runs with what was taken back");
        assert!(!has_copy());
    };

    // Without the option it is only told.
    healthy();
    let options = ["--only", "elasticsearch,config", "--allow", "elasticsearch-path-repo"];
    let ended = platform.backup(&profile, &options).must(3);
    ended.failed("elasticsearch", &["--configure-path-repo", "path.repo: [\\\"/db-backup/elasticsearch\\\"]"]);
    unchanged(&ended);

    // Elasticsearch cannot be captured for another reason; the rest of the set is published.
    let options = [&options[..], &["--configure-path-repo"]].concat();
    platform.lab.ok(&["chown", "root:", "/db-backup/elasticsearch"]);
    let first = process();
    let ended = platform.backup(&profile, &options).must(3);
    platform.lab.ok(&["chown", "elasticsearch:", "/db-backup/elasticsearch"]);
    ended.failed("elasticsearch", &["/db-backup/elasticsearch", "root"]);
    unchanged(&ended);
    assert_ne!(process(), first);

    // Everything was captured, and the set cannot be published: Elasticsearch is not started anew beneath services that
    // are up again.
    platform.lab.ok(&["sh", "-ec", "cd /srv/backup && mv sets aside && touch sets"]);
    let ended = platform.backup(&profile, &options).must(1);
    platform.lab.ok(&["sh", "-ec", "cd /srv/backup && rm sets && mv aside sets"]);
    healthy();
    assert!(allows() && !has_copy(), "{}", ended.text);
    platform.is_clean();

    platform.write(FILE, BEFORE);
    platform.lab.ok(&["systemctl", "restart", "elasticsearch"]);
    healthy();
    let ended = platform.backup(&profile, &options).must(0);
    ended.complete(&["elasticsearch"]);
    assert!(!has_copy());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        allows() && text.starts_with(BEFORE) && text.contains("path.repo: [\"/db-backup/elasticsearch\"]"),
        "{text}"
    );
    std::fs::write(&path, original).unwrap();
    healthy();
}

/// What was edited is put back by `resume`, which has only the journal, and by the run itself when it is asked to stop.
pub fn an_edit_of_path_repo_that_was_cut_off_is_taken_back(platform: &Platform) {
    let path = platform.lab.path(FILE);
    let original = std::fs::read(&path).unwrap();
    let restart = || {
        platform.lab.ok(&["systemctl", "restart", "elasticsearch"]);
        platform.elasticsearch("_cluster/health?wait_for_status=yellow&timeout=60s");
    };
    platform.write(FILE, BEFORE);
    restart();
    let profile = platform.profile("cut-editing", BARE);
    let options = ["--only", "elasticsearch,config", "--allow", "elasticsearch-path-repo", "--configure-path-repo"];
    let before = platform.active();
    // At once; and while Elasticsearch is down, the file edited.
    for (signal, down) in [(Signal::KILL, false), (Signal::KILL, true), (Signal::TERM, true)] {
        let mut run = platform.begin("backup", &profile, &options);
        run.begins("configure-elasticsearch");
        let started = Instant::now();
        while down && platform.lab.is_active("elasticsearch") {
            assert!(started.elapsed() < PATIENCE, "it is not started anew");
        }
        if down {
            assert_ne!(std::fs::read_to_string(&path).unwrap(), BEFORE);
        }
        run.signal(signal);
        let ended = run.ended();
        let told = match signal {
            Signal::KILL => {
                assert_eq!(ended.code, None, "it was killed");
                resume_twice(platform, &profile)
            }
            _ => ended.must(130).text,
        };
        assert_eq!(std::fs::read_to_string(&path).unwrap(), BEFORE, "{signal:?}, down: {down}: {told}");
        assert!(!platform.lab.path("/var/lib/cairn/elasticsearch.yml.before").exists());
        assert_eq!(platform.active(), before, "{told}");
        platform.elasticsearch("_cluster/health?wait_for_status=yellow&timeout=60s");
        let allowed = platform.elasticsearch("_nodes/settings?filter_path=nodes.*.settings.path.repo");
        assert_eq!(allowed, serde_json::json!({}), "it still runs with what was taken back");
    }
    std::fs::write(&path, original).unwrap();
    restart();
}
