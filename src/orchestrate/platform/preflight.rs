//! Whether a backup may begin: what is seen before anything is stopped.
//!
//! Fail means: a backup now would disturb somebody, or cannot work. Unknown means: it could not be looked at. Pass is
//! everything else, with what was seen (12 tasks wait, and the backup waits for them). A backup is refused by a failure
//! and by what is unknown alike, unless the operator allows that check by its name.
//!
//! A full backup stops the platform itself. So its running services, their idle connections and their short queries are
//! no failure: they end with them. What no service explains, or has worked for longer than `LONG` and would be cut
//! off, is one; where nothing of the platform runs, any work is. An online backup stops nobody, so only what it needs
//! is looked at.
//!
//! Invariant: nothing here changes anything, and nothing that was not looked at passes: a check that cannot be made is
//! in the list, as unknown, with the reason. Each server is asked on a thread of its own and within `PATIENCE`, so one
//! that is silent hides nothing that the others say.
//!
//! * `machine`: users, logins, our own rights. * `services`: units. * `redis`: queues, tasks, clients.
//! * `postgres`, `elasticsearch`, `neo4j`: what each is busy with, and what its capture needs.
//!
//! `docs/preflight.md` has the same by check.

mod elasticsearch;
mod machine;
mod neo4j;
mod postgres;
mod redis;
mod services;

use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::format::error::chain;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::plan::Mode;
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::progress::Monitor;
use crate::source::SourceError;

/// Work that has gone on for so long is not taken for one of the platform's many short queries.
const LONG: Duration = Duration::from_secs(5);
/// The longest that one answer is waited for, however long the profile would wait in a run.
const PATIENCE: Duration = Duration::from_secs(20);
/// So many sessions, tasks or clients are named.
const NAMED: usize = 5;

/// Every check, in the order in which they are told: its id, and what is looked at.
const CHECKS: [(&str, &str); 19] = [
    ("services", "services of the platform"),
    ("users", "signed-in users"),
    ("logins", "logins on this machine"),
    ("queues", "queues in Redis"),
    ("celery", "Celery tasks"),
    ("redis-clients", "clients of Redis"),
    ("postgres-sessions", "sessions of PostgreSQL"),
    ("elasticsearch-activity", "reads and writes of Elasticsearch"),
    ("neo4j-activity", "transactions and connections of Neo4j"),
    ("rights", "rights of this process"),
    ("servers", "servers that are stopped for their capture"),
    ("postgres-programs", "PostgreSQL, its programs and versions"),
    ("elasticsearch-health", "health of Elasticsearch"),
    ("elasticsearch-path-repo", "path.repo of Elasticsearch"),
    ("elasticsearch-directory", "directory of Elasticsearch's snapshots"),
    ("elasticsearch-repository", "registration of Elasticsearch's snapshots"),
    ("elasticsearch-space", "space for Elasticsearch's snapshots"),
    ("neo4j-store", "store of Neo4j"),
    (REPOSITORY, "repository and password"),
];
/// The check that the caller makes: [`repository`].
const REPOSITORY: &str = "repository";

/// Whether a check is about who writes to the databases and is not stopped by a backup: in spite of it a set is not one
/// point in time.
pub fn is_about_writers(id: &str) -> bool {
    matches!(id, "redis-clients" | "postgres-sessions" | "elasticsearch-activity" | "neo4j-activity")
}

/// What is looked at.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// The platform.
    pub profile: &'a Profile,
    /// What is to be captured.
    pub components: &'a [Component],
    /// Whether the platform is to be stopped.
    pub mode: Mode,
    /// Who may ask for a stop.
    pub monitor: &'a dyn Monitor,
}

impl Look<'_> {
    fn has(&self, component: Component) -> bool {
        self.components.contains(&component)
    }

    fn is_full(&self) -> bool {
        self.mode == Mode::Full
    }
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A backup may begin, as far as this goes.
    Pass,
    /// A backup now would disturb somebody, or cannot work.
    Fail,
    /// It could not be looked at.
    Unknown,
}

/// A check that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// By which it can be allowed; it stays the same from version to version.
    pub id: String,
    /// What was looked at.
    pub title: String,
    /// What it came to.
    pub outcome: Outcome,
    /// What was seen, or why nothing could be. It may quote servers and users: escape it before it is printed.
    pub seen: String,
    /// What to do; empty for one that passed.
    pub advice: String,
}

/// All checks, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preflight {
    /// The checks.
    pub checks: Vec<Check>,
}

impl Preflight {
    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.outcome == Outcome::Pass)
    }

    /// The checks that keep a backup from beginning: those that did not pass and are not allowed.
    pub fn refusals(&self, allow: &[String]) -> Vec<&Check> {
        let refuses = |check: &&Check| check.outcome != Outcome::Pass && !allow.contains(&check.id);
        self.checks.iter().filter(refuses).collect()
    }
}

/// The ids of all checks, in order.
pub fn ids() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|(id, _)| *id)
}

/// Whether there is a check of this id.
pub fn is_check(id: &str) -> bool {
    ids().any(|known| known == id)
}

/// What is seen of the repository, which the caller has tried to open: where it is, or why it cannot be used.
pub fn repository(opened: Result<String, String>) -> Check {
    let verdict = match opened {
        Ok(seen) => Verdict::pass(seen),
        Err(why) => Verdict::fail(why, "a backup has nowhere to go before this is right"),
    };
    verdict.of(REPOSITORY)
}

/// Looks at everything but the repository. An error only if a stop was asked for.
pub fn preflight(look: &Look<'_>) -> Result<Preflight, OrchestrateError> {
    let (units, mut checks) = services::look(look);
    type Group = fn(&Look<'_>, services::Units) -> Vec<Check>;
    let groups: [Group; 5] = [machine::look, redis::look, postgres::look, elasticsearch::look, neo4j::look];
    thread::scope(|scope| {
        let begun = groups.map(|group| {
            let work = move || group(look, units);
            // Without another thread it takes longer, that is all.
            thread::Builder::new().name("preflight".to_owned()).spawn_scoped(scope, work).map_err(|_| work)
        });
        for group in begun {
            checks.extend(match group {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(work) => work(),
            });
        }
    });
    if look.monitor.interrupted() {
        return Err(OrchestrateError::Interrupted);
    }
    checks.sort_by_key(|check| ids().position(|id| id == check.id));
    Ok(Preflight { checks })
}

/// What a check came to, before it has its name.
#[derive(Clone)]
struct Verdict {
    outcome: Outcome,
    seen: String,
    advice: String,
}

impl Verdict {
    fn pass(seen: impl Into<String>) -> Self {
        Verdict { outcome: Outcome::Pass, seen: seen.into(), advice: String::new() }
    }

    fn fail(seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Verdict { outcome: Outcome::Fail, seen: seen.into(), advice: advice.into() }
    }

    fn unknown(seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Verdict { outcome: Outcome::Unknown, seen: seen.into(), advice: advice.into() }
    }

    /// What an error comes to: a setting that cannot be used will not be better in a backup, anything else kept us from
    /// looking.
    fn of_error(error: &SourceError, advice: &str) -> Self {
        let outcome = match error {
            SourceError::Setting { .. } | SourceError::Pattern { .. } => Outcome::Fail,
            _ => Outcome::Unknown,
        };
        Verdict { outcome, seen: chain(error), advice: advice.to_owned() }
    }

    fn of(self, id: &str) -> Check {
        let title = CHECKS.iter().find(|(known, _)| *known == id).map_or(id, |(_, title)| title);
        Check {
            id: id.to_owned(),
            title: title.to_owned(),
            outcome: self.outcome,
            // What a program wrote to standard error may have several lines; a check is told in one.
            seen: self.seen.trim_end().replace('\n', "; "),
            advice: self.advice,
        }
    }
}

/// A number and what it counts, with the letter of the plural.
fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// The first few, and how many more there are.
fn few(all: &[String]) -> String {
    let mut text = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if let Some(more @ 1..) = all.len().checked_sub(NAMED) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// A time limit of the profile, shortened for a look.
fn shortened(seconds: u64) -> u64 {
    seconds.min(PATIENCE.as_secs())
}
