//! A cluster's files: where they are, whether a server works on them, and what their control file says.
//!
//! Invariant: files count as being at rest only if no process works in the data directory and the control file says
//! that the last server ended cleanly. `postmaster.pid` alone says neither: it outlives a crash, its number may be that
//! of another process by now, and when somebody has removed it, processes may still write. So processes are looked for
//! as well, by their working directory, which is the data directory for every process of a server. To be asked before a
//! capture and after it: equal answers mean that nobody started the server in between.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::format::codec::escape_path;
use crate::source::SourceError;
use crate::source::files::{Patterns, swap};
use crate::source::postgres::PostgresSettings;

/// A small file of a cluster has at most so many bytes.
const SMALL: u64 = 4 << 10;
const MAX_OUTPUT: usize = 64 << 10;
const MAX_TABLESPACES: usize = 10_000;

/// Where a cluster's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The data directory, without links in its path.
    pub data: PathBuf,
    /// The major version that it is of.
    pub version: String,
    /// Where the links in `pg_tblspc` lead.
    pub tablespaces: Vec<PathBuf>,
    /// Where the write-ahead log is, if `pg_wal` is a link.
    pub wal: Option<PathBuf>,
}

impl Layout {
    /// All of it, for a capture of a cluster that is at rest.
    pub fn roots(&self) -> Vec<PathBuf> {
        let others = self.tablespaces.iter().chain(&self.wal);
        [&self.data].into_iter().chain(others).cloned().collect()
    }

    /// What in its directories is none of the cluster's, as globs: where they are mount points, restores have moved aside
    /// into them what was there.
    pub fn excludes(&self) -> Result<Vec<String>, SourceError> {
        let mut globs = Vec::new();
        for root in self.roots() {
            let root = escaped(&root)?;
            globs.extend(swap::STAYING.iter().map(|glob| format!("{root}/{glob}")));
        }
        Ok(globs)
    }
}

/// What the control file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The cluster's identifier.
    pub system_id: String,
    /// `shut down`, `in production` and the like.
    pub state: String,
    /// The timeline of the last checkpoint.
    pub timeline: u32,
    /// The position of the last checkpoint.
    pub lsn: String,
}

/// Finds the data directory among the candidates, and what belongs to it.
pub fn data_layout(settings: &PostgresSettings) -> Result<Layout, SourceError> {
    let is_data = |path: &&PathBuf| path.join("PG_VERSION").is_file() && path.join("global/pg_control").is_file();
    let found = settings.data_directories.iter().find(is_data).ok_or_else(|| SourceError::Setting {
        setting: "data-directories".to_owned(),
        why: format!("none of them is a PostgreSQL data directory: {:?}", settings.data_directories),
    })?;
    layout_of(found)
}

/// What belongs to a data directory.
pub(super) fn layout_of(data: &Path) -> Result<Layout, SourceError> {
    let data = fs::canonicalize(data).map_err(SourceError::when("find", data))?;
    let version = small(&data.join("PG_VERSION"))?.trim().to_owned();
    let mut tablespaces = Vec::new();
    let links = data.join("pg_tblspc");
    for entry in fs::read_dir(&links).map_err(SourceError::when("list", &links))? {
        let path = entry.map_err(SourceError::when("list", &links))?.path();
        // A plain directory is a tablespace within the data directory.
        if path.symlink_metadata().map_err(SourceError::when("look at", &path))?.is_symlink() {
            tablespaces.push(fs::canonicalize(&path).map_err(SourceError::when("follow", &path))?);
        }
        if tablespaces.len() > MAX_TABLESPACES {
            return Err(unfit(&data, format!("it has more than {MAX_TABLESPACES} tablespaces")));
        }
    }
    tablespaces.sort();
    let wal = data.join("pg_wal");
    let is_link = wal.symlink_metadata().map_err(SourceError::when("look at", &wal))?.is_symlink();
    let wal = is_link.then(|| fs::canonicalize(&wal).map_err(SourceError::when("follow", &wal))).transpose()?;
    Ok(Layout { data, version, tablespaces, wal })
}

/// The process that works on a data directory, if there is one.
pub fn is_running(data: &Path) -> Result<Option<u32>, SourceError> {
    let data = fs::canonicalize(data).map_err(SourceError::when("find", data))?;
    let file = data.join("postmaster.pid");
    let recorded = match file.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        _ => {
            let text = small(&file)?;
            let first = text.lines().next().unwrap_or_default().trim();
            // A server that somebody uses alone writes its number as a negative one.
            let number = first.parse::<i64>().ok().and_then(|number| u32::try_from(number.unsigned_abs()).ok());
            Some(number.ok_or_else(|| unfit(&file, "its first line is no process number".to_owned()))?)
        }
    };
    if let Some(pid) = recorded.filter(|pid| works_in(*pid, &data)) {
        return Ok(Some(pid));
    }
    let processes = Path::new("/proc");
    for entry in fs::read_dir(processes).map_err(SourceError::when("list", processes))?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if matches!(name.trim(), "postgres" | "postmaster") && works_in(pid, &data) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Whether a process lives, with that working directory. One that does not let itself be looked at counts.
fn works_in(pid: u32, data: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let dead = status.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']));
    match fs::read_link(process.join("cwd")) {
        Ok(directory) => !dead && directory == data,
        Err(error) => !dead && error.kind() == ErrorKind::PermissionDenied,
    }
}

/// What the control file says. Reads it by `pg_controldata`, which knows its version and checksum.
pub fn control(settings: &PostgresSettings, data: &Path, stop: &dyn Fn() -> bool) -> Result<Control, SourceError> {
    let spec = settings.program("pg_controldata")?.arg("-D").arg(data);
    let output = spec.run(MAX_OUTPUT, settings.query_limit(), stop)?.output()?;
    let text = String::from_utf8_lossy(&output);
    if text.contains("WARNING:") {
        let what = "pg_controldata warns of its control file, so nothing in it is trusted";
        return Err(unfit(data, what.to_owned()));
    }
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let line = line.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        line.ok_or_else(|| unfit(data, format!("pg_controldata does not tell its {key:?}")))
    };
    let timeline = value("Latest checkpoint's TimeLineID")?;
    Ok(Control {
        system_id: value("Database system identifier")?,
        state: value("Database cluster state")?,
        timeline: timeline.parse().map_err(|_| unfit(data, format!("its timeline is {timeline:?}")))?,
        lsn: value("Latest checkpoint location")?,
    })
}

/// The control file of a cluster that is at rest; an error says why it is not.
pub fn at_rest(settings: &PostgresSettings, layout: &Layout, stop: &dyn Fn() -> bool) -> Result<Control, SourceError> {
    if let Some(pid) = is_running(&layout.data)? {
        return Err(unfit(&layout.data, format!("process {pid} works on it; stop the server first")));
    }
    let control = control(settings, &layout.data, stop)?;
    if !matches!(control.state.as_str(), "shut down" | "shut down in recovery") {
        let what = "its server did not end cleanly; start it and stop it again";
        return Err(unfit(&layout.data, format!("its state is {:?}: {what}", control.state)));
    }
    Ok(control)
}

/// A path as a glob that matches it alone.
pub(super) fn escaped(path: &Path) -> Result<String, SourceError> {
    let text = path.to_str().ok_or_else(|| unfit(path, "its name is not UTF-8, which is not supported".to_owned()))?;
    Ok(String::from_utf8_lossy(&Patterns::literal(Path::new(text))).into_owned())
}

/// Opens a file of a cluster's directory. Its owner is not us and may have put there what he likes: a link that leads to what
/// only we may read is not followed, and a pipe is not waited for.
pub(super) fn open_plain(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

fn small(path: &Path) -> Result<String, SourceError> {
    let mut text = String::new();
    let file = open_plain(path).map_err(SourceError::when("open", path))?;
    file.take(SMALL).read_to_string(&mut text).map_err(SourceError::when("read", path))?;
    Ok(text)
}

pub(super) fn unfit(path: &Path, what: String) -> SourceError {
    SourceError::Answer { server: escape_path(path), what }
}
