//! The Neo4j driver against a real server.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use cairn::source::SourceError;
use cairn::source::neo4j::Neo4jSettings;
use cairn::source::neo4j::facts::{Transaction, compare};
use cairn::source::neo4j::session::Session;
use cairn::source::neo4j::store::{Layout, store_lock_is_held, store_paths, store_use};
use neo4j::session::SessionConfig;

use crate::servers::free_port;
use crate::servers::neo4j::{Neo4j, copy};

fn never() -> bool {
    false
}

#[test]
fn a_store_copied_while_stopped_has_every_node_and_label() {
    let Some(mut server) = Neo4j::start() else { return };
    server.run("UNWIND range(1, 500) AS n CREATE (:Report {n: n})-[:MENTIONS]->(:Indicator {n: n})");
    server.run(r"CREATE (:`odd ``name\u005Cu0060` {n: 1}), (:Report:Draft)");
    let session = server.session();
    assert!(session.version().starts_with("4.4."), "{}", session.version());
    let counted = session.counts(None, &never).unwrap();
    assert_eq!((counted.nodes, counted.relationships), (1002, 500));
    let labels: Vec<(&str, u64)> = counted.labels.iter().map(|(label, count)| (label.as_str(), *count)).collect();
    let expected = [("Draft", 1), ("Indicator", 500), ("Report", 501), (r"odd `name\u0060", 1)];
    assert_eq!(labels, expected, "labels with quotes and escapes are counted, too");
    assert_eq!(counted.database, "neo4j");
    assert!(!counted.store_id.is_empty());
    assert_eq!(session.counts(Some("neo4j"), &never).unwrap(), counted);
    session.counts(Some("absent"), &never).unwrap_err();

    // Running: the lock is held, and the process is named.
    let configuration = server.configuration();
    let running = store_use(&configuration).unwrap();
    assert!(!running.proves_stopped());
    assert!(running.locked.iter().any(|path| path.ends_with("store_lock")), "{running:?}");
    let pid = u32::try_from(server.pid().as_raw_nonzero().get()).unwrap();
    assert!(running.holders.iter().any(|holder| holder.pid == pid), "{running:?}");
    assert!(running.reasons().iter().any(|reason| reason.contains("locked by a running Neo4j")));

    server.stop();
    assert!(store_lock_is_held(&configuration).unwrap().is_empty());
    let stopped = store_use(&configuration).unwrap();
    assert!(stopped.locked.is_empty() && stopped.holders.is_empty(), "{stopped:?}");
    assert_eq!(stopped.proves_stopped(), stopped.unseen == 0);

    let found = store_paths(&configuration).unwrap();
    assert_eq!((found.database.as_str(), found.layout), ("neo4j", Layout::Four));
    assert!(found.others.is_empty());
    let mut restored = Neo4j::prepare().unwrap();
    for path in &found.paths {
        copy(path, &restored.home().join(path.strip_prefix(server.home()).unwrap()));
    }
    restored.begin();
    let session = restored.session();
    let again = session.counts(None, &never).unwrap();
    assert!(compare(&counted, &again).is_empty(), "{:?}", compare(&counted, &again));
    assert_eq!(again.store_id, counted.store_id);

    // A graph that is not the same is told by its label.
    restored.run("MATCH (n:Indicator {n: 7}) DETACH DELETE n");
    let differences = compare(&counted, &session.counts(None, &never).unwrap());
    let expected = [
        "there are 1001 nodes instead of 1002",
        "there are 499 relationships instead of 500",
        "499 nodes have the label \"Indicator\" instead of 500",
    ];
    assert_eq!(differences, expected);
}

#[test]
#[expect(clippy::result_large_err, reason = "the library's own error")]
fn who_works_on_the_graph_is_seen_and_a_silent_server_does_not_hang_a_run() {
    let Some(mut server) = Neo4j::start() else { return };
    let session = server.session();
    let activity = session.activity(&never).unwrap();
    assert!(activity.is_quiet(), "{activity:?}");

    // A transaction that is open and does nothing still counts.
    let (opened, is_open) = channel();
    let (close, closed) = channel::<()>();
    std::thread::scope(|scope| {
        let driver = server.driver();
        scope.spawn(move || {
            let mut writer = driver.session(SessionConfig::new().with_database(Arc::new("neo4j".to_owned())));
            let result = writer.transaction().run(|transaction| {
                transaction.query("CREATE (:Draft)").run()?.consume()?;
                opened.send(()).unwrap();
                closed.recv().unwrap();
                transaction.rollback()
            });
            result.unwrap();
        });
        is_open.recv().unwrap();
        std::thread::sleep(Duration::from_millis(2100));
        let activity = session.activity(&never).unwrap();
        close.send(()).unwrap();
        assert!(!activity.is_quiet());
        let old = |running: Duration| running >= Duration::from_secs(2);
        let open = |found: &Transaction| found.database == "neo4j" && old(found.running);
        assert!(activity.transactions.iter().any(open), "{activity:?}");
        assert!(!activity.connections.is_empty(), "{activity:?}");
    });

    // Frozen: connections are accepted, and nothing is answered.
    server.freeze();
    let settings = Neo4jSettings { connect_timeout_seconds: 1, query_timeout_seconds: 1, ..server.settings() };
    let error = Session::connect(&settings, &never).err().unwrap();
    assert!(matches!(error, SourceError::Timeout { .. }) && error.to_string().contains(&settings.address), "{error}");
    let started = Instant::now();
    let stop = move || started.elapsed() > Duration::from_millis(300);
    let error = session.counts(None, &stop).unwrap_err();
    assert!(matches!(error, SourceError::Interrupted), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20), "a stop waited for the silent server");
    server.thaw();
    server.session();

    // Down.
    server.stop();
    let nobody = Neo4jSettings { address: format!("127.0.0.1:{}", free_port()), ..Default::default() };
    let error = Session::connect(&nobody, &never).err().unwrap();
    assert!(matches!(error, SourceError::Server { .. }) && error.to_string().contains(&nobody.address), "{error}");
    let error = Session::wait(&nobody, Duration::from_secs(1), &never).err().unwrap();
    assert!(matches!(error, SourceError::Timeout { .. }), "{error}");
}
