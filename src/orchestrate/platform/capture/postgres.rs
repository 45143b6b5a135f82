//! PostgreSQL by one of three methods: SQL, the files of a stopped cluster, or the files of a running one.

use std::io::{Cursor, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Captured, Scene, unread};
use crate::format::set::{BaseFacts, Facts, PostgresFacts};
use crate::format::wal::WalName;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::backup::TreeOptions;
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::rest::stop_pattern;
use crate::orchestrate::platform::services::running;
use crate::orchestrate::platform::store::{Role, Slot};
use crate::orchestrate::platform::undo::undo;
use crate::repo::wal::WalFile;
use crate::source::SourceError;
use crate::source::files::Patterns;
use crate::source::postgres::{
    Archiving, BaseBackup, Cluster, Dump, Method, PostgresSettings, at_rest, data_layout, facts,
};
use crate::source::wait;

const STOP: &str = "stop-postgres";
const STEP: &str = "capture-postgres";
/// What the bases of a frame of a cluster's files may cost a reader: 1.5 MiB. Updates touch pages all over, and what comes back
/// is all of it. With 60 MiB the sixth of six base backups came back in 1.22 s, with 8 MiB in 0.93, with 2 MiB in 0.71; the
/// repository had 35.1, 35.4 and 36.0 MiB (scripts/compare-base; pgBackRest 0.69 to 0.86 s, and 88 MiB).
const PAGES_WORK_KIB: u32 = 3 << 9;

pub fn capture(scene: &Scene<'_>, notes: &Notes<'_>) -> Result<Captured, OrchestrateError> {
    match scene.executor.profile.postgres.method {
        Method::Dump => dump(scene, notes),
        Method::Files => files(scene, notes),
        Method::Base => base(scene, notes),
    }
}

fn captured(facts: PostgresFacts, version: Option<String>) -> Captured {
    let mut captured = Captured { facts: Some(Facts::Postgres(facts)), ..Captured::default() };
    captured.versions.extend(version.map(|version| ("postgresql".to_owned(), version)));
    captured
}

fn version(scene: &Scene<'_>) -> Result<String, SourceError> {
    Ok(Cluster::connect(&scene.executor.profile.postgres)?.version()?.text)
}

fn dump(scene: &Scene<'_>, notes: &Notes<'_>) -> Result<Captured, OrchestrateError> {
    let settings = &scene.executor.profile.postgres;
    let stop = scene.executor.stop();
    scene.executor.step(STEP, None, || {
        let version = version(scene)?;
        let dump = Dump::start(settings, &stop)?;
        let omitted = dump.omitted().to_vec();
        let (part, facts) = scene.store.stream(Role::DUMP, dump, Dump::finish, STEP, notes)?;
        let seen = seen(&facts);
        let mut captured = captured(facts, Some(version));
        captured.parts.push(part);
        let lacks = |name: &String| format!("the database {name} accepts no connections, so it is not in the dump");
        // The one that is made so by every installation holds nothing.
        captured.lacks.extend(omitted.iter().filter(|name| *name != "template0").map(lacks));
        Ok((seen, captured))
    })
}

fn seen(facts: &PostgresFacts) -> String {
    let (count, rows) = facts.totals();
    format!("{} databases, {count} tables, {rows} rows", facts.databases.len())
}

fn files(scene: &Scene<'_>, notes: &Notes<'_>) -> Result<Captured, OrchestrateError> {
    let executor = scene.executor;
    let settings = &executor.profile.postgres;
    let stop = executor.stop();
    // While it still runs, and nobody writes.
    let counted = match running(executor.profile, &settings.service, &stop)?.is_empty() {
        true => None,
        false => Some((version(scene)?, facts(settings, Method::Files, &stop)?)),
    };
    let slot = scene.store.slot(notes)?;
    let copied = stop_pattern(&executor, STOP, &settings.service, scene.census, notes)
        .and_then(|()| copy(scene, &slot, counted, notes));
    drop(slot);
    // At once: it was stopped for this alone. What fails is tried again at the end of the run, and told there.
    executor.run.undo_step(STOP, &mut |due| undo(executor.profile, due));
    copied
}

fn copy(
    scene: &Scene<'_>,
    slot: &Slot<'_, '_>,
    counted: Option<(String, PostgresFacts)>,
    notes: &Notes<'_>,
) -> Result<Captured, OrchestrateError> {
    let settings = &scene.executor.profile.postgres;
    let stop = scene.executor.stop();
    scene.executor.step(STEP, None, || {
        let layout = data_layout(settings)?;
        let before = at_rest(settings, &layout, &stop)?;
        let exclude = Patterns::new(layout.excludes()?.iter().map(String::as_bytes))?;
        let tree = TreeOptions {
            roots: layout.roots(),
            exclude,
            max_base_work_kib: Some(PAGES_WORK_KIB),
            ..TreeOptions::default()
        };
        let (part, missed) = slot.tree(Role::FILES, tree, STEP, notes)?;
        if at_rest(settings, &layout, &stop)? != before {
            let server = settings.server();
            let what = "it was started while its files were copied; nothing is taken from them".to_owned();
            return Err(SourceError::Answer { server, what }.into());
        }
        let (version, databases) =
            counted.map_or((None, Vec::new()), |(version, facts)| (Some(version), facts.databases));
        if version.is_none() {
            notes.tell("postgres", "it did not run, so its tables are not counted");
        }
        let facts = PostgresFacts {
            method: Method::Files.name().to_owned(),
            system_id: before.system_id,
            timeline: before.timeline,
            lsn: before.lsn,
            databases,
            base: None,
        };
        let seen = format!("{}, at {}", seen(&facts), facts.lsn);
        let mut captured = captured(facts, version);
        captured.parts.push(part);
        captured.lacks.extend(unread(missed));
        Ok((seen, captured))
    })
}

fn base(scene: &Scene<'_>, notes: &Notes<'_>) -> Result<Captured, OrchestrateError> {
    let executor = scene.executor;
    let settings = &executor.profile.postgres;
    let stop = executor.stop();
    executor.step(STEP, None, || {
        let version = version(scene)?;
        let databases = match executor.is_full() {
            true => facts(settings, Method::Base, &stop)?.databases,
            false => {
                notes.tell("postgres", "tables are not counted: they change while the platform works");
                Vec::new()
            }
        };
        if settings.archive.enabled {
            archives(settings)?;
        }
        let backup = BaseBackup::start(settings, &format!("cairn {}", executor.profile.name), &stop)?;
        let mut facts = PostgresFacts { databases, ..backup.facts().clone() };
        let roots = backup.roots()?;
        let tree = TreeOptions {
            changing: roots.clone(),
            roots,
            exclude: Patterns::new(backup.excludes()?.iter().map(String::as_bytes))?,
            max_base_work_kib: Some(PAGES_WORK_KIB),
            ..TreeOptions::default()
        };
        let (base, missed) = scene.store.tree(Role::BASE, tree, STEP, notes)?;
        let end = backup.finish(&stop)?;
        let log = TreeOptions { roots: end.segments.clone(), ..TreeOptions::default() };
        let (wal, missed_log) = scene.store.tree(Role::WAL, log, STEP, notes)?;
        if missed_log > 0 {
            let what = "a part of its log could not be read, without which its files mean nothing".to_owned();
            return Err(SourceError::Answer { server: settings.server(), what }.into());
        }
        let mut parts = vec![base, wal];
        for (role, content) in [(Role::LABEL, &end.label), (Role::TABLESPACE_MAP, &end.tablespace_map)] {
            if !content.is_empty() {
                parts.push(scene.store.stream(role, Cursor::new(content), whole, STEP, notes)?.0);
            }
        }
        let archived = settings.archive.enabled;
        if archived {
            await_archive(scene, &facts.system_id, &end.segments)?;
        }
        facts.base = Some(BaseFacts { archived, ..end.place.clone() });
        let seen = format!("{}, from {} to {}", seen(&facts), end.place.start_lsn, end.place.stop_lsn);
        let mut captured = captured(facts, Some(version));
        captured.parts = parts;
        captured.lacks.extend(unread(missed));
        Ok((seen, captured))
    })
}

/// Whether the server archives its log at all: nobody waits for what never comes.
fn archives(settings: &PostgresSettings) -> Result<(), SourceError> {
    let Archiving { mode, command, .. } = Cluster::connect(settings)?.archiving()?;
    if mode != "off" && !command.is_empty() {
        return Ok(());
    }
    let what =
        "it archives no log, and postgres.archive is enabled in the profile: set archive_mode and archive_command";
    Err(SourceError::Answer { server: settings.server(), what: what.to_owned() })
}

/// Waits until every segment that a base backup needs is in the archive, too. It is in the set besides, so the set can be
/// restored whatever becomes of the archive; but what follows it can be replayed only from there.
fn await_archive(scene: &Scene<'_>, system_id: &str, segments: &[PathBuf]) -> Result<(), OrchestrateError> {
    let settings = &scene.executor.profile.postgres;
    let (archive, stop) = (scene.store.archive(), scene.executor.stop());
    let limit = Duration::from_secs(settings.wal_timeout_seconds);
    let deadline = wait::deadline(limit);
    for segment in segments {
        let name = segment.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let unknown = || OrchestrateError::Unfit(format!("{name} of cluster {system_id} is no segment of a log"));
        let file = WalFile {
            system_id: system_id.parse().map_err(|_| unknown())?,
            name: WalName::parse(&name).ok_or_else(unknown)?,
        };
        scene.executor.tell_item(STEP, &format!("{name} is archived"));
        while !(archive.has(&file)? && archive.head(&file)?.is_some()) {
            if Instant::now() >= deadline {
                let failing = Cluster::connect(settings).and_then(|cluster| cluster.archiving());
                let failing = failing.ok().and_then(|archiver| archiver.failing);
                let failing =
                    failing.map_or(String::new(), |what| format!(" (archive_command last failed for {what})"));
                let location = archive.location();
                let what =
                    format!("the segment {name}, which the backup needs, was not archived in {location}{failing}");
                return Err(SourceError::Timeout { what, limit }.into());
            }
            wait::pause(wait::INTERVAL, &stop)?;
        }
    }
    Ok(())
}

/// What is in memory is whole.
fn whole(_read: impl Read) -> Result<(), SourceError> {
    Ok(())
}
