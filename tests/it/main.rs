//! All tests that use the library or the program from outside, as one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod spec;
