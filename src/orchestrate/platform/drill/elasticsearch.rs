//! Elasticsearch: a node of its own, which restores the indices from the snapshot repository of the set.

use std::path::Path;

use crate::format::set::{Component, ElasticsearchFacts, Facts};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::drill::bench::{Bench, Finding, account, text};
use crate::orchestrate::platform::drill::plan::{
    COMPARE_ELASTICSEARCH, RESTORE_ELASTICSEARCH, STAGE_ELASTICSEARCH, START_ELASTICSEARCH,
};
use crate::orchestrate::platform::restore::plan::part;
use crate::orchestrate::platform::store::Role;
use crate::progress::{Monitor, Phase, StepWork};
use crate::source::SourceError;
use crate::source::command::{Account, Background};
use crate::source::elasticsearch::client::Level;
use crate::source::elasticsearch::facts::{Tally, compare, not_recorded};
use crate::source::elasticsearch::repository::{Access, RESTORE_PREFIX};
use crate::source::elasticsearch::restore::Request;
use crate::source::elasticsearch::{Client, ElasticsearchSettings};
use crate::source::scratch::{end_server, free_port, owned_directory, owned_file};

/// What a node needs to write its log to where it is read; the rest of its configuration is in its command.
const LOG4J: &str = "status = error\nappender.console.type = Console\nappender.console.name = console\n\
    appender.console.layout.type = PatternLayout\nappender.console.layout.pattern = [%d][%-5p][%c] %m%n\n\
    rootLogger.level = warn\nrootLogger.appenderRef.console.ref = console\n";

pub fn drill(bench: &Bench<'_>, held: &Component) -> Result<Finding, OrchestrateError> {
    let Some(Facts::Elasticsearch(facts)) = &held.facts else {
        return Err(OrchestrateError::Unfit("the set says nothing of its Elasticsearch: see its report".to_owned()));
    };
    let profile = bench.executor.profile;
    let account = account(&profile.drill.elasticsearch, Some(&profile.elasticsearch.owner), "elasticsearch")?;
    let directory = bench.scratch().directory("elasticsearch", Some(&account))?;
    let stored = part(&held.parts, Role::REPOSITORY)?;
    let repository = directory.join("repository");
    bench.executor.step(STAGE_ELASTICSEARCH, None, || {
        let roots = bench.roots(stored)?;
        let [root] = roots.as_slice() else {
            let why = "the set holds more than one directory of Elasticsearch".to_owned();
            return Err(OrchestrateError::Unfit(why));
        };
        let report = bench.write(STAGE_ELASTICSEARCH, stored, root, &repository)?;
        Ok((format!("{} files, read back and equal", report.files), ()))
    })?;
    let (client, mut server) = bench.executor.step(START_ELASTICSEARCH, None, || {
        let (client, server) = start(bench, &account, &directory, &repository)?;
        let version = client.info()?.version;
        Ok((version, (client, server)))
    })?;
    let (restored, left) = bench.executor.step(RESTORE_ELASTICSEARCH, None, || {
        let (restored, left) = restore(bench, facts, &client)?;
        Ok((format!("{} indices", restored.len()), (restored, left)))
    })?;
    let finding = bench.compare(COMPARE_ELASTICSEARCH, || {
        let version = client.info()?.version;
        let found = client.tally(&restored, &bench.executor.stop())?;
        server.must_run()?;
        let differences = compare(&Tally::of(facts), &found);
        let mut finding = Finding::of(found.shown(), differences).with_version("elasticsearch", version);
        if !left.is_empty() {
            // A part of it was not looked at, so it is not proven.
            finding.compared = None;
            left.iter().for_each(|index| bench.notes.tell("elasticsearch", format!("{index}: it proves nothing")));
        }
        Ok(finding)
    })?;
    end_server(server)?;
    Ok(finding)
}

fn start(
    bench: &Bench<'_>,
    account: &Account,
    directory: &Path,
    repository: &Path,
) -> Result<(Client, Background), OrchestrateError> {
    let profile = bench.executor.profile;
    let place = |name: &str| directory.join(name);
    let [data, logs, configuration] = [place("data"), place("logs"), place("configuration")];
    for made in [&data, &logs, &configuration] {
        owned_directory(made, Some(account))?;
    }
    for (name, content) in [("elasticsearch.yml", ""), ("jvm.options", ""), ("log4j2.properties", LOG4J)] {
        owned_file(&configuration.join(name), content, Some(account))?;
    }
    let (port, transport) = (free_port()?.to_string(), free_port()?.to_string());
    let name = format!("cairn-drill-{port}");
    let places = [
        ("directory", text(directory)?),
        ("data", text(&data)?),
        ("logs", text(&logs)?),
        ("configuration", text(&configuration)?),
        ("repository", text(repository)?),
        ("port", port.as_str()),
        ("transport-port", transport.as_str()),
        ("name", name.as_str()),
    ];
    let settings = ElasticsearchSettings {
        url: format!("http://127.0.0.1:{port}"),
        repository: format!("{RESTORE_PREFIX}drill"),
        location: repository.to_owned(),
        user: None,
        password_file: None,
        password_credential: None,
        password_env: None,
        ca_file: None,
        ..profile.elasticsearch.clone()
    };
    let client = Client::new(&settings)?;
    let mut server = bench.start(&profile.drill.elasticsearch, account, directory, &places)?;
    let limit = bench.start_limit();
    server.ready(&client.server(), limit, &bench.executor.stop(), |enough| {
        client.wait_for_health(Level::Yellow, limit, enough)
    })?;
    Ok((client, server))
}

/// Restores everything that was counted; that, and what was not, in words. The repository is registered with a server that may read no other directory, so
/// whatever answers is the one that was started for it.
fn restore(
    bench: &Bench<'_>,
    facts: &ElasticsearchFacts,
    client: &Client,
) -> Result<(Vec<String>, Vec<String>), OrchestrateError> {
    let stop = bench.executor.stop();
    client.wait_for_access(Access::ReadOnly, &stop)?;
    let found = client.find_snapshot(&facts.snapshot)?;
    let wanted = found.filter(|found| found.uuid == facts.snapshot_uuid && found.is_complete());
    let snapshot = wanted.ok_or_else(|| {
        let what = format!("the restored repository does not hold the snapshot {} whole", facts.snapshot);
        SourceError::Answer { server: client.server(), what }
    })?;
    let recorded = Tally::of(facts);
    let (indices, left) = (recorded.indices(), not_recorded(&snapshot, &recorded));
    let closed: Vec<String> = recorded.closed.into_keys().collect();
    if indices.is_empty() {
        return Ok((indices, left));
    }
    let request = Request { snapshot: facts.snapshot.clone(), indices, rename: None, global_state: false };
    let (mut known, mut written) = (false, 0);
    let limit = bench.executor.profile.elasticsearch.restore_timeout();
    let restored = client.restore_as_recorded(&request, &closed, limit, &stop, &mut |progress| {
        if !known && progress.bytes > 0 {
            bench.notes.within(RESTORE_ELASTICSEARCH, StepWork::Begin(Phase::Restore, Some(progress.bytes)));
            known = true;
        }
        let more = progress.bytes_done.saturating_sub(written);
        bench.notes.within(RESTORE_ELASTICSEARCH, StepWork::Advance(more));
        written = written.max(progress.bytes_done);
    })?;
    client.wait_for_health(Level::Yellow, bench.executor.profile.elasticsearch.health_timeout(), &stop)?;
    Ok((restored, left))
}
