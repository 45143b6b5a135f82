//! One recovery point of a whole platform: services at rest, every component captured, everything up again.
//!
//! * [`profile`]: what the platform consists of, as the operator writes it.
//! * [`discover`]: what of that is there, and which key files it names; [`files`] looks at them.
//! * [`plan`]: what a backup would do, as data.
//! * [`preflight`]: whether a backup may begin now.
//! * [`state`]: the directory that outlives a run: the lock, and the journal's file.
//! * [`journal`]: what was begun and what will have to be undone, durable before it is begun.
//! * [`run`]: steps and their undoing, in order; what `resume` does after a crash.
//! * [`backup`]: a whole backup; [`resume`]: what starts again what a run has left, and stopping on purpose.
//! * [`answering`]: which servers answered before, and the proof that they do so again.
//! * [`executor`]: what each part of a run is given; [`rest`] brings the platform to rest, [`services`] stops and starts
//!   units, [`capture`] has one file a component, [`store`] makes snapshots of what they read, [`undo`] undoes.
//! * [`choose`]: which backup set is meant; [`restore`]: a set back onto the platform, each component compared.
//! * [`drill`]: a set restored into servers of its own, compared, and proven.
//! * [`after`]: what is left to do after a restore: indices, migrations, packages that were not ingested.
//! * [`requeue`]: elements that a set holds back into the queues.
//! * [`metrics`]: a text file for a monitoring system.
//!
//! Invariant: whatever ends a run, what it stopped is started again, by itself or by `resume`.

pub mod after;
pub mod aim;
pub mod answering;
pub mod backup;
pub mod capture;
pub mod choose;
pub mod discover;
pub mod drill;
pub mod executor;
pub mod files;
pub mod journal;
pub mod metrics;
pub mod plan;
pub mod preflight;
pub mod profile;
pub mod requeue;
pub mod rest;
pub mod restore;
pub mod resume;
pub mod run;
pub mod services;
pub mod state;
pub mod store;
pub mod undo;
