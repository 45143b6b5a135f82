//! cairn: a content-addressed, deduplicating, encrypted backup store.
//!
//! The layers, lowest first. A layer names only those before it (`tests/it/layering.rs` keeps this true):
//!
//! | layer | module | what it is for |
//! |---|---|---|
//! | L0 | [`mod@format`] | bytes to types and back: ids, frames, packs, lists, trees, sealed records, keys |
//! | L0 | [`chunker`] | where a stream is cut, from its content and a secret |
//! | L1 | [`backend`] | physical storage, keyed by kind and id, never by path |
//! | L2 | [`repo`] | the repository: index, writer, reader, check, forget, gc |
//! | L2' | [`source`] | where data comes from and goes back to: files and programs |
//! | L3 | [`orchestrate`] | pipes a source into the repository and back |
//! | L4 | [`cli`] | arguments, rendering, exit codes; the only layer that prints |
//!
//! Leaves used by all: [`progress`] (what the core tells an observer) and [`retention`] (a pure function).
//!
//! Invariants that every change must keep:
//! 1. Objects are immutable and written once; a snapshot is published last, when all it needs is durable.
//! 2. Every frame is decoded and every chunk re-hashed before a snapshot that needs it is published.
//! 3. The index is derived: deleting it loses nothing.
//! 4. Nothing is deleted that a root listed *after* the decision still needs.
//! 5. Lengths that come from outside are bounded before memory is reserved for them.

pub mod backend;
pub mod chunker;
pub mod cli;
pub mod format;
pub mod orchestrate;
pub mod progress;
pub mod repo;
pub mod retention;
pub mod source;
