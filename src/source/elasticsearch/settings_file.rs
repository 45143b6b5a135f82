//! `path.repo` in elasticsearch.yml: read, extended by one directory, and taken back.
//!
//! Invariant: an edit changes the value of `path.repo` and not one other byte, so comments and order stay. What the
//! small reader here does not understand for certain (several documents, anchors, a key given twice) is refused and
//! left to the operator: a server that does not start again is worse than a message. The file is replaced at once,
//! after its first bytes were copied aside, so a crash leaves the one or the other and [`undo`] can always be done.

mod yaml;

use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, fsetxattr, getxattr, listxattr};
use tempfile::NamedTempFile;

use crate::source::SourceError;

/// The file is at most so long.
const LIMIT: u64 = 1 << 20;
/// A file's extended attributes are at most so long.
const XATTR_LIMIT: usize = 64 << 10;

/// The directories that `path.repo` in this text names; `Err` says why that cannot be told.
pub fn path_repo(text: &str) -> Result<Vec<String>, String> {
    Ok(yaml::find(text)?.values())
}

/// The text with this directory allowed: unchanged if it is already; `Err` says why it cannot be edited.
pub fn configure_path_repo(text: &str, location: &str) -> Result<String, String> {
    if !location.starts_with('/') || location.chars().any(char::is_control) {
        return Err(format!("{location:?} is no absolute path of printable characters"));
    }
    let found = yaml::find(text)?;
    let before = found.values();
    if before.iter().any(|allowed| Path::new(location).starts_with(allowed)) {
        return Ok(text.to_owned());
    }
    let edited = found.extended(text, location);
    // The edit is read again: what Elasticsearch will find must be what was there, and the new directory.
    let after = path_repo(&edited)?;
    match after.split_last() {
        Some((last, rest)) if last == location && rest == before => Ok(edited),
        _ => Err("path.repo is written in a way that cannot be edited for certain".to_owned()),
    }
}

/// Allows a directory in the file, and keeps the file's first bytes as `copy`. True if the file was changed; the server
/// has to be started again then. Repeatable.
pub fn allow(file: &Path, location: &str, copy: &Path) -> Result<bool, SourceError> {
    let file = real(file)?;
    let (text, metadata) = read(&file)?;
    let edited = configure_path_repo(&text, location).map_err(|why| unusable(&file, location, &why))?;
    if edited == text {
        return Ok(false);
    }
    if copy.exists() {
        // An earlier try was cut off between its copy and its change.
        if read(copy)?.0 != text {
            let why = format!("{} holds an earlier state of it; move that away first", copy.display());
            return Err(unusable(&file, location, &why));
        }
    } else {
        replace(copy, &text, &metadata, &file)?;
    }
    replace(&file, &edited, &metadata, &file)?;
    Ok(true)
}

/// Takes back what [`allow`] did, and removes the copy. A file that someone else has changed since is left alone, and
/// that is an error. Repeatable: without a copy there is nothing to undo.
pub fn undo(file: &Path, location: &str, copy: &Path) -> Result<bool, SourceError> {
    if !copy.exists() {
        return Ok(false);
    }
    let file = real(file)?;
    let (original, _) = read(copy)?;
    let (text, metadata) = read(&file)?;
    let changed = text != original;
    if changed {
        if configure_path_repo(&original, location).as_ref() != Ok(&text) {
            let why = format!("it was changed meanwhile and is left so; its earlier state is in {}", copy.display());
            return Err(unusable(&file, location, &why));
        }
        replace(&file, &original, &metadata, &file)?;
    }
    std::fs::remove_file(copy).map_err(|error| SourceError::at("remove", copy, error))?;
    Ok(changed)
}

/// Lets the edit stay: removes the copy. Repeatable.
pub fn keep(copy: &Path) -> Result<(), SourceError> {
    match std::fs::remove_file(copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(SourceError::at("remove", copy, error)),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<(String, Metadata), SourceError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| SourceError::at("open", path, error))?;
    let metadata = file.metadata().map_err(|error| SourceError::at("look at", path, error))?;
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| SourceError::at("read", path, error))?;
    let setting = |why: &str| SourceError::Setting { setting: path.display().to_string(), why: why.to_owned() };
    if bytes.len() as u64 > LIMIT {
        return Err(setting("it is longer than 1 MiB; is this Elasticsearch's configuration?"));
    }
    let text = String::from_utf8(bytes).map_err(|_| setting("it is not UTF-8"))?;
    Ok((text, metadata))
}

/// Puts a text in a file's place at once, with the owner, mode and extended attributes of `like`.
fn replace(path: &Path, text: &str, metadata: &Metadata, like: &Path) -> Result<(), SourceError> {
    let io_error = |error| SourceError::at("write", path, error);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = NamedTempFile::new_in(directory).map_err(io_error)?;
    temporary.write_all(text.as_bytes()).map_err(io_error)?;
    let file = temporary.as_file();
    let made = file.metadata().map_err(io_error)?;
    if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
        std::os::unix::fs::fchown(file, Some(metadata.uid()), Some(metadata.gid())).map_err(io_error)?;
    }
    copy_attributes(like, file);
    file.set_permissions(PermissionsExt::from_mode(metadata.mode() & 0o7777)).map_err(io_error)?;
    file.sync_all().map_err(io_error)?;
    temporary.persist(path).map_err(|error| io_error(error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error)
}

/// Access lists and labels, as far as they may be set: a file system without them has none to lose.
fn copy_attributes(from: &Path, to: &File) {
    let mut names = vec![0; XATTR_LIMIT];
    let Ok(length) = listxattr(from, &mut names) else { return };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; XATTR_LIMIT];
        if let Ok(length) = getxattr(from, name, &mut value) {
            let _ = fsetxattr(to.as_fd(), name, &value[..length], XattrFlags::empty());
        }
    }
}

/// The file behind symbolic links: the link itself must stay.
fn real(path: &Path) -> Result<PathBuf, SourceError> {
    std::fs::canonicalize(path).map_err(|error| SourceError::at("find", path, error))
}

fn unusable(file: &Path, location: &str, why: &str) -> SourceError {
    SourceError::Setting {
        setting: format!("path.repo in {}", file.display()),
        why: format!("{why}; by hand, it should name {location:?}"),
    }
}
