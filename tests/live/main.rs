//! Real servers: `cargo test --test live NAME` runs the scenarios whose path contains NAME. What cannot be had here is
//! printed as skipped, or fails where `CAIRN_TEST_NO_SKIPS` is set.

#![allow(missing_docs, reason = "tests are named for what they show")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod elasticsearch;
mod lab;
mod neo4j;
mod pitr;
mod platform;
mod postgres;
mod preflight;
mod process;
mod redis;
mod report;
mod servers;
mod wal;
