//! PID files: whose process runs, and which were left behind.
//!
//! Invariant: a PID file is removed only if, right before, it still holds the number that was judged, and no process has
//! that number. A number that another program has meanwhile is told and not touched: which of the two the file stands
//! for is not ours to guess.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use globset::Glob;
use rustix::fs::OFlags;

use crate::source::SourceError;
use crate::source::process::Process;
use crate::source::process::table::Rules;

/// A PID file is read up to here.
const LIMIT: u64 = 4 << 10;
/// So many PID files are found at most.
const FILES: usize = 1000;

/// A PID file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFile {
    /// Where it is.
    pub path: PathBuf,
    /// What is to be said of it.
    pub state: PidState,
}

/// What is to be said of a PID file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PidState {
    /// Its process runs, and is the platform's.
    Alive(Process),
    /// No process has its number.
    Stale(u32),
    /// Its number is that of a process that no rule fits.
    Foreign(Process),
    /// It holds no number, or is no regular file.
    Unusable(String),
    /// It is not there.
    Absent,
}

impl PidFile {
    /// Looks at a PID file.
    pub fn read(path: &Path, rules: &Rules) -> Result<Self, SourceError> {
        let judged = |state| Ok(PidFile { path: path.to_owned(), state });
        let pid = match number(path) {
            Ok(Ok(pid)) => pid,
            Ok(Err(why)) => return judged(PidState::Unusable(why)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return judged(PidState::Absent),
            Err(source) => return Err(SourceError::at("read the PID file", path, source)),
        };
        let process = Process::read(pid).map_err(|source| SourceError::at("look for the process of", path, source))?;
        judged(match process.filter(|process| !process.ended) {
            None => PidState::Stale(pid),
            Some(process) if rules.fits(&process).is_some() => PidState::Alive(process),
            Some(process) => PidState::Foreign(process),
        })
    }

    /// Removes the file if it is stale and still is what it was when it was judged. Says whether it is gone now.
    pub fn remove_stale(&self) -> Result<bool, SourceError> {
        let PidState::Stale(judged) = self.state else { return Ok(self.state == PidState::Absent) };
        let pid = match number(&self.path) {
            Ok(Ok(pid)) => pid,
            Ok(Err(_)) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(source) => return Err(SourceError::at("read the PID file", &self.path, source)),
        };
        let process =
            Process::read(pid).map_err(|source| SourceError::at("look for the process of", &self.path, source))?;
        if pid != judged || process.is_some_and(|process| !process.ended) {
            return Ok(false);
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SourceError::at("remove the PID file", &self.path, error))
            }
            _ => Ok(true),
        }
    }
}

/// The PID files that fit some globs, each of which is an absolute path.
pub fn find(patterns: &[String], rules: &Rules) -> Result<Vec<PidFile>, SourceError> {
    let mut found = Vec::new();
    for pattern in patterns {
        let mut paths = vec![PathBuf::from("/")];
        for component in Path::new(pattern).components().skip(1) {
            paths = descend(&paths, &component.as_os_str().to_string_lossy(), pattern)?;
        }
        for path in paths {
            if path.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
                found.push(PidFile::read(&path, rules)?);
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup_by(|a, b| a.path == b.path);
    Ok(found)
}

fn descend(directories: &[PathBuf], component: &str, pattern: &str) -> Result<Vec<PathBuf>, SourceError> {
    if !component.contains(['*', '?', '[', '{']) {
        return Ok(directories.iter().map(|directory| directory.join(component)).collect());
    }
    let invalid =
        |error: globset::Error| SourceError::Pattern { pattern: pattern.to_owned(), why: error.kind().to_string() };
    let glob = Glob::new(component).map_err(invalid)?.compile_matcher();
    let mut paths = Vec::new();
    for directory in directories {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        for entry in entries {
            let entry = entry.map_err(|source| SourceError::at("list", directory, source))?;
            if glob.is_match(entry.file_name()) {
                paths.push(entry.path());
            }
            if paths.len() > FILES {
                let why = format!("more than {FILES} files fit");
                return Err(SourceError::Pattern { pattern: pattern.to_owned(), why });
            }
        }
    }
    Ok(paths)
}

/// The number in a file, or why it holds none.
fn number(path: &Path) -> io::Result<Result<u32, String>> {
    // Without following links, and without waiting for the other end of a pipe.
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let file: File = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(Err("it is a symbolic link".to_owned())),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(Err("it is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let first = text.lines().next().unwrap_or_default().trim();
    match first.parse::<u32>() {
        Ok(pid) if pid > 0 => Ok(Ok(pid)),
        _ => Ok(Err("its first line is no process's number".to_owned())),
    }
}
