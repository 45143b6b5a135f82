//! Putting a dump back into an empty cluster.
//!
//! Invariant: a restore is reported as done only if every statement succeeded (`ON_ERROR_STOP`), the stream was read to
//! its end without an error, and it ended with the mark of a whole dump: `psql` itself takes a stream that stops early
//! for a short one and ends well.

use std::io::{self, ErrorKind, Read, Write};
use std::process::ChildStdin;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::source::command::CommandStream;
use crate::source::postgres::dump::marks::{Tail, WHOLE};
use crate::source::postgres::settings::{connection_string, quoted};
use crate::source::postgres::{Cluster, PostgresSettings};
use crate::source::{SourceError, wait};

const PIECE: usize = 64 << 10;

/// What a cluster holds besides what every new one does, by name; nothing if it is empty.
pub fn contents(settings: &PostgresSettings) -> Result<Vec<String>, SourceError> {
    let cluster = Cluster::connect(settings)?;
    let mut found = Vec::new();
    for database in cluster.databases()? {
        if !matches!(database.name.as_str(), "postgres" | "template1") {
            found.push(format!("database {}", quoted(&database.name)));
        } else if database.allows_connections {
            let within = objects(&Cluster::to(settings, &database.name)?)?;
            found.extend(within.into_iter().map(|what| format!("{what} in database {}", quoted(&database.name))));
        }
    }
    for tablespace in cluster.tablespaces()? {
        found.push(format!("tablespace {}", quoted(&tablespace.name)));
    }
    // Roles of the system itself have identifiers below those that are given to users.
    let sql = "SELECT rolname::text FROM pg_roles WHERE oid >= 16384 ORDER BY 1";
    for row in cluster.rows("list its roles", sql, &[])? {
        found.push(format!("role {}", quoted(&cluster.text(&row, 0)?)));
    }
    Ok(found)
}

/// What somebody made in a database.
fn objects(cluster: &Cluster) -> Result<Vec<String>, SourceError> {
    let sql = "SELECT 'schema ' || quote_ident(nspname) FROM pg_namespace WHERE oid >= 16384 \
               AND nspname !~ '^pg_(toast|temp)' \
               UNION ALL SELECT 'relation ' || oid::regclass::text FROM pg_class WHERE oid >= 16384 \
               AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't' \
               UNION ALL SELECT 'function ' || oid::regprocedure::text FROM pg_proc WHERE oid >= 16384 \
               UNION ALL SELECT 'extension ' || quote_ident(extname) FROM pg_extension WHERE oid >= 16384 \
               UNION ALL SELECT 'large object ' || loid FROM (SELECT DISTINCT loid FROM pg_largeobject) l LIMIT 100";
    let rows = cluster.rows("list what it holds", sql, &[])?;
    rows.iter().map(|row| cluster.text(row, 0)).collect()
}

/// Restores a dump, then has the server count anew what its planner relies on.
pub fn restore_dump(
    settings: &PostgresSettings,
    dump: &mut dyn Read,
    stop: &dyn Fn() -> bool,
) -> Result<(), SourceError> {
    let spec = settings.client("psql")?.with_input().without_output();
    let spec = spec.arg("--no-psqlrc").arg("--quiet").arg("--set=ON_ERROR_STOP=1");
    let spec = spec.arg("--dbname").arg(connection_string(&settings.maintenance_database)).arg("--file=-");
    let mut psql = CommandStream::start(&spec, stop, |line| tracing::info!(target: "psql", "{line}"))?;
    let mut tail = Tail::default();
    if let Some(mut input) = psql.take_input()
        && !feed(&mut input, dump, &mut tail, stop)?
    {
        // It stopped reading: its own account of why is better than ours.
        drop(input);
        psql.finish()?;
        return Err(cut("psql ended before the dump did"));
    }
    if !tail.is_whole(WHOLE) {
        return Err(cut("the dump ends without the mark of a whole one: the cluster holds only a part of it"));
    }
    psql.finish()?;
    let databases = Cluster::connect(settings)?.databases()?;
    for database in databases.iter().filter(|database| database.allows_connections) {
        Cluster::to(settings, &database.name)?.execute_for("analyze its tables", "ANALYZE", None, stop)?;
    }
    Ok(())
}

fn cut(what: &str) -> SourceError {
    SourceError::Answer { server: "the restore of PostgreSQL".to_owned(), what: what.to_owned() }
}

/// Pipes the dump; false if the program does not read it any more.
fn feed(
    input: &mut ChildStdin,
    dump: &mut dyn Read,
    tail: &mut Tail,
    stop: &dyn Fn() -> bool,
) -> Result<bool, SourceError> {
    let lost = |action| {
        move |source: io::Error| {
            wait::or_stopped(source, |source| SourceError::Unreadable { action, path: "the dump".to_owned(), source })
        }
    };
    let to_psql = lost("give psql");
    // A statement may take hours, and a plain write to a pipe that nobody empties would not hear of a stop.
    let flags = fcntl_getfl(&*input).map_err(|error| to_psql(error.into()))?;
    fcntl_setfl(&*input, flags | OFlags::NONBLOCK).map_err(|error| to_psql(error.into()))?;
    let mut piece = vec![0; PIECE];
    loop {
        let length = match dump.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(lost("read")(error)),
        };
        tail.push(&piece[..length]);
        let mut rest = &piece[..length];
        while !rest.is_empty() {
            match input.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait::until_writable(&*input, stop).map_err(to_psql)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(false),
                Err(error) => return Err(to_psql(error)),
            }
        }
        if stop() {
            return Err(SourceError::Interrupted);
        }
    }
}
