//! A backup set with everything in it, for its reports.

use std::collections::BTreeMap;

use cairn::format::ObjectId;
use cairn::format::record::{DrillOutcome, PathText};
use cairn::format::set::{
    BackupSet, Component, ConfigFacts, Consistency, DatabaseFacts, ElasticsearchFacts, Facts, KeyFile, Neo4jFacts,
    Part, PostgresFacts, RedisFacts, Status, StepRecord, TableFacts,
};
use cairn::repo::proven::{ComponentProof, Difference, SetProof};

fn component(name: &str, status: Status, roles: &[&str], facts: Facts) -> Component {
    let part = |role: &&str| Part {
        role: (*role).to_owned(),
        snapshot: ObjectId::from_bytes([name.len() as u8; 32]),
        bytes: 734_003_200,
        stored_bytes: 9_437_184,
    };
    Component {
        name: name.to_owned(),
        status,
        parts: roles.iter().map(part).collect(),
        versions: BTreeMap::from([(name.to_owned(), "11.22".to_owned())]),
        facts: Some(facts),
        warnings: Vec::new(),
        milliseconds: 83_400,
    }
}

/// What drills have found of it: one component is proven, two are not, of the others nothing is known.
pub fn proof() -> SetProof {
    let time = "2026-03-05T06:00:00Z".parse().unwrap();
    let (host, program) = ("scratch-1.example".to_owned(), "cairn 0.1.0".to_owned());
    let equal = ComponentProof {
        time,
        compared: "2 tables, 1234656 rows".to_owned(),
        versions: BTreeMap::from([("postgresql".to_owned(), "11.22".to_owned())]),
        restore_milliseconds: 83_400,
        compare_milliseconds: 1500,
        host: host.clone(),
        program: program.clone(),
    };
    let different = |outcome, time: &str, differences: &[&str]| Difference {
        time: time.parse().unwrap(),
        outcome,
        differences: differences.iter().map(|line| (*line).to_owned()).collect(),
        versions: BTreeMap::from([("elasticsearch".to_owned(), "7.9.1".to_owned())]),
        host: host.clone(),
        program: program.clone(),
    };
    let documents =
        ["the index <i>stix_v4</i> has 999999 documents instead of 1000000", "the index audit_v2 is missing"];
    SetProof {
        doubtful: false,
        proven: None,
        components: BTreeMap::from([("postgres".to_owned(), equal)]),
        different: BTreeMap::from([
            ("elasticsearch".to_owned(), different(DrillOutcome::Different, "2026-03-05T06:10:00Z", &documents)),
            (
                "redis".to_owned(),
                different(DrillOutcome::Failed, "2026-03-04T06:00:00Z", &["frame 7 of a pack cannot be read"]),
            ),
        ]),
    }
}

/// A set with everything in it, and with text that would be markup if it were not escaped.
pub fn set() -> BackupSet {
    let time: jiff::Timestamp = "2026-03-01T02:00:00Z".parse().unwrap();
    let path = |text: &str| PathText(text.as_bytes().to_vec());
    let long =
        "/opt/a-directory-with-a-name-that-does-not-end/and-another-one/that-is-longer/than-any-phone-is-wide.pem";
    let config = ConfigFacts {
        absent: vec![path("/etc/kibana/kibana.yml"), path("/etc/<b>bold</b>")],
        keys: vec![KeyFile {
            path: path(long),
            named_by: Some(path("/etc/eclecticiq-nginx/nginx.conf")),
            present: true,
        }],
    };
    let table = |name: &str, rows| TableFacts {
        schema: "public".to_owned(),
        name: name.to_owned(),
        rows,
        checksum: Some("9f86d081884c7d659a2feaa0c55ad015".to_owned()),
    };
    let postgres = PostgresFacts {
        method: "dump".to_owned(),
        system_id: "7301234567890123456".to_owned(),
        timeline: 1,
        lsn: "0/1A2B3C4".to_owned(),
        databases: vec![DatabaseFacts {
            name: "platform".to_owned(),
            tables: vec![table("entity", 1_234_567), table("blob", 89)],
        }],
        base: None,
    };
    let elasticsearch = ElasticsearchFacts {
        cluster_uuid: "kP2xQ".to_owned(),
        cluster_name: "eclecticiq".to_owned(),
        repository: "backup".to_owned(),
        snapshot: "snapshot-202603010200".to_owned(),
        snapshot_uuid: "aBcD".to_owned(),
        documents: BTreeMap::from([("stix_v4".to_owned(), 1_000_000), ("audit_v2".to_owned(), 17)]),
        closed: BTreeMap::new(),
    };
    let neo4j = Neo4jFacts {
        database: "graph.db".to_owned(),
        store_id: "X".to_owned(),
        nodes: 5,
        relationships: 7,
        labels: BTreeMap::from([("Entity".to_owned(), 5)]),
    };
    let redis = RedisFacts {
        queues: BTreeMap::from([("queue:ingestion:inbound".to_owned(), 3)]),
        purged: BTreeMap::from([("queue:ingestion:inbound".to_owned(), 3)]),
    };
    let step = |title: &str, state: &str, detail: &str| StepRecord {
        title: title.to_owned(),
        state: state.to_owned(),
        time,
        milliseconds: 1500,
        detail: detail.to_owned(),
    };
    BackupSet {
        profile: "eclecticiq-centos".to_owned(),
        host: "intel-1.example".to_owned(),
        time,
        ended: "2026-03-01T02:07:31Z".parse().unwrap(),
        consistency: Consistency::OnePointInTime,
        status: Status::Partial,
        components: vec![
            component("config", Status::Complete, &["tree"], Facts::Config(config)),
            component("postgres", Status::Complete, &["dump"], Facts::Postgres(postgres)),
            component("elasticsearch", Status::Complete, &["repository"], Facts::Elasticsearch(elasticsearch)),
            component("neo4j", Status::Failed, &[], Facts::Neo4j(neo4j)),
            component("redis", Status::Complete, &["queues", "rdb"], Facts::Redis(redis)),
        ],
        steps: vec![
            step("Stop eclecticiq-platform-backend-services", "done", "1 unit"),
            step("Stop neo4j", "failed", "<script>document.title = 'owned'</script> it did not stop within 90 s"),
            step("undo: Stop eclecticiq-platform-backend-services", "undone", "active"),
        ],
        warnings: vec!["neo4j did not stop, so it is not in this set".to_owned()],
        program: "cairn 0.1.0".to_owned(),
    }
}
