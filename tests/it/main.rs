//! The integration tests, one binary. A module for each subject; a test belongs where its subject is:
//!
//! * `support`: what tests share: backends in memory, backends that fail, counters, strategies. No tests, but for
//!   the proof that a helper does what it says.
//! * `backend`: storage: the conformance suite, run on every backend, and what only a real file system can show.
//! * `layering`: which layer may name which, and other rules about the sources that a program can keep.
//! * `format`: encoders and decoders: round trips, hostile bytes, sealing.
//!
//! A test uses real files and real processes where the subject has them. A case that cannot run on this machine
//! prints that it is skipped, and why.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod backend;
mod format;
mod layering;
mod support;
