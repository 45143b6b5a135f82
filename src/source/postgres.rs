//! PostgreSQL 11 to 17: what a running cluster says of itself, its capture, and its restore.
//!
//! Queries go through a connection of our own; data goes through PostgreSQL's own programs, run as the server's
//! account. All of it is synchronous.
//!
//! | to | is |
//! |---|---|
//! | ask what somebody else has written | [`Cluster::table`]: one statement, which can change nothing |
//! | name a cluster | [`PostgresSettings`], which a profile embeds |
//! | ask a running server | [`Cluster`]: version, activity, coordinates, databases, tablespaces, data directory |
//! | know whether the programs are there and fit the server | [`tools()`] |
//! | count, with checksums | [`counts()`] for a database, [`facts()`] for a cluster, [`compare()`] for what differs |
//! | capture as SQL while it runs | [`Dump`]: a stream, and facts that are true of exactly that stream |
//! | capture the files of a stopped server | [`data_layout()`], then [`at_rest()`] before and after, with equal answers |
//! | capture the files of a running server | [`BaseBackup`]: begin, copy, [`BaseBackup::finish`], copy the log |
//! | put such files back | restore them, put the log into `pg_wal`, then [`complete_base()`] |
//! | recover such files to a time | [`recovery`], and [`log`], which says whether the log reaches it |
//! | make a cluster for a restore | [`copy_cluster()`] of an empty one, or [`new_cluster()`]; [`wait_until_recovered()`] |
//! | ask how its archiving goes | [`archiver()`] |
//! | archive its log | [`system_id()`], [`WalSource`]; [`waiting()`] for what is next |
//! | give it log that it asks for | [`WalTarget`]; [`is_standby()`] for what it does where there is no more |
//! | have a server for a while, beside the one that works | [`ScratchCluster`], if the programs are there: [`fits()`] |
//! | put SQL back | [`contents()`] of the target must be nothing, then [`restore_dump()`] |
//!
//! Invariant: nothing counts as captured before everything that made it has ended well: [`Dump::finish`] gives facts
//! only if each program exited with status 0, each part of the stream ended with its completion mark, and each table
//! was counted in the snapshot that was dumped.

mod archiver;
mod base;
mod cluster;
mod compare;
mod counts;
mod dump;
mod files;
pub mod log;
mod new;
pub mod recovery;
mod restore;
mod scratch;
mod settings;
mod spool;
mod table;
mod tools;
mod wal;

pub use archiver::{Archiver, archiver};
pub use base::{BaseBackup, BaseEnd, complete_base, own_log};
pub use cluster::{Activity, Archiving, Cluster, Coordinates, Database, Session, Tablespace, Version};
pub use compare::{Difference, compare};
pub use counts::{Scope, Snapshot, counts, facts};
pub use dump::Dump;
pub use files::{Control, Layout, at_rest, control, data_layout, is_running};
pub use new::{copy_cluster, new_cluster, wait_until_recovered};
pub use restore::{contents, restore_dump};
pub use scratch::{ScratchCluster, fits};
pub use settings::{ArchiveSettings, Method, PostgresSettings};
pub use spool::Spool;
pub use table::Table;
pub use tools::{Tool, tools};
pub use wal::{PageHeader, WalSource, WalTarget, is_standby, system_id, waiting};
