//! One recovery point of a whole platform: services at rest, every component captured, everything up again.
//!
//! * [`profile`]: what the platform consists of, as the operator writes it.
//! * [`discover`]: what of that is there, and which key files it names; [`files`] looks at them.
//! * [`plan`]: what a backup would do, as data.
//! * [`state`]: the directory that outlives a run: the lock, and the journal's file.
//! * [`journal`]: what was begun and what will have to be undone, durable before it is begun.
//! * [`run`]: steps and their undoing, in order; what `resume` does after a crash.
//! * [`metrics`]: a text file for a monitoring system.
//!
//! Invariant: whatever ends a run, what it stopped is started again, by itself or by `resume`.

pub mod discover;
pub mod files;
pub mod journal;
pub mod metrics;
pub mod plan;
pub mod profile;
pub mod run;
pub mod state;
