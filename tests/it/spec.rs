//! The written format against the program: test vectors made by an independent implementation, and that
//! implementation's reader on real repositories.

mod hostile;
mod real;
mod scripts;
mod vectors;

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::machine::skip;

/// Runs `format-spec/reader.py REPO --password-file FILE ARGUMENTS…`. `None`, after a line that says so, where there is
/// no Python to run it with.
pub fn reader<S: AsRef<OsStr>>(repository: &Path, password_file: &Path, arguments: &[S]) -> Option<Output> {
    let mut command = script("reader.py")?;
    command.arg(repository).arg("--password-file").arg(password_file).args(arguments);
    Some(command.output().unwrap())
}

/// The same with another bound for what is decoded for one chunk.
pub fn reader_spending<S: AsRef<OsStr>>(
    work: u64,
    repository: &Path,
    password_file: &Path,
    arguments: &[S],
) -> Option<Output> {
    let program = format!("import sys, reader; reader.MAX_WORK = {work}; sys.exit(reader.main())");
    let mut command = script("reader.py")?;
    let python = command.get_program().to_owned();
    command = Command::new(python);
    command.env("PYTHONPATH", spec("")).args(["-B", "-c", &program]);
    command.arg(repository).arg("--password-file").arg(password_file).args(arguments);
    Some(command.output().unwrap())
}

/// The depth of the deepest delta that a `verify` decoded.
pub fn deepest(output: &[u8]) -> u32 {
    let text = String::from_utf8_lossy(output);
    text.trim_end().rsplit(' ').next().unwrap().parse().unwrap()
}

/// A script of `format-spec/`, ready to be given arguments.
fn script(name: &str) -> Option<Command> {
    match python() {
        Ok(python) => {
            let mut command = Command::new(python);
            command.arg("-B").arg(spec(name));
            Some(command)
        }
        Err(why) => {
            skip(&format!("format-spec/{name} was not run: {why}"));
            None
        }
    }
}

fn spec(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec").join(name)
}

/// A Python with what the reader needs, in a virtual environment outside the checkout, made on first use and named
/// after the requirements. The lock keeps tests that begin at once from making it twice.
fn python() -> Result<PathBuf, String> {
    let requirements = spec("requirements.txt");
    let hash = blake3::hash(&fs::read(&requirements).unwrap()).to_hex();
    let cache = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => Path::new(&home).join(".cache"),
        _ => return Err("neither XDG_CACHE_HOME nor HOME is set".to_owned()),
    };
    let cache = cache.join("cairn-tests");
    fs::create_dir_all(&cache).map_err(|e| format!("cannot make {}: {e}", cache.display()))?;
    let venv = cache.join(format!("venv-{}", &hash[..16]));
    let (python, complete) = (venv.join("bin/python"), venv.join("complete"));
    let lock = File::create(venv.with_extension("lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;
    if !complete.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements))?;
        File::create(complete).map_err(|e| e.to_string())?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{shown} failed: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}
