//! L2': where data comes from and goes back to. Each source owns its backup and its restore; none knows the repository.

pub mod command;
pub mod error;
pub mod files;

pub use error::{SourceError, TargetError};
