//! `cairn wal`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;

use crate::backend::local::Local;
use crate::cli::args::Global;
use crate::cli::args::wal::{AheadArgs, FetchArgs, PushArgs, StatusArgs, WalCommand};
use crate::cli::commands::platform::profile;
use crate::cli::commands::{Context, open};
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::{bytes, time};
use crate::cli::settings;
use crate::format::wal::WalName;
use crate::orchestrate::wal::ahead;
use crate::orchestrate::wal::gap::Server;
use crate::orchestrate::wal::status::{self, ClusterStatus};
use crate::orchestrate::wal::{self, Fetch, Fetched, Push};
use crate::progress::Notice;
use crate::repo::wal::{Archive, Archived, WalFile};
use crate::source::command::leave_session;
use crate::source::postgres::{Archiver, Spool, archiver};

pub fn run(global: &Global, command: WalCommand, context: &Context<'_>) -> Result<Exit> {
    match command {
        WalCommand::Push(args) => push(global, args, context),
        WalCommand::Fetch(args) => fetch(global, args, context),
        WalCommand::Ahead(args) => ahead(global, args, context),
        WalCommand::Status(args) => status(global, args, context),
    }
}

/// Opens the archive: without index or cache, since a server waits.
fn archive(global: &Global, context: &Context<'_>) -> Result<Archive> {
    let backend = Arc::new(Local::open(settings::repository(global)?)?);
    crate::repo::read_config(backend.as_ref())?;
    let credential = settings::credential(global, context, false)?;
    Ok(Archive::open(backend, &credential)?)
}

fn push(global: &Global, args: PushArgs, context: &Context<'_>) -> Result<Exit> {
    let archive = archive(global, context)?;
    let push = Push { path: args.path, data: args.pgdata };
    let pushed = wal::push(&archive, &push, context.monitor)?;
    // The server writes what is printed to its log, so there is nothing for people.
    let object = json!({
        "name": pushed.file.name.to_string(), "system_id": pushed.file.system_id.to_string(),
        "written": pushed.archived == Archived::Written, "beside": pushed.beside,
    });
    context.output.object("summary", object)?;
    Ok(Exit::Done)
}

fn fetch(global: &Global, args: FetchArgs, context: &Context<'_>) -> Result<Exit> {
    let name = WalName::parse(&args.name)
        .ok_or_else(|| Usage(format!("{:?} is no file of PostgreSQL's log: give %f in restore_command", args.name)))?;
    let archive = archive(global, context)?;
    let (system_id, server) = match args.system_id {
        Some(id) => (id, Server::Recovers),
        None => (wal::cluster(&args.pgdata)?, wal::server(&args.pgdata)?),
    };
    let spool = if args.no_ahead { None } else { spool(global, system_id) };
    let fetch = Fetch { file: WalFile { system_id, name }, into: args.dest, spool, server };
    let fetched = wal::fetch(&archive, &fetch, context.monitor)?;
    if let (Fetched::Whole, WalName::Segment(_), Some(spool)) = (fetched, name, &fetch.spool)
        && ahead::is_due(spool)
    {
        start_ahead(global, &args.name, system_id);
    }
    if fetched == Fetched::Missing {
        context.output.note(&format!("cairn: {name} is not archived"));
    }
    let object = json!({
        "name": name.to_string(), "system_id": system_id.to_string(), "found": fetched != Fetched::Missing,
    });
    context.output.object("summary", object)?;
    Ok(if fetched == Fetched::Missing { Exit::Failed } else { Exit::Done })
}

/// Where segments are kept that were fetched ahead: in the cache directory, whose owner is alone in it.
fn spool(global: &Global, system_id: u64) -> Option<Spool> {
    let opened = Spool::open(&settings::cache(global)?.join("wal"), system_id);
    opened.inspect_err(|error| tracing::debug!("nothing is fetched ahead: {error}")).ok()
}

/// Starts a process that fetches what comes next, while the server replays this segment. It is given the same words; a
/// password that somebody typed it would have to ask for again, so then there is none.
fn start_ahead(global: &Global, name: &str, system_id: u64) {
    let environment = ["CAIRN_PASSWORD_FILE", "CAIRN_PASSWORD"].iter().any(|name| std::env::var_os(name).is_some());
    let absolute = |path: &Option<PathBuf>| Some(std::path::absolute(path.as_ref()?).ok()?.into_os_string());
    let credentials = [
        ("--key-file", absolute(&global.key_file)),
        ("--password-file", absolute(&global.password_file)),
        ("--password-command", global.password_command.clone()),
    ];
    if !environment && credentials.iter().all(|(_, value)| value.is_none()) {
        return;
    }
    let places = [("--repo", absolute(&global.repo)), ("--cache-dir", absolute(&global.cache_dir))];
    let start = || -> std::io::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        for (word, value) in credentials.into_iter().chain(places) {
            if let Some(value) = value {
                command.arg(word).arg(value);
            }
        }
        command.args(["--quiet", "wal", "ahead", name, "--system-id", &system_id.to_string()]);
        // Not in the server's directory, which somebody may want to move.
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(drop)
    };
    if let Err(error) = start() {
        tracing::debug!("nothing is fetched ahead: {error}");
    }
}

fn ahead(global: &Global, args: AheadArgs, context: &Context<'_>) -> Result<Exit> {
    leave_session();
    let Some(WalName::Segment(segment)) = WalName::parse(&args.name) else {
        return Err(Usage(format!("{:?} is no segment", args.name)).into());
    };
    let archive = archive(global, context)?;
    if let Some(spool) = spool(global, args.system_id) {
        ahead::fill(&archive, &spool, args.system_id, segment, context.monitor)?;
    }
    Ok(Exit::Done)
}

fn status(global: &Global, args: StatusArgs, context: &Context<'_>) -> Result<Exit> {
    let server = args.profile.as_deref().map(profile::load).transpose()?;
    let server = server.map(|profile| archiver(&profile.postgres)).transpose()?;
    let repository = open(global, context)?;
    let (sets, damaged_sets) = repository.readable_sets()?;
    let archive = Archive::of(&repository);
    let catalog = archive.catalog()?;
    for damaged in damaged_sets.iter().chain(&catalog.damaged) {
        let subject = format!("{} {}", damaged.kind, damaged.id);
        context.monitor.notice(Notice { subject, message: damaged.message() });
    }
    let clusters = status::status(&archive, &catalog, &sets)?;
    for cluster in &clusters {
        context.output.object("cluster", cluster)?;
        describe(cluster, context)?;
    }
    if let Some(server) = &server {
        context.output.object("server", server)?;
        describe_server(server, context)?;
    }
    let broken = clusters.iter().filter(|cluster| cluster.is_broken()).count();
    let failing = server.as_ref().is_some_and(|server| server.is_failing);
    let sentence = match (clusters.len(), broken) {
        (0, _) => "nothing is archived".to_owned(),
        (count, 0) => format!("{count} clusters, no gaps"),
        (count, broken) => format!("{count} clusters, {broken} of them with GAPS"),
    };
    let object = json!({
        "clusters": clusters.len(), "broken": broken, "damaged": catalog.damaged.len(), "failing": failing,
    });
    context.output.summary(&sentence, object)?;
    if broken > 0 || !catalog.damaged.is_empty() {
        let what = "the log has gaps, or damaged or malformed files: what lies behind cannot be recovered from base backups before \
                    them; make a new base backup now";
        return Err(anyhow::anyhow!(what));
    }
    if failing {
        return Err(anyhow::anyhow!("the server's last attempt to archive failed: see its log"));
    }
    Ok(Exit::Done)
}

fn describe(cluster: &ClusterStatus, context: &Context<'_>) -> Result<()> {
    let (raw, stored) = (bytes(cluster.raw_bytes), bytes(cluster.stored_bytes));
    context.output.line(&format!("cluster {}: {} files, {raw}, {stored} stored", cluster.system_id, cluster.files))?;
    for line in &cluster.timelines {
        let from = match &line.parent {
            Some((parent, left)) => format!(", from timeline {parent} at {left}"),
            None => String::new(),
        };
        let archived = time(line.archived);
        context.output.line(&format!(
            "  timeline {}: {} to {} ({} segments, the last archived {archived}){from}",
            line.timeline, line.oldest, line.newest, line.segments
        ))?;
        for gap in &line.gaps {
            let why = if gap.matters { "" } else { "; no base backup needs them" };
            context
                .output
                .line(&format!("  MISSING {} to {} ({} segments){why}", gap.first, gap.last, gap.segments))?;
        }
    }
    for name in &cluster.missing_histories {
        context.output.line(&format!("  MISSING {name}: where its timeline comes from is not known"))?;
    }
    for (name, why) in &cluster.malformed_histories {
        context.output.line(&format!("  MALFORMED {name}: where its timeline comes from is not known ({why})"))?;
    }
    for base in &cluster.bases {
        let reaches = base.reaches.as_deref().unwrap_or("nothing: its log is not archived");
        let missing = base.missing.as_ref().map(|name| format!("; {name} is MISSING")).unwrap_or_default();
        let (id, made) = (base.set.short(), time(base.time));
        context
            .output
            .line(&format!("  base backup {id} of {made}, from {}: log up to {reaches}{missing}", base.lsn))?;
    }
    if let (Some(oldest), Some(newest)) = (cluster.oldest_restorable, cluster.newest_restorable) {
        context.output.line(&format!("  restorable from {} to about {}", time(oldest), time(newest)))?;
    }
    Ok(())
}

fn describe_server(server: &Archiver, context: &Context<'_>) -> Result<()> {
    let none = || "nothing yet".to_owned();
    let behind = server.behind.map(|count| format!(", {count} segments behind")).unwrap_or_default();
    context.output.line(&format!(
        "server of cluster {}: archive_mode {}, writes {}, archived last {}{behind}; {} failures{}",
        server.system_id,
        server.mode,
        server.current,
        server.last_archived.clone().unwrap_or_else(none),
        server.failed,
        if server.is_failing { ", FAILING NOW" } else { "" }
    ))
}
