//! The Elasticsearch driver against a real node.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cairn::source::SourceError;
use cairn::source::elasticsearch::client::{Level, Refusal};
use cairn::source::elasticsearch::facts::{Quiescence, Tally, compare};
use cairn::source::elasticsearch::location::create_location;
use cairn::source::elasticsearch::repository::Access;
use cairn::source::elasticsearch::restore::{Rename, Request};
use cairn::source::elasticsearch::snapshot::Snapshot;
use cairn::source::elasticsearch::{Client, ElasticsearchSettings};
use jiff::Timestamp;
use reqwest::Method;

use crate::servers::elasticsearch::Elasticsearch;
use crate::servers::{PATIENCE, free_port};

fn never() -> bool {
    false
}

fn take(client: &Client) -> Result<Snapshot, SourceError> {
    let name = client.name_for(Timestamp::now())?;
    client.create(&name)?;
    client.wait(&name, PATIENCE, &never, &mut |_| {})
}

fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", told(cause)),
        None => error.to_string(),
    }
}

fn refusal(error: SourceError) -> String {
    let text = told(&error);
    match error {
        SourceError::Server { source, .. } => assert!(source.is::<Refusal>(), "{text}"),
        _ => panic!("no refusal: {text}"),
    }
    text
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn bytes_below(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.metadata().unwrap() {
            metadata if metadata.is_dir() => bytes_below(&entry.path()),
            metadata => metadata.len(),
        })
        .sum()
}

const SEEDED: [(&str, usize, &str); 6] = [
    ("audit_v2", 30, ""),
    ("stix_v4", 4000, ""),
    ("documents-1.2", 7, ""),
    ("logstash-2026.01.02", 5, ""),
    (".meta", 2, r#","hidden":true"#),
    ("draft-entities_v1", 0, ""),
];

/// An index that is closed, of two shards, with 31 documents of which 30 have one in them.
const CLOSED: &str = "reports_v1";
const NESTED: &str = r#"{"settings":{"number_of_shards":2,"number_of_replicas":0},"mappings":{"properties":{"parts":{"type":"nested"}}}}"#;

#[test]
fn a_directory_copied_while_read_only_brings_back_every_document() {
    let Some(server) = Elasticsearch::start(true) else { return };
    let client = server.client();
    assert!(client.info().unwrap().version.starts_with("7.17."));
    for (index, documents, settings) in SEEDED {
        server.seed(index, documents, settings);
    }
    assert!(client.health().unwrap().level >= Level::Yellow);
    let listed: BTreeMap<String, Option<u64>> =
        client.indices().unwrap().into_iter().map(|index| (index.name, index.documents)).collect();
    assert_eq!(listed.get(".meta"), Some(&Some(2)), "hidden indices are listed, too: {listed:?}");

    let stored = client.stored_bytes().unwrap();
    let one = ElasticsearchSettings { indices: vec!["stix*".to_owned()], ..server.settings() };
    let one = Client::new(&one).unwrap().stored_bytes().unwrap();
    assert!(0 < one && one < stored, "{one} of {stored}");

    assert!(client.nodes_without_location().unwrap().is_empty());
    assert!(!client.is_registered().unwrap());
    assert!(create_location(&server.location(), &server.settings().owner).unwrap());
    assert!(client.register(Access::Writable).unwrap());
    assert!(!client.register(Access::Writable).unwrap(), "the second time has nothing to do");
    assert!(client.is_registered().unwrap() && !client.is_read_only().unwrap());
    assert_eq!(client.verify_repository().unwrap(), ["n1"]);
    assert!(client.rivals().unwrap().is_empty());

    let first = take(&client).unwrap();
    let size = bytes_below(&server.location());
    server.add("stix_v4", 10);
    server.send(Method::PUT, CLOSED, NESTED);
    let lines: String = (0..30).map(|n| format!("{{\"index\":{{}}}}\n{{\"parts\":[{{\"n\":{n}}}]}}\n")).collect();
    server.send(Method::POST, &format!("{CLOSED}/_bulk?refresh=true"), &(lines + "{\"index\":{}}\n{}\n"));
    client.close_index(CLOSED).unwrap();
    client.wait_for_health(Level::Yellow, PATIENCE, &never).unwrap();
    let second = take(&client).unwrap();
    assert_ne!(first.name, second.name, "two snapshots of one minute have different names");
    let grown = bytes_below(&server.location()) - size;
    assert!(grown < size / 2, "the second snapshot is incremental, but added {grown} to {size} bytes");
    let counted = client.facts(&second, Quiescence::AtRest, &never).unwrap();
    assert!(counted.notes.is_empty(), "{:?}", counted.notes);
    assert_eq!(counted.facts.closed, BTreeMap::from([(CLOSED.to_owned(), 61)]));
    let mut expected: BTreeMap<String, u64> =
        SEEDED.iter().map(|(index, documents, _)| ((*index).to_owned(), *documents as u64)).collect();
    expected.insert("stix_v4".to_owned(), 4010);
    assert_eq!(counted.facts.documents, expected);
    assert_eq!(counted.facts.snapshot_uuid, second.uuid);
    let online = client.facts(&second, Quiescence::Online, &never).unwrap();
    assert!(online.notes[0].contains("while the platform worked"));

    read_only_refuses_snapshots(&client);
    let kept = server.location().with_file_name("copy");
    copy(&server.location(), &kept);
    assert!(client.wait_for_access(Access::Writable, &never).unwrap());
    assert!(!client.is_read_only().unwrap());

    // Everything is lost, and the repository's directory comes back from the copy.
    for index in SEEDED.map(|(index, ..)| index).into_iter().chain([CLOSED]) {
        client.delete_index(index).unwrap();
        client.delete_index(index).unwrap();
    }
    assert!(client.delete_index("*").is_err());
    client.unregister().unwrap();
    client.unregister().unwrap();
    std::fs::remove_dir_all(server.location()).unwrap();
    copy(&kept, &server.location());
    client.register(Access::ReadOnly).unwrap();
    let request = Request { snapshot: second.name.clone(), indices: Vec::new(), rename: None, global_state: false };
    let closed = [CLOSED.to_owned()];
    let restored = client.restore_as_recorded(&request, &closed, PATIENCE, &never, &mut |_| {}).unwrap();
    assert_eq!(restored.len(), SEEDED.len() + 1);
    client.wait_for_health(Level::Yellow, PATIENCE, &never).unwrap();
    let recorded = Tally::of(&counted.facts);
    assert_eq!(compare(&recorded, &client.tally(&restored, &never).unwrap()), Vec::<String>::new());
    closed_again(&server, &client);

    a_restore_beside_the_living_index(&client, &first);
    pruning_leaves_the_newest(&client, &first, &second);
}

/// What is restored is open; and whoever opens it finds every document.
fn closed_again(server: &Elasticsearch, client: &Client) {
    let listed = client.indices().unwrap();
    assert!(listed.iter().all(|index| index.open == (index.name != CLOSED)), "{listed:?}");
    server.send(Method::POST, &format!("{CLOSED}/_open?wait_for_active_shards=1"), "");
    let names = [CLOSED.to_owned()];
    assert_eq!(client.tally(&names, &never).unwrap().documents.get(CLOSED), Some(&31));
}

fn read_only_refuses_snapshots(client: &Client) {
    assert!(client.wait_for_access(Access::ReadOnly, &never).unwrap());
    assert!(!client.wait_for_access(Access::ReadOnly, &never).unwrap());
    assert!(client.is_read_only().unwrap());
    let text = refusal(take(client).unwrap_err());
    assert!(text.contains("readonly"), "{text}");
}

fn a_restore_beside_the_living_index(client: &Client, first: &Snapshot) {
    let rename = Rename { pattern: "(.+)".to_owned(), replacement: "drill-$1".to_owned() };
    let indices = vec!["stix_v4".to_owned()];
    let mut request = Request { snapshot: first.name.clone(), indices, rename: None, global_state: false };
    let text = refusal(client.restore(&request, PATIENCE, &never, &mut |_| {}).unwrap_err());
    assert!(text.contains("stix_v4"), "an open index is never restored over: {text}");
    request.rename = Some(rename);
    let restored = client.restore(&request, PATIENCE, &never, &mut |_| {}).unwrap();
    assert_eq!(restored, ["drill-stix_v4"]);
    let counts = client.tally(&restored, &never).unwrap().documents;
    assert_eq!(counts.get("drill-stix_v4"), Some(&4000), "the first snapshot holds what was there then");
    let progress = client.restore_progress().unwrap();
    assert!(progress.shards > 0 && progress.shards_done == progress.shards, "{progress:?}");
    client.close_index("drill-stix_v4").unwrap();
    client.wait_for_health(Level::Yellow, PATIENCE, &never).unwrap();
    let found = client.tally(&restored, &never).unwrap();
    assert!(found.documents.is_empty() && found.closed.get("drill-stix_v4") == Some(&4000), "{found:?}");
}

fn pruning_leaves_the_newest(client: &Client, first: &Snapshot, second: &Snapshot) {
    client.register(Access::Writable).unwrap();
    client.create("nightly").unwrap();
    client.wait("nightly", PATIENCE, &never, &mut |_| {}).unwrap();
    assert_eq!(client.prune(0, &never).unwrap(), std::slice::from_ref(&first.name));
    let left: Vec<String> = client.snapshots().unwrap().into_iter().map(|snapshot| snapshot.name).collect();
    assert_eq!(left, [second.name.clone(), "nightly".to_owned()]);
    assert!(client.prune(0, &never).unwrap().is_empty());
    client.delete(&first.name, &never).unwrap();
    // A snapshot that goes while it is waited for is no success.
    let error = client.wait(&first.name, PATIENCE, &never, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("is gone"), "{error}");
}

#[test]
fn a_snapshot_that_lacks_a_shard_is_an_error_that_names_it() {
    let Some(server) = Elasticsearch::start(true) else { return };
    let client = server.client();
    client.register(Access::Writable).unwrap();
    server.seed("stix_v4", 500, "");
    server.seed("whole", 5, "");

    // A shard without a node.
    let impossible = r#"{"settings":{"number_of_replicas":0,"index.routing.allocation.require._name":"nowhere"}}"#;
    let url = format!("{}/nowhere?wait_for_active_shards=0", server.settings().url);
    let request = reqwest::blocking::Client::new().put(url).header("content-type", "application/json");
    assert!(request.body(impossible).send().unwrap().status().is_success());
    assert_eq!(client.health().unwrap().level, Level::Red);
    let text = refusal(take(&client).unwrap_err());
    assert!(text.contains("nowhere"), "{text}");
    let error = client.wait_for_health(Level::Yellow, Duration::from_secs(1), &never).unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }) && error.to_string().contains("it is red"), "{error}");
    // Of a partial snapshot, Elasticsearch's progress says SUCCESS.
    let name = "snapshot-200001010000";
    let path = format!("_snapshot/backup/{name}");
    server.send(Method::PUT, &format!("{path}?wait_for_completion=true"), r#"{"partial":true}"#);
    let status = server.send(Method::GET, &format!("{path}/_status"), "");
    assert_eq!(status["snapshots"][0]["state"], "SUCCESS");
    let text = client.wait(name, PATIENCE, &never, &mut |_| {}).unwrap_err().to_string();
    assert!(text.contains("PARTIAL with 2 of 3 shards") && text.contains("nowhere[0]: primary shard"), "{text}");
    client.delete_index("nowhere").unwrap();
    // What a snapshot holds already is not read again.
    client.delete(name, &never).unwrap();

    // A shard whose file is damaged.
    let damaged = damage(&server.data());
    assert!(damaged > 0);
    let error = take(&client).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, SourceError::Answer { .. }), "{text}");
    assert!(text.contains("stix_v4[0]") && text.contains("PARTIAL"), "{text}");
    assert!(client.prune(1, &never).unwrap().is_empty(), "incomplete ones alone are not pruned");
}

/// Flips bytes in the largest segment file, which belongs to the largest index.
pub fn damage(data: &Path) -> u64 {
    let mut largest = (0, std::path::PathBuf::new());
    let mut directories = vec![data.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if entry.path().extension().is_some_and(|end| end == "cfs" || end == "fdt") {
                largest = largest.max((metadata.len(), entry.path()));
            }
        }
    }
    let mut bytes = std::fs::read(&largest.1).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&largest.1, bytes).unwrap();
    largest.0
}

#[test]
fn what_the_operator_has_to_set_is_told_and_a_silent_server_does_not_hang_a_run() {
    let Some(mut server) = Elasticsearch::start(false) else { return };
    let client = server.client();
    assert_eq!(client.nodes_without_location().unwrap(), ["n1"]);
    let error = client.register(Access::Writable).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, SourceError::Setting { .. }), "{text}");
    assert!(text.contains("path.repo: [\"") && text.contains("systemctl restart elasticsearch"), "{text}");
    assert!(!client.is_registered().unwrap());

    // It is set, and the server started again.
    server.allow_location();
    server.restart();
    assert!(client.nodes_without_location().unwrap().is_empty());
    assert!(client.register(Access::Writable).unwrap());

    // Someone who indexes now and then is seen, though no task is ever running.
    assert!(client.activity(Duration::from_millis(200), &never).unwrap().is_quiet());
    server.seed("audit", 1, "");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(100));
                server.add("audit", 1);
            }
        });
        let mut seen = Vec::new();
        while !writer.is_finished() && seen.is_empty() {
            seen = client.activity(Duration::from_millis(500), &never).unwrap().moved.into_iter().collect();
        }
        assert!(seen.iter().any(|(index, counters)| index == "audit" && counters.writes > 0), "{seen:?}");
    });

    // Frozen: connections are accepted, and nothing is answered.
    let settings = ElasticsearchSettings { request_timeout_seconds: 1, ..server.settings() };
    let impatient = Client::new(&settings).unwrap();
    server.freeze();
    let error = impatient.info().unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }), "{}", told(&error));
    assert!(error.to_string().contains(&settings.url), "{error}");
    let started = Instant::now();
    let stop = move || started.elapsed() > Duration::from_millis(300);
    let error = client.wait_for_health(Level::Yellow, PATIENCE, &stop).unwrap_err();
    assert!(matches!(error, SourceError::Interrupted), "{}", told(&error));
    assert!(started.elapsed() < Duration::from_secs(20), "a stop waited for the silent server");
    server.thaw();
    client.info().unwrap();

    // Down.
    server.stop();
    let error = client.info().unwrap_err();
    assert!(error.to_string().contains(&settings.url), "{error}");
    let nobody = ElasticsearchSettings { url: format!("http://127.0.0.1:{}", free_port()), ..Default::default() };
    let error = Client::new(&nobody).unwrap().wait_for_health(Level::Red, Duration::from_secs(1), &never).unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }), "{}", told(&error));
}
