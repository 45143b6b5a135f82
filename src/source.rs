//! L2': where data comes from and goes back to. Each source owns its backup and its restore.
//!
//! * [`files`]: file trees of this machine, walked in the order of the tree format and written back beneath a target.
//! * [`command`]: the standard output of a program.
//! * [`postgres`]: PostgreSQL clusters, as SQL or as files.
//! * [`wait`]: standard input, and waiting that can be given up.
//! * [`elasticsearch`]: snapshots of Elasticsearch into a directory, and back.
//! * [`neo4j`]: Neo4j's store, copied while it is stopped.
//! * [`redis`]: queues, saved and emptied and pushed back.
//! * [`systemd`]: services, stopped and started and watched. [`process`]: leftover processes, PID files, connections.
//! * [`scratch`]: a directory for servers that are needed for a while, and the end of all that works in it.
//! * [`secret`]: where drivers find passwords.
//!
//! Nothing here knows of repositories: the layer above pipes one into the other.

pub mod command;
pub mod elasticsearch;
pub mod error;
pub mod files;
pub mod neo4j;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod scratch;
pub mod secret;
pub mod systemd;
pub mod wait;

pub use error::{SourceError, TargetError, is_for_want};
