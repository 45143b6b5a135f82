//! A server whose log is archived by cairn, and a stand-in for systemd that has it as its one unit.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::servers::PATIENCE;
use crate::servers::postgres::{Postgres, installed, program, version_11};

/// What a server needs to be archived.
const SETTINGS: &str = "archive_mode = on\nwal_level = replica\nmax_wal_senders = 4\nautovacuum = off\n\
                        track_commit_timestamp = on\nwal_keep_NAME\nmax_wal_size = '2GB'\n";
const UNIT: &str = "postgresql-pitr";

pub struct Archived {
    pub postgres: Postgres,
    pub major: u32,
    /// Where the programs of the server are.
    bin: PathBuf,
    _unpacked: Option<tempfile::TempDir>,
}

/// What a run said.
pub struct Ended {
    pub code: Option<i32>,
    pub text: String,
    pub summary: Value,
}

impl Ended {
    fn of(output: &Output) -> Self {
        let stdout = String::from_utf8_lossy(&output.stdout);
        let summary = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        Ended {
            code: output.status.code(),
            text: format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)),
            summary,
        }
    }

    #[track_caller]
    pub fn must(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }

    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.text.contains(word), "{word:?} is not in {}", self.text);
        }
        self
    }
}

impl Archived {
    /// A server of the installed version.
    pub fn start() -> Result<Self, String> {
        let bin = installed()?;
        let text = bin.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let major = text.parse().map_err(|_| format!("{text} is no version"))?;
        Archived::with(bin.clone(), &bin, major, None)
    }

    /// One of version 11.
    pub fn start_11() -> Result<Self, String> {
        let unpacked = crate::servers::postgres::directory()?;
        let bin = version_11(unpacked.path())?;
        Archived::with(bin, &installed()?, 11, Some(unpacked))
    }

    fn with(bin: PathBuf, tools: &Path, major: u32, unpacked: Option<tempfile::TempDir>) -> Result<Self, String> {
        let mut postgres = Postgres::with(&bin, tools)?;
        // Programs that read its files must be of its version.
        if major == 11 {
            postgres.settings.bin_directory = tools.to_owned();
        }
        let archived = Archived { postgres, major, bin, _unpacked: unpacked };
        archived.prepare();
        Ok(archived)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.postgres.directory.path().join(name)
    }

    fn prepare(&self) {
        // A copy of the program that the server's account can reach, wherever this was built.
        std::fs::copy(env!("CARGO_BIN_EXE_cairn"), self.path("cairn")).unwrap();
        std::fs::write(self.path("key"), [7; 32]).unwrap();
        std::fs::set_permissions(self.path("key"), PermissionsExt::from_mode(0o600)).unwrap();
        self.cairn(&["init"]).must(0);
        let owner = std::fs::metadata(self.postgres.data()).unwrap();
        for path in walk(&self.path("repo")).into_iter().chain([self.path("key")]) {
            chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let keep = if self.major >= 13 { "size = '2GB'" } else { "segments = 128" };
        let command = format!(
            "{} --repo {} --key-file {} wal push %p",
            self.shown("cairn"),
            self.shown("repo"),
            self.shown("key")
        );
        let settings = format!("{}archive_command = '{command}'\n", SETTINGS.replace("NAME", keep));
        let file = self.postgres.data().join("postgresql.conf");
        let before = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, before + &settings).unwrap();
        self.systemd();
        self.profile("pitr", "method = \"base\"");
        self.systemctl("stop");
        self.systemctl("start");
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// What is started instead of systemd's programs.
    fn systemd(&self) {
        let (data, directory) = (self.shown("data"), self.postgres.directory.path().display().to_string());
        let user = match rustix::process::geteuid().is_root() {
            true => format!("setpriv --reuid={0} --regid={0} --clear-groups env HOME=/ ", self.postgres.settings.user),
            false => String::new(),
        };
        let ctl = self.bin.join("pg_ctl").display().to_string();
        let systemctl = format!(
            "#!/bin/sh\ncd /\npid=$(head -n 1 {data}/postmaster.pid 2>/dev/null)\n\
             case \" $* \" in\n\
             *' show '*)\n  state=inactive; sub=dead\n  if [ -n \"$pid\" ] && kill -0 \"$pid\" 2>/dev/null; then state=active; sub=running; fi\n\
             \x20 printf 'Id={UNIT}.service\\nLoadState=loaded\\nActiveState=%s\\nSubState=%s\\nResult=success\\nMainPID=%s\\n\
             UnitFileState=enabled\\nType=forking\\nInvocationID=%s\\n' $state $sub \"${{pid:-0}}\" \"$pid\" ;;\n\
             *' start '*)\n  if [ -e {directory}/lose ]; then sh {directory}/lose; fi\n\
             \x20 {user}{ctl} -w -t 120 -o '-p 5432 -k {directory} -c listen_addresses= -c fsync=off' -l {directory}/log -D {data} start \
             >/dev/null 2>&1 </dev/null; exit 0 ;;\n\
             *' stop '*) {user}{ctl} -w -m fast -D {data} stop >/dev/null 2>&1 </dev/null; exit 0 ;;\nesac\n"
        );
        for (name, text) in
            [("systemctl", systemctl), ("journalctl", format!("#!/bin/sh\ntail -n 20 {directory}/log\n"))]
        {
            std::fs::write(self.path(name), text).unwrap();
            std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
    }

    fn systemctl(&self, verb: &str) {
        assert!(Command::new(self.path("systemctl")).args(["x", verb, UNIT]).status().unwrap().success());
    }

    /// Writes a profile of this name; `postgres` is added to what it says of the server.
    pub fn profile(&self, name: &str, postgres: &str) -> String {
        let settings = &self.postgres.settings;
        let text = format!(
            "extends = \"none\"\nname = \"{name}\"\ncomponents = [\"postgres\"]\n\
             [state]\ndirectory = \"{}\"\n\
             [systemd]\nsystemctl = \"{}\"\njournalctl = \"{}\"\nsettle-seconds = 0\n\
             [processes]\nrules = []\npid-files = []\n\
             [redis]\nqueues = []\ningestion-queues = []\n\
             [postgres]\nbin-directory = \"{}\"\nsocket-directory = \"{}\"\nuser = \"{}\"\ndata-directories = [\"{}\"]\n\
             service = \"{UNIT}\"\nwal-timeout-seconds = 60\n{postgres}\n\
             [postgres.archive]\nenabled = true\nkey-file = \"{}\"\n",
            self.shown("state"),
            self.shown("systemctl"),
            self.shown("journalctl"),
            settings.bin_directory.display(),
            settings.socket_directory.display(),
            settings.user,
            self.shown("data"),
            self.shown("key"),
        );
        let path = self.path(&format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Changes a word of a profile.
    pub fn amend(&self, profile: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(profile).unwrap();
        assert!(text.contains(from));
        std::fs::write(profile, text.replace(from, to)).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("cairn"));
        command.args(["--json", "--repo"]).arg(self.path("repo")).arg("--key-file").arg(self.path("key"));
        command.arg("--cache-dir").arg(self.path("cache")).args(arguments).stdin(Stdio::null());
        command
    }

    pub fn cairn(&self, arguments: &[&str]) -> Ended {
        Ended::of(&self.command(arguments).output().unwrap())
    }

    /// `cairn platform COMMAND` with the profile.
    pub fn platform(&self, command: &str, options: &[&str]) -> Ended {
        let profile = self.shown("pitr.toml");
        self.cairn(&[&["platform", command, "--profile", &profile], options].concat())
    }

    /// PostgreSQL alone to a time.
    pub fn restore(&self, to: Timestamp, options: &[&str]) -> Ended {
        let to = to.to_string();
        let all = ["--only", "postgres", "--allow", "unverified", "--at", &to, "--yes"];
        self.platform("restore", &[&all, options].concat())
    }

    /// The same, without waiting for it.
    pub fn begin_restore(&self, to: Timestamp) -> Child {
        let (profile, to) = (self.shown("pitr.toml"), to.to_string());
        let all = ["--only", "postgres", "--allow", "unverified", "--at", &to, "--yes"];
        let mut command = self.command(&[&["platform", "restore", "--profile", &profile], all.as_slice()].concat());
        let said = std::fs::File::create(self.path("begun.log")).unwrap();
        command.stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap()
    }

    /// Waits until the journal has the beginning of a step.
    #[track_caller]
    pub fn begins(&self, child: &mut Child, step: &str) {
        let (began, wanted) = (Instant::now(), format!("{{\"entry\":\"begin\",\"step\":\"{step}"));
        let journal = self.path("state/journal");
        while !std::fs::read_to_string(&journal).unwrap_or_default().contains(&wanted) {
            let ended = child.try_wait().unwrap();
            let said = || std::fs::read_to_string(self.path("begun.log")).unwrap_or_default();
            assert!(ended.is_none(), "it ended without {step}: {ended:?}\n{}", said());
            assert!(began.elapsed() < PATIENCE, "{step} does not come");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn sql(&self, sql: &str) -> String {
        self.postgres.sql("postgres", sql)
    }

    /// The server's clock.
    pub fn now(&self) -> Timestamp {
        let micros = self.sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8");
        Timestamp::from_microsecond(micros.parse().unwrap()).unwrap()
    }

    /// Ends a segment, and waits until it is archived; its name.
    pub fn archive(&self) -> String {
        let name = self.sql("SELECT pg_walfile_name(pg_switch_wal())");
        let began = Instant::now();
        let archived = format!("SELECT count(*) FROM pg_stat_archiver WHERE last_archived_wal >= '{name}'");
        while self.sql(&archived) != "1" {
            assert!(began.elapsed() < PATIENCE, "{name} is not archived: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        name
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The objects of the archive, in the order in which they were written.
    pub fn objects(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = walk(&self.path("repo/wal")).into_iter().filter(|path| path.is_file()).collect();
        all.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
        all
    }

    /// When each row of the table of events was committed, by its number.
    pub fn events(&self) -> BTreeMap<u64, Timestamp> {
        let sql =
            "SELECT id, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::int8 FROM event ORDER BY id";
        let answer = self.sql(sql);
        let line = |line: &str| {
            let (id, micros) = line.split_once('|').unwrap();
            (id.parse().unwrap(), Timestamp::from_microsecond(micros.parse().unwrap()).unwrap())
        };
        answer.lines().map(line).collect()
    }

    /// A program of the server's version, as its account.
    pub fn tool(&self, name: &str) -> Command {
        program(&self.bin.join(name))
    }
}

fn walk(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            found.extend(walk(&entry.unwrap().path()));
        }
    }
    found
}
