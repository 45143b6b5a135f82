//! A dump whose tablespaces are made in directories of our own, instead of where they were: those may be in use.
//!
//! Invariant: no statement that makes a tablespace goes through as it is; one that is not understood is an error.
//! `pg_dumpall` writes each on a line of its own, before it first connects to a database.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::PathBuf;

use crate::source::command::Account;
use crate::source::scratch::owned_directory;

/// A line before the first database has at most so many bytes: comments and settings of roles are on one.
const MAX_LINE: u64 = 16 << 20;
const CREATE: &[u8] = b"CREATE TABLESPACE ";
const LOCATION: &str = " LOCATION '";

/// The dump, read through [`Read`].
pub struct Relocated<R> {
    inner: BufReader<R>,
    /// The line that comes next.
    line: Cursor<Vec<u8>>,
    /// False from the first database on.
    globals: bool,
    directory: PathBuf,
    account: Account,
    made: usize,
}

impl<R: Read> Relocated<R> {
    /// Tablespaces get directories in `directory`, which belong to the server's account.
    pub fn new(inner: R, directory: PathBuf, account: Account) -> Self {
        let (line, inner) = (Cursor::default(), BufReader::with_capacity(256 << 10, inner));
        Relocated { inner, line, globals: true, directory, account, made: 0 }
    }

    fn next_line(&mut self) -> io::Result<()> {
        let mut line = Vec::new();
        self.inner.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.len() as u64 == MAX_LINE {
            return Err(io::Error::other("a line of its roles and tablespaces is longer than any that is expected"));
        }
        self.globals = !line.is_empty() && !line.starts_with(b"\\connect ");
        if line.starts_with(CREATE) {
            line = self.moved(&line)?;
        }
        self.line = Cursor::new(line);
        Ok(())
    }

    fn moved(&mut self, line: &[u8]) -> io::Result<Vec<u8>> {
        let unclear = || io::Error::other("a tablespace of the dump is made in a way that is not understood");
        let text = str::from_utf8(line).map_err(|_| unclear())?.trim_end_matches('\n');
        let (head, place) = text.rsplit_once(LOCATION).ok_or_else(unclear)?;
        if place.strip_suffix("';").is_none_or(|place| place.replace("''", "").contains('\'')) {
            return Err(unclear());
        }
        self.made += 1;
        let directory = self.directory.join(format!("tablespace-{}", self.made));
        owned_directory(&directory, Some(&self.account)).map_err(io::Error::other)?;
        let directory = directory.to_str().ok_or_else(unclear)?.replace('\'', "''");
        Ok(format!("{head}{LOCATION}{directory}';\n").into_bytes())
    }
}

impl<R: Read> Read for Relocated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.line.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            if !self.globals {
                return self.inner.read(buffer);
            }
            self.next_line()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::Relocated;
    use crate::source::command::Account;

    fn through(text: &str) -> std::io::Result<(String, usize)> {
        let directory = tempfile::tempdir()?;
        let account = Account { name: "x".to_owned(), uid: uzers::get_effective_uid(), gid: 0, home: "/".into() };
        let mut out = String::new();
        Relocated::new(text.as_bytes(), directory.path().to_owned(), account).read_to_string(&mut out)?;
        let made = std::fs::read_dir(directory.path())?.count();
        Ok((out.replace(&directory.path().display().to_string(), "HERE"), made))
    }

    #[test]
    fn tablespaces_are_made_in_our_own_directories() -> std::io::Result<()> {
        let dump =
            "CREATE ROLE a;\nCREATE TABLESPACE t OWNER a LOCATION '/mnt/it''s';\n\n\\connect x\nCREATE TABLESPACE \n";
        let (out, made) = through(dump)?;
        let moved = "CREATE TABLESPACE t OWNER a LOCATION 'HERE/tablespace-1';\n";
        assert_eq!(out, format!("CREATE ROLE a;\n{moved}\n\\connect x\nCREATE TABLESPACE \n"));
        assert_eq!(made, 1);
        assert_eq!(through("no end of a line")?.0, "no end of a line");
        for unclear in ["CREATE TABLESPACE t OWNER a LOCATION\n", "CREATE TABLESPACE t LOCATION '/a'; DROP '\n"] {
            assert!(through(unclear).is_err(), "{unclear}");
        }
        Ok(())
    }
}
