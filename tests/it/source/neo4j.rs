//! Neo4j without a server: its configuration, its store's paths, comparing, and servers that are none.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairn::format::set::Neo4jFacts;
use cairn::source::SourceError;
use cairn::source::neo4j::Neo4jSettings;
use cairn::source::neo4j::configuration::{Configuration, configuration};
use cairn::source::neo4j::facts::{compare, quoted};
use cairn::source::neo4j::session::{Connected, Session};
use cairn::source::neo4j::store::{Layout, StorePaths, store_lock_is_held, store_paths, store_use};

fn parsed(text: &str) -> Configuration {
    configuration(text, &Neo4jSettings::default()).unwrap()
}

#[test]
fn without_settings_the_store_is_below_the_home() {
    let found = parsed("");
    assert_eq!(found.database, None);
    assert_eq!(found.data, Path::new("/var/lib/neo4j/data"));
    assert_eq!(found.databases, Path::new("/var/lib/neo4j/data/databases"));
    assert_eq!(found.transactions, Path::new("/var/lib/neo4j/data/transactions"));
}

#[test]
fn the_configuration_is_read_as_javas_property_files_are() {
    for text in [
        "dbms.directories.data=/media/neo4j\ndbms.active_database=graph.db\n",
        "  dbms.directories.data = /media/neo4j  \r\n\tdbms.active_database : graph.db\r\n",
        "dbms.directories.data /media/neo4j\ndbms.active_database\tgraph.db",
        "#dbms.directories.data=/x\n! dbms.directories.data=/y\ndbms.directories.data=/media\\\n   /neo4j\n\
         dbms.active_database=graph.\\\ndb",
        "dbms.directories.data=/media/n\\u0065o4j\ndbms.active\\_database=graph\\.db\n",
        "# a comment does not go on \\\ndbms.directories.data=/media/neo4j\ndbms.active_database=graph.db",
        "dbms.directories.data=/old\ndbms.directories.data=/media/neo4j\ndbms.active_database=graph.db",
    ] {
        let found = parsed(text);
        assert_eq!(found.data, Path::new("/media/neo4j"), "{text:?}");
        assert_eq!(found.database.as_deref(), Some("graph.db"), "{text:?}");
    }
    // An even number of backslashes ends the line.
    let found = parsed("x=a\\\\\ndbms.default_database=one\n");
    assert_eq!(found.database.as_deref(), Some("one"));
    assert!(configuration("x=\\u00zz\n", &Neo4jSettings::default()).is_err());
    assert!(configuration("dbms.default_database=../x\n", &Neo4jSettings::default()).is_err());
}

#[test]
fn what_is_given_twice_is_told_and_the_last_counts() {
    let found =
        parsed("dbms.default_database=a\ndbms.default_database=b\ndbms.jvm.additional=-Xa\ndbms.jvm.additional=-Xb\n");
    assert_eq!(found.database.as_deref(), Some("b"));
    assert_eq!(found.duplicates, ["dbms.default_database"]);
}

#[test]
fn directories_are_relative_as_neo4j_takes_them() {
    let found = parsed(
        "dbms.directories.neo4j_home=/opt/neo4j\ndbms.directories.data=store\n\
         dbms.directories.transaction.logs.root=/fast/logs\n",
    );
    assert_eq!(found.data, Path::new("/opt/neo4j/store"));
    assert_eq!(found.databases, Path::new("/opt/neo4j/store/databases"));
    assert_eq!(found.transactions, Path::new("/fast/logs"));
    // The newer name of the database wins, and the profile over both.
    let text = "dbms.active_database=old\ndbms.default_database=new\ndbms.directories.data=/x\n";
    assert_eq!(parsed(text).database.as_deref(), Some("new"));
    let settings = Neo4jSettings {
        database: Some("mine".to_owned()),
        data_directory: Some(PathBuf::from("/media/neo4j")),
        ..Default::default()
    };
    let found = configuration(text, &settings).unwrap();
    assert_eq!((found.database.as_deref(), found.data.as_path()), (Some("mine"), Path::new("/media/neo4j")));
    assert!(configuration("dbms.directories.neo4j_home=relative\n", &settings).is_err());
}

fn laid_out(directories: &[&str], conf: &str) -> (tempfile::TempDir, Result<StorePaths, SourceError>) {
    let home = tempfile::tempdir().unwrap();
    for directory in directories {
        std::fs::create_dir_all(home.path().join("data").join(directory)).unwrap();
    }
    let settings = Neo4jSettings { home: home.path().to_owned(), ..Default::default() };
    let found = store_paths(&configuration(conf, &settings).unwrap());
    (home, found)
}

fn names(home: &tempfile::TempDir, found: &StorePaths) -> Vec<String> {
    let data = home.path().join("data");
    found.paths.iter().map(|path| path.strip_prefix(&data).unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn the_store_of_3_5_is_one_directory() {
    let (home, found) = laid_out(&["databases/graph.db", "dbms"], "");
    let found = found.unwrap();
    assert_eq!((found.database.as_str(), found.layout), ("graph.db", Layout::Three));
    assert_eq!(names(&home, &found), ["databases/graph.db", "dbms"]);
}

#[test]
fn the_store_of_4_has_logs_and_a_database_of_databases_and_keeps_others() {
    let all =
        ["databases/neo4j", "databases/system", "databases/old", "transactions/neo4j", "transactions/system", "dbms"];
    let (home, found) = laid_out(&all, "");
    let found = found.unwrap();
    assert_eq!((found.database.as_str(), found.layout), ("neo4j", Layout::Four));
    assert_eq!(found.others, ["old"]);
    let names = names(&home, &found);
    assert!(all.iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
}

#[test]
fn a_store_that_is_not_where_it_should_be_is_no_empty_backup() {
    let (_home, found) = laid_out(&["databases/neo4j"], "dbms.default_database=other\n");
    let error = found.unwrap_err().to_string();
    assert!(error.contains("databases there: neo4j"), "{error}");
    let (_home, found) = laid_out(&[], "");
    found.unwrap_err();
    let (_home, found) = laid_out(&["databases/neo4j", "databases/system", "transactions/system"], "");
    let error = found.unwrap_err().to_string();
    assert!(error.contains("no transaction logs"), "{error}");
}

#[test]
fn an_open_file_below_the_store_is_seen_without_any_lock() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join("data/databases/graph.db")).unwrap();
    let settings = Neo4jSettings { home: home.path().to_owned(), ..Default::default() };
    let found = configuration("", &settings).unwrap();
    let file = home.path().join("data/databases/graph.db/neostore");
    let quiet = store_use(&found).unwrap();
    assert!(quiet.holders.is_empty() && store_lock_is_held(&found).unwrap().is_empty());
    std::fs::write(&file, "x").unwrap();
    let mut child =
        std::process::Command::new("sleep").arg("60").stdin(std::fs::File::open(&file).unwrap()).spawn().unwrap();
    let used = store_use(&found);
    child.kill().unwrap();
    child.wait().unwrap();
    let used = used.unwrap();
    assert!(!used.proves_stopped());
    assert_eq!(used.holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [child.id()]);
    assert!(used.reasons()[0].contains("neostore open"), "{:?}", used.reasons());
}

#[test]
fn comparing_names_what_differs() {
    let facts = |nodes, labels: &[(&str, u64)]| Neo4jFacts {
        database: "neo4j".to_owned(),
        store_id: "1".to_owned(),
        nodes,
        relationships: 3,
        labels: labels.iter().map(|(label, count)| ((*label).to_owned(), *count)).collect(),
    };
    let recorded = facts(5, &[("A", 3), ("B", 2)]);
    assert!(compare(&recorded, &recorded).is_empty());
    assert!(compare(&recorded, &facts(5, &[("A", 3), ("B", 2), ("Empty", 0)])).is_empty());
    let differences = compare(&recorded, &facts(4, &[("A", 3), ("C", 1)]));
    assert_eq!(
        differences,
        [
            "there are 4 nodes instead of 5",
            "0 nodes have the label \"B\" instead of 2",
            "1 nodes have the label \"C\" instead of 0",
        ]
    );
    assert_eq!(quoted("a`b"), "`a``b`");
    assert_eq!(quoted(r"a\u0060) DETACH DELETE n //"), r"`a\u005Cu0060) DETACH DELETE n //`");
}

/// What listens there reads the greeting and answers this, or nothing.
fn fake(answer: Option<[u8; 4]>) -> Neo4jSettings {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut greeting = [0; 20];
        stream.read_exact(&mut greeting).unwrap();
        match answer {
            Some(answer) => stream.write_all(&answer).unwrap(),
            None => std::thread::sleep(Duration::from_secs(60)),
        }
    });
    Neo4jSettings { address, ..Default::default() }
}

#[test]
fn a_server_older_than_4_4_is_told_from_one_that_fails() {
    match Session::connect(&fake(Some([0, 0, 0, 0])), &|| false).unwrap() {
        Connected::TooOld { why } => assert!(why.contains("older than Neo4j 4.4") && why.contains("unknown"), "{why}"),
        Connected::Yes(_) => panic!("it has no version"),
    }
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let started = Instant::now();
    let settings = Neo4jSettings { connect_timeout_seconds: 1, ..fake(None) };
    let error = Session::connect(&settings, &|| false).err().unwrap();
    assert!(matches!(error, SourceError::Timeout { .. } | SourceError::Server { .. }), "{error}");
    let settings = fake(None);
    let stop = move || started.elapsed() > Duration::from_millis(200);
    assert!(matches!(Session::connect(&settings, &stop).err().unwrap(), SourceError::Interrupted));
    assert!(started.elapsed() < Duration::from_secs(30));
}
