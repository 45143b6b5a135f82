//! What this machine says: established connections, logins, free space, how much a directory holds.
//!
//! Invariant: nothing is kept of an answer but counts and a bounded number of examples.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{stat, statvfs};

use crate::source::SourceError;
use crate::source::command::CommandSpec;
use crate::source::process::table;

/// Peers that are told of a port.
const PEERS: usize = 20;
/// What `who` may write.
const WHO: usize = 256 << 10;
/// What it may take.
const WHO_LIMIT: Duration = Duration::from_secs(20);
/// The state of an established connection in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// Who is connected to a port of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// How many connections are established.
    pub count: u64,
    /// Those of them whose other end is on this machine, too.
    pub from_here: u64,
    /// The other ends of some of them.
    pub peers: BTreeSet<SocketAddr>,
    /// The other ends, on other machines, of some of them.
    pub remote: BTreeSet<SocketAddr>,
}

/// The established connections to local ports; every port that is asked for is in the answer.
pub fn connections(ports: &[u16]) -> Result<BTreeMap<u16, Connected>, SourceError> {
    let mut found: BTreeMap<u16, Connected> = ports.iter().map(|port| (*port, Connected::default())).collect();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let failed = |source| SourceError::Unreadable { action: "read", path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            // Without IPv6 there is no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        for line in BufReader::new(file).lines().skip(1) {
            let line = line.map_err(failed)?;
            let fields: Vec<&str> = line.split_whitespace().take(4).collect();
            let [_, local, remote, state] = fields[..] else { continue };
            let (Some(local), Some(remote)) = (address(local), address(remote)) else {
                let what = format!("this line is not understood: {line:?}");
                return Err(SourceError::Answer { server: path.to_owned(), what });
            };
            if state == ESTABLISHED
                && let Some(connected) = found.get_mut(&local.port())
            {
                let from_here = remote.ip().is_loopback() || remote.ip() == local.ip();
                connected.count += 1;
                connected.from_here += u64::from(from_here);
                if connected.peers.len() < PEERS {
                    connected.peers.insert(remote);
                }
                if !from_here && connected.remote.len() < PEERS {
                    connected.remote.insert(remote);
                }
            }
        }
    }
    Ok(found)
}

/// An address as the kernel writes it: words of the address in hexadecimal, each in the machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, piece) in bytes.chunks_mut(4).enumerate() {
                piece.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Somebody who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The terminal.
    pub terminal: String,
    /// Since when, and from where, as `who` says it.
    pub detail: String,
}

/// Who is logged in, as a program such as `who` says.
pub fn logins(who: &[String], stop: &dyn Fn() -> bool) -> Result<Vec<Login>, SourceError> {
    let output = CommandSpec::new(who).run(WHO, WHO_LIMIT, stop)?.output()?;
    let text = String::from_utf8_lossy(&output);
    let login = |line: &str| {
        let mut fields = line.split_whitespace();
        let (user, terminal) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        Some(Login { user, terminal, detail: fields.collect::<Vec<_>>().join(" ") })
    };
    Ok(text.lines().filter_map(login).collect())
}

/// The terminals of this process and of those that it was started by, as `who` names them: whoever runs us is logged
/// in on one of them, and is no reason to wait. More than one, since `su` and `sudo` may open another.
pub fn own_terminals() -> Result<BTreeSet<String>, SourceError> {
    let failed = |source| SourceError::Unreadable { action: "read", path: "/proc".to_owned(), source };
    let numbers = table::terminals().map_err(failed)?;
    Ok(numbers.into_iter().filter_map(terminal).collect())
}

/// A terminal's name, by its device number: a pseudo-terminal, or a console of this machine.
fn terminal(device: u64) -> Option<String> {
    match (libc::major(device), libc::minor(device)) {
        (major @ 136..=143, minor) => Some(format!("pts/{}", u64::from(major - 136) * 256 + u64::from(minor))),
        (4, minor @ 1..=63) => Some(format!("tty{minor}")),
        (4, minor @ 64..) => Some(format!("ttyS{}", minor - 64)),
        _ => None,
    }
}

/// How much the files in a directory and below it hold; nothing, if it is not there. What vanishes meanwhile does not
/// count, and links are not followed.
pub fn bytes_beneath(path: &Path, stop: &dyn Fn() -> bool) -> Result<u64, SourceError> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut waiting = vec![path.to_owned()];
    let mut sum = 0u64;
    while let Some(directory) = waiting.pop() {
        let failed = |source| SourceError::at("list", &directory, source);
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if gone(&error) => continue,
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            if stop() {
                return Err(SourceError::Interrupted);
            }
            let entry = entry.map_err(failed)?;
            match entry.metadata() {
                Err(error) if gone(&error) => {}
                Err(error) => return Err(SourceError::at("look at", &entry.path(), error)),
                Ok(metadata) if metadata.is_dir() => waiting.push(entry.path()),
                Ok(metadata) => sum = sum.saturating_add(metadata.len()),
            }
        }
    }
    Ok(sum)
}

/// Room on a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// The directory that was looked at: the path itself, or the nearest one above it that exists.
    pub directory: PathBuf,
    /// Bytes that we may still write.
    pub bytes: u64,
    /// Its size.
    pub total: u64,
    /// Files that may still be made; `None` where the file system sets no limit.
    pub files: Option<u64>,
    /// Which file system it is: what two directories on the same one need has to be added up.
    pub device: u64,
}

/// How much room there is for something that is to be at a path.
pub fn free_space(path: &Path) -> Result<FreeSpace, SourceError> {
    let failed = |source| SourceError::at("tell the free space at", path, source);
    let directory = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let room = statvfs(directory).map_err(|error| failed(error.into()))?;
    let device = stat(directory).map_err(|error| failed(error.into()))?.st_dev;
    Ok(FreeSpace {
        directory: directory.to_owned(),
        bytes: room.f_bavail.saturating_mul(room.f_frsize),
        total: room.f_blocks.saturating_mul(room.f_frsize),
        files: (room.f_files > 0).then_some(room.f_favail),
        device,
    })
}
