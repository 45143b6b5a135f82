//! `cairn gc`, `stats` and `index`.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::backend::{BackendError, list_all};
use crate::cli::args::{GcArgs, Global};
use crate::cli::commands::{Context, open, snapshots};
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::{bytes, time};
use crate::format::Kind;
use crate::repo::RepoError;
use crate::repo::gc::{self, Fate, GcOptions};
use crate::repo::wal::retain::PlannedLog;
use crate::retention::parse_duration;

pub fn gc(global: &Global, args: GcArgs, context: &Context<'_>) -> Result<Exit> {
    let grace = match args.grace.as_deref() {
        None => None,
        Some("0") => Some(Duration::ZERO),
        Some(text) => {
            let seconds = parse_duration(text)
                .ok_or_else(|| Usage(format!("--grace {text:?}: give a duration such as 0s, 36h or 7d")))?;
            Some(Duration::from_secs(seconds))
        }
    };
    let repository = open(global, context)?;
    let report = gc::run(&repository, &GcOptions { grace, dry_run: args.dry_run }, context.monitor).map_err(full)?;
    for pack in &report.planned {
        context.output.object("pack", pack)?;
        let (dead, all) = (bytes(pack.dead_bytes), bytes(pack.bytes));
        let (fate, why) = match pack.fate {
            Fate::Remove => ("remove", format!("nothing of its {all} is needed")),
            Fate::Rewrite => ("rewrite", format!("{dead} of {all} dead")),
            Fate::Join => ("join", format!("one of many small packs; {dead} of {all} dead")),
        };
        context.output.line(&format!("{fate:8} {} {}: {why}", pack.kind, pack.id.short()))?;
    }
    for log in &report.log {
        context.output.object("log", log)?;
        let PlannedLog { system_id, first, last, files, before, .. } = log;
        context.output.line(&format!(
            "remove   {files} log files of cluster {system_id}, {first} to {last} ({}): every kept base backup begins at \
             {before} or after",
            bytes(log.bytes)
        ))?;
    }
    let mut sentence = if args.dry_run {
        format!("{} packs would be condemned", report.planned.len())
    } else {
        let (removed, written) = (bytes(report.bytes_removed), bytes(report.bytes_written));
        format!(
            "{} packs condemned, {} removed ({removed}), {} written ({written})",
            report.planned.len(),
            report.packs_removed,
            report.packs_written
        )
    };
    match (report.log.iter().map(|log| log.files).sum::<u64>(), args.dry_run) {
        (0, _) => {}
        (count, true) => sentence.push_str(&format!("; {count} log files would be removed")),
        (count, false) => sentence.push_str(&format!("; {count} log files removed")),
    }
    match (report.debris, args.dry_run) {
        (0, _) => {}
        (count, true) => sentence.push_str(&format!("; {count} unfinished files of killed processes would be removed")),
        (count, false) => sentence.push_str(&format!("; {count} unfinished files of killed processes removed")),
    }
    if let Some(until) = report.waiting_until {
        sentence.push_str(&format!("; the rest waits until {}: run gc again then", time(until)));
    }
    if let Some(why) = &report.waiting_for {
        sentence.push_str(&format!("; {why}"));
    }
    context.output.summary(&sentence, &report)?;
    Ok(Exit::Done)
}

/// Says what a gc needs room for.
fn full(error: RepoError) -> anyhow::Error {
    let why = "gc removes at once what holds nothing that is needed, but has to write what is still needed of other packs \
               before it removes those";
    match error {
        RepoError::Backend(BackendError::Full { .. }) => anyhow::Error::from(error).context(why),
        other => other.into(),
    }
}

pub fn rebuild(global: &Global, context: &Context<'_>) -> Result<Exit> {
    let repository = open(global, context)?;
    repository.rebuild_index(context.monitor)?;
    let stats = repository.index().stats()?;
    let sentence = format!("the index was made anew: {} chunks in {} frames", stats.chunks, stats.frames);
    context.output.summary(&sentence, stats)?;
    Ok(Exit::Done)
}

pub fn index_stats(global: &Global, context: &Context<'_>) -> Result<Exit> {
    let repository = open(global, context)?;
    let stats = repository.index().stats()?;
    context.output.line(&format!("data packs      {:>10}  {:>12}", stats.data_packs, bytes(stats.data_bytes)))?;
    context.output.line(&format!("metadata packs  {:>10}  {:>12}", stats.meta_packs, bytes(stats.meta_bytes)))?;
    context.output.line(&format!(
        "frames          {:>10}  {:>12}",
        stats.frames,
        format!("{} delta", stats.delta_frames)
    ))?;
    context.output.line(&format!("chunks          {:>10}", stats.chunks))?;
    context.output.summary("", stats)?;
    Ok(Exit::Done)
}

pub fn stats(global: &Global, context: &Context<'_>) -> Result<Exit> {
    let repository = open(global, context)?;
    let all = snapshots(&repository, context)?.found;
    let stats = repository.index().stats()?;
    let saved: u64 = all.iter().map(|info| info.snapshot.summary.bytes).sum();
    let stored = stats.data_bytes + stats.meta_bytes;
    let ratio = saved as f64 / stored.max(1) as f64;
    context.output.line(&format!("repository  {}", repository.backend().location()))?;
    context.output.line(&format!("id          {}", repository.config().id))?;
    context.output.line(&format!(
        "snapshots   {} ({} verified)",
        all.len(),
        all.iter().filter(|i| i.proof.is_some()).count()
    ))?;
    context.output.line(&format!("saved       {}", bytes(saved)))?;
    context.output.line(&format!("stored      {} (1 : {ratio:.1})", bytes(stored)))?;
    let log = list_all(repository.backend().as_ref(), Kind::Wal)?;
    let log_bytes: u64 = log.iter().map(|(_, len)| len).sum();
    if !log.is_empty() {
        context.output.line(&format!("log         {} files, {} stored", log.len(), bytes(log_bytes)))?;
    }
    let object = json!({
        "repository": repository.config().id, "snapshots": all.len(), "saved_bytes": saved, "stored_bytes": stored, "index": stats,
        "log_files": log.len(), "log_bytes": log_bytes,
    });
    context.output.summary("", object)?;
    Ok(Exit::Done)
}
