//! File trees: walking and reading them, and writing them back.
//!
//! Everything below a root is done relative to open directories, never by a whole path: so paths longer than PATH_MAX
//! work, and a symbolic link that somebody puts into the way leads nowhere.

pub mod link;
pub mod metadata;
pub mod patterns;
pub mod read;
pub mod target;
pub mod walk;
