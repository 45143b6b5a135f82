//! `cairn restore` and `cat`.

use std::ffi::{OsStr, OsString};
use std::io::{BufWriter, ErrorKind};
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use serde_json::json;

use crate::cli::args::{CatArgs, Global, OverwriteArg, RestoreArgs};
use crate::cli::commands::{Context, open, select_one, snapshots, tree_path};
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::{OutputClosed, bytes};
use crate::format::codec::escape;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::locate::locate;
use crate::orchestrate::restore::{self, RestoreOptions};
use crate::orchestrate::select::{SelectError, split_path};
use crate::source::files::{Overwrite, OwnerLookup, Patterns};

pub fn run(global: &Global, args: RestoreArgs, context: &Context<'_>) -> Result<Exit> {
    let (snap, path) = split_path(args.snap.as_bytes());
    let snap = str::from_utf8(snap).map_err(|_| SelectError::None { text: escape(snap) })?;
    let path = path.map(|path| tree_path(OsStr::from_bytes(path))).unwrap_or_default();
    let pattern = |option: &str, globs: &[OsString]| {
        let globs = globs.iter().map(|glob| glob.as_bytes());
        Patterns::new(globs).map_err(|error| Usage(format!("{option}: {error}")))
    };
    let include = pattern("--include", &args.include)?;
    let exclude = pattern("--exclude", &args.exclude)?;
    let Some(target) = args.target else {
        return to_stdout(global, snap, &path, context);
    };
    let overwrite = match args.overwrite {
        OverwriteArg::Never => Overwrite::Never,
        OverwriteArg::Changed => Overwrite::Changed,
        OverwriteArg::Always => Overwrite::Always,
    };
    let (delete, dry_run, verify) = (args.delete, args.dry_run, args.verify);
    let owner_lookup = if args.numeric_owner { OwnerLookup::Number } else { OwnerLookup::Name };
    let repository = open(global, context)?;
    let all = snapshots(&repository, context)?;
    let info = select_one(&all, snap, context)?;
    let path = locate(&repository, &info.snapshot, &path)?;
    let options = RestoreOptions { path, target, include, exclude, overwrite, delete, dry_run, verify, owner_lookup };
    let report = restore::to_directory(&repository, &info.snapshot, &info.id.short(), &options, context.monitor)?;
    let sentence = format!(
        "{} {}: {} files, {} directories, {} others, {}; {} unchanged, {} kept, {} skipped, {} deleted, {} verified, {} failed",
        if dry_run { "would restore" } else { "restored" },
        info.id.short(),
        report.files,
        report.directories,
        report.others,
        bytes(report.bytes),
        report.unchanged,
        report.kept,
        report.skipped,
        report.deleted,
        report.verified_files,
        report.failed,
    );
    let mut object = serde_json::to_value(report)?;
    object["snapshot"] = json!(info.id);
    context.output.summary(&sentence, object)?;
    if report.failed > 0 {
        return Err(anyhow::anyhow!("{} entries could not be restored; each is named above", report.failed));
    }
    Ok(Exit::Done)
}

pub fn cat(global: &Global, args: CatArgs, context: &Context<'_>) -> Result<Exit> {
    let path = args.path.as_deref().map(tree_path).unwrap_or_default();
    to_stdout(global, &args.snap, &path, context)
}

fn to_stdout(global: &Global, snap: &str, path: &[u8], context: &Context<'_>) -> Result<Exit> {
    if context.output.json {
        return Err(Usage("--json and a content on standard output cannot be had together".to_owned()).into());
    }
    let repository = open(global, context)?;
    context.interrupts.only_reading();
    let all = snapshots(&repository, context)?;
    let info = select_one(&all, snap, context)?;
    let path = &locate(&repository, &info.snapshot, path)?;
    crate::source::wait::widen(std::io::stdout());
    let mut output = BufWriter::with_capacity(256 << 10, std::io::stdout().lock());
    match restore::stream::write(&repository, &info.snapshot, &info.id.short(), path, &mut output, context.monitor) {
        Err(OrchestrateError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        result => {
            let written = result?;
            context.output.note(&format!("{} written", bytes(written)));
            Ok(Exit::Done)
        }
    }
}
