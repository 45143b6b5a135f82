//! What tests of several subjects share.

pub mod conformance;
pub mod entries;
pub mod faulty;
pub mod memory;
pub mod recording;
