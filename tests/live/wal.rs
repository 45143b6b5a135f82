//! The archive of the log with real servers: what `archive_command` stored comes back, and a recovery follows it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use cairn::source::postgres::archiver;

use crate::postgres::cluster;
use crate::servers::postgres::{Postgres, checked, directory, installed, program, version_11};

/// A repository that the server's account may use, and the program.
struct Archive {
    root: PathBuf,
}

impl Archive {
    fn beside(postgres: &Postgres) -> Self {
        let root = postgres.directory.path().to_owned();
        // Where it was built may be closed to the server's account.
        std::fs::copy(assert_cmd::cargo::cargo_bin!("cairn"), root.join("cairn")).unwrap();
        let archive = Archive { root };
        let key = archive.root.join("key");
        let make = format!("umask 077; head -c 32 /dev/urandom > '{}'", key.display());
        checked(program(Path::new("/bin/sh")).arg("-c").arg(make));
        assert!(archive.run(&["init"]).status.success());
        archive
    }

    /// The command, as a server is told it.
    fn command(&self, rest: &str) -> String {
        let root = self.root.display();
        format!("{root}/cairn --repo {root}/repo --key-file {root}/key --cache-dir {root}/cache wal {rest}")
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command: Command = program(&self.root.join("cairn"));
        command.arg("--repo").arg(self.root.join("repo")).arg("--key-file").arg(self.root.join("key"));
        command.arg("--cache-dir").arg(self.root.join("cache")).args(args).current_dir(self.root.join("data"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn text(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned() + &error
    }
}

/// Turns archiving on, and starts the server with it.
fn archiving(postgres: &Postgres, archive: &Archive) {
    postgres.sql("postgres", &format!("ALTER SYSTEM SET archive_command TO '{}'", archive.command("push %p")));
    postgres.sql("postgres", "ALTER SYSTEM SET archive_mode TO 'on'");
    postgres.down("fast");
    postgres.up();
}

/// Writes something, ends the segment, and waits until it is archived; its name.
fn written(postgres: &Postgres, sql: &str) -> String {
    postgres.sql("postgres", sql);
    let name = postgres.sql("postgres", "SELECT pg_walfile_name(pg_switch_wal())");
    let deadline = Instant::now() + Duration::from_secs(60);
    let archived =
        "SELECT coalesce(last_archived_wal, '') || ' ' || coalesce(last_failed_wal, '') FROM pg_stat_archiver";
    loop {
        let seen = postgres.sql("postgres", archived);
        if seen.split(' ').next().is_some_and(|last| last >= name.as_str()) {
            return name;
        }
        assert!(Instant::now() < deadline, "{name} was not archived: {seen}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Archives, fetches what is still in `pg_wal`, and recovers a copy of the cluster from the archive alone.
fn archived_and_recovered(server: &Path, version: u32) {
    let tools = cluster!(installed());
    let postgres = cluster!(Postgres::with(server, &tools));
    let archive = Archive::beside(&postgres);
    archiving(&postgres, &archive);
    postgres.sql("postgres", "CREATE TABLE entry (id int); CHECKPOINT");

    // The files of now; what comes later comes from the archive.
    postgres.down("fast");
    let copy = postgres.directory.path().join("copy");
    checked(program(Path::new("/bin/cp")).arg("-a").arg(postgres.data()).arg(&copy));
    postgres.up();
    let mut names = Vec::new();
    for number in 1..=3 {
        names.push(written(&postgres, &format!("INSERT INTO entry SELECT {number} FROM generate_series(1, 1000)")));
    }
    let text = archive.text(&["wal", "status"], 0);
    assert!(text.contains(names.last().unwrap()) && text.contains("no gaps"), "{text}");
    let server = archiver(&postgres.settings).unwrap();
    assert_eq!((server.mode.as_str(), server.is_failing, server.behind), ("on", false, Some(0)), "{server:?}");
    assert!(text.contains(&server.system_id), "{text}");

    for name in &names {
        archive.text(&["wal", "fetch", name, "fetched"], 0);
        let (original, fetched) = (postgres.data().join("pg_wal").join(name), postgres.data().join("fetched"));
        assert!(std::fs::read(original).unwrap() == std::fs::read(&fetched).unwrap(), "{name}");
        std::fs::remove_file(fetched).unwrap();
        archive.text(&["wal", "push", &format!("pg_wal/{name}")], 0);
    }
    archive.text(&["check", "--read-data"], 0);

    // The log is gone but for the archive.
    postgres.down("immediate");
    std::fs::rename(postgres.data(), postgres.directory.path().join("lost")).unwrap();
    checked(program(Path::new("/bin/mv")).arg(&copy).arg(postgres.data()));
    let command =
        format!("restore_command = '{}'\nrecovery_target_timeline = 'latest'\n", archive.command("fetch %f %p"));
    let file = if version < 12 { "recovery.conf" } else { "postgresql.auto.conf" };
    let write = format!("printf '%s' \"$1\" >> '{0}/{file}'; touch '{0}/recovery.signal'", postgres.data().display());
    checked(program(Path::new("/bin/sh")).args(["-c", &write, "sh", &command]));
    if version < 12 {
        std::fs::remove_file(postgres.data().join("recovery.signal")).unwrap();
    }
    postgres.up();
    let recovered = "SELECT pg_is_in_recovery()::text || ' ' || count(*) FROM entry";
    let deadline = Instant::now() + Duration::from_secs(60);
    while postgres.sql("postgres", recovered).starts_with("true") {
        assert!(Instant::now() < deadline, "recovery does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(postgres.sql("postgres", recovered), "false 3000");
    // It archives onto a timeline of its own, whose history is archived, too.
    written(&postgres, "INSERT INTO entry VALUES (4)");
    let text = archive.text(&["wal", "status"], 0);
    assert!(text.contains("timeline 2") && text.contains("from timeline 1 at"), "{text}");
}

#[test]
fn log_is_archived_and_a_recovery_follows_it() {
    let bin = cluster!(installed());
    archived_and_recovered(&bin, 15);
}

#[test]
fn log_of_version_11_is_archived_and_a_recovery_follows_it() {
    let unpacked = cluster!(directory());
    let bin = cluster!(version_11(unpacked.path()));
    archived_and_recovered(&bin, 11);
}

#[test]
fn a_gap_or_damage_stops_a_recovery_and_opens_nothing() {
    let bin = cluster!(installed());
    let postgres = cluster!(Postgres::with(&bin, &bin));
    let archive = Archive::beside(&postgres);
    archiving(&postgres, &archive);
    postgres.sql("postgres", "CREATE TABLE entry (id int); CHECKPOINT");
    postgres.down("fast");
    let copy = postgres.directory.path().join("copy");
    checked(program(Path::new("/bin/cp")).arg("-a").arg(postgres.data()).arg(&copy));
    postgres.up();
    for number in 1..=5 {
        written(&postgres, &format!("INSERT INTO entry VALUES ({number})"));
    }
    let mut objects: Vec<PathBuf> =
        std::fs::read_dir(archive.root.join("repo/wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    objects.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    postgres.down("immediate");
    std::fs::rename(postgres.data(), postgres.directory.path().join("lost")).unwrap();
    checked(program(Path::new("/bin/mv")).arg(&copy).arg(postgres.data()));
    let command = format!("restore_command = '{}'\n", archive.command("fetch %f %p"));
    let write = format!(
        "printf '%s' \"$1\" >> '{0}/postgresql.auto.conf'; touch '{0}/recovery.signal'",
        postgres.data().display()
    );
    checked(program(Path::new("/bin/sh")).args(["-c", &write, "sh", &command]));
    // Two of the segments that follow the copy's own, and not the ones behind them.
    let end = objects.len();
    for lost in objects.drain(end - 4..end - 2) {
        std::fs::remove_file(lost).unwrap();
    }
    is_not_opened(&bin, &postgres, "the log has a gap");
    // One bit of each archived file.
    for path in objects {
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    is_not_opened(&bin, &postgres, "cannot be used");
}

/// A recovery fails, and says why. `pg_ctl` does not tell: it is content with a server that recovers.
fn is_not_opened(bin: &Path, postgres: &Postgres, why: &str) {
    let directory = postgres.directory.path();
    let options = format!("-p 5432 -k {} -c listen_addresses= -c fsync=off", directory.display());
    let log = directory.join(format!("recovery-{}.log", why.replace(' ', "-")));
    let mut start = program(&bin.join("pg_ctl"));
    start.args(["-w", "-t", "60", "-o", &options, "-l"]).arg(&log).arg("-D").arg(postgres.data()).arg("start");
    start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let begun = Instant::now();
    while postgres.data().join("postmaster.pid").exists() {
        assert!(!said().contains("ready to accept connections"), "it was opened: {}", said());
        assert!(begun.elapsed() < Duration::from_secs(60), "it neither ended nor opened: {}", said());
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = said();
    assert!(said.contains("FATAL") && said.contains("from archive"), "{said}");
    assert!(said.contains(why), "{said}");
}
