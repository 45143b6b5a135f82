//! Neo4j: a server of its own on the store of the set, and its nodes, relationships and labels counted.

use std::path::Path;

use crate::format::codec::escape_path;
use crate::format::set::{Component, Facts, Neo4jFacts};
use crate::format::tree::Node;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::locate::entry;
use crate::orchestrate::platform::drill::bench::{Bench, Finding, account, text};
use crate::orchestrate::platform::drill::plan::{COMPARE_NEO4J, RESTORE_NEO4J, START_NEO4J};
use crate::orchestrate::platform::restore::neo4j::place;
use crate::orchestrate::platform::restore::plan::part;
use crate::orchestrate::platform::restore::trees;
use crate::orchestrate::platform::store::Role;
use crate::source::SourceError;
use crate::source::command::{Account, Background};
use crate::source::neo4j::Neo4jSettings;
use crate::source::neo4j::configuration::{self, Configuration};
use crate::source::neo4j::facts::compare;
use crate::source::neo4j::session::{Connected, Session};
use crate::source::neo4j::store::store_lock_is_held;
use crate::source::scratch::{end_server, free_port, owned_directory, owned_file, port_is_taken};

pub fn drill(bench: &Bench<'_>, held: &Component) -> Result<Finding, OrchestrateError> {
    let profile = bench.executor.profile;
    let account = account(&profile.drill.neo4j, None, "neo4j")?;
    let recorded = match &held.facts {
        Some(Facts::Neo4j(facts)) => Some(facts),
        _ => None,
    };
    let directory = bench.scratch().directory("neo4j", Some(&account))?;
    let port = free_port()?;
    let settings = laid_out(bench, &account, &directory, port, recorded)?;
    let configuration = configuration::read(&settings)?;
    let stored = part(&held.parts, Role::STORE)?;
    bench.executor.step(RESTORE_NEO4J, None, || {
        let mut bytes = 0;
        for root in bench.roots(stored)? {
            let place = place(&root, &configuration).ok_or_else(|| {
                OrchestrateError::Unfit(format!("the store has {}, which no Neo4j of 4.x has", escape_path(&root)))
            })?;
            let found = entry(bench.order.repository, &bench.snapshot(stored)?.snapshot, trees::inner(&root))?;
            // A file is written into a directory under its own name.
            let target = match found.is_some_and(|entry| !matches!(entry.node, Node::Directory)) {
                true => place.parent().unwrap_or(&place),
                false => &place,
            };
            bytes += bench.write(RESTORE_NEO4J, stored, &root, target)?.bytes;
        }
        Ok((format!("{bytes} bytes, read back and equal"), ()))
    })?;
    let (connected, mut server) = bench.executor.step(START_NEO4J, None, || {
        let (connected, server) = bench.start_on(
            || start(bench, &account, &directory, port, &settings, &configuration),
            || on_nothing(bench, &account, recorded),
        )?;
        let seen = match &connected {
            Connected::Yes(session) => session.version().to_owned(),
            Connected::TooOld { why } => why.clone(),
        };
        Ok((seen, (connected, server)))
    })?;
    let finding = bench.compare(COMPARE_NEO4J, || {
        let (Connected::Yes(session), Some(recorded)) = (&connected, recorded) else { return Ok(Finding::default()) };
        let found = session.counts(Some(&recorded.database), &bench.executor.stop())?;
        server.must_run()?;
        let seen = format!("{} nodes and {} relationships, as recorded", found.nodes, found.relationships);
        Ok(Finding::of(seen, compare(recorded, &found)).with_version("neo4j", session.version().to_owned()))
    })?;
    end_server(server)?;
    Ok(finding)
}

/// Makes the directories and the configuration of a server; the settings to reach it by.
fn laid_out(
    bench: &Bench<'_>,
    account: &Account,
    directory: &Path,
    port: u16,
    recorded: Option<&Neo4jFacts>,
) -> Result<Neo4jSettings, OrchestrateError> {
    let place = |name: &str| directory.join(name);
    for name in ["data", "data/databases", "data/transactions", "logs", "run", "plugins", "import", "configuration"] {
        owned_directory(&place(name), Some(account))?;
    }
    let file = place("configuration").join("neo4j.conf");
    // A backslash begins an escape in this file.
    let here = text(directory)?.replace('\\', "\\\\");
    let database = recorded.map(|facts| format!("dbms.default_database={}\n", facts.database)).unwrap_or_default();
    let content = format!(
        "{database}dbms.directories.data={here}/data\n\
         dbms.directories.logs={here}/logs\ndbms.directories.run={here}/run\n\
         dbms.directories.plugins={here}/plugins\ndbms.directories.import={here}/import\n\
         dbms.connector.bolt.enabled=true\ndbms.connector.bolt.listen_address=127.0.0.1:{port}\n\
         dbms.connector.http.enabled=false\ndbms.connector.https.enabled=false\n\
         dbms.security.auth_enabled=false\ndbms.usage_report.enabled=false\n\
         dbms.memory.heap.max_size=512m\ndbms.memory.pagecache.size=128m\n"
    );
    owned_file(&file, &content, Some(account))?;
    Ok(Neo4jSettings {
        configuration_file: file,
        address: format!("127.0.0.1:{port}"),
        home: directory.to_owned(),
        database: recorded.map(|facts| facts.database.clone()),
        data_directory: None,
        user: None,
        password_file: None,
        password_credential: None,
        password_env: None,
        ..bench.executor.profile.neo4j.clone()
    })
}

/// A server on an empty store.
fn on_nothing(
    bench: &Bench<'_>,
    account: &Account,
    recorded: Option<&Neo4jFacts>,
) -> Result<Background, OrchestrateError> {
    let directory = bench.scratch().directory("neo4j-empty", Some(account))?;
    let port = free_port()?;
    let settings = laid_out(bench, account, &directory, port, recorded)?;
    let configuration = configuration::read(&settings)?;
    start(bench, account, &directory, port, &settings, &configuration).map(|(_, server)| server)
}

fn start(
    bench: &Bench<'_>,
    account: &Account,
    directory: &Path,
    port: u16,
    settings: &Neo4jSettings,
    configuration: &Configuration,
) -> Result<(Connected, Background), OrchestrateError> {
    let (number, port) = (port, port.to_string());
    let place = |name: &str| directory.join(name);
    let [data, logs, files] = [place("data"), place("logs"), place("configuration")];
    let places = [
        ("directory", text(directory)?),
        ("data", text(&data)?),
        ("logs", text(&logs)?),
        ("configuration", text(&files)?),
        ("port", port.as_str()),
    ];
    let mut server = bench.start(&bench.executor.profile.drill.neo4j, account, directory, &places)?;
    let what = format!("neo4j bolt://{}", settings.address);
    let limit = bench.start_limit();
    let ready = server.ready(&what, limit, &bench.executor.stop(), |enough| Session::wait(settings, limit, enough));
    let connected = match ready {
        // Somebody was faster.
        Err(SourceError::Ended { log, .. }) if port_is_taken(number) => {
            return Err(OrchestrateError::Hindered(format!("port {number} is in use; the server's log ends: {log}")));
        }
        ready => ready?,
    };
    // Somebody else may have taken the port: the server that works on this store holds its lock.
    if store_lock_is_held(configuration)?.is_empty() {
        let what = "it answers, and does not work on the store that was restored: see drill.neo4j.command".to_owned();
        return Err(SourceError::Answer { server: settings.address.clone(), what }.into());
    }
    Ok((connected, server))
}
