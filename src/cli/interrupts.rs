//! SIGINT, SIGTERM and SIGHUP: the first asks the program to stop, and sees to it that it does.
//!
//! The core looks at a flag between its steps, and whoever waits for input looks at it while waiting. What cannot look
//! (a key derivation, one long statement of SQLite, a write to a pipe that nobody reads) gets a few seconds; then the
//! process ends as if it had been killed. The repository is made for that at any moment: nothing is published that is
//! not complete, and the next gc removes the lease of a process that is gone. A second signal ends it at once.
//!
//! A terminal that is closed, or an SSH session that is lost, sends SIGHUP, often twice: the shell does, and the kernel when
//! the shell has ended. So that one is no second signal; and under `nohup`, which ignores it, it stays ignored.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::cli::exit::Exit;
use crate::progress::StopFlag;

/// How long a stop may take: enough to finish the packs being written, and to remove the lease.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may take where nothing is being written that has to be finished or removed.
const READER_PATIENCE: Duration = Duration::from_millis(500);

/// For ever: what was changed has to be undone.
const UNDOING: u64 = u64::MAX;

/// What happens on a signal.
pub struct Interrupts {
    patience_milliseconds: Arc<AtomicU64>,
}

impl Interrupts {
    /// Begins to listen for signals, which set `stop`.
    pub fn listen(stop: &StopFlag) -> std::io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        if !is_ignored(SIGHUP) {
            signals.add_signal(SIGHUP)?;
        }
        let patience_milliseconds = Arc::new(AtomicU64::new(PATIENCE.as_millis() as u64));
        let (stop, patience) = (stop.shared(), patience_milliseconds.clone());
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let again = stop.swap(true, Ordering::SeqCst);
                let patience = patience.load(Ordering::SeqCst);
                // The view of the run says that this was heard: it knows what is drawn on the terminal.
                if patience == UNDOING {
                    continue;
                }
                match (again, signal) {
                    (false, _) => {}
                    (true, SIGHUP) => continue,
                    (true, _) => low_level::exit(i32::from(Exit::Interrupted as u8)),
                }
                let patience = Duration::from_millis(patience);
                thread::spawn(move || end_after(patience));
            }
        })?;
        Ok(Interrupts { patience_milliseconds })
    }

    /// From here on nothing is written to the repository: a stop need not wait for anything.
    pub fn only_reading(&self) {
        self.patience_milliseconds.store(READER_PATIENCE.as_millis() as u64, Ordering::SeqCst);
    }

    /// From here on a stop has to be waited for, however long it takes: services are down that must be up again.
    pub fn undo_first(&self) {
        self.patience_milliseconds.store(UNDOING, Ordering::SeqCst);
    }
}

/// Whether whoever started this program ignores the signal on its behalf.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}

fn end_after(patience: Duration) {
    thread::sleep(patience);
    let stderr = std::io::stderr();
    let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
    // Standard error may be what nobody reads.
    if poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0) {
        let _ = writeln!(&stderr, "cairn: error: interrupted before the end");
    }
    low_level::exit(i32::from(Exit::Interrupted as u8));
}
