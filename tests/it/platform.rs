//! Platforms, without servers: profiles, plans, the journal of a run and its undoing. Real servers are in `tests/live`.

mod aim;
mod choose;
mod content;
mod discover;
mod metrics;
mod plan;
mod preflight;
mod profile;
mod restore;
mod run;
