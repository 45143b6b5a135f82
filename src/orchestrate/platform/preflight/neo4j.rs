//! Neo4j: who works on the graph, and where its store is.
//!
//! The store goes straight from its files into the repository: no copy is staged, so no space is needed for one.

use super::services::Units;
use super::{Check, LONG, Look, Verdict, counted, few, shortened};
use crate::orchestrate::platform::profile::Component;
use crate::source::SourceError;
use crate::source::neo4j::configuration::{self, Configuration};
use crate::source::neo4j::facts::{Activity, Transaction};
use crate::source::neo4j::session::Connected;
use crate::source::neo4j::store::{Layout, store_paths, store_use};
use crate::source::neo4j::{Neo4jSettings, Session};
use crate::source::process::machine::connections;

const ADVICE: &str = "is Neo4j up, and the profile's [neo4j] right?";

pub(super) fn look(look: &Look<'_>, units: Units) -> Vec<Check> {
    if !look.has(Component::Neo4j) {
        return Vec::new();
    }
    let settings = &look.profile.neo4j;
    let configuration = configuration::read(settings);
    let mut checks = Vec::new();
    if look.is_full() {
        checks.push(activity(look, configuration.as_ref().ok(), units).of("neo4j-activity"));
    }
    checks.push(store(&configuration).of("neo4j-store"));
    checks
}

fn activity(look: &Look<'_>, configuration: Option<&Configuration>, units: Units) -> Verdict {
    let stop = || look.monitor.interrupted();
    let settings = &look.profile.neo4j;
    let settings = Neo4jSettings {
        connect_timeout_seconds: shortened(settings.connect_timeout_seconds),
        query_timeout_seconds: shortened(settings.query_timeout_seconds),
        ..settings.clone()
    };
    let session = match Session::connect(&settings, &stop) {
        Ok(Connected::Yes(session)) => session,
        Ok(Connected::TooOld { why }) => return by_connections(&settings, &why),
        // A server that is stopped is what its capture wants: the files themselves prove it.
        Err(_) if configuration.is_some_and(proves_stopped) => return Verdict::pass("Neo4j is stopped"),
        Err(error) => return Verdict::of_error(&error, ADVICE),
    };
    match session.activity(&stop) {
        Ok(activity) => seen(&activity, units),
        Err(error) => Verdict::of_error(&error, "the user that we sign in as must be allowed to list transactions"),
    }
}

fn proves_stopped(configuration: &Configuration) -> bool {
    store_use(configuration).is_ok_and(|found| found.proves_stopped())
}

/// An old server does not tell its transactions. If nobody is connected, there are none.
fn by_connections(settings: &Neo4jSettings, why: &str) -> Verdict {
    let advice = "look for yourself whether anybody works on the graph, then allow this check";
    let port = settings.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let count = port.and_then(|port| connections(&[port]).ok()?.remove(&port)).map(|connected| connected.count);
    match count {
        Some(0) => Verdict::pass("nobody is connected to its Bolt port"),
        Some(count) => Verdict::unknown(format!("{} to its Bolt port; {why}", counted(count, "connection")), advice),
        None => Verdict::unknown(why, advice),
    }
}

fn seen(activity: &Activity, units: Units) -> Verdict {
    let long = |transaction: &&Transaction| !units.runs || transaction.running >= LONG;
    let disturbed: Vec<String> = activity.transactions.iter().filter(long).map(shown).collect();
    if !disturbed.is_empty() {
        let advice = "wait for their end, or end them: TERMINATE TRANSACTIONS \"ID\" (SHOW TRANSACTIONS lists them)";
        return Verdict::fail(few(&disturbed), advice);
    }
    let connections = counted(activity.connections.len() as u64, "connection");
    Verdict::pass(match activity.transactions.len() {
        0 => format!("{connections} besides ours, no transaction"),
        count => format!(
            "{connections} besides ours, {} younger than {} s, which end with the platform",
            counted(count as u64, "transaction"),
            LONG.as_secs()
        ),
    })
}

fn shown(transaction: &Transaction) -> String {
    let Transaction { database, query, user, client, running } = transaction;
    let query = if query.is_empty() { "no query at the moment" } else { query };
    format!("{user} from {client} in {database} for {} s: {query}", running.as_secs())
}

fn store(configuration: &Result<Configuration, SourceError>) -> Verdict {
    let found = match configuration {
        Ok(configuration) => store_paths(configuration),
        Err(error) => return Verdict::of_error(error, "set neo4j.configuration-file to its neo4j.conf"),
    };
    match found {
        Ok(paths) => {
            let layout = match paths.layout {
                Layout::Three => "3.5",
                Layout::Four => "4.0 or later",
            };
            let places = paths.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
            Verdict::pass(format!("{} of Neo4j {layout}, saved without a copy: {}", paths.database, few(&places)))
        }
        Err(error) => Verdict::of_error(&error, ADVICE),
    }
}
