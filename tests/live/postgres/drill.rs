//! What a drill says of a PostgreSQL that fails: whether it lies in what is stored, or in this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cairn::backend::local::Local;
use cairn::format::key::Credential;
use cairn::format::set::{BackupSet, Component, Consistency, Facts, Part, PostgresFacts, Status};
use cairn::progress::Silent;
use cairn::repo::{OpenOptions, Repository};
use cairn::source::command::Account;
use cairn::source::postgres::{Cluster, Method, ScratchCluster, facts, new_cluster, restore_dump};
use cairn::source::scratch::Scratch;
use serde_json::Value;

use super::{cluster, never};
use crate::servers::postgres::{Postgres, directory, installed};
use crate::servers::skip;

/// A repository and a platform of nothing but PostgreSQL.
struct Place {
    directory: tempfile::TempDir,
    repository: Repository,
}

impl Place {
    fn new(postgres: &Postgres) -> Self {
        let directory = directory().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("key"), [5; 32]).unwrap();
        let credential = Credential::KeyFile([5; 32].into());
        let backend = Local::create(&path("repo")).unwrap();
        Repository::init(&backend, &credential, &Default::default()).unwrap();
        let options = OpenOptions { cache: None, host: "h".to_owned() };
        let backend = Arc::new(Local::open(&path("repo")).unwrap());
        let repository = Repository::open(backend, &credential, &options, &Silent).unwrap();
        let settings = &postgres.settings;
        let profile = format!(
            "extends = 'none'\nname = 'p'\ncomponents = ['postgres']\n[state]\ndirectory = '{}'\n\
             [postgres]\nuser = '{}'\nbin-directory = '{}'\n",
            path("state").display(),
            settings.user,
            settings.bin_directory.display()
        );
        fs::write(path("profile.toml"), profile).unwrap();
        Place { directory, repository }
    }

    fn cairn(&self, args: &[&str]) -> Output {
        let path = |name: &str| self.directory.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        command.arg("--repo").arg(path("repo")).arg("--key-file").arg(path("key"));
        command.arg("--cache-dir").arg(path("cache")).args(args).output().unwrap()
    }

    /// Publishes a set of a data directory at rest.
    fn publish(&self, data: &Path, version: &str, facts: &PostgresFacts) -> String {
        let stored = self.cairn(&["-q", "backup", "--name", "p.postgres.files", data.to_str().unwrap()]);
        assert!(stored.status.success(), "{}", String::from_utf8_lossy(&stored.stderr));
        let snapshot = self.repository.snapshots().unwrap().last().unwrap().id;
        let now = jiff::Timestamp::now();
        let component = Component {
            name: "postgres".to_owned(),
            status: Status::Complete,
            parts: vec![Part { role: "files".to_owned(), snapshot, bytes: 1 << 20, stored_bytes: 1 }],
            versions: [("postgresql".to_owned(), version.to_owned())].into(),
            facts: Some(Facts::Postgres(facts.clone())),
            warnings: Vec::new(),
            milliseconds: 1,
        };
        let set = BackupSet {
            profile: "p".to_owned(),
            host: "h".to_owned(),
            time: now,
            ended: now,
            consistency: Consistency::OnePointInTime,
            status: Status::Complete,
            components: vec![component],
            steps: Vec::new(),
            warnings: Vec::new(),
            program: "a test".to_owned(),
        };
        self.repository.publish_set(&set).unwrap().to_string()
    }

    /// Drills a set; what became of its PostgreSQL.
    fn drill(&self, code: i32, set: &str) -> Value {
        let profile = self.directory.path().join("profile.toml");
        let output = self.cairn(&["--json", "platform", "drill", "--profile", profile.to_str().unwrap(), "--set", set]);
        let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{told}\n{errors}");
        let summary: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
        summary["components"][0].clone()
    }
}

#[test]
fn a_server_that_refuses_what_was_restored_is_told_from_one_that_does_not_work() {
    let postgres = cluster!(Postgres::start());
    postgres.sql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 100) n");
    let version = Cluster::connect(&postgres.settings).unwrap().version().unwrap().text;
    let counted = facts(&postgres.settings, Method::Files, &never).unwrap();
    postgres.down("fast");
    let place = Place::new(&postgres);
    let set = place.publish(&postgres.data(), &version, &counted);
    let one = place.drill(0, &set);
    assert_eq!(one["state"], "proven", "{one:#}");

    let control = postgres.data().join("global/pg_control");
    let whole = fs::read(&control).unwrap();
    fs::write(&control, vec![0; whole.len()]).unwrap();
    let set = place.publish(&postgres.data(), &version, &counted);
    let one = place.drill(1, &set);
    assert_eq!(one["state"], "failed", "{one:#}");
    assert!(one["detail"].as_str().unwrap().contains("does start on nothing"), "{one:#}");

    // Programs that make a cluster, and of which none works on one.
    let bin = place.directory.path().join("bin");
    fs::create_dir(&bin).unwrap();
    for entry in fs::read_dir(&postgres.settings.bin_directory).unwrap() {
        let path = entry.unwrap().path();
        std::os::unix::fs::symlink(&path, bin.join(path.file_name().unwrap())).unwrap();
    }
    fs::remove_file(bin.join("postgres")).unwrap();
    let real = postgres.settings.bin_directory.join("postgres");
    let script =
        format!("#!/bin/sh\ncase $1 in --version) exec {} --version;; esac\necho no; exit 7\n", real.display());
    fs::write(bin.join("postgres"), script).unwrap();
    fs::set_permissions(bin.join("postgres"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let profile = place.directory.path().join("profile.toml");
    let text = fs::read_to_string(&profile).unwrap();
    fs::write(&profile, format!("{text}[drill.postgres]\nbin-directory = '{}'\n", bin.display())).unwrap();
    let one = place.drill(1, &set);
    assert_eq!(one["state"], "not-started", "{one:#}");
}

/// What ends a dump: one without that is not waited for.
const WHOLE: &str = "--\n-- PostgreSQL database cluster dump complete\n--\n\n";

/// A small file system in memory.
struct Small(PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_dump_that_finds_no_room_is_told_from_one_that_is_wrong() {
    let postgres = cluster!(Postgres::prepared(&cluster!(installed()), &cluster!(installed())));
    let small = postgres.directory.path().join("small");
    fs::create_dir(&small).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=112m,mode=755", "tmpfs"]).arg(&small).stderr(Stdio::null());
    if !mount.status().is_ok_and(|status| status.success()) {
        return skip("this user may not mount a file system");
    }
    let _small = Small(small.clone());
    let account = Account::named(&postgres.settings.user).unwrap();
    let scratch = Scratch::plan(&small, "room");
    scratch.make().unwrap();
    for (number, sql, lacks) in [
        (1, "DO $$ BEGIN RAISE E'x\\n2026-01-01 00:00 UTC [1] 53100 ERROR:  No space left'; END $$;", false),
        (2, "CREATE TABLE t AS SELECT repeat(md5(n::text), 30) x FROM generate_series(1, 400000) n;", true),
    ] {
        let directory = scratch.directory(&format!("pg{number}"), Some(&account)).unwrap();
        let cluster = ScratchCluster::plan(&postgres.settings, &directory).unwrap();
        new_cluster(&cluster.settings, &cluster.data, None, &never).unwrap();
        let server = cluster.start(&scratch, Duration::from_secs(120), &never).unwrap();
        let dump = format!("{sql}\n{WHOLE}");
        restore_dump(&cluster.settings, &mut dump.as_bytes(), &never).unwrap_err();
        let lacked = cluster.lacked();
        assert_eq!(lacked.is_some(), lacks, "{lacked:?}");
        assert!(lacked.is_none_or(|line| line.contains("No space left")), "it says what");
        ScratchCluster::stop(server).unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }
}
