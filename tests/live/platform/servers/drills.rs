//! Backup sets proven by `cairn platform drill`, beside a platform that works on.

use std::sync::Arc;

use cairn::backend::local::Local;
use cairn::format::ObjectId;
use cairn::format::key::Credential;
use cairn::format::set::{BackupSet, Facts};
use cairn::progress::Silent;
use cairn::repo::{OpenOptions, Repository};
use rustix::process::Signal;
use serde_json::Value;

use super::back::CLOSED;
use super::restores::stream;
use super::{BARE, Ended};
use crate::platform::{PASSWORD, Platform, REPOSITORY, summary};

/// What follows [`BARE`]: the lab's servers, started as its units start them.
const SERVERS: &str = r#"
dump = true
[drill.elasticsearch]
command = ["/opt/jdk/bin/java", "-Xmx512m", "-cp", "/opt/jars/es/lib/*:/opt/jars/es/classes", "EsNode", "{port}", "{directory}", "{repository}"]
[drill.neo4j]
command = ["/opt/jdk/bin/java", "-Xmx600m", "--add-opens=java.base/java.nio=ALL-UNNAMED", "--add-opens=java.base/java.io=ALL-UNNAMED",
  "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED", "--add-opens=java.base/java.lang=ALL-UNNAMED",
  "-cp", "/opt/jars/neo4j/lib/*:/opt/jars/neo4j/classes", "Neo", "{directory}", "{port}"]
"#;
const COMPONENTS: [&str; 5] = ["config", "postgres", "elasticsearch", "neo4j", "redis"];

impl Platform {
    pub(super) fn drill(&self, profile: &str, options: &[&str]) -> Ended {
        let untouched = self.untouched();
        let ended = Ended::new(&self.lab.run(&Platform::argv_of("drill", profile, options)));
        assert_eq!(self.untouched(), untouched, "{}", ended.text);
        assert_eq!(self.left(), "", "{}", ended.text);
        ended
    }

    /// What shows that no server was started anew, stopped, or given something.
    fn untouched(&self) -> Vec<String> {
        let units = Vec::from_iter(self.active());
        let units: Vec<&str> = units.iter().map(String::as_str).collect();
        let shown = self.lab.ok(&[&["systemctl", "show", "-P", "InvocationID", "-P", "MainPID"], &units[..]].concat());
        let indices =
            self.lab.ok(&["curl", "-s", "http://localhost:9200/_cat/indices?h=index,uuid,docs.count&s=index"]);
        let registered = self.elasticsearch("_snapshot").to_string();
        let rows = self.sql("platform", "SELECT count(*), sum(length(data::text)) FROM entity");
        let databases = self.sql("postgres", "SELECT string_agg(datname, ',' ORDER BY 1) FROM pg_database");
        vec![shown, indices, registered, rows, databases]
    }

    /// Directories of drills, processes that work in them, and the journal.
    fn left(&self) -> String {
        let script = "find /var/lib -maxdepth 1 -name 'cairn-drill-*'; ls /var/lib/cairn | grep -x journal || true
            for p in /proc/[0-9]*; do if tr '\\0' '\\n' 2>/dev/null <$p/environ | grep -q ^CAIRN_SCRATCH= || readlink $p/cwd | grep -q cairn-drill-
            then tr '\\0' ' ' <$p/cmdline; fi; done";
        self.lab.ok(&["sh", "-c", script])
    }

    /// The newest set's proof.
    fn proof(&self) -> Value {
        let output = self.cairn(&["platform", "sets"]);
        let lines = String::from_utf8(output.stdout).unwrap();
        let mut sets = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        sets.rfind(|line| line["type"] == "set").unwrap()["proof"].clone()
    }

    /// The repository in the machine, from outside.
    fn repository(&self) -> Repository {
        let backend = Arc::new(Local::open(&self.lab.path(REPOSITORY)).unwrap());
        let password = std::fs::read_to_string(self.lab.path(PASSWORD)).unwrap();
        let credential = Credential::Password(password.trim_end().as_bytes().to_vec().into());
        let options = OpenOptions { cache: None, host: "lab".to_owned() };
        Repository::open(backend, &credential, &options, &Silent).unwrap()
    }
}

#[track_caller]
fn state<'a>(ended: &'a Ended, component: &str) -> &'a Value {
    let all = ended.summary["components"].as_array().unwrap_or_else(|| panic!("{}", ended.text));
    all.iter().find(|one| one["component"] == component).unwrap_or_else(|| panic!("{component}: {}", ended.text))
}

pub fn a_full_set_is_proven_beside_the_platform(platform: &Platform) {
    let profile = platform.profile("drilled", &format!("{BARE}{SERVERS}"));
    platform.close_an_index();
    let backed_up = platform.backup(&profile, &[]).must(0);
    backed_up.complete(&COMPONENTS);
    let point = ["--at", "2999-01-01", "--dry-run", "--new-cluster", "/media/pgsql/11/data", "--close-existing"];
    let restore = || Ended::new(&platform.lab.run(&Platform::argv_of("restore", &profile, &point)));
    assert!(restore().must(1).text.contains("unverified"));

    let drilled = platform.drill(&profile, &[]).must(0);
    for component in COMPONENTS {
        let one = state(&drilled, component);
        assert_eq!(one["state"], "proven", "{}", drilled.text);
        println!(
            "{component}: {} ({} + {} ms)",
            one["detail"], one["restore_milliseconds"], one["compare_milliseconds"]
        );
        assert!(one["versions"].as_object().unwrap().len() == usize::from(component != "config"), "{one:#}");
    }
    let detail = state(&drilled, "elasticsearch")["detail"].as_str().unwrap();
    assert!(detail.contains("and 1 closed ones with 3"), "{detail}");
    platform.ask_elasticsearch("DELETE", CLOSED, "");
    let proof = platform.proof();
    assert!(proof["proven"].is_string() && proof["components"].as_object().unwrap().len() == 5, "{proof:#}");
    let listed = String::from_utf8(platform.cairn(&["snapshots", "--name", "drilled.neo4j.store"]).stdout).unwrap();
    let snapshot: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert_eq!(snapshot["drill"]["component"], "neo4j", "{snapshot:#}");
    // It is chosen by its time from now on.
    let chosen = restore().must(0);
    assert_eq!(chosen.summary["set"], drilled.summary["set"], "{}", chosen.text);
    assert!(platform.cairn(&["check"]).status.success());

    what_is_planted_is_found(platform, &profile, &backed_up);
    what_has_no_server_proves_nothing(platform);
}

/// The same set, with one row of its dump changed, and the other facts a little other than what is there.
fn what_is_planted_is_found(platform: &Platform, profile: &str, backed_up: &Ended) {
    let dump = String::from_utf8(stream(platform, backed_up.part("postgres", "dump"))).unwrap();
    let (before, rows) = dump.split_once("COPY public.entity (").unwrap();
    let (head, rows) = rows.split_once('\n').unwrap();
    // The last character of the first row.
    let (first, rest) = rows.split_once('\n').unwrap();
    let changed = format!("{before}COPY public.entity ({head}\n{first}!\n{rest}");
    platform.write("/root/changed.sql", &changed);
    let mut store = platform.lab.command(&Platform::argv(&["backup", "--stdin", "--name", "planted"]));
    let file = std::fs::File::open(platform.lab.path("/root/changed.sql")).unwrap();
    let output = store.stdin(file).output().unwrap();
    let stored = ObjectId::from_hex(summary(&output)["snapshot"].as_str().unwrap()).unwrap();
    let mut set: BackupSet = serde_json::from_value(backed_up.set().clone()).unwrap();
    for component in &mut set.components {
        match &mut component.facts {
            Some(Facts::Postgres(_)) => component.parts[0].snapshot = stored,
            Some(Facts::Elasticsearch(facts)) => *facts.documents.get_mut("stix").unwrap() += 1,
            Some(Facts::Neo4j(facts)) => *facts.labels.values_mut().next().unwrap() += 1,
            Some(Facts::Redis(facts)) => *facts.queues.get_mut("providers").unwrap() += 1,
            _ => {}
        }
    }
    let set = platform.repository().publish_set(&set).unwrap().to_string();
    let found = platform.drill(profile, &["--set", &set]).must(1);
    for (component, words) in [
        ("postgres", ["table \"public\".\"entity\"", "do not have the content that was recorded"]),
        ("elasticsearch", ["the index stix has", "instead of"]),
        ("neo4j", ["nodes have the label", "instead of"]),
        ("redis", ["the queue providers has", "in the server's own dump"]),
    ] {
        let one = state(&found, component);
        assert_eq!(one["state"], "different", "{}", found.text);
        for word in words {
            assert!(one["differences"].to_string().replace("\\\"", "\"").contains(word), "{word}: {one:#}");
            assert!(found.text.contains(component));
        }
    }
    let proven = found.summary["proofs"].as_array().unwrap().len();
    assert_eq!((proven, state(&found, "config")["state"].as_str()), (1, Some("proven")), "{}", found.text);
    let (id, of) = (&set, platform.cairn(&["platform", "sets"]));
    let sets = String::from_utf8(of.stdout).unwrap();
    let ours = sets.lines().find(|line| line.contains(id)).unwrap();
    let proof = serde_json::from_str::<Value>(ours).unwrap()["proof"].clone();
    assert!(proof["proven"].is_null() && proof["different"]["postgres"]["outcome"] == "different", "{proof:#}");
    assert_eq!(proof["different"].as_object().unwrap().len(), 4, "{proof:#}");
}

fn what_has_no_server_proves_nothing(platform: &Platform) {
    let broken = "[drill.elasticsearch]\ncommand = [\"/bin/sh\", \"-c\", \"echo no heap; exit 3\"]\n\
        [drill.neo4j]\ncommand = [\"/nowhere/neo4j\"]\n";
    // Under the name of the sets that are there.
    let text = std::fs::read_to_string(platform.lab.path("/root/drilled.toml")).unwrap();
    let text = text.split("[drill.elasticsearch]").next().unwrap().to_owned() + broken;
    platform.write("/root/broken.toml", &text);
    let ended = platform.drill("/root/broken.toml", &["--only", "elasticsearch,neo4j"]).must(1);
    for (component, word) in [("elasticsearch", "no heap"), ("neo4j", "/nowhere/neo4j")] {
        let one = state(&ended, component);
        assert_eq!(one["state"], "not-started", "{}", ended.text);
        assert!(one["detail"].as_str().unwrap().contains(word), "{one:#}");
    }
    assert_eq!(ended.summary["proofs"], Value::Array(Vec::new()));
}

/// A tablespace, whose real directory nobody may write to but the platform's own server.
pub fn the_files_of_postgresql_are_proven_and_tablespaces_are_left_alone(platform: &Platform) {
    let space = "/media/pgsql/space";
    platform.lab.ok(&["install", "-d", "-o", "postgres", "-m", "700", space]);
    platform.sql("postgres", &format!("CREATE TABLESPACE space LOCATION '{space}'"));
    platform.sql("platform", "CREATE TABLE spaced TABLESPACE space AS SELECT generate_series(1, 1000) n");
    let listing = || platform.lab.ok(&["find", space, "-printf", "%p %s %i %C@\n"]);
    for method in ["dump", "files", "base"] {
        let profile = platform.profile(method, &format!("{BARE}[postgres]\nmethod = \"{method}\"\n"));
        platform.backup(&profile, &["--only", "postgres"]).must(0);
        platform.sql("postgres", "CHECKPOINT");
        let before = listing();
        let drilled = platform.drill(&profile, &["--set", "latest"]).must(0);
        assert_eq!(state(&drilled, "postgres")["state"], "proven", "{}", drilled.text);
        println!("{method}: {}", state(&drilled, "postgres")["detail"]);
        assert_eq!(listing(), before, "{method}");
        a_drill_that_is_killed_leaves_nothing(platform, &profile, if method == "dump" { "restore" } else { "start" });
    }
    platform.sql("platform", "DROP TABLE spaced");
    platform.sql("postgres", "DROP TABLESPACE space");
    platform.lab.ok(&["rm", "-r", space]);
}

fn a_drill_that_is_killed_leaves_nothing(platform: &Platform, profile: &str, step: &str) {
    let untouched = platform.untouched();
    let mut drill = platform.begin("drill", profile, &["--set", "latest"]);
    drill.begins(&format!("{step}-postgres"));
    drill.signal(Signal::KILL);
    drill.ended();
    assert_ne!(platform.left(), "");
    Ended::new(&platform.lab.run(&Platform::argv_of("resume", profile, &[]))).must(0);
    assert_eq!((platform.left().as_str(), platform.untouched()), ("", untouched));
}
