//! PostgreSQL: what is captured from a real cluster, and what comes back.

mod drill;
mod dump;
mod files;
mod state;

use std::io::Read;

use cairn::format::set::{PostgresFacts, TableFacts};
use cairn::source::SourceError;
use cairn::source::postgres::Dump;

use crate::servers::postgres::Postgres;

/// A cluster, or the scenario is skipped.
macro_rules! cluster {
    ($made:expr) => {
        match $made {
            Ok(made) => made,
            Err(why) => return $crate::servers::skip(&why),
        }
    };
}
pub(crate) use cluster;

fn never() -> bool {
    false
}

/// A database whose name needs quotes, in SQL and in connection strings.
const ODD: &str = "odd 'na\\me\" =x";

/// Everything that a dump has to deal with.
fn seed(postgres: &Postgres) {
    postgres
        .sql("postgres", "CREATE TABLE in_postgres (a int); INSERT INTO in_postgres VALUES (1); CREATE ROLE app LOGIN");
    postgres.sql("template1", "CREATE TABLE in_template1 (a int); INSERT INTO in_template1 VALUES (2)");
    postgres.sql("postgres", "CREATE DATABASE platform OWNER app");
    postgres.sql("postgres", &format!("CREATE DATABASE \"{}\" TEMPLATE template0", ODD.replace('"', "\"\"")));
    postgres.sql("postgres", "ALTER DATABASE platform SET datestyle TO 'German'; ALTER ROLE app SET search_path TO x");
    postgres.sql(
        "platform",
        "CREATE TABLE entity (id bigint PRIMARY KEY, data jsonb, seen timestamptz, score float8, raw bytea, span interval);
         INSERT INTO entity SELECT i, jsonb_build_object('type', 'indicator', 'value', md5(i::text)),
             timestamptz '2026-01-01' + i * interval '1 second', i / 7.0, decode(md5(i::text), 'hex'), i * interval '1 s'
             FROM generate_series(1, 20000) i;
         CREATE SCHEMA \"Mixed Case\";
         CREATE TABLE \"Mixed Case\".\"quo\"\"ted, table\" (\"a b\" text, \"C\" real);
         INSERT INTO \"Mixed Case\".\"quo\"\"ted, table\" VALUES ('x', 0.1), ('x', 0.1), (NULL, 'NaN'), ('line
break', 3);
         CREATE UNLOGGED TABLE cache (a int); INSERT INTO cache SELECT generate_series(1, 10);
         CREATE TABLE event (at date, what text) PARTITION BY RANGE (at);
         CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
         CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
         INSERT INTO event SELECT date '2026-01-01' + i, i::text FROM generate_series(0, 50) i;
         CREATE TABLE base (a int, b int); CREATE TABLE heir (z text) INHERITS (base);
         ALTER TABLE base ADD COLUMN late int DEFAULT 5; INSERT INTO base VALUES (1, 2); INSERT INTO heir VALUES (3, 4, 'z');
         ALTER TABLE base DROP COLUMN b;
         CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; CREATE TABLE empty (a int);
         CREATE MATERIALIZED VIEW summary AS SELECT count(*) FROM entity;
         DELETE FROM entity WHERE id = 17;
         SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex')), lo_from_bytea(0, 'other');",
    );
    postgres.sql(ODD, "CREATE TABLE t (a text); INSERT INTO t VALUES ('in the odd one')");
}

/// What needs more than a bare server has: extensions and foreign tables.
fn seed_extensions(postgres: &Postgres) {
    postgres.sql(
        "platform",
        "CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname 'nowhere');
         CREATE FOREIGN TABLE far_away (a int) SERVER far; CREATE EXTENSION hstore; CREATE TABLE h (a hstore);
         INSERT INTO h VALUES ('b=>1, a=>2')",
    );
}

fn dumped(postgres: &Postgres) -> (Vec<u8>, PostgresFacts) {
    let mut dump = Dump::start(&postgres.settings, &never).unwrap();
    let mut text = Vec::new();
    dump.read_to_end(&mut text).unwrap();
    (text, dump.finish().unwrap())
}

fn table<'f>(facts: &'f PostgresFacts, database: &str, name: &str) -> &'f TableFacts {
    let database = facts.databases.iter().find(|found| found.name == database).unwrap();
    database.tables.iter().find(|table| table.name == name).unwrap()
}

/// Reads a dump that is to fail, and gives why it did.
fn failure(mut dump: Dump<'_>) -> SourceError {
    let read = dump.read_to_end(&mut Vec::new());
    let error = dump.finish().unwrap_err();
    if let Err(read) = read {
        let told = read.to_string();
        assert!(told == error.to_string(), "{told}: {error}");
    }
    error
}
