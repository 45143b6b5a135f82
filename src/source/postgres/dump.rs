//! A whole cluster as one stream of SQL.
//!
//! The stream is what `pg_dumpall` would write: roles and tablespaces, then every database. Unlike with `pg_dumpall`,
//! each database is dumped from a snapshot that we hold open and count in, so [`Dump::finish`] can say what exactly is
//! in the stream. `psql -X -v ON_ERROR_STOP=1 -d postgres -f -` restores it into an empty cluster.
//!
//! Invariant: there are facts only after the last byte was read, every program exited with status 0, and every part
//! ended with the mark that `pg_dump` writes last, seen in the bytes that went through. The mark of the whole is held
//! back until then, so a stream that was cut never looks like a whole one. After a failure every further read fails.

mod counting;
pub(super) mod marks;

use std::collections::VecDeque;
use std::io::{self, Cursor, Read};
use std::time::Duration;

use crate::format::set::{DatabaseFacts, PostgresFacts};
use crate::source::command::CommandStream;
use crate::source::postgres::cluster::Cluster;
use crate::source::postgres::counts::{self, Scope, Snapshot};
use crate::source::postgres::settings::{connection_string, quoted};
use crate::source::postgres::{Database, Method, PostgresSettings};
use crate::source::{SourceError, wait};
use counting::Counting;
use marks::{PART, Tail, WHOLE};

/// Roles and tablespaces are held in memory while they are looked through.
const MAX_GLOBALS: usize = 64 << 20;
/// How long `pg_dumpall` may take for them.
const GLOBALS_LIMIT: Duration = Duration::from_secs(600);

/// A dump that runs, read through [`Read`].
pub struct Dump<'m> {
    settings: PostgresSettings,
    stop: &'m dyn Fn() -> bool,
    /// Bytes of our own that come next.
    ready: Cursor<Vec<u8>>,
    running: Option<Running<'m>>,
    pending: VecDeque<String>,
    omitted: Vec<String>,
    facts: PostgresFacts,
    whole: bool,
    failure: Option<SourceError>,
}

/// A database that is being dumped.
struct Running<'m> {
    name: String,
    stream: CommandStream<'m>,
    tail: Tail,
    counting: Counting,
}

impl<'m> Dump<'m> {
    /// Begins: looks at the cluster and dumps roles and tablespaces.
    pub fn start(settings: &PostgresSettings, stop: &'m dyn Fn() -> bool) -> Result<Self, SourceError> {
        let cluster = Cluster::connect(settings)?;
        let facts = counts::begun(&cluster, Method::Dump)?;
        let (pending, omitted): (Vec<_>, Vec<_>) =
            cluster.databases()?.into_iter().partition(|database| database.allows_connections);
        let names = |databases: Vec<Database>| databases.into_iter().map(|found| found.name);
        let superuser = "SELECT rolname::text FROM pg_roles WHERE oid = 10";
        let row = cluster.one("ask for its first role", superuser)?;
        let globals = globals(settings, &cluster.text(&row, 0)?, stop)?;
        Ok(Dump {
            settings: settings.clone(),
            stop,
            ready: Cursor::new(globals),
            running: None,
            pending: names(pending).collect(),
            omitted: names(omitted).collect(),
            facts,
            whole: false,
            failure: None,
        })
    }

    /// Databases that cannot be connected to, and are therefore not in the dump.
    pub fn omitted(&self) -> &[String] {
        &self.omitted
    }

    /// The process that is being read, for who watches it.
    pub fn process(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.stream.id())
    }

    /// What is in the stream. To be called after its last byte.
    pub fn finish(mut self) -> Result<PostgresFacts, SourceError> {
        match self.failure.take() {
            Some(error) => Err(error),
            None if self.whole => Ok(self.facts.clone()),
            None => Err(SourceError::Answer {
                server: self.settings.server(),
                what: "its dump was not read to its end, so it is not trusted".to_owned(),
            }),
        }
    }

    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            let length = self.ready.read(buffer).unwrap_or_default();
            if length > 0 {
                return Ok(length);
            }
            if let Some(running) = &mut self.running {
                let length = running.read(buffer)?;
                if length > 0 {
                    return Ok(length);
                }
            }
            if let Some(running) = self.running.take() {
                self.facts.databases.push(running.finish(self.stop)?);
                continue;
            }
            match self.pending.pop_front() {
                Some(name) => self.begin(name)?,
                None if self.whole => return Ok(0),
                None => {
                    self.ready = Cursor::new(format!("--\n{WHOLE}\n--\n\n").into_bytes());
                    self.whole = true;
                }
            }
        }
    }

    fn begin(&mut self, name: String) -> Result<(), SourceError> {
        let snapshot = Snapshot::take(&self.settings, &name, Scope::of(Method::Dump))?;
        let mut head = format!("--\n-- Database {}\n--\n\n", quoted(&name).replace(['\n', '\r'], " "));
        let mut spec = self.settings.client("pg_dump")?.arg("--format=plain");
        spec = spec.arg(format!("--snapshot={}", snapshot.id()));
        spec = spec.arg(format!("--lock-wait-timeout={}s", self.settings.lock_timeout_seconds));
        if matches!(name.as_str(), "postgres" | "template1") {
            // Every cluster has them, so they are filled, not created.
            head += &format!("\\connect {name}\n\n");
        } else {
            spec = spec.arg("--create");
        }
        spec = spec.arg("--dbname").arg(connection_string(&name));
        let stream = CommandStream::start(&spec, self.stop, |line| tracing::info!(target: "pg_dump", "{line}"))?
            .with_patience(Duration::from_secs(self.settings.silence_timeout_seconds));
        let counting = Counting::start(snapshot)?;
        self.ready = Cursor::new(head.into_bytes());
        self.running = Some(Running { name, stream, tail: Tail::default(), counting });
        Ok(())
    }
}

impl Read for Dump<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let again = |error: &SourceError| match error {
            SourceError::Interrupted => wait::Stopped.into(),
            error => io::Error::other(error.to_string()),
        };
        if let Some(error) = &self.failure {
            return Err(again(error));
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        self.advance(buffer).map_err(|error| {
            let told = again(&error);
            self.running = None;
            self.failure = Some(error);
            told
        })
    }
}

impl Running<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        // A count that failed ends the dump now, not in hours.
        self.counting.check()?;
        let lost = |error| {
            wait::or_stopped(error, |source| SourceError::Unreadable {
                action: "read the output of",
                path: program(&self.name),
                source,
            })
        };
        let length = self.stream.read(buffer).map_err(lost)?;
        self.tail.push(&buffer[..length]);
        Ok(length)
    }

    fn finish(self, stop: &dyn Fn() -> bool) -> Result<DatabaseFacts, SourceError> {
        self.stream.finish()?;
        if !self.tail.is_whole(PART) {
            let what = "it ended without the mark of a whole dump, so its output is not trusted; run the backup again";
            return Err(SourceError::Answer { server: program(&self.name), what: what.to_owned() });
        }
        self.counting.finish(stop)
    }
}

fn program(database: &str) -> String {
    format!("pg_dump of {}", quoted(database))
}

/// Roles and tablespaces.
fn globals(settings: &PostgresSettings, superuser: &str, stop: &dyn Fn() -> bool) -> Result<Vec<u8>, SourceError> {
    let spec = settings.client("pg_dumpall")?.arg("--globals-only");
    let spec = spec.arg("--database").arg(&settings.maintenance_database);
    let output = spec.run(MAX_GLOBALS, GLOBALS_LIMIT, stop)?.output()?;
    marks::prepared(output, superuser)
}
