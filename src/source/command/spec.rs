//! What a program is started with: arguments, user, environment, directory, ends of its pipes.
//!
//! Invariant: a program that runs as another user inherits nothing by accident. Its environment is built from nothing,
//! the supplementary groups of the caller are dropped, and its directory is one that every user may enter.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use uzers::os::unix::UserExt;

use crate::format::codec::escape;
use crate::source::SourceError;
use crate::source::command::{CommandStream, told};
use crate::source::wait::{self, or_stopped};

/// Where programs are looked for when the environment is built from nothing.
const SEARCHED: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An account of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// Its home directory.
    pub home: PathBuf,
}

impl Account {
    /// Looks an account up.
    pub fn named(name: &str) -> Result<Self, SourceError> {
        let found = uzers::get_user_by_name(name).ok_or_else(|| SourceError::Setting {
            setting: format!("user {name:?}"),
            why: "this machine has no such account; name the one that the server runs as".to_owned(),
        })?;
        let home = found.home_dir().to_owned();
        Ok(Account { name: name.to_owned(), uid: found.uid(), gid: found.primary_group_id(), home })
    }

    /// Whether this process runs as this account already.
    pub fn is_ours(&self) -> bool {
        uzers::get_effective_uid() == self.uid
    }

    /// Whether this process may act as this account; says what to do where it may not.
    pub fn may_act(&self) -> Result<(), SourceError> {
        if self.is_ours() || uzers::get_effective_uid() == 0 {
            return Ok(());
        }
        let why = format!("only root and {} itself can act as this account; run it as one of them", self.name);
        Err(SourceError::Setting { setting: format!("user {:?}", self.name), why })
    }
}

/// A program to be started.
#[derive(Clone)]
pub struct CommandSpec {
    argv: Vec<OsString>,
    account: Option<Account>,
    /// `None`: that of this process.
    environment: Option<BTreeMap<OsString, OsString>>,
    directory: Option<PathBuf>,
    input: bool,
    output: bool,
}

impl CommandSpec {
    /// A program with its arguments, run as this process is: same user, environment and directory, no standard input.
    pub fn new<A: Into<OsString>>(argv: impl IntoIterator<Item = A>) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        CommandSpec { argv, account: None, environment: None, directory: None, input: false, output: true }
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.argv.push(argument.into());
        self
    }

    /// As this user, in `/`, with nothing in the environment but where programs are, who the user is, and a locale in
    /// which messages are English. Supplementary groups are dropped.
    pub fn user(mut self, account: &Account) -> Self {
        let mut environment = BTreeMap::new();
        for name in ["USER", "LOGNAME"] {
            environment.insert(name.into(), OsString::from(&account.name));
        }
        environment.insert("HOME".into(), account.home.clone().into());
        environment.insert("PATH".into(), SEARCHED.into());
        environment.insert("LC_ALL".into(), "C".into());
        self.account = Some(account.clone());
        self.environment = Some(environment);
        self.directory.get_or_insert_with(|| PathBuf::from("/"));
        self
    }

    /// Sets a variable. To be called after [`CommandSpec::user`]. Never for a secret: everyone who may see the process may see it.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let environment = self.environment.get_or_insert_with(|| std::env::vars_os().collect());
        environment.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Its working directory.
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// With a pipe as standard input: [`CommandStream::take_input`].
    pub fn with_input(mut self) -> Self {
        self.input = true;
        self
    }

    /// Without its standard output, which goes nowhere.
    pub fn without_output(mut self) -> Self {
        self.output = false;
        self
    }

    /// The program's name, for people.
    pub fn program(&self) -> String {
        self.argv.first().map(|name| escape(name.as_bytes())).unwrap_or_default()
    }

    pub(super) fn command(&self) -> Result<Command, SourceError> {
        let Some((first, arguments)) = self.argv.split_first() else {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "no program was given");
            return Err(SourceError::Spawn { program: String::new(), source });
        };
        let mut command = Command::new(first);
        command
            .args(arguments)
            .stdin(if self.input { Stdio::piped() } else { Stdio::null() })
            .stdout(if self.output { Stdio::piped() } else { Stdio::null() })
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(environment) = &self.environment {
            command.env_clear().envs(environment);
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some(account) = &self.account {
            account.may_act()?;
            if !account.is_ours() {
                // With a user id to change to, the standard library drops the supplementary groups, too.
                command.gid(account.gid).uid(account.uid);
            }
        }
        Ok(command)
    }

    /// Runs it to its end, however it ends. Output of more than `most` bytes is an error, and so is running for longer
    /// than `limit`: the program is killed then.
    pub fn run(&self, most: usize, limit: Duration, stop: &dyn Fn() -> bool) -> Result<Finished, SourceError> {
        let deadline = wait::deadline(limit);
        let late = || SourceError::Timeout { what: format!("{:?} did not end", self.program()), limit };
        let lost = |error| {
            or_stopped(error, |source| SourceError::Unreadable {
                action: "read the output of",
                path: self.program(),
                source,
            })
        };
        let mut stream = CommandStream::start(self, stop, |_| {})?;
        let mut stdout = Vec::new();
        let mut piece = [0; 8 << 10];
        loop {
            if !stream.readable(deadline).map_err(lost)? {
                return Err(late());
            }
            match stream.read(&mut piece).map_err(lost)? {
                0 => break,
                length => stdout.extend_from_slice(&piece[..length]),
            }
            if stdout.len() > most {
                let what = format!("it wrote more than the {most} bytes that are expected of it");
                return Err(SourceError::Answer { server: self.program(), what });
            }
        }
        let (status, stderr) = stream.ended(Some(deadline))?.ok_or_else(late)?;
        Ok(Finished { program: self.program(), status, stdout, stderr })
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its name, for people.
    pub program: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its whole standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error.
    pub stderr: String,
}

impl Finished {
    /// How it ended, for people: `exit status 1`, `signal 9`.
    pub fn ended(&self) -> String {
        told(self.status)
    }

    /// Its output, if it ended with status 0.
    pub fn output(self) -> Result<Vec<u8>, SourceError> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        Err(SourceError::Command { program: self.program, status: told(self.status), stderr: self.stderr })
    }
}

/// Where a program is; `None` if it is nowhere. One without a slash is looked for where those of accounts are.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let directories = if name.contains('/') { "" } else { SEARCHED };
    let places = directories.split(':').map(|directory| Path::new(directory).join(name));
    places.into_iter().find(|place| place.is_file())
}
