//! Elasticsearch: what it is busy with, how it is, and what its snapshots need.
//!
//! Logs and figures are written to it all the time while the platform runs, so what was written and read within a second
//! says nothing then; tasks that go on, and snapshots that others take, do.

use std::time::Duration;

use super::services::Units;
use super::{Check, LONG, Look, PATIENCE, Verdict, counted, few, shortened};
use crate::orchestrate::platform::profile::Component;
use crate::source::SourceError;
use crate::source::elasticsearch::activity::{Activity, Counters};
use crate::source::elasticsearch::client::{Health, Level};
use crate::source::elasticsearch::location::{location_state, problems};
use crate::source::elasticsearch::repository::{Access, Registration};
use crate::source::elasticsearch::{Client, ElasticsearchSettings};
use crate::source::process::machine::{bytes_beneath, free_space};
use crate::source::wait;

const ADVICE: &str = "is Elasticsearch up, and the profile's [elasticsearch] right?";
/// For how long counters are watched.
const SAMPLE: Duration = Duration::from_secs(1);
/// Indices that the server and Kibana write for themselves.
const OWN: [&str; 7] = [".kibana", ".monitoring", ".tasks", ".geoip", ".apm", ".security", ".async-search"];
/// An incremental snapshot is taken to write at least this part of what is stored: merges rewrite what is old.
const REWRITTEN: u64 = 10;

/// What the server says; each question may fail for itself.
struct Seen {
    health: Result<Health, SourceError>,
    without_location: Result<Vec<String>, SourceError>,
    registered: Result<(Option<Registration>, bool), SourceError>,
    rivals: Result<Vec<String>, SourceError>,
    stored: Result<u64, SourceError>,
}

pub(super) fn look(look: &Look<'_>, units: Units) -> Vec<Check> {
    if !look.has(Component::Elasticsearch) {
        return Vec::new();
    }
    let stop = || look.monitor.interrupted();
    let settings = &look.profile.elasticsearch;
    let settings = ElasticsearchSettings {
        connect_timeout_seconds: shortened(settings.connect_timeout_seconds),
        request_timeout_seconds: shortened(settings.request_timeout_seconds),
        ..settings.clone()
    };
    let mut checks = vec![directory(&settings).of("elasticsearch-directory")];
    let asked = Client::new(&settings).and_then(|client| {
        let (asked, what) = (client.clone(), format!("{} did not answer", client.server()));
        Ok((wait::attended(&what, PATIENCE * 2, &stop, move || ask(&asked))??, client))
    });
    let (seen, client) = match asked {
        Ok(answered) => answered,
        Err(error) => {
            let verdict = Verdict::of_error(&error, ADVICE);
            let mut ids = vec!["health", "path-repo", "repository", "space"];
            if look.is_full() {
                ids.push("activity");
            }
            checks.extend(ids.into_iter().map(|id| verdict.clone().of(&format!("elasticsearch-{id}"))));
            return checks;
        }
    };
    if look.is_full() {
        checks.push(activity(client.activity(SAMPLE, &stop), units).of("elasticsearch-activity"));
    }
    checks.push(health(&seen.health).of("elasticsearch-health"));
    checks.push(path_repo(&seen.without_location, &client, &settings).of("elasticsearch-path-repo"));
    checks.push(registration(&seen, &settings).of("elasticsearch-repository"));
    checks.push(space(&seen.stored, &settings, &stop).of("elasticsearch-space"));
    checks
}

/// An error only if the server does not answer the first question, and so would answer none.
fn ask(client: &Client) -> Result<Seen, SourceError> {
    client.info()?;
    let registered = client.registered().and_then(|found| Ok((found, client.is_registered()?)));
    Ok(Seen {
        health: client.health(),
        without_location: client.nodes_without_location(),
        registered,
        rivals: client.rivals(),
        stored: client.stored_bytes(),
    })
}

fn activity(found: Result<Activity, SourceError>, units: Units) -> Verdict {
    let found = match found {
        Ok(found) => found,
        Err(error) => return Verdict::of_error(&error, ADVICE),
    };
    let mut bad: Vec<String> =
        found.snapshots.iter().map(|name| format!("the snapshot {name} is being taken")).collect();
    let long = found.tasks.iter().filter(|task| !units.runs || task.running >= LONG);
    bad.extend(long.map(|task| {
        let description = if task.description.is_empty() { String::new() } else { format!(" ({})", task.description) };
        format!("{}{description} for {} s", task.action, task.running.as_secs())
    }));
    let own = |index: &str| OWN.iter().any(|prefix| index.starts_with(prefix));
    let moved: Vec<String> = found
        .moved
        .iter()
        .filter(|(index, _)| !own(index))
        .map(|(index, Counters { writes, reads })| {
            format!("{index}: {}, {}", counted(*writes, "write"), counted(*reads, "read"))
        })
        .collect();
    if !units.runs {
        bad.extend(moved.iter().cloned());
        if found.open_searches > 0 {
            bad.push(format!("{} held open", counted(found.open_searches, "search context")));
        }
    }
    if !bad.is_empty() {
        let why = if units.runs {
            "wait for its end, or end it: POST /_tasks/ID/_cancel"
        } else {
            "nothing of the platform runs: find out who reads and writes (GET /_tasks?detailed) and end that"
        };
        return Verdict::fail(few(&bad), why);
    }
    Verdict::pass(match moved.is_empty() && found.tasks.is_empty() && found.open_searches == 0 {
        true => "nothing was read or written within a second".to_owned(),
        false => format!(
            "short work that ends with the platform: {}, {} held open; within a second {}",
            counted(found.tasks.len() as u64, "task"),
            counted(found.open_searches, "search context"),
            if moved.is_empty() { "nothing".to_owned() } else { few(&moved) }
        ),
    })
}

fn health(found: &Result<Health, SourceError>) -> Verdict {
    let health = match found {
        Ok(health) => health,
        Err(error) => return Verdict::of_error(error, ADVICE),
    };
    let seen = format!("{}, {} not assigned", health.level, counted(health.unassigned_shards, "shard"));
    match health.level {
        Level::Red => Verdict::fail(
            seen,
            "a primary shard is missing, so no snapshot can be whole: see GET /_cluster/allocation/explain",
        ),
        Level::Yellow | Level::Green => Verdict::pass(seen),
    }
}

fn path_repo(found: &Result<Vec<String>, SourceError>, client: &Client, settings: &ElasticsearchSettings) -> Verdict {
    let place = settings.location.display();
    match found {
        Ok(nodes) if nodes.is_empty() => Verdict::pass(format!("every node allows {place}")),
        Ok(nodes) => Verdict::fail(format!("not allowed by {}: {place}", nodes.join(", ")), client.advice()),
        Err(error) => Verdict::of_error(error, ADVICE),
    }
}

fn directory(settings: &ElasticsearchSettings) -> Verdict {
    let (place, owner) = (&settings.location, &settings.owner);
    match location_state(place, owner) {
        Err(error) => Verdict::of_error(&error, "run it as root"),
        Ok(state) => match problems(place, &state, owner).first() {
            None => Verdict::pass(format!("{owner} may write to {}", place.display())),
            Some(problem) => {
                let (seen, advice) = problem.split_once("; ").unwrap_or((problem, ADVICE));
                Verdict::fail(seen, advice)
            }
        },
    }
}

fn registration(seen: &Seen, settings: &ElasticsearchSettings) -> Verdict {
    let (registered, rivals) = match (&seen.registered, &seen.rivals) {
        (Ok(registered), Ok(rivals)) => (registered, rivals),
        (Err(error), _) | (_, Err(error)) => return Verdict::of_error(error, ADVICE),
    };
    let name = &settings.repository;
    if !rivals.is_empty() {
        return Verdict::fail(
            format!("the server may write to the same directory under other names: {}", rivals.join(", ")),
            "what those delete may be ours: remove these registrations (DELETE /_snapshot/NAME)",
        );
    }
    match registered {
        (None, _) => Verdict::pass(format!("{name} is not registered yet; the backup registers it")),
        (Some(found), true) if found.access == Access::ReadOnly => Verdict::fail(
            format!("{name} is registered as read-only, so no snapshot can be taken into it"),
            "another cluster may write to the same directory: make it writable, or set elasticsearch.repository and \
             elasticsearch.location; what a run that was cut off has left is undone by `cairn platform resume`",
        ),
        (Some(_), true) => Verdict::pass(format!("{name} is registered")),
        (Some(found), false) => Verdict::fail(
            format!(
                "{name} is registered with type {} in {}, and not with type fs in {}",
                found.kind,
                found.location.as_deref().map_or("an unknown place".to_owned(), |place| place.display().to_string()),
                settings.location.display()
            ),
            "set elasticsearch.repository to another name, or elasticsearch.location to that directory",
        ),
    }
}

/// A snapshot writes what the repository does not have yet. How much that is, only the server could say by taking it:
/// at least what is stored beyond what the repository holds, and something for what merges have rewritten.
fn space(stored: &Result<u64, SourceError>, settings: &ElasticsearchSettings, stop: &dyn Fn() -> bool) -> Verdict {
    let stored = match stored {
        Ok(stored) => *stored,
        Err(error) => return Verdict::of_error(error, ADVICE),
    };
    let looked = free_space(&settings.location).and_then(|room| Ok((room, bytes_beneath(&settings.location, stop)?)));
    let (room, held) = match looked {
        Ok(looked) => looked,
        Err(error) => return Verdict::of_error(&error, "run it as root"),
    };
    let needed = stored.saturating_sub(held).max(stored / REWRITTEN);
    let mebibytes = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
    let seen = format!(
        "{} free in {}; a snapshot may need {} (indices {}, already saved {})",
        // Never more than there is.
        format_args!("{} MiB", room.bytes >> 20),
        room.directory.display(),
        mebibytes(needed),
        mebibytes(stored),
        mebibytes(held)
    );
    match room.bytes >= needed {
        true => Verdict::pass(seen),
        false => Verdict::fail(
            seen,
            "make room, lower elasticsearch.keep-snapshots, or set elasticsearch.location elsewhere",
        ),
    }
}
