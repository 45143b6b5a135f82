//! PostgreSQL: a server on a cluster of its own, filled from SQL or started on restored files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::format::codec::escape_path;
use crate::format::set::{Component, Facts, Part, PostgresFacts};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::cause::Cause;
use crate::orchestrate::locate::exists;
use crate::orchestrate::platform::drill::bench::{Bench, Finding};
use crate::orchestrate::platform::drill::plan::{
    COMPARE_POSTGRES, RESTORE_POSTGRES, START_POSTGRES, postgres_settings,
};
use crate::orchestrate::platform::profile::Profile;
use crate::orchestrate::platform::restore::plan::part;
use crate::orchestrate::platform::restore::trees;
use crate::orchestrate::platform::store::Role;
use crate::repo::chain;
use crate::source::command::{Account, Background};
use crate::source::postgres::{
    Cluster, Method, ScratchCluster, compare, complete_base, facts, fits, new_cluster, own_log, restore_dump,
};
use crate::source::scratch::owned_directory;

pub fn drill(bench: &Bench<'_>, held: &Component) -> Result<Finding, OrchestrateError> {
    let recorded = recorded(held)?;
    let method = method(recorded)?;
    let settings = postgres_settings(bench.executor.profile);
    let directory = bench.scratch().directory("postgres", Some(&Account::named(&settings.user)?))?;
    let cluster = ScratchCluster::plan(&settings, &directory)?;
    let stop = bench.executor.stop();
    let captured = held.versions.get("postgresql").map(String::as_str);
    let started = |make: &dyn Fn() -> Result<Background, OrchestrateError>| {
        bench.executor.step(START_POSTGRES, None, || {
            let version = fits(&settings, method, captured, &stop)?;
            Ok((version.text, make()?))
        })
    };
    let start = |cluster: &ScratchCluster| {
        let started = cluster.start(bench.scratch(), bench.start_limit(), &stop);
        started.map_err(|error| lacking(cluster, error.into()))
    };
    let new = |cluster: &ScratchCluster| {
        new_cluster(&cluster.settings, &cluster.data, None, &stop)?;
        start(cluster)
    };
    let on_nothing = || {
        let directory = bench.scratch().directory("pg-empty", Some(&Account::named(&settings.user)?))?;
        new(&ScratchCluster::plan(&settings, &directory)?)
    };
    let mut server = match method {
        Method::Dump => {
            let server = started(&|| new(&cluster))?;
            load(bench, &cluster, part(&held.parts, Role::DUMP)?)?;
            server
        }
        Method::Files | Method::Base => {
            files(bench, held, &cluster, method)?;
            started(&|| bench.start_on(|| start(&cluster), on_nothing))?
        }
    };
    let finding = compared(bench, recorded, method, &cluster, &mut server)?;
    ScratchCluster::stop(server)?;
    Ok(finding)
}

fn recorded(held: &Component) -> Result<&PostgresFacts, OrchestrateError> {
    match &held.facts {
        Some(Facts::Postgres(facts)) => Ok(facts),
        _ => Err(OrchestrateError::Unfit("the set says nothing of its PostgreSQL: see its report".to_owned())),
    }
}

/// How it was captured.
fn method(facts: &PostgresFacts) -> Result<Method, OrchestrateError> {
    let known = [Method::Dump, Method::Files, Method::Base].into_iter().find(|one| one.name() == facts.method);
    let unknown = || format!("it was captured by {:?}, which this cairn does not know", facts.method);
    known.ok_or_else(|| OrchestrateError::Unfit(unknown()))
}

/// Why the programs that are there cannot be used.
pub fn trouble(held: &Component, profile: &Profile, stop: &dyn Fn() -> bool) -> Option<String> {
    let settings = postgres_settings(profile);
    let captured = held.versions.get("postgresql").map(String::as_str);
    let method = recorded(held).and_then(method).ok()?;
    fits(&settings, method, captured, stop).err().map(|error| chain(&error))
}

/// A failure, as one of this machine if the server says that it lacked something.
fn lacking(cluster: &ScratchCluster, error: OrchestrateError) -> OrchestrateError {
    match cluster.lacked() {
        Some(line) if error.cause() == Cause::Unknown && !error.is_interrupted() => {
            OrchestrateError::Hindered(format!("{}; the server lacked something: {line}", chain(&error)))
        }
        _ => error,
    }
}

fn load(bench: &Bench<'_>, cluster: &ScratchCluster, stored: &Part) -> Result<(), OrchestrateError> {
    bench.executor.step(RESTORE_POSTGRES, None, || {
        let mut dump = cluster.relocated(bench.stream(RESTORE_POSTGRES, stored)?)?;
        let restored = restore_dump(&cluster.settings, &mut dump, &bench.executor.stop());
        restored.map_err(|error| lacking(cluster, error.into()))?;
        Ok((String::new(), ()))
    })
}

/// Writes the files of a cluster where they belong here, and lays every link that led elsewhere anew.
fn files(
    bench: &Bench<'_>,
    held: &Component,
    cluster: &ScratchCluster,
    method: Method,
) -> Result<(), OrchestrateError> {
    let stored = part(&held.parts, if method == Method::Base { Role::BASE } else { Role::FILES })?;
    let account = Account::named(&cluster.settings.user)?;
    bench.executor.step(RESTORE_POSTGRES, None, || {
        let snapshot = &bench.snapshot(stored)?.snapshot;
        let (mut moved, mut data, mut bytes) = (BTreeMap::new(), false, 0);
        for (number, root) in bench.roots(stored)?.into_iter().enumerate() {
            let control = root.join("global/pg_control");
            if !data && exists(bench.order.repository, snapshot, trees::inner(&control))? {
                data = true;
                bytes += bench.write(RESTORE_POSTGRES, stored, &root, &cluster.data)?.bytes;
                continue;
            }
            let mut place = cluster.beside(number);
            if method == Method::Base {
                // Of a tablespace only the directory of the version was copied.
                owned_directory(&place, Some(&account))?;
                moved.insert(root.parent().unwrap_or(&root).to_owned(), place.clone());
                place.push(root.file_name().unwrap_or_default());
            } else {
                moved.insert(root.clone(), place.clone());
            }
            bytes += bench.write(RESTORE_POSTGRES, stored, &root, &place)?.bytes;
        }
        if !data {
            return Err(OrchestrateError::Unfit("no data directory of a cluster is in the set".to_owned()));
        }
        if method == Method::Base {
            base(bench, held, cluster, &moved)?;
        }
        cluster.defuse(&moved)?;
        Ok((format!("{bytes} bytes, read back and equal"), ()))
    })
}

/// The log and the label of a base backup.
fn base(
    bench: &Bench<'_>,
    held: &Component,
    cluster: &ScratchCluster,
    moved: &BTreeMap<PathBuf, PathBuf>,
) -> Result<(), OrchestrateError> {
    let small = |role| trees::small_stream(bench.order.repository, bench.snapshot(part(&held.parts, role)?)?);
    let label = small(Role::LABEL)?;
    if part(&held.parts, Role::TABLESPACE_MAP).is_ok() {
        let map = small(Role::TABLESPACE_MAP)?;
        let text = String::from_utf8_lossy(&map);
        for (_, place) in text.lines().filter_map(|line| line.split_once(' ')) {
            if !moved.contains_key(Path::new(place)) {
                let why = format!("its map names a tablespace in {place}, which is not in the set");
                return Err(OrchestrateError::Unfit(why));
            }
        }
    }
    let log = part(&held.parts, Role::WAL)?;
    let directory = own_log(&cluster.settings, &cluster.data)?;
    let mut segments = Vec::new();
    for segment in bench.roots(log)? {
        bench.write(RESTORE_POSTGRES, log, &segment, &directory)?;
        let name = segment.file_name().ok_or_else(|| OrchestrateError::Unfit(escape_path(&segment)))?;
        segments.push(directory.join(name));
    }
    segments.sort();
    // Its map would lead to the real tablespaces again; the links are laid anew instead.
    complete_base(&cluster.settings, &cluster.data, &label, &[])?;
    Ok(cluster.must_not_touch_tablespaces(&segments, &bench.executor.stop())?)
}

fn compared(
    bench: &Bench<'_>,
    recorded: &PostgresFacts,
    method: Method,
    cluster: &ScratchCluster,
    server: &mut Background,
) -> Result<Finding, OrchestrateError> {
    bench.compare(COMPARE_POSTGRES, || {
        let version = Cluster::connect(&cluster.settings)?.version()?.text;
        let found = facts(&cluster.settings, method, &bench.executor.stop())?;
        server.must_run()?;
        if recorded.databases.is_empty() {
            return Ok(Finding::default().with_version("postgresql", version));
        }
        let differences = compare(recorded, &found).iter().map(ToString::to_string).collect();
        let (count, rows) = found.totals();
        let seen = format!("{count} tables with {rows} rows, as recorded");
        Ok(Finding::of(seen, differences).with_version("postgresql", version))
    })
}
