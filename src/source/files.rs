//! File trees: read by [`Walk`], written by [`Target`].
//!
//! Invariants:
//! * Below a root, and below a target, no path is ever given to the system: each name is looked up in the open
//!   directory that holds it, without following symbolic links. So a path may be longer than `PATH_MAX`, and whoever
//!   renames directories or puts symbolic links in the way while we work cannot lead us out of the tree.
//! * Few directories are open at a time, however deep the tree is (`descent.rs`), and the names of one directory a
//!   level are in memory, never the tree.
//! * A fifo or device is never opened.

mod descent;
pub mod keep;
pub mod link;
mod metadata;
mod mounts;
pub mod patterns;
mod plan;
pub mod reader;
pub mod swap;
pub mod target;
pub mod walk;
mod xattr;

pub use patterns::Patterns;
pub use plan::absolute as absolute_root;
pub use reader::{FileReader, FileState};
pub use target::{
    Extra, FileWriter, Outcome, Overwrite, OwnerLookup, OwnerPolicy, Removal, Removed, State, Target, TargetOptions,
};
pub use walk::{Found, Missed, Walk, WalkOptions};
