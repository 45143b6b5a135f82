//! Redis: what waits in the queues, what workers are doing, and who else is connected.
//!
//! A full backup waits until the queues of tasks are empty and taken tasks are done. So they are no failure, unless
//! nothing runs that would do them: then the backup would wait in vain, with half of the platform stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use super::services::Units;
use super::{Check, LONG, Look, PATIENCE, Verdict, counted, few, shortened};
use crate::format::error::chain;
use crate::source::SourceError;
use crate::source::process::celery::Inspection;
use crate::source::redis::server::OtherClient;
use crate::source::redis::{Client, RedisSettings, waiting};
use crate::source::wait;

const ADVICE: &str = "is Redis up, and the profile's [redis] right?";
/// Commands in which a client waits for something to come.
const WAITING: [&str; 10] = [
    "blpop",
    "brpop",
    "brpoplpush",
    "blmove",
    "bzpopmin",
    "bzpopmax",
    "subscribe",
    "psubscribe",
    "monitor",
    "xreadgroup",
];

/// What the server says; each question may fail for itself.
struct Seen {
    tasks: Result<BTreeMap<String, u64>, SourceError>,
    ingestion: Result<BTreeMap<String, u64>, SourceError>,
    unacked: Result<u64, SourceError>,
    clients: Result<(u64, Vec<OtherClient>), SourceError>,
}

pub(super) fn look(look: &Look<'_>, units: Units) -> Vec<Check> {
    if !look.is_full() {
        return Vec::new();
    }
    let stop = || look.monitor.interrupted();
    let settings = &look.profile.redis;
    let settings = RedisSettings {
        connect_timeout_seconds: shortened(settings.connect_timeout_seconds),
        answer_timeout_seconds: shortened(settings.answer_timeout_seconds),
        ..settings.clone()
    };
    let inspection = look.profile.celery.inspect(&stop);
    let what = format!("{} did not answer", settings.shown());
    // Twice: for the connection, and for the answers.
    let seen = wait::attended(&what, PATIENCE * 2, &stop, move || ask(&settings));
    match seen.and_then(|seen| seen) {
        Ok(seen) => vec![
            queues(look, &seen, units).of("queues"),
            celery(&seen.unacked, &inspection, units).of("celery"),
            clients(&seen.clients, units).of("redis-clients"),
        ],
        Err(error) => {
            let verdict = Verdict::of_error(&error, ADVICE);
            ["queues", "celery", "redis-clients"].map(|id| verdict.clone().of(id)).to_vec()
        }
    }
}

fn ask(settings: &RedisSettings) -> Result<Seen, SourceError> {
    let mut client = Client::connect(settings)?;
    Ok(Seen {
        tasks: client.lengths(&settings.queues),
        ingestion: client.lengths(&settings.ingestion_queues),
        unacked: client.unacked(),
        clients: client.other_clients(),
    })
}

fn queues(look: &Look<'_>, seen: &Seen, units: Units) -> Verdict {
    let (tasks, ingestion) = match (&seen.tasks, &seen.ingestion) {
        (Ok(tasks), Ok(ingestion)) => (tasks, ingestion),
        (Err(error), _) | (_, Err(error)) => return Verdict::of_error(error, ADVICE),
    };
    let total: u64 = tasks.values().fold(0, |sum, length| sum.saturating_add(*length));
    let mut said = Vec::new();
    if total > 0 {
        let waiting = format!("{} waiting ({})", counted(total, "task"), waiting(tasks).join(", "));
        if units.workers == Some(false) {
            let advice = "start the workers and wait until the queues are empty; a backup would wait for that in vain";
            return Verdict::fail(format!("{waiting}, and no worker runs that would do them"), advice);
        }
        let limit = look.profile.redis.drain_timeout_seconds;
        said.push(format!("{waiting}: the backup waits for them, up to {limit} s"));
    }
    let inbound = waiting(ingestion);
    if !inbound.is_empty() {
        let fate = "what is still there once the services are stopped makes a backup fail, unless --purge-queues saves and \
                    deletes it";
        said.push(format!("elements on their way in ({}): {fate}", inbound.join(", ")));
    }
    let queues = counted((tasks.len() + ingestion.len()) as u64, "queue");
    Verdict::pass(if said.is_empty() { format!("nothing waits in {queues}") } else { said.join("; ") })
}

fn celery(
    unacked: &Result<u64, SourceError>,
    inspection: &Result<Option<Inspection>, SourceError>,
    units: Units,
) -> Verdict {
    let (unacked, inspection) = match (unacked, inspection) {
        (Ok(unacked), Ok(inspection)) => (*unacked, inspection),
        (Err(error), _) => return Verdict::of_error(error, ADVICE),
        (_, Err(error)) => {
            return Verdict::of_error(error, "correct celery.command, or empty it: then Redis alone is asked");
        }
    };
    if unacked > 0 && units.workers == Some(false) {
        return Verdict::fail(
            format!("{} taken by workers, and no worker runs that would do them", counted(unacked, "task")),
            "start the workers: what dead ones had taken is given out again after a while; then wait for its end",
        );
    }
    let asked = match inspection {
        None => "workers are not asked (celery.command is empty)".to_owned(),
        Some(found) if found.workers.is_empty() && units.workers == Some(true) => {
            let seen = "workers run, and none answered: one that is busy may not, so this is no proof of rest";
            return Verdict::unknown(seen, "try again, or raise celery.answer-timeout-seconds");
        }
        Some(found) if !found.workers.is_empty() && units.workers == Some(false) => {
            let names: Vec<String> = found.workers.iter().cloned().collect();
            return Verdict::fail(
                format!("workers answer although no unit of workers runs: {}", few(&names)),
                "end them, or name their unit in services.workers: a backup would not stop them in an orderly way",
            );
        }
        Some(found) => {
            let workers = counted(found.workers.len() as u64, "worker");
            format!("{workers} answered: {} active, {} reserved", found.active, found.reserved)
        }
    };
    Verdict::pass(match unacked {
        0 => format!("no task is taken; {asked}"),
        count => format!("{} taken: the backup waits for their end; {asked}", counted(count, "task")),
    })
}

fn clients(found: &Result<(u64, Vec<OtherClient>), SourceError>, units: Units) -> Verdict {
    let (count, clients) = match found {
        Ok(found) => found,
        Err(error) => {
            let advice = "allow our user CLIENT LIST";
            return Verdict::unknown(chain(error), advice);
        }
    };
    let all = counted(*count, "client");
    if units.runs {
        return Verdict::pass(format!("{all} besides us; those of the platform end with its services"));
    }
    let busy = |client: &&OtherClient| {
        let command = client.command.split('|').next().unwrap_or_default().to_ascii_lowercase();
        client.idle < LONG || WAITING.contains(&command.as_str())
    };
    let busy: Vec<String> = clients.iter().filter(busy).map(shown).collect();
    match busy.is_empty() {
        true if clients.len() as u64 != *count => Verdict::unknown(
            format!("{all} besides us, of which only {} could be looked at", clients.len()),
            "nothing of the platform runs: find out who they are (`redis-cli client list`)",
        ),
        true => Verdict::pass(format!("{all} besides us, none at work in the last {} s", LONG.as_secs())),
        false => Verdict::fail(
            format!("nothing of the platform runs, and these read or write: {}", few(&busy)),
            "find out what they are (`redis-cli client list`) and end them",
        ),
    }
}

fn shown(client: &OtherClient) -> String {
    let name = if client.name.is_empty() { String::new() } else { format!(" ({})", client.name) };
    let ago = match client.idle {
        Duration::ZERO => "just now".to_owned(),
        idle => format!("{} s ago", idle.as_secs()),
    };
    format!("{}{name}, {} {ago}", client.address, client.command)
}
