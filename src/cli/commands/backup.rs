//! `cairn backup`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::args::{BackupArgs, Global};
use crate::cli::commands::{Context, open, select_one, snapshots, tags};
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::bytes;
use crate::orchestrate::backup::{self, BackupOptions, Outcome, Parent, TreeOptions};
use crate::source::files::patterns::Patterns;

pub fn run(global: &Global, args: BackupArgs, context: &Context<'_>) -> Result<Exit> {
    if !args.stdin && !args.command && args.paths.is_empty() {
        return Err(Usage("nothing to back up: give paths, --stdin, or --command -- PROGRAM".to_owned()).into());
    }
    if (args.stdin || args.command) && (args.dry_run || !args.exclude.is_empty() || args.one_file_system) {
        let why = "--dry-run, --exclude and --one-file-system are for paths; a stream is always read whole";
        return Err(Usage(why.to_owned()).into());
    }
    if !args.program.is_empty() && !args.command {
        return Err(Usage("a program after -- needs --command".to_owned()).into());
    }
    let name = args.name.clone().unwrap_or_else(|| default_name(&args));
    crate::format::name::validate(&name).map_err(|error| Usage(format!("--name: {error}")))?;
    let tags = tags(&args.tag)?;
    let exclude = Patterns::new(args.exclude.iter().map(|glob| glob.as_bytes()))
        .map_err(|error| Usage(format!("--exclude: {error}")))?;
    let repository = open(global, context)?;
    let parent = match args.parent.as_deref() {
        None => Parent::Newest,
        Some("none") => Parent::None,
        Some(text) => Parent::Snapshot(select_one(&snapshots(&repository, context)?, text, context)?.id),
    };
    let options = BackupOptions { name, tags, parent, force: args.force };
    let outcome = if args.stdin {
        backup::standard_input(&repository, &options, context.monitor)?
    } else if args.command {
        backup::command(&repository, &args.program, &options, context.monitor)?
    } else {
        let BackupArgs { paths: roots, one_file_system, dry_run, .. } = args;
        let tree = TreeOptions { roots, exclude, one_file_system, dry_run, ..TreeOptions::default() };
        backup::tree(&repository, tree, &options, context.monitor)?
    };
    report(&options.name, &outcome, context)?;
    Ok(if outcome.summary.unread > 0 { Exit::Unread } else { Exit::Done })
}

fn report(name: &str, outcome: &Outcome, context: &Context<'_>) -> Result<()> {
    let summary = &outcome.summary;
    let mut object = serde_json::to_value(summary)?;
    if let Value::Object(fields) = &mut object {
        fields.insert("snapshot".to_owned(), json!(outcome.id));
        fields.insert("parent".to_owned(), json!(outcome.parent));
        fields.insert("name".to_owned(), json!(name));
    }
    let what = match outcome.id {
        Some(id) => format!("snapshot {} of {name}", id.short()),
        None => format!("a snapshot of {name} would be made"),
    };
    let seconds = summary.milliseconds as f64 / 1000.0;
    let unread = if summary.unread > 0 { format!("; {} UNREAD", summary.unread) } else { String::new() };
    let sentence = format!(
        "{what}: {} in {} files ({} unchanged), {} read, {} new, {} stored, {seconds:.2} s{unread}",
        bytes(summary.bytes),
        summary.files,
        summary.unchanged_files,
        bytes(summary.read_bytes),
        bytes(summary.new_bytes),
        bytes(summary.stored_bytes),
    );
    context.output.summary(&sentence, object)
}

/// `stdin`, the program's name, or the last components of the paths joined by `+`.
fn default_name(args: &BackupArgs) -> String {
    let last = |path: &Path| path.file_name().map_or_else(|| "root".to_owned(), clean);
    let name = if args.stdin {
        "stdin".to_owned()
    } else if let Some(program) = args.program.first().filter(|_| args.command) {
        last(Path::new(program))
    } else {
        args.paths
            .iter()
            .map(|path| std::path::absolute(path).map_or_else(|_| last(path), |path| last(&path)))
            .collect::<Vec<_>>()
            .join("+")
    };
    let end = name.len().min(crate::format::name::MAX_NAME);
    if name.starts_with(['-', '.']) || name == "latest" {
        format!("_{}", &name[..end.min(64)])
    } else {
        name[..end].to_owned()
    }
}

/// Only what a name may have.
fn clean(name: &OsStr) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-+".contains(c) { c } else { '_' };
    name.to_string_lossy().chars().map(allowed).collect()
}
