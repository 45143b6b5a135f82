//! PostgreSQL clusters of our own: in a directory of their own, reached by their own socket only.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cairn::source::postgres::PostgresSettings;
use tempfile::TempDir;

/// The programs of the newest version that this machine has installed; `Err` says why there are none.
pub fn installed() -> Result<PathBuf, String> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").map_err(|_| "no postgresql package is installed")?;
    let major = |path: &Path| path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok());
    let newest = versions.flatten().map(|entry| entry.path()).filter(|path| path.join("bin/initdb").exists());
    let newest = newest.max_by_key(|path| major(path)).ok_or("no postgresql package is installed")?;
    Ok(newest.join("bin"))
}

/// The programs of version 11, unpacked into a directory.
pub fn version_11(into: &Path) -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/live/fetch-postgres");
    let output = Command::new(script).arg("11").stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("scripts/live/fetch-postgres 11: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let archive = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let status = Command::new("tar").arg("-xJf").arg(archive).arg("-C").arg(into).status();
    assert!(status.unwrap().success());
    Ok(into.join("bin"))
}

/// Who runs the servers: never root. Its name, and what a program needs to become it.
fn account() -> Result<(String, Option<(u32, u32)>), String> {
    if !rustix::process::geteuid().is_root() {
        let user = uzers::get_user_by_uid(uzers::get_effective_uid()).ok_or("this user has no name")?;
        return Ok((user.name().to_string_lossy().into_owned(), None));
    }
    let user = uzers::get_user_by_name("postgres").ok_or("there is no user postgres")?;
    Ok(("postgres".to_owned(), Some((user.uid(), user.primary_group_id()))))
}

/// A directory that the servers' user may use.
pub fn directory() -> Result<TempDir, String> {
    let directory = tempfile::Builder::new().prefix("cairn-pg-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    if let (_, Some((uid, gid))) = account()? {
        chown(directory.path(), Some(uid), Some(gid)).unwrap();
    }
    Ok(directory)
}

/// A program, as the servers' user.
pub fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.current_dir("/").env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    if let Ok((_, Some((uid, gid)))) = account() {
        command.uid(uid).gid(gid);
    }
    command
}

/// A running cluster.
pub struct Postgres {
    pub directory: TempDir,
    pub settings: PostgresSettings,
    server: PathBuf,
}

impl Postgres {
    /// A new cluster of the installed version.
    pub fn start() -> Result<Self, String> {
        Postgres::with(&installed()?, &installed()?)
    }

    /// A new cluster made with the programs in `server`; cairn is told of those in `tools`.
    pub fn with(server: &Path, tools: &Path) -> Result<Self, String> {
        let postgres = Postgres::prepared(server, tools)?;
        let user = &postgres.settings.user;
        let initdb = ["--no-sync", "--auth-local=peer", "--auth-host=reject", "--encoding=UTF8", "--locale=C"];
        checked(program(&server.join("initdb")).args(initdb).arg("-U").arg(user).arg("-D").arg(postgres.data()));
        postgres.up();
        Ok(postgres)
    }

    /// Without a data directory yet.
    pub fn prepared(server: &Path, tools: &Path) -> Result<Self, String> {
        let directory = directory()?;
        let settings = PostgresSettings {
            bin_directory: tools.to_owned(),
            socket_directory: directory.path().to_owned(),
            user: account()?.0,
            data_directories: vec!["/nonexistent".into(), directory.path().join("data")],
            ..PostgresSettings::default()
        };
        Ok(Postgres { directory, settings, server: server.to_owned() })
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Starts the server.
    pub fn up(&self) {
        let options = format!("-p 5432 -k {} -c listen_addresses= -c fsync=off", self.directory.path().display());
        let log = self.directory.path().join("log");
        let mut command = program(&self.server.join("pg_ctl"));
        command.args(["-w", "-t", "120", "-o", &options, "-l"]).arg(&log).arg("-D").arg(self.data()).arg("start");
        // Nothing of ours as its output: the server would hold it open.
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
    }

    /// Stops the server: `fast`, or `immediate`, which is a crash.
    pub fn down(&self, mode: &str) {
        checked(program(&self.server.join("pg_ctl")).args(["-w", "-m", mode, "-D"]).arg(self.data()).arg("stop"));
    }

    /// A program that connects to it.
    pub fn client(&self, name: &str) -> Command {
        let mut command = program(&self.settings.bin_directory.join(name));
        command.args(["-U", &self.settings.user, "-h"]).arg(&self.settings.socket_directory).args(["-p", "5432"]);
        command
    }

    /// Runs SQL, and gives what it answered.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut command = self.client("psql");
        let conninfo = format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"));
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d", &conninfo]);
        let output = fed(command, sql.as_bytes());
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            let mut stop = program(&self.server.join("pg_ctl"));
            let _ = stop.args(["-w", "-m", "immediate", "-D"]).arg(self.data()).arg("stop").output();
        }
    }
}

/// Runs a program to its end.
pub fn checked(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a program with an input.
pub fn fed(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}
