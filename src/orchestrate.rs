//! L3: operations that join a source or a target with the repository. `source` and `repo` do not know each other; here
//! one is piped into the other, and each failure keeps its side: a source that cannot be read makes a partial snapshot,
//! a repository that cannot be written ends the run.

pub mod ahead;
pub mod backup;
pub mod cause;
pub mod error;
pub mod locate;
pub mod platform;
pub mod restore;
pub mod select;
pub mod wal;

pub use error::OrchestrateError;
