//! `cairn wal`.

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;

use crate::backend::local::Local;
use crate::cli::args::Global;
use crate::cli::args::wal::{FetchArgs, PushArgs, WalCommand};
use crate::cli::commands::Context;
use crate::cli::exit::{Exit, Usage};
use crate::cli::settings;
use crate::format::wal::WalName;
use crate::orchestrate::wal::{self, Fetch, Fetched, Push};
use crate::repo::wal::{Archive, Archived, WalFile};

pub fn run(global: &Global, command: WalCommand, context: &Context<'_>) -> Result<Exit> {
    match command {
        WalCommand::Push(args) => push(global, args, context),
        WalCommand::Fetch(args) => fetch(global, args, context),
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
    let system_id = match args.system_id {
        Some(id) => id,
        None => wal::cluster(&args.pgdata)?,
    };
    let fetch = Fetch { file: WalFile { system_id, name }, into: args.dest };
    let fetched = wal::fetch(&archive, &fetch, context.monitor)?;
    if fetched == Fetched::Missing {
        context.output.note(&format!("cairn: {name} is not archived"));
    }
    let object = json!({
        "name": name.to_string(), "system_id": system_id.to_string(), "found": fetched != Fetched::Missing,
    });
    context.output.object("summary", object)?;
    Ok(if fetched == Fetched::Missing { Exit::Failed } else { Exit::Done })
}
