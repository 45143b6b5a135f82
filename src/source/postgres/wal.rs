//! Files of the write-ahead log, as PostgreSQL hands them to `archive_command` and asks for them by `restore_command`.
//!
//! Invariant: a segment is read only if it is one of the cluster whose directory is named: its first page says the
//! cluster's identifier, the segment's size and its position, and all of it is there. What is written for the server
//! appears under its name whole and durable, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use super::files::{open_plain, unfit};
use crate::format::wal::WalName;
use crate::source::SourceError;

/// The flag of a page's header that is followed by the cluster's identifier.
const LONG_HEADER: u16 = 2;
/// Bytes of a page. A server that was built with another length archives nothing: no recovery to a time could be planned.
const PAGE: u64 = 8 << 10;
/// Bytes of such a header that are looked at.
const HEADER: usize = 40;
/// The page of a log file begins with a number that its version has, and every version has this beginning.
const MAGIC: u8 = 0xD0;
/// Versions of the control file that are known to begin with the cluster's identifier: those of PostgreSQL 9.4 to 99.
const CONTROL_VERSIONS: std::ops::Range<u32> = 900..10_000;
/// A file of settings is read so far.
const MAX_SETTINGS: u64 = 1 << 20;
/// Files of a directory that are looked at.
const MAX_LISTED: usize = 1 << 20;

/// How the names of files begin that are being written.
pub(super) const UNFINISHED: &str = ".cairn-wal-";

/// The identifier of the cluster in a data directory, from its control file. Its other fields need a program of the
/// server's version ([`super::control`]); this one stands at the same place in every version.
pub fn system_id(data: &Path) -> Result<u64, SourceError> {
    let path = data.join("global/pg_control");
    let mut beginning = [0; 12];
    let file = File::open(&path).map_err(SourceError::when("open", &path))?;
    file.read_exact_at(&mut beginning, 0).map_err(SourceError::when("read", &path))?;
    let (id, version) = (number(&beginning, 0, 8), number(&beginning, 8, 4));
    if id == 0 || !u32::try_from(version).is_ok_and(|version| CONTROL_VERSIONS.contains(&version)) {
        return Err(unfit(&path, format!("it is no control file of PostgreSQL (version {version})")));
    }
    Ok(id)
}

/// Whether a data directory is a standby's: its server waits at the end of the log. Before version 12 a file of settings says so.
pub fn is_standby(data: &Path) -> Result<bool, SourceError> {
    let signal = data.join("standby.signal");
    if signal.try_exists().map_err(SourceError::when("look at", &signal))? {
        return Ok(true);
    }
    let path = data.join("recovery.conf");
    let file = match open_plain(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        file => file.map_err(SourceError::when("open", &path))?,
    };
    let mut text = String::new();
    file.take(MAX_SETTINGS).read_to_string(&mut text).map_err(SourceError::when("read", &path))?;
    let value = |line: &str| {
        let value =
            line.trim().strip_prefix("standby_mode")?.trim_start().trim_start_matches('=').trim().to_lowercase();
        let value = value.split('#').next().unwrap_or_default().trim().trim_matches('\'').to_owned();
        Some(matches!(value.as_str(), "on" | "true" | "yes" | "1"))
    };
    Ok(text.lines().filter_map(value).next_back().unwrap_or_default())
}

/// A little-endian number. The server writes in the order of its machine, and this program reads on the same one.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let part = bytes.get(at..at + len).unwrap_or_default();
    part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// What the first page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The timeline that was written to first: of a segment that was copied when a timeline began, the older one.
    pub timeline: u32,
    /// Where the segment begins.
    pub position: u64,
    /// The cluster's identifier.
    pub system_id: u64,
    /// The length of every segment.
    pub segment_size: u32,
}

impl PageHeader {
    /// Reads the first bytes of a segment; what is wrong with them, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or("it ends within its first page's header")?;
        if header[1] & 0xF0 != MAGIC || number(header, 2, 2) as u16 & LONG_HEADER == 0 {
            return Err("it does not begin like a segment of the log of PostgreSQL 11 to 17".to_owned());
        }
        let page = number(header, 36, 4);
        if page != PAGE {
            return Err(format!("its pages have {page} bytes, and only a log of {PAGE} can be read when it is needed"));
        }
        Ok(PageHeader {
            timeline: number(header, 4, 4) as u32,
            position: number(header, 8, 8),
            system_id: number(header, 24, 8),
            segment_size: number(header, 32, 4) as u32,
        })
    }

    /// Whether a file of this name and length can begin so; what contradicts it, in words.
    fn fits(&self, name: &WalName, len: u64, system_id: u64) -> Result<(), String> {
        let Some(segment) = name.segment() else { return Ok(()) };
        if self.system_id != system_id {
            return Err(format!(
                "it is of cluster {}, and the data directory is of cluster {system_id}: nothing is archived",
                self.system_id
            ));
        }
        if u64::from(self.segment_size) != len {
            return Err(format!("it has {len} bytes and should have {}: it is not whole", self.segment_size));
        }
        let fits = segment.position(len) == Some(self.position) && self.timeline <= segment.timeline;
        if fits { Ok(()) } else { Err("its first page is of another segment than its name says".to_owned()) }
    }
}

/// A file that PostgreSQL asks to archive, open.
#[derive(Debug)]
pub struct WalSource {
    name: WalName,
    len: u64,
    file: File,
    path: PathBuf,
    read: u64,
}

impl WalSource {
    /// Opens a file of this cluster's log.
    pub fn open(path: &Path, system_id: u64) -> Result<Self, SourceError> {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(WalName::parse);
        let name = name.ok_or_else(|| {
            unfit(path, "PostgreSQL archives no file of such a name: give %p in archive_command".to_owned())
        })?;
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(SourceError::when("open", path))?;
        let metadata = file.metadata().map_err(SourceError::when("look at", path))?;
        let len = metadata.len();
        if !metadata.is_file() || !name.may_have(len) {
            return Err(unfit(path, format!("{len} bytes are no whole file of that name")));
        }
        if name.is_log() {
            let mut header = [0; HEADER];
            file.read_exact_at(&mut header, 0).map_err(SourceError::when("read", path))?;
            PageHeader::decode(&header)
                .and_then(|header| header.fits(&name, len, system_id))
                .map_err(|what| unfit(path, what))?;
        }
        Ok(WalSource { name, len, file, path: path.to_owned(), read: 0 })
    }

    /// Its name.
    pub fn name(&self) -> WalName {
        self.name
    }

    /// Its length.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes; there is no such file.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads on, and fills the buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<(), SourceError> {
        self.file.read_exact_at(buffer, self.read).map_err(SourceError::when("read", &self.path))?;
        self.read += buffer.len() as u64;
        Ok(())
    }

    /// Begins again.
    pub fn rewind(&mut self) {
        self.read = 0;
    }
}

/// The files that wait to be archived beside this one and after it, in the order in which they are asked for: histories
/// first, then segment by segment. `after` itself is not among them.
pub fn waiting(after: &Path, most: usize) -> Result<Vec<PathBuf>, SourceError> {
    let directory = after.parent().unwrap_or(Path::new("."));
    let status = directory.join("archive_status");
    let entries = match fs::read_dir(&status) {
        // The file is somewhere else than in `pg_wal`: somebody archives it by hand.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(SourceError::when("list", &status))?,
    };
    let own = after.file_name().and_then(|name| name.to_str()).and_then(WalName::parse);
    let mut names = Vec::new();
    for entry in entries.take(MAX_LISTED) {
        let name = entry.map_err(SourceError::when("list", &status))?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".ready")).and_then(WalName::parse);
        names.extend(name.filter(|name| Some(*name) > own));
    }
    names.sort_unstable();
    Ok(names.into_iter().take(most).map(|name| directory.join(name.to_string())).collect())
}

/// A file that is being written for the server.
pub struct WalTarget {
    path: PathBuf,
    file: NamedTempFile,
}

impl WalTarget {
    /// Begins a file that will be at `path`.
    pub fn create(path: &Path) -> Result<Self, SourceError> {
        let directory = directory_of(path);
        let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory);
        let file = file.map_err(SourceError::when("make a file in", directory))?;
        Ok(WalTarget { path: path.to_owned(), file })
    }

    /// Writes on.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        self.file.write_all(bytes).map_err(SourceError::when("write", &self.path))
    }

    /// Puts the file in its place, durable.
    pub fn finish(self) -> Result<(), SourceError> {
        self.file.as_file().sync_all().map_err(SourceError::when("flush", &self.path))?;
        self.file.persist(&self.path).map_err(|error| SourceError::at("write", &self.path, error.error))?;
        flushed(&self.path)
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a file's name durable.
pub(super) fn flushed(path: &Path) -> Result<(), SourceError> {
    let directory = directory_of(path);
    let flushed = File::open(directory).and_then(|directory| directory.sync_all());
    flushed.map_err(SourceError::when("flush", directory))
}
