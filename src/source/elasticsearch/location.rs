//! The directory that holds the snapshot repository, as the file system shows it.
//!
//! Elasticsearch itself says best whether it can write there ([`super::client::Client::verify_repository`]); this is
//! for telling the operator what is wrong before anything is asked of the server, and for making the directory.

use std::ffi::OsStr;
use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use super::repository::RESTORE_PREFIX;
use crate::source::SourceError;

/// What is at a repository's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocationState {
    /// Nothing.
    Absent,
    /// Something that is no directory.
    NoDirectory,
    /// A directory.
    Directory(Directory),
}

/// A directory that may hold a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Its owner's name, or number where the user is not known.
    pub owner: String,
    /// Its permissions.
    pub mode: u32,
    /// Whether the server's user may make files in it, by owner, group and mode; `None` if that user is not known.
    /// Access lists are not looked at.
    pub writable: Option<bool>,
    /// Whether nothing is in it.
    pub empty: bool,
    /// Bytes that the file system still takes, from users without privileges.
    pub available_bytes: u64,
}

/// What is at this place, as the user `owner` would find it.
pub fn location_state(location: &Path, owner: &str) -> Result<LocationState, SourceError> {
    let failed = |action, source| SourceError::at(action, location, source);
    let metadata = match std::fs::metadata(location) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return Ok(LocationState::NoDirectory),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LocationState::Absent),
        Err(error) => return Err(failed("look at", error)),
    };
    let space = rustix::fs::statvfs(location).map_err(|error| failed("ask for the free space of", error.into()))?;
    let empty = std::fs::read_dir(location).map_err(|error| failed("list", error))?.next().is_none();
    let writable = uzers::get_user_by_name(owner).map(|user| {
        let groups: Vec<u32> = user.groups().unwrap_or_default().iter().map(uzers::Group::gid).collect();
        let may = |path: &Path, wanted: u32| {
            std::fs::metadata(path).is_ok_and(|metadata| grants(&metadata, user.uid(), &groups, wanted))
        };
        may(location, 0o3) && location.ancestors().skip(1).all(|parent| may(parent, 0o1))
    });
    Ok(LocationState::Directory(Directory {
        owner: name_of(metadata.uid()),
        mode: metadata.mode() & 0o7777,
        writable,
        empty,
        available_bytes: space.f_bavail.saturating_mul(space.f_frsize),
    }))
}

/// What is wrong with a place, each with what to do; empty if nothing is.
pub fn problems(location: &Path, state: &LocationState, owner: &str) -> Vec<String> {
    let place = location.display();
    match state {
        LocationState::Absent => vec![format!("{place} does not exist; run: install -d -o {owner} -m 0750 {place}")],
        LocationState::NoDirectory => vec![format!("{place} is no directory; move it away, or set another location")],
        LocationState::Directory(Directory { writable: Some(false), owner: found, mode, .. }) => vec![format!(
            "the user {owner} may not write to {place} (owner {found}, mode {mode:o}); run: chown {owner} {place}, and \
             look at the rights of the directories above it"
        )],
        LocationState::Directory(Directory { writable: None, .. }) => {
            vec![format!("there is no user {owner} on this machine; set owner to the user that runs elasticsearch")]
        }
        LocationState::Directory(_) => Vec::new(),
    }
}

/// Makes the directory, for the server's user only. True if it was not there before: then [`remove_location`] may
/// take it away again.
pub fn create_location(location: &Path, owner: &str) -> Result<bool, SourceError> {
    let failed = |action, source| SourceError::at(action, location, source);
    let user = uzers::get_user_by_name(owner).ok_or_else(|| SourceError::Setting {
        setting: "owner".to_owned(),
        why: format!("there is no user {owner} on this machine"),
    })?;
    if let Some(parent) = location.parent() {
        std::fs::create_dir_all(parent).map_err(|error| failed("make the directories above", error))?;
    }
    match DirBuilder::new().mode(0o750).create(location) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(failed("make the directory", error)),
    }
    if uzers::get_effective_uid() != user.uid() {
        std::os::unix::fs::chown(location, Some(user.uid()), Some(user.primary_group_id())).map_err(|error| {
            let _ = std::fs::remove_dir(location);
            failed("hand to the server's user the directory", error)
        })?;
    }
    Ok(true)
}

/// Undoes [`create_location`], unless something was put into the directory since.
pub fn remove_location(location: &Path) -> Result<(), SourceError> {
    match std::fs::remove_dir(location) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(source) => Err(SourceError::at("remove", location, source)),
    }
}

/// Removes the directory of a snapshot repository that was restored beside the platform's own. Repeatable.
pub fn remove_restored(directory: &Path) -> Result<(), SourceError> {
    let ours = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(RESTORE_PREFIX));
    if !ours {
        let why = "it is no directory that a restore has made; nothing was removed".to_owned();
        return Err(SourceError::Setting { setting: directory.display().to_string(), why });
    }
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SourceError::at("remove", directory, error)),
        _ => Ok(()),
    }
}

/// Whether the permission bits grant all of `wanted` (of `0o7`).
fn grants(metadata: &Metadata, uid: u32, groups: &[u32], wanted: u32) -> bool {
    let shift = match () {
        () if uid == 0 => return true,
        () if metadata.uid() == uid => 6,
        () if groups.contains(&metadata.gid()) => 3,
        () => 0,
    };
    (metadata.mode() >> shift) & wanted == wanted
}

fn name_of(uid: u32) -> String {
    uzers::get_user_by_uid(uid)
        .map(|user| user.name().to_owned())
        .as_deref()
        .and_then(OsStr::to_str)
        .map_or_else(|| uid.to_string(), str::to_owned)
}
