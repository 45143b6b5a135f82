//! What tests of several subjects share.

pub mod conformance;
pub mod memory;
