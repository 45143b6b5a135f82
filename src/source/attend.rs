//! Waiting that can be given up: for time to pass, and for calls that block.
//!
//! Invariant: whoever waits here looks at the operator's stop flag every [`TICK`] at the latest, whatever a server
//! does meanwhile. A call that is given up goes on, on its own thread, until it ends by itself; its result is dropped.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::source::SourceError;

/// How often the stop flag is looked at.
pub const TICK: Duration = Duration::from_millis(100);

/// Sleeps.
pub fn pause(length: Duration, stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
    let started = Instant::now();
    loop {
        if stop() {
            return Err(SourceError::Interrupted);
        }
        match length.checked_sub(started.elapsed()) {
            None | Some(Duration::ZERO) => return Ok(()),
            Some(left) => thread::sleep(left.min(TICK)),
        }
    }
}

/// Does something that blocks, on a thread of its own. `what` names what did not happen if it takes longer than
/// `limit`: "neo4j bolt://... did not answer".
pub fn attended<T: Send + 'static>(
    what: &str,
    limit: Duration,
    stop: &dyn Fn() -> bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SourceError> {
    let started = Instant::now();
    let (done, result) = channel();
    let spawned = thread::Builder::new().name("attended".to_owned()).spawn(move || {
        let _ = done.send(work());
    });
    if let Err(source) = spawned {
        return Err(SourceError::Spawn { program: "a thread".to_owned(), source });
    }
    loop {
        if stop() {
            return Err(SourceError::Interrupted);
        }
        match result.recv_timeout(TICK) {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Timeout) if started.elapsed() < limit => {}
            Err(RecvTimeoutError::Timeout) => return Err(SourceError::Timeout { what: what.to_owned(), limit }),
            Err(RecvTimeoutError::Disconnected) => {
                let what = format!("{what}: the thread that waited for it died");
                return Err(SourceError::Answer { server: "cairn".to_owned(), what });
            }
        }
    }
}
