//! What systemd is told of a run: its status, more time to end in, and journal entries with fields.
//!
//! Invariant: nothing here blocks and nothing here fails a run. A message that cannot be sent at once is not sent; a
//! journal entry is then a line on standard error, with its priority before it. Both sockets are spoken to directly:
//! the calls of the usual crates wait for a manager that does not read.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// Where journald takes entries with fields.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// A message or entry is at most this long: a datagram that is longer would need a file to be passed.
const MAX_TEXT: usize = 32 << 10;

/// How much a line matters; the numbers are those of syslog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Priority {
    /// The platform is not as it was.
    Critical = 2,
    /// Something failed.
    Error = 3,
    /// To be known.
    Warning = 4,
    /// Usual, and worth to be seen.
    Notice = 5,
    /// Usual.
    Info = 6,
}

/// A datagram socket that never waits.
#[derive(Debug)]
struct Datagrams {
    socket: UnixDatagram,
    to: SocketAddr,
}

impl Datagrams {
    fn to(to: SocketAddr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Datagrams { socket, to })
    }

    fn send(&self, bytes: &[u8]) -> bool {
        self.socket.send_to_addr(bytes, &self.to).is_ok_and(|sent| sent == bytes.len())
    }
}

/// The service manager that started this process and wants to hear of it.
#[derive(Debug)]
pub struct Notify(Datagrams);

impl Notify {
    /// The manager named by `$NOTIFY_SOCKET`, if there is one.
    pub fn from_environment() -> Option<Self> {
        Notify::at(&std::env::var_os("NOTIFY_SOCKET")?)
    }

    /// The manager at this address: an absolute path, or `@` and an abstract name.
    pub fn at(address: &OsStr) -> Option<Self> {
        let to = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok()?,
            [b'/', ..] => SocketAddr::from_pathname(Path::new(address)).ok()?,
            _ => return None,
        };
        Datagrams::to(to).ok().map(Notify)
    }

    /// What `systemctl status` shows.
    pub fn status(&self, text: &str) {
        // A line is a variable: what came from elsewhere must not be one.
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.0.send(format!("STATUS={}\n", shortened(&text)).as_bytes());
    }

    /// Asks for so much more time from now on before the manager kills what it wants to end.
    pub fn extend(&self, time: Duration) {
        self.0.send(format!("EXTEND_TIMEOUT_USEC={}\n", time.as_micros()).as_bytes());
    }
}

/// The journal, where it is what standard error goes to.
#[derive(Debug)]
pub struct Journal(Datagrams);

impl Journal {
    /// The journal, if standard error goes there.
    pub fn from_environment() -> Option<Self> {
        is_standard_error().then(|| Journal::at(Path::new(JOURNAL)))?
    }

    /// The journal that listens here.
    pub fn at(path: &Path) -> Option<Self> {
        Datagrams::to(SocketAddr::from_pathname(path).ok()?).ok().map(Journal)
    }

    /// Adds an entry; false when it could not be taken. Names of fields are capital letters, digits and `_`.
    pub fn entry(&self, priority: Priority, message: &str, fields: &[(&str, &str)]) -> bool {
        let mut bytes = Vec::new();
        let priority = (priority as u8).to_string();
        let own = [("MESSAGE", message), ("PRIORITY", &priority), ("SYSLOG_IDENTIFIER", "cairn")];
        for (name, value) in own.iter().chain(fields) {
            let value = shortened(value);
            bytes.extend_from_slice(name.as_bytes());
            // The form with a length takes any value; the form with `=` ends at the line's end.
            if value.contains('\n') {
                bytes.push(b'\n');
                bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
            } else {
                bytes.push(b'=');
            }
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(b'\n');
        }
        self.0.send(&bytes)
    }
}

/// A line for standard error. For the journal its priority stands before it, as sd-daemon(3) has it.
pub fn line(priority: Priority, text: &str) -> String {
    if is_standard_error() { format!("<{}>{text}", priority as u8) } else { text.to_owned() }
}

/// Whether standard error is the stream to the journal that the service manager has given us.
fn is_standard_error() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let Some((device, inode)) = stream.split_once(':') else { return false };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino)
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}
