//! Storage: every backend passes the conformance suite; what only a real file system can show is in `local`.

mod local;

use crate::support::conformance::check_backend;
use crate::support::memory::Memory;

#[test]
fn memory_conforms() {
    check_backend(|| Memory::new());
}
