//! Rows and checksums of the tables of a database, in one snapshot of it.
//!
//! Invariant: what is counted is exactly what a dump with the same snapshot writes. The tables are locked against
//! being dropped or truncated (which no snapshot hides) before the dump begins. What a dump does not carry is not
//! counted: foreign tables, views that are computed again, tables that belong to an extension. A partitioned table is
//! its leaves, each counted once.
//!
//! A checksum is the sum, over all rows, of the first 64 bits of the MD5 of the row's text, columns in the order of
//! their names: it depends neither on the order of rows, nor on that of columns (which a dump of an inheriting table
//! may change), nor on settings of the session or the version of the server.

use std::time::Duration;

use tokio_postgres::Row;

use crate::format::set::{DatabaseFacts, PostgresFacts, TableFacts};
use crate::source::SourceError;
use crate::source::postgres::cluster::{Cluster, Failed};
use crate::source::postgres::settings::quoted;
use crate::source::postgres::{Method, PostgresSettings};

/// What a checksum begins with, so that one of another kind is never compared with it.
const KIND: &str = "rows-1:";
/// Tables locked by one statement.
const LOCKED_AT_ONCE: usize = 100;

/// Large objects are a table of their own in the facts.
const LARGE_OBJECTS: (&str, &str) = ("pg_catalog", "pg_largeobject");

/// Which tables a capture carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    All,
    /// Those that are written to the log: a base backup restores unlogged ones empty.
    Logged,
}

impl Scope {
    /// What a method carries.
    pub fn of(method: Method) -> Self {
        match method {
            Method::Dump | Method::Files => Scope::All,
            Method::Base => Scope::Logged,
        }
    }
}

struct Table {
    schema: String,
    name: String,
    /// The row as an expression.
    row: String,
}

impl Table {
    fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// A snapshot of a database that stays as it is while this lives.
pub struct Snapshot {
    cluster: Cluster,
    database: String,
    id: String,
    tables: Vec<Table>,
    checksums: bool,
}

impl Snapshot {
    /// Takes one, and locks its tables.
    pub fn take(settings: &PostgresSettings, database: &str, scope: Scope) -> Result<Self, SourceError> {
        let cluster = Cluster::to(settings, database)?;
        let lock = settings.lock_timeout_seconds;
        // What a session is told by the configuration of a database or role must not change a checksum or end a wait.
        let sql = format!(
            "SET DateStyle = 'ISO, YMD'; SET TimeZone = 'UTC'; SET IntervalStyle = 'postgres'; \
             SET extra_float_digits = 0; SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET search_path = ''; \
             SET xmlbinary = 'base64'; SET row_security = off; SET statement_timeout = 0; \
             SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '{lock}s'; \
             SELECT set_config(name, '0', false) FROM pg_settings \
             WHERE name IN ('idle_session_timeout', 'transaction_timeout')"
        );
        cluster.execute("set up a session", &sql)?;
        cluster.execute("begin a snapshot", "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let row = cluster.one("export a snapshot", "SELECT pg_export_snapshot()")?;
        let id = cluster.text(&row, 0)?;
        let checksums = settings.checksums;
        let mut snapshot = Snapshot { cluster, database: database.to_owned(), id, tables: Vec::new(), checksums };
        snapshot.tables = snapshot.list(scope)?;
        snapshot.lock()?;
        Ok(snapshot)
    }

    /// Its identifier, which `pg_dump --snapshot` takes.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Counts the tables.
    pub fn facts(&self, stop: &dyn Fn() -> bool) -> Result<DatabaseFacts, SourceError> {
        let mut tables = Vec::with_capacity(self.tables.len());
        for table in &self.tables {
            let from = format!("FROM ONLY {}", table.quoted());
            let (rows, checksum) = self.measure(&table.quoted(), &table.row, &from, stop)?;
            tables.push(TableFacts { schema: table.schema.clone(), name: table.name.clone(), rows, checksum });
        }
        let (row, from) = ("ROW(oid, md5(lo_get(oid)))", "FROM pg_largeobject_metadata");
        let (rows, checksum) = self.measure("its large objects", row, from, stop)?;
        if rows > 0 {
            let (schema, name) = LARGE_OBJECTS;
            tables.push(TableFacts { schema: schema.to_owned(), name: name.to_owned(), rows, checksum });
        }
        Ok(DatabaseFacts { name: self.database.clone(), tables })
    }

    fn list(&self, scope: Scope) -> Result<Vec<Table>, SourceError> {
        let kinds = match scope {
            Scope::All => "'p', 'u'",
            Scope::Logged => "'p'",
        };
        // Floating point numbers go by their bits: how they are written differs between versions of the server.
        let sql = format!(
            "SELECT n.nspname::text, c.relname::text, (SELECT 'ROW(' || coalesce(string_agg( \
             CASE a.atttypid WHEN 700 THEN format('float4send(%I)', a.attname) \
             WHEN 701 THEN format('float8send(%I)', a.attname) ELSE quote_ident(a.attname) END, ', ' \
             ORDER BY a.attname::text COLLATE \"C\"), '') || ')' FROM pg_attribute a \
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'r' AND c.relpersistence IN ({kinds}) \
             AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' \
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass \
             AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e') \
             ORDER BY n.nspname, c.relname"
        );
        let table = |row: &Row| {
            let text = |column| self.cluster.text(row, column);
            Ok(Table { schema: text(0)?, name: text(1)?, row: text(2)? })
        };
        self.cluster.rows("list its tables", &sql, &[])?.iter().map(table).collect()
    }

    fn lock(&self) -> Result<(), SourceError> {
        for tables in self.tables.chunks(LOCKED_AT_ONCE) {
            let names: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.quoted())).collect();
            let sql = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
            let limit = Duration::from_secs(self.cluster.settings().lock_timeout_seconds + 10) * tables.len() as u32;
            self.cluster.execute_for("lock its tables against being dropped", &sql, Some(limit), &|| false)?;
        }
        Ok(())
    }

    /// Rows and, where it can be taken, their checksum.
    fn measure(
        &self,
        what: &str,
        row: &str,
        from: &str,
        stop: &dyn Fn() -> bool,
    ) -> Result<(u64, Option<String>), SourceError> {
        let action = format!("count {what}");
        let limit = Duration::from_secs(self.cluster.settings().count_timeout_seconds);
        let run = |sql: &str| self.cluster.query(&action, sql, &[], Some(limit), stop);
        if self.checksums {
            self.cluster.execute("set a savepoint", "SAVEPOINT cairn")?;
            let sql = format!(
                "SELECT count(*), coalesce(sum(('x' || substr(md5({row}::text), 1, 16))::bit(64)::int8), 0)::text {from}"
            );
            match run(&sql) {
                Ok(rows) => {
                    let answer = self.cluster.first(rows)?;
                    self.cluster.execute("release a savepoint", "RELEASE SAVEPOINT cairn")?;
                    let checksum = format!("{KIND}{}", self.cluster.text(&answer, 1)?);
                    return Ok((self.cluster.count(&answer, 0)?, Some(checksum)));
                }
                // The server said no: a row whose text is beyond its limits, most likely. Its rows can still be counted.
                Err(Failed::Query(error)) if error.as_db_error().is_some() => {
                    tracing::warn!("no checksum of {what} in {:?}: {error}", self.database);
                    self.cluster.execute("go back to a savepoint", "ROLLBACK TO SAVEPOINT cairn")?;
                }
                Err(failed) => return Err(self.cluster.told(&action, failed)),
            }
        }
        let rows = run(&format!("SELECT count(*) {from}")).map_err(|failed| self.cluster.told(&action, failed))?;
        Ok((self.cluster.count(&self.cluster.first(rows)?, 0)?, None))
    }
}

/// Counts a database of a running cluster.
pub fn counts(
    settings: &PostgresSettings,
    database: &str,
    scope: Scope,
    stop: &dyn Fn() -> bool,
) -> Result<DatabaseFacts, SourceError> {
    Snapshot::take(settings, database, scope)?.facts(stop)
}

/// Counts every database of a running cluster, each in a snapshot of its own.
pub fn facts(
    settings: &PostgresSettings,
    method: Method,
    stop: &dyn Fn() -> bool,
) -> Result<PostgresFacts, SourceError> {
    let cluster = Cluster::connect(settings)?;
    let mut facts = begun(&cluster, method)?;
    for database in cluster.databases()? {
        if database.allows_connections {
            facts.databases.push(counts(settings, &database.name, Scope::of(method), stop)?);
        }
    }
    Ok(facts)
}

/// Facts of a capture that begins, without databases.
pub(super) fn begun(cluster: &Cluster, method: Method) -> Result<PostgresFacts, SourceError> {
    let at = cluster.coordinates()?;
    let (system_id, timeline, lsn) = (at.system_id, at.timeline, at.lsn);
    Ok(PostgresFacts { method: method.name().to_owned(), system_id, timeline, lsn, databases: Vec::new(), base: None })
}
