//! How much a first backup of paths has to read: there is no snapshot that could tell, so whoever looks at a bar would
//! not know how long it takes.
//!
//! A second walk counts sizes beside the backup, on a thread of its own, and only for somebody who looks. The backup never
//! waits for it: it is told to stop when the backup has ended, and what it cannot read is the backup's to tell.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::format::tree::Node;
use crate::progress::Monitor;
use crate::source::files::{Walk, WalkOptions};

/// Works, and tells the monitor meanwhile how much there is in `walk`.
pub fn beside<T>(walk: Option<WalkOptions>, monitor: &dyn Monitor, work: impl FnOnce() -> T) -> T {
    let Some(walk) = walk else { return work() };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Some(total) = count(walk, &over) {
                monitor.total(total);
            }
        });
        let result = work();
        over.store(true, Ordering::SeqCst);
        result
    })
}

/// Bytes of files; `None` when nobody waits for it any more.
fn count(walk: WalkOptions, over: &AtomicBool) -> Option<u64> {
    let mut total = 0u64;
    for found in Walk::new(walk).ok()? {
        if over.load(Ordering::SeqCst) {
            return None;
        }
        if let Ok(Node::File { size, .. }) = found.map(|found| found.entry.node) {
            total = total.saturating_add(size);
        }
    }
    Some(total)
}
