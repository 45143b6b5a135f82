//! Files kept aside before they are written over, and put back.
//!
//! Invariants: a file counts as kept when its copy is durable, and before that nothing is written over it; which files
//! were not there before is durable, too, so that putting back removes just those. Copies are made by `cp --archive`,
//! which keeps owners, modes, times, links, ACLs and attributes. Putting back can be done twice.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::source::SourceError;
use crate::source::command::CommandSpec;

const MAX_OUTPUT: usize = 64 << 10;
/// Paths that one `cp` is given.
const AT_ONCE: usize = 500;
/// How long one `cp` may take.
const LIMIT: Duration = Duration::from_secs(3600);
/// The list of new files is at most this long.
const MAX_LIST: u64 = 256 << 20;

/// A place for files of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    directory: PathBuf,
    root: PathBuf,
}

impl Kept {
    /// Files beneath `root`, to be kept in `directory`.
    pub fn new(directory: &Path, root: &Path) -> Self {
        Kept { directory: directory.to_owned(), root: root.to_owned() }
    }

    /// Where they are kept.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn files(&self) -> PathBuf {
        self.directory.join("files")
    }

    fn list(&self) -> PathBuf {
        self.directory.join("new")
    }

    /// Keeps what will be written over, and writes down what is new. Paths are relative to the root.
    pub fn keep(&self, replaced: &[PathBuf], new: &[PathBuf], stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
        let files = self.files();
        DirBuilder::new().recursive(true).mode(0o700).create(&files).map_err(SourceError::when("make", &files))?;
        for paths in replaced.chunks(AT_ONCE) {
            let mut spec = CommandSpec::new(["cp", "--archive", "--parents", "--"]).directory(&self.root);
            for path in paths {
                spec = spec.arg(Path::new(".").join(path));
            }
            spec.arg(&files).run(MAX_OUTPUT, LIMIT, stop)?.output()?;
        }
        let list = self.list();
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&list)?;
            for path in new {
                file.write_all(path.as_os_str().as_bytes())?;
                file.write_all(b"\0")?;
            }
            file.sync_all()?;
            // Everything that was copied, too.
            rustix::fs::syncfs(&file)?;
            Ok(())
        };
        write().map_err(SourceError::when("write", &list))
    }

    /// Puts back what was kept, and removes what was new; then what was kept is not needed any more. Whether there was
    /// anything.
    pub fn put_back(&self, stop: &dyn Fn() -> bool) -> Result<bool, SourceError> {
        let (files, list) = (self.files(), self.list());
        let mut bytes = Vec::new();
        match File::open(&list) {
            Ok(file) => file.take(MAX_LIST).read_to_end(&mut bytes).map_err(SourceError::when("read", &list))?,
            // It is written last before the first file is changed.
            Err(error) if error.kind() == ErrorKind::NotFound => return self.discard().map(|()| false),
            Err(error) => return Err(SourceError::when("open", &list)(error)),
        };
        let spec = CommandSpec::new(["cp", "--archive", "--remove-destination", "--no-target-directory", "--"]);
        spec.arg(&files).arg(&self.root).run(MAX_OUTPUT, LIMIT, stop)?.output()?;
        for path in bytes.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            let path = self.root.join(PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())));
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(SourceError::when("remove", &path)(error)),
            }
        }
        self.discard()?;
        Ok(true)
    }

    /// Removes what was kept.
    pub fn discard(&self) -> Result<(), SourceError> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(SourceError::when("remove", &self.directory)(error))
            }
            _ => Ok(()),
        }
    }
}
