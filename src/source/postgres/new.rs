//! Clusters that are made for a restore: a copy of an empty one, or a new one; and the wait for a server to be ready.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, chmodat, chownat};
use rustix::process::{Gid, Uid};

use crate::source::command::CommandSpec;
use crate::source::files::swap;
use crate::source::postgres::{Cluster, PostgresSettings, files};
use crate::source::{SourceError, wait};

const MAX_OUTPUT: usize = 64 << 10;
/// How long copying or making an empty cluster may take.
const LIMIT: Duration = Duration::from_secs(600);
/// Names that one `cp` is given.
const AT_ONCE: usize = 500;
/// How long a server that was started may not be seen at work on its cluster before its start counts as failed.
const DOWN: Duration = Duration::from_secs(20);
/// What of an older cluster's configuration a new one takes over.
const CONFIGURATION: [&str; 5] = ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf", "conf.d"];

/// Copies a cluster that is at rest, with owners and modes. Links stay links: an empty cluster has no tablespaces.
pub fn copy_cluster(from: &Path, to: &Path, stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
    if let Some(pid) = files::is_running(from)? {
        return Err(files::unfit(from, format!("process {pid} works on it; stop the server first")));
    }
    // Each entry for itself: where the data directory is a mount point, the copy is made in it.
    std::fs::DirBuilder::new().mode(0o700).create(to).map_err(SourceError::when("make", to))?;
    let names = swap::belonging(from)?;
    for names in names.chunks(AT_ONCE) {
        let mut spec = CommandSpec::new(["cp", "--archive", "--"]).directory(from);
        for name in names {
            spec = spec.arg(Path::new(".").join(name));
        }
        spec.arg(to).run(MAX_OUTPUT, LIMIT, stop)?.output()?;
    }
    swap::like(from, to)
}

fn copy(from: &Path, to: &Path, stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
    let spec = CommandSpec::new(["cp", "--archive", "--no-target-directory", "--"]).arg(from).arg(to);
    spec.run(MAX_OUTPUT, LIMIT, stop)?.output().map(drop)
}

/// Makes a cluster for the server's account, with the configuration of the one that it will replace.
pub fn new_cluster(
    settings: &PostgresSettings,
    to: &Path,
    old: Option<&Path>,
    stop: &dyn Fn() -> bool,
) -> Result<(), SourceError> {
    let account = settings.account()?;
    // The directory above it is most probably root's, so the account could not make it.
    std::fs::DirBuilder::new().mode(0o700).create(to).map_err(SourceError::when("make", to))?;
    if !account.is_ours() {
        let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        chownat(CWD, to, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| SourceError::when("give its owner to", to)(error.into()))?;
    }
    let spec = settings.program("initdb")?.arg("--pgdata").arg(to).arg("--username").arg(&settings.user);
    let spec = spec.arg("--auth-local=peer").arg("--auth-host=scram-sha-256").arg("--encoding=UTF8").arg("--no-locale");
    spec.run(MAX_OUTPUT, LIMIT, stop)?.output()?;
    for name in CONFIGURATION {
        let Some(from) = old.map(|old| old.join(name)).filter(|from| from.exists()) else { continue };
        let place = to.join(name);
        if place.is_file() {
            std::fs::remove_file(&place).map_err(SourceError::when("replace", &place))?;
        }
        copy(&from, &place, stop)?;
    }
    chmodat(CWD, to, Mode::from_raw_mode(0o700), rustix::fs::AtFlags::empty())
        .map_err(|error| SourceError::when("set the mode of", to)(error.into()))
}

fn is_meant(works_in: &Path, data: &Path) -> Result<(), SourceError> {
    let real = |path: &Path| std::fs::canonicalize(path).map_err(SourceError::when("find", path));
    if real(works_in)? == real(data)? {
        return Ok(());
    }
    let what = format!("the server that answers works in {}: correct its unit, or the profile", works_in.display());
    Err(files::unfit(data, what))
}

/// Waits for a server that was just started on a cluster to have recovered and to answer. One that was seen at work and
/// is gone has failed, also if somebody starts it anew. One that was not seen yet may be on its way to the cluster, as long
/// as `lives` says that whoever has started it still has it.
pub fn wait_until_recovered(
    settings: &PostgresSettings,
    data: &Path,
    lives: &dyn Fn() -> Result<bool, SourceError>,
    stop: &dyn Fn() -> bool,
) -> Result<(), SourceError> {
    let (begun, mut seen) = (Instant::now(), false);
    loop {
        let answer = Cluster::connect(settings).and_then(|cluster| {
            let row = cluster.one("ask whether it recovers", "SELECT pg_is_in_recovery()")?;
            Ok((cluster.value::<bool>(&row, 0)?, cluster.data_directory()?))
        });
        match answer {
            Ok((false, directory)) => return is_meant(&directory, data),
            Ok((true, _)) => seen = true,
            Err(error @ SourceError::Server { .. }) => {
                // Asked first: one that begins to work between the two questions is not taken for one that has ended.
                let begins = !seen && begun.elapsed() < DOWN && lives()?;
                match files::is_running(data)? {
                    Some(_) => seen = true,
                    None if begins => {}
                    None if seen => {
                        return Err(files::unfit(data, "the server has ended before it had recovered".to_owned()));
                    }
                    None => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
        wait::pause(wait::INTERVAL, stop)?;
    }
}
