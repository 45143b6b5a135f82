//! The cache directory: one folder per repository for the derived index. The only place of this layer that touches
//! files, because SQLite needs one.
//!
//! Invariant: nothing here is needed; all of it can be deleted at any time. It is private (0700), because chunk ids
//! and snapshot names are secret.

use std::fs::{DirBuilder, File, remove_file};
use std::io::{ErrorKind, Read, Write};
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

    /// The index file.
    pub fn index(&self) -> PathBuf {
        self.path().join("index-1.sqlite")
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

/// Removes an index file and what SQLite keeps beside it.
pub fn remove_index(index: &Path) -> Result<(), RepoError> {
    for suffix in ["-wal", "-shm", "-journal", ""] {
        let mut path = index.as_os_str().to_owned();
        path.push(suffix);
        match remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(RepoError::Cache { path: escape_path(Path::new(&path)), source });
            }
            _ => {}
        }
    }
    Ok(())
}
