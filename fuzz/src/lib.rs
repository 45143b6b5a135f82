//! Fuzzing of everything that decodes bytes from a repository, and of what a restore makes of hostile paths.

pub mod targets;
