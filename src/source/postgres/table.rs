//! The answer to a question that somebody else wrote, as text.
//!
//! Invariants: the question is one statement, and runs in a transaction that can change nothing and is rolled back; no
//! more rows and bytes are held than [`MAX_ROWS`] and [`MAX_BYTES`], and whoever asked is told that there are more.

use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::SimpleQueryMessage;

use crate::source::SourceError;
use crate::source::postgres::cluster::{Cluster, Failed};

/// An answer is shown up to here.
const MAX_ROWS: usize = 100_000;
const MAX_BYTES: usize = 64 << 20;

/// Rows of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// As many values a row as there are columns; `None` is SQL's NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// Whether there are more rows than were taken.
    pub has_more: bool,
}

impl Cluster {
    /// Asks a question whose answer is a table.
    pub fn table(&self, action: &str, sql: &str, stop: &dyn Fn() -> bool) -> Result<Table, SourceError> {
        let limit = Some(self.settings().query_limit());
        self.execute(action, "BEGIN TRANSACTION READ ONLY")?;
        let asked = self.wait(action, limit, stop, async {
            // Preparing it refuses more than one statement, one of which could end the transaction.
            let prepared = self.client().prepare(sql).await?;
            let columns: Vec<String> = prepared.columns().iter().map(|column| column.name().to_owned()).collect();
            let mut table = Table { columns, ..Table::default() };
            let (mut answer, mut bytes) = (pin!(self.client().simple_query_raw(sql).await?), 0);
            while let Some(message) = answer.try_next().await? {
                let SimpleQueryMessage::Row(row) = message else { continue };
                let values: Vec<Option<String>> = (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect();
                bytes += values.iter().flatten().map(String::len).sum::<usize>();
                if table.rows.len() >= MAX_ROWS || bytes > MAX_BYTES {
                    table.has_more = true;
                    return Ok(table);
                }
                table.rows.push(values);
            }
            Ok(table)
        });
        let table = asked.map_err(|failed: Failed| self.told(action, failed))?;
        if !table.has_more {
            self.execute("end a transaction", "ROLLBACK")?;
        }
        Ok(table)
    }
}
