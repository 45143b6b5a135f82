//! Storage: every backend passes the conformance suite; what only a real file system can show is in `local` and
//! `durable`; that the
//! failing and the counting backends do what they say is in `wrapper`.

mod durable;
mod local;
mod wrapper;

use crate::support::conformance::check_backend;
use crate::support::faulty::Faulty;
use crate::support::memory::Memory;
use crate::support::recording::Recording;

#[test]
fn memory_conforms() {
    check_backend(|| Memory::new());
}

#[test]
fn faulty_without_faults_conforms() {
    check_backend(|| Faulty::new(Memory::new()));
}

#[test]
fn recording_conforms() {
    check_backend(|| Recording::new(Memory::new()));
}
