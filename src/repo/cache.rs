//! The cache directory: one folder per repository for the derived index. The only place of this layer that touches
//! files, because SQLite needs one.
//!
//! Invariant: nothing here is needed; all of it can be deleted at any time. It is private (0700), because chunk ids
//! and snapshot names are secret.

use std::fs::{DirBuilder, File, remove_file};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::format::RepositoryId;
use crate::format::codec::escape_path;
use crate::repo::error::RepoError;
use crate::repo::similar::SimilarTable;

/// Where derived data of one repository is kept.
pub enum CacheDir {
    /// A folder that stays.
    Kept(PathBuf),
    /// A folder that goes with this process: there is no place to keep one.
    Temporary(tempfile::TempDir),
}

impl CacheDir {
    /// Makes the repository's folder below `base`, or a temporary one without a base.
    pub fn open(base: Option<&Path>, repository: RepositoryId) -> Result<Self, RepoError> {
        let failed = |path: &Path| {
            let path = escape_path(path);
            move |source| RepoError::Cache { path, source }
        };
        let Some(base) = base else {
            return CacheDir::temporary();
        };
        let path = base.join(repository.to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed(&path))?;
        Ok(CacheDir::Kept(path))
    }

    fn path(&self) -> &Path {
        match self {
            CacheDir::Kept(path) => path,
            CacheDir::Temporary(dir) => dir.path(),
        }
    }

    /// The index file: that of the newest generation.
    pub fn index(&self) -> PathBuf {
        let newest = index_files(self.path()).into_iter().filter(|file| file.suffix.is_empty());
        index_path(self.path(), newest.map(|file| file.generation).max().unwrap_or(0))
    }

    /// The table of similar chunks; empty when there is none.
    pub fn load_similar(&self) -> SimilarTable {
        let limit = SimilarTable::MAX_ENCODED as u64;
        let mut bytes = Vec::new();
        match File::open(self.similar()).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
            Ok(_) => SimilarTable::decode(&bytes),
            Err(_) => SimilarTable::default(),
        }
    }

    /// Keeps the table of similar chunks. It is written beside and renamed, so nobody reads half of it.
    pub fn store_similar(&self, table: &SimilarTable) -> Result<(), RepoError> {
        let path = self.similar();
        let failed = |source| RepoError::Cache { path: escape_path(&path), source };
        let mut file = tempfile::NamedTempFile::new_in(self.path()).map_err(failed)?;
        file.write_all(&table.encode()).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    fn similar(&self) -> PathBuf {
        self.path().join("similar-1")
    }

    /// A folder that goes with this process.
    pub fn temporary() -> Result<Self, RepoError> {
        let place = std::env::temp_dir();
        let failed = |source| RepoError::Cache { path: escape_path(&place), source };
        Ok(CacheDir::Temporary(tempfile::tempdir().map_err(failed)?))
    }
}

/// A file of the index, or one that SQLite keeps beside it.
struct IndexFile {
    path: PathBuf,
    generation: u64,
    /// What follows the name of the index file itself.
    suffix: String,
}

const INDEX: &str = "index-1";

fn index_path(folder: &Path, generation: u64) -> PathBuf {
    match generation {
        0 => folder.join(format!("{INDEX}.sqlite")),
        generation => folder.join(format!("{INDEX}.{generation}.sqlite")),
    }
}

fn index_files(folder: &Path) -> Vec<IndexFile> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let file = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let (stem, suffix) = name.split_once(".sqlite")?;
        let generation = match stem.strip_prefix(INDEX)? {
            "" => 0,
            number => number.strip_prefix('.')?.parse().ok()?,
        };
        Some(IndexFile { path: entry.path(), generation, suffix: suffix.to_owned() })
    };
    entries.filter_map(|entry| file(entry.ok()?)).collect()
}

/// The file that takes the place of a damaged index: the next generation. A damaged file is never made again under its own
/// name: a process that has it open still would, at its end, remove what SQLite keeps beside that *name*, and with it the
/// log of the new file. Two that find the same damage take the same next file.
pub fn next_index(index: &Path) -> PathBuf {
    let folder = index.parent().unwrap_or(Path::new(""));
    let files = index_files(folder);
    let own = files.iter().find(|file| file.path == index).map_or(0, |file| file.generation);
    index_path(folder, own + 1)
}

/// Removes the generations before this one. Whoever has one open goes on with it, by itself.
pub fn remove_older_indexes(index: &Path) {
    let mut files = index_files(index.parent().unwrap_or(Path::new("")));
    let Some(own) = files.iter().find(|file| file.path == index).map(|file| file.generation) else { return };
    files.retain(|file| file.generation < own);
    // The file itself first: without its log, nobody may open it any more.
    files.sort_by(|a, b| (a.generation, &a.suffix).cmp(&(b.generation, &b.suffix)));
    for file in files {
        // What stays is tried again by the next one.
        let _ = remove_file(&file.path);
    }
}

/// Sees to it that nobody opens this index file again: an empty one of the next generation takes its place.
pub fn abandon_index(index: &Path) {
    let next = next_index(index);
    if File::options().append(true).create(true).open(&next).is_ok() {
        remove_older_indexes(&next);
    }
}
