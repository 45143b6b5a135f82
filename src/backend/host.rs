//! Who this process is, so that another on the same machine can tell whether it still lives.
//!
//! A host name proves nothing (containers and clones share them). A process id means something only within one boot of
//! one kernel and one process-id namespace: both are recorded, and without equality nothing is concluded.

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::process::{Pid, test_kill_process};

/// The boot and process-id namespace of this process; empty when the system does not tell.
pub fn machine() -> String {
    let mut boot = [0; 64];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let read = openat(CWD, "/proc/sys/kernel/random/boot_id", flags, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut boot));
    let namespace = readlinkat(CWD, "/proc/self/ns/pid", Vec::new());
    match (read, namespace) {
        (Ok(len), Ok(namespace)) => {
            let boot = String::from_utf8_lossy(&boot[..len]);
            format!("{} {}", boot.trim(), namespace.to_string_lossy())
        }
        _ => String::new(),
    }
}

/// True when the process that wrote this is known to have ended.
pub fn has_ended(machine_then: &str, process: u32) -> bool {
    if machine_then.is_empty() || machine_then != machine() {
        return false;
    }
    match i32::try_from(process).ok().and_then(Pid::from_raw) {
        Some(pid) => test_kill_process(pid) == Err(rustix::io::Errno::SRCH),
        None => false,
    }
}
