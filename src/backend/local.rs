//! Local
