//! All integration tests, in one binary: `cargo test --test it NAME` runs those whose path contains NAME.
//!
//! `support` has what tests share. Each other module is one kind of scenario; a fixed bug gets a test in the module it
//! belongs to, named for what was wrong.

#![allow(missing_docs, reason = "tests are named for what they show")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod backend;
mod changing;
mod cli;
mod compat;
mod corpus;
mod crash;
mod damage;
mod docs;
mod economy;
mod faults;
mod format;
mod gc;
mod hostile;
mod index;
mod layering;
mod leases;
mod model;
mod numbers;
mod platform;
mod repair;
mod retention;
mod select;
mod sets;
mod source;
mod spec;
mod support;
mod wal;
mod writers;
