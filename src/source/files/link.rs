//! Which files are the same file under several names. The table lives in a temporary SQLite database, which stays in
//! memory while it is small and goes to disk when it is not.

use rusqlite::{Connection, OptionalExtension, params};

/// Paths by (device, inode).
pub struct LinkTable {
    connection: Connection,
}

impl LinkTable {
    /// An empty table.
    pub fn new() -> Result<Self, rusqlite::Error> {
        // An empty name is a private database that SQLite spills to a temporary file by itself.
        let connection = Connection::open("")?;
        connection.pragma_update(None, "cache_size", -4096)?;
        connection.execute_batch(
            "CREATE TABLE link(device INTEGER, inode INTEGER, path BLOB NOT NULL, PRIMARY KEY(device, inode)) WITHOUT ROWID",
        )?;
        Ok(LinkTable { connection })
    }

    /// The first path noted for this file, if there is one; else this path becomes it.
    pub fn first(&self, device: u64, inode: u64, path: &[u8]) -> Result<Option<Vec<u8>>, rusqlite::Error> {
        // SQLite's integers are signed; the bits are what matters.
        let key = (device as i64, inode as i64);
        let sql = "SELECT path FROM link WHERE device = ?1 AND inode = ?2";
        let found =
            self.connection.prepare_cached(sql)?.query_row(params![key.0, key.1], |row| row.get(0)).optional()?;
        if found.is_none() {
            let sql = "INSERT INTO link(device, inode, path) VALUES(?1, ?2, ?3)";
            self.connection.prepare_cached(sql)?.execute(params![key.0, key.1, path])?;
        }
        Ok(found)
    }
}
