//! Second stage of the command line: where the repository is, what opens it, where the cache goes.
//!
//! Secrets come from files, programs, the environment or the terminal, never from arguments, and are wiped after use.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::{Zeroize, Zeroizing};

use crate::cli::args::{Global, NewKeyArgs};
use crate::cli::commands::Context as CommandContext;
use crate::cli::exit::Usage;
use crate::cli::render::Output;
use crate::format::codec::{escape, escape_path};
use crate::format::key::Credential;
use crate::progress::Monitor;
use crate::repo::RepoError;
use crate::source::wait;

/// A password is at most this long.
const MAX_PASSWORD: usize = 4096;

/// The repository's directory.
pub fn repository(global: &Global) -> Result<&Path> {
    let missing = || Usage("no repository given: use --repo or CAIRN_REPO".to_owned());
    Ok(global.repo.as_deref().ok_or_else(missing)?)
}

/// Where derived data is kept; `None` when there is no place that stays.
pub fn cache(global: &Global) -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // systemd gives several directories separated by colons; the first is ours.
    let first = |all: PathBuf| all.as_os_str().as_bytes().split(|byte| *byte == b':').next().map(path_of);
    let systemd = from("CACHE_DIRECTORY").and_then(first);
    let absolute = |path: &PathBuf| path.is_absolute();
    global
        .cache_dir
        .clone()
        .or(systemd.filter(absolute))
        .or_else(|| from("XDG_CACHE_HOME").filter(absolute).map(|path| path.join("cairn")))
        .or_else(|| from("HOME").filter(absolute).map(|path| path.join(".cache/cairn")))
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// What opens the repository.
pub fn credential(global: &Global, context: &CommandContext<'_>, confirm: bool) -> Result<Credential> {
    if let Some(path) = &global.key_file {
        return key_file(path, &context.output);
    }
    if let Some(path) = &global.password_file {
        return password_file(path, &context.output);
    }
    if let Some(command) = &global.password_command {
        return password_command(command, context.monitor);
    }
    if let Some(path) = std::env::var_os("CAIRN_PASSWORD_FILE").filter(|path| !path.is_empty()) {
        return password_file(Path::new(&path), &context.output);
    }
    if let Some(value) = std::env::var_os("CAIRN_PASSWORD") {
        return password(Zeroizing::new(value.into_vec()), "CAIRN_PASSWORD");
    }
    ask("Password: ", confirm, context.monitor)
}

/// The new password or key file of `key add` and `key passwd`.
pub fn new_credential(args: &NewKeyArgs, context: &CommandContext<'_>) -> Result<Credential> {
    if let Some(path) = &args.new_key_file {
        if !path.exists() {
            make_key_file(path)?;
        }
        return key_file(path, &context.output);
    }
    if let Some(path) = &args.new_password_file {
        return password_file(path, &context.output);
    }
    ask("New password: ", true, context.monitor)
}

fn password(mut bytes: Zeroizing<Vec<u8>>, source: &str) -> Result<Credential> {
    if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        bytes[end..].zeroize();
        bytes.truncate(end);
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(Usage(format!("the password from {source} is empty")).into());
    }
    Ok(Credential::Password(bytes))
}

fn password_file(path: &Path, output: &Output) -> Result<Credential> {
    let bytes = secret_file(path, output, MAX_PASSWORD as u64)?;
    password(bytes, &escape_path(path))
}

fn key_file(path: &Path, output: &Output) -> Result<Credential> {
    let bytes = secret_file(path, output, 33)?;
    let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| {
        let found = if bytes.len() > 32 { "more".to_owned() } else { bytes.len().to_string() };
        Usage(format!("{} is no key file: it must have exactly 32 bytes, it has {found}", escape_path(path)))
    })?;
    Ok(Credential::KeyFile(Zeroizing::new(key)))
}

fn secret_file(path: &Path, output: &Output, limit: u64) -> Result<Zeroizing<Vec<u8>>> {
    let open = || -> Result<Zeroizing<Vec<u8>>> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.mode() & 0o077 != 0 {
            output.note(&format!("{} can be read by others: chmod 600 it", escape_path(path)));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(limit as usize));
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    open().with_context(|| {
        format!("cannot read {}, which should open the repository: check path and permissions", escape_path(path))
    })
}

fn make_key_file(path: &Path) -> Result<()> {
    let mut key: [u8; 32] = crate::format::crypto::random()?;
    let make = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&key)?;
        file.sync_all()
    };
    let made = make().with_context(|| format!("cannot make {}", escape_path(path)));
    key.zeroize();
    made
}

/// Runs a program for the password. It stays in our process group, since it may have to ask on the terminal.
fn password_command(command: &OsStr, monitor: &dyn Monitor) -> Result<Credential> {
    let words = command.as_bytes().split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let mut words = words.map(OsStr::from_bytes);
    let program = words.next().ok_or_else(|| Usage("--password-command is empty".to_owned()))?;
    let failed = || format!("--password-command {} failed", escape(program.as_bytes()));
    let mut child =
        Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(failed)?;
    let said = hear(&mut child, monitor);
    if said.is_err() {
        // It may have ended by itself; either way nothing of it is left behind.
        let _ = child.kill();
        let _ = child.wait();
    }
    if monitor.interrupted() {
        return Err(RepoError::Interrupted.into());
    }
    let (bytes, status) = said.with_context(failed)?;
    if !status.success() {
        return Err(anyhow::anyhow!("it ended with {status}")).with_context(failed);
    }
    password(bytes, "--password-command")
}

/// A program's output, up to the longest password, and how the program ended.
fn hear(child: &mut Child, monitor: &dyn Monitor) -> std::io::Result<(Zeroizing<Vec<u8>>, ExitStatus)> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD));
    if let Some(mut output) = child.stdout.take() {
        while read_some(&mut output, &mut bytes, monitor)? > 0 {}
    }
    Ok((bytes, wait::until_ended(child, monitor)?))
}

/// Reads what there is, up to the longest password; 0 at the end. Nowhere is a copy left that is not wiped.
fn read_some<R: Read + AsFd>(
    input: &mut R,
    bytes: &mut Zeroizing<Vec<u8>>,
    monitor: &dyn Monitor,
) -> std::io::Result<usize> {
    let mut part = Zeroizing::new([0; MAX_PASSWORD]);
    let room = MAX_PASSWORD - bytes.len();
    if room == 0 {
        return Ok(0);
    }
    wait::until_readable(&*input, monitor)?;
    let read = input.read(&mut part[..room])?;
    bytes.extend_from_slice(&part[..read]);
    Ok(read)
}

fn ask(prompt: &str, confirm: bool, monitor: &dyn Monitor) -> Result<Credential> {
    let missing = || {
        let ways = "--password-file, --password-command, --key-file, CAIRN_PASSWORD_FILE or CAIRN_PASSWORD";
        Usage(format!("no password given and no terminal to ask on: use {ways}"))
    };
    if !std::io::stdin().is_terminal() {
        return Err(missing().into());
    }
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| missing())?;
    let first = read_hidden(&terminal, prompt, monitor)?;
    if confirm && read_hidden(&terminal, "Again: ", monitor)? != first {
        return Err(Usage("the two passwords differ".to_owned()).into());
    }
    password(first, "the terminal")
}

/// Reads a line without showing it. Whatever ends the reading, the terminal shows what is typed afterwards.
fn read_hidden(terminal: &File, prompt: &str, monitor: &dyn Monitor) -> Result<Zeroizing<Vec<u8>>> {
    let mut terminal = terminal;
    terminal.write_all(prompt.as_bytes())?;
    let before = tcgetattr(terminal)?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(terminal, OptionalActions::Flush, &hidden)?;
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD));
    let read = loop {
        match read_some(&mut terminal, &mut line, monitor) {
            Ok(read) if read == 0 || line.ends_with(b"\n") => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    tcsetattr(terminal, OptionalActions::Flush, &before)?;
    terminal.write_all(b"\n")?;
    if monitor.interrupted() {
        return Err(RepoError::Interrupted.into());
    }
    read.context("cannot read the password from the terminal")?;
    Ok(line)
}
