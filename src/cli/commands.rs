//! One function a command: arguments in, results printed, an exit code out.

mod backup;
mod browse;
mod check;
mod forget;
mod key;
mod manual;
mod platform;
mod restore;
mod snapshots;
mod space;
mod wal;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::backend::local::Local;
use crate::cli::args::{Cli, Command, Global, IndexCommand, InitArgs};
use crate::cli::exit::{Exit, Usage};
use crate::cli::interrupts::Interrupts;
use crate::cli::progress::Bars;
use crate::cli::render::Output;
use crate::cli::settings;
use crate::orchestrate::select::{self, SelectError};
use crate::progress::{Monitor, Notice};
use crate::repo::records::{DamagedSnapshot, Snapshots};
use crate::repo::sets::SetInfo;
use crate::repo::{InitOptions, OpenOptions, Repository, SnapshotInfo};

/// What every command is given.
pub struct Context<'a> {
    /// Where results go.
    pub output: Output,
    /// Who hears of progress.
    pub monitor: &'a dyn Monitor,
    /// The same, for results that are printed while a bar may be drawn.
    pub bars: &'a Bars,
    /// What a signal does.
    pub interrupts: &'a Interrupts,
}

/// Runs the command that was asked for.
pub fn run(cli: Cli, context: &Context<'_>) -> Result<Exit> {
    let Cli { global, command } = cli;
    match command {
        Command::Init(args) => init(&global, args, context),
        Command::Backup(args) => backup::run(&global, args, context),
        Command::Snapshots(args) => snapshots::run(&global, args, context),
        Command::Ls(args) => browse::ls(&global, args, context),
        Command::Find(args) => browse::find(&global, args, context),
        Command::Diff(args) => browse::diff(&global, args, context),
        Command::Cat(args) => restore::cat(&global, args, context),
        Command::Restore(args) => restore::run(&global, args, context),
        Command::Check(args) => check::check(&global, args, context),
        Command::Verify(args) => check::verify(&global, args, context),
        Command::Forget(args) => forget::run(&global, args, context),
        Command::Gc(args) => space::gc(&global, args, context),
        Command::Key(command) => key::run(&global, command, context),
        Command::Index(IndexCommand::Rebuild) => space::rebuild(&global, context),
        Command::Index(IndexCommand::Stats) => space::index_stats(&global, context),
        Command::Stats => space::stats(&global, context),
        Command::Platform(command) => platform::run(&global, command, context),
        Command::Wal(command) => wal::run(&global, command, context),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
    }
}

fn init(global: &Global, args: InitArgs, context: &Context<'_>) -> Result<Exit> {
    let path = settings::repository(global)?;
    let credential = settings::credential(global, context, true)?;
    let backend = Local::create(path)?;
    let id = Repository::init(&backend, &credential, &InitOptions { label: args.label, ..InitOptions::default() })?;
    let location = backend.location();
    let sentence =
        format!("made repository {} in {location}; without its password its data is lost", &id.to_string()[..8]);
    context.output.summary(&sentence, json!({ "repository": id, "location": location }))?;
    Ok(Exit::Done)
}

/// Opens the repository and says what is wrong with it.
fn open(global: &Global, context: &Context<'_>) -> Result<Repository> {
    let path = settings::repository(global)?;
    // Whether there is a repository is known before a password is asked for.
    let backend = Arc::new(Local::open(path)?);
    crate::repo::read_config(backend.as_ref())?;
    let credential = settings::credential(global, context, false)?;
    let options = OpenOptions { cache: settings::cache(global), host: host() };
    let repository = Repository::open(backend, &credential, &options, context.monitor)?;
    for (kind, id, message) in repository.unusable_packs() {
        context.monitor.notice(Notice { subject: format!("{kind} {id}"), message });
    }
    Ok(repository)
}

/// This machine's name.
fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// All snapshots, with a notice for each that vanished and each record that cannot be read.
fn snapshots(repository: &Repository, context: &Context<'_>) -> Result<Snapshots> {
    let all = repository.readable_snapshots()?;
    let notice = |subject: String, message: String| context.monitor.notice(Notice { subject, message });
    for damaged in &all.damaged {
        notice(format!("snapshot {}{}", damaged.id, remembered(damaged)), damaged.message.clone());
    }
    for damaged in &all.damaged_proofs {
        notice(format!("proof {}", damaged.id), damaged.message());
    }
    let mut present: Vec<_> = all.found.iter().map(|info| (info.id, info.snapshot.previous)).collect();
    present.extend(all.damaged.iter().map(|damaged| (damaged.id, None)));
    for vanished in repository.vanished(&present)? {
        let subject = format!("snapshot {} ({} of {})", vanished.id.short(), vanished.name, vanished.time);
        let message =
            "this machine has seen it, or a later one names it, and it is gone without a forget record".to_owned();
        notice(subject, message);
    }
    Ok(all)
}

/// What this machine remembers of a damaged snapshot, in words.
fn remembered(damaged: &DamagedSnapshot) -> String {
    match (&damaged.name, &damaged.time) {
        (Some(name), Some(time)) => format!(" ({name} of {time})"),
        _ => String::new(),
    }
}

/// Selects a snapshot. Says which damaged ones might have been meant: the newest that can be read is not the newest.
fn select_one<'s>(all: &'s Snapshots, text: &str, context: &Context<'_>) -> Result<&'s SnapshotInfo> {
    let zone = TimeZone::system();
    let selected = select::select(&all.found, text, &zone);
    if let (Err(SelectError::None { .. }), Some(damaged)) = (&selected, select::damaged_by_id(&all.damaged, text)) {
        let (id, message) = (damaged.id.to_string(), damaged.message.clone());
        return Err(SelectError::Damaged { id, message }.into());
    }
    for damaged in select::passed_over(&all.damaged, text, selected.as_ref().ok().copied(), &zone) {
        let subject = format!("snapshot {}{}", damaged.id.short(), remembered(damaged));
        let message = match &selected {
            Ok(info) => format!("it may be what {text:?} means, and cannot be read: {} is taken", info.id.short()),
            Err(_) => format!("it may be what {text:?} means, and cannot be read"),
        };
        context.monitor.notice(Notice { subject, message });
    }
    Ok(selected?)
}

/// The set with this id prefix, if there is just one.
fn select_set<'s>(sets: &'s [SetInfo], text: &str) -> Option<&'s SetInfo> {
    let mut found = sets.iter().filter(|info| info.id.begins_with(text));
    found.next().filter(|_| found.next().is_none())
}

fn tags(words: &[String]) -> Result<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| Usage(format!("--tag {word:?}: give KEY=VALUE")))?;
        crate::format::name::validate(key).map_err(|error| Usage(format!("--tag {word:?}: {error}")))?;
        tags.insert(key.to_owned(), value.to_owned());
    }
    Ok(tags)
}

/// A path given by the operator, as a tree has it: without a slash at its ends, two in a row, or `.` between them.
fn tree_path(path: &std::ffi::OsStr) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let components = path.as_bytes().split(|byte| *byte == b'/');
    components.filter(|name| !matches!(*name, b"" | b".")).collect::<Vec<_>>().join(&b'/')
}

/// A snapshot for programs.
fn snapshot_json(info: &SnapshotInfo) -> Value {
    let snapshot = &info.snapshot;
    json!({
        "id": info.id,
        "name": snapshot.name,
        "host": snapshot.host,
        "time": snapshot.time,
        "kind": snapshot.kind,
        "paths": snapshot.paths,
        "tags": snapshot.tags,
        "bytes": snapshot.summary.bytes,
        "files": snapshot.summary.files,
        "stored_bytes": snapshot.summary.stored_bytes,
        "unread": snapshot.summary.unread,
        "parent": snapshot.parent,
        "verified": info.proof.as_ref().map(|proof| proof.time),
        "drill": info.proof.as_ref().and_then(|proof| proof.drill.as_ref()),
        "different": info.difference.as_ref().map(|found| json!({ "time": found.time, "drill": found.drill })),
    })
}
