//! What differs between two counts of a cluster.
//!
//! Invariant: what was recorded and cannot be found again is always told. A checksum is compared only with one: where
//! either side has none, the rows alone are.

use std::collections::BTreeMap;
use std::fmt;

use crate::format::set::{DatabaseFacts, PostgresFacts, TableFacts};
use crate::source::postgres::settings::quoted;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The database.
    pub database: String,
    /// The table's schema and name, if it is about one.
    pub table: Option<(String, String)>,
    /// What differs, in words.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "database {}", quoted(&self.database))?;
        if let Some((schema, name)) = &self.table {
            write!(formatter, ", table {}.{}", quoted(schema), quoted(name))?;
        }
        write!(formatter, ": {}", self.what)
    }
}

/// What of `recorded` is not so in `found`, and what `found` has besides. How and where they were taken does not count.
pub fn compare(recorded: &PostgresFacts, found: &PostgresFacts) -> Vec<Difference> {
    let by_name = |facts: &PostgresFacts| -> BTreeMap<String, DatabaseFacts> {
        facts.databases.iter().map(|database| (database.name.clone(), database.clone())).collect()
    };
    let (recorded, found) = (by_name(recorded), by_name(found));
    let mut differences = Vec::new();
    for (name, before) in &recorded {
        let mut say = |table, what: String| differences.push(Difference { database: name.clone(), table, what });
        match found.get(name) {
            None => say(None, "it was recorded, and is not there".to_owned()),
            Some(after) => compare_tables(before, after, &mut say),
        }
    }
    for name in found.keys().filter(|name| !recorded.contains_key(*name)) {
        let what = "it is there, and was not recorded".to_owned();
        differences.push(Difference { database: name.clone(), table: None, what });
    }
    differences
}

fn compare_tables(
    before: &DatabaseFacts,
    after: &DatabaseFacts,
    say: &mut dyn FnMut(Option<(String, String)>, String),
) {
    let key = |table: &TableFacts| (table.schema.clone(), table.name.clone());
    let tables: BTreeMap<_, _> = after.tables.iter().map(|table| (key(table), table)).collect();
    let mut seen = BTreeMap::new();
    for table in &before.tables {
        seen.insert(key(table), ());
        let Some(other) = tables.get(&key(table)) else {
            say(Some(key(table)), format!("its {} rows were recorded, and it is not there", table.rows));
            continue;
        };
        if table.rows != other.rows {
            say(Some(key(table)), format!("{} rows were recorded, and {} are there", table.rows, other.rows));
            continue;
        }
        if let (Some(recorded), Some(found)) = (&table.checksum, &other.checksum)
            && recorded != found
        {
            say(Some(key(table)), format!("its {} rows do not have the content that was recorded", table.rows));
        }
    }
    for (key, table) in tables.iter().filter(|(key, _)| !seen.contains_key(*key)) {
        say(Some(key.clone()), format!("it is there with {} rows, and was not recorded", table.rows));
    }
}
