//! `cairn snapshots`.

use std::collections::HashMap;

use anyhow::Result;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::cli::args::{Global, SnapshotsArgs};
use crate::cli::commands::{Context, open, snapshot_json, snapshots, tags};
use crate::cli::exit::Exit;
use crate::cli::render::{self, bytes, time};
use crate::format::codec::escape;
use crate::format::record::DrillOutcome;
use crate::orchestrate::select::parse_time;
use crate::repo::SnapshotInfo;
use crate::repo::proven::word;
use crate::repo::records::{DamagedSnapshot, Snapshots};

pub fn run(global: &Global, args: SnapshotsArgs, context: &Context<'_>) -> Result<Exit> {
    let wanted_tags = tags(&args.tag)?;
    let at = args.at.as_deref().map(|text| parse_time(text, &TimeZone::system())).transpose()?;
    let repository = open(global, context)?;
    context.interrupts.only_reading();
    let Snapshots { found: mut all, damaged, damaged_proofs, .. } = snapshots(&repository, context)?;
    all.retain(|info| {
        args.name.as_ref().is_none_or(|name| *name == info.snapshot.name)
            && wanted_tags.iter().all(|(key, value)| info.snapshot.tags.get(key) == Some(value))
            && at.is_none_or(|at| info.snapshot.time <= at)
    });
    if at.is_some() {
        // The newest of each name is the last of it.
        let last: HashMap<String, _> = all.iter().map(|info| (info.snapshot.name.clone(), info.id)).collect();
        all.retain(|info| last.get(&info.snapshot.name) == Some(&info.id));
    }
    if !all.is_empty() {
        context.output.line(&format!(
            "{:8}  {:25}  {:20}  {:16}  {:>11}  {:>11}  {:15}  {}",
            "ID", "TIME", "NAME", "HOST", "SIZE", "STORED", "VERIFIED", "PATHS AND TAGS"
        ))?;
    }
    for info in &all {
        context.output.object("snapshot", snapshot_json(info))?;
        context.output.line(&line(info))?;
    }
    // Whatever was asked for: it is not known that they do not fit.
    for DamagedSnapshot { id, name, time, message } in &damaged {
        let object = json!({ "kind": "snapshot", "id": id, "name": name, "time": time, "message": message });
        context.output.object("damaged", object)?;
        let name = name.as_ref().map_or_else(|| "-".to_owned(), |name| escape(name.as_bytes()));
        let made = time.map_or_else(|| "-".to_owned(), render::time);
        context.output.line(&format!("{:8}  {made:25}  {name:20}  CANNOT BE READ: run `cairn check`", id.short()))?;
    }
    for proof in &damaged_proofs {
        let object = json!({ "kind": "proof", "id": proof.id, "message": proof.message() });
        context.output.object("damaged", object)?;
    }
    let (count, unread) = (all.len(), damaged.len());
    let more = if unread > 0 { format!(", {unread} CANNOT BE READ") } else { String::new() };
    let summary = json!({ "snapshots": count, "damaged": unread + damaged_proofs.len() });
    context.output.summary(&format!("{count} snapshots{more}"), summary)?;
    Ok(Exit::Done)
}

fn line(info: &SnapshotInfo) -> String {
    let snapshot = &info.snapshot;
    let paths = snapshot.paths.iter().map(|path| escape(&path.0));
    let tags = snapshot.tags.iter().map(|(key, value)| format!("{key}={}", escape(value.as_bytes())));
    let mut last: Vec<String> = paths.chain(tags).collect();
    if snapshot.summary.unread > 0 {
        last.push(format!("({} unread)", snapshot.summary.unread));
    }
    let newest = info.proof.iter().chain(&info.difference).max_by_key(|proof| (proof.time, !proof.holds()));
    let verified = newest.map_or("-".to_owned(), |proof| {
        let how = match proof.drill.as_ref().map(|drill| drill.outcome) {
            None => String::new(),
            Some(DrillOutcome::Equal) => "drill ".to_owned(),
            Some(outcome) => format!("{} ", word(outcome).to_uppercase()),
        };
        format!("{how}{}", proof.time.to_zoned_datetime(TimeZone::system()).strftime("%m-%d"))
    });
    format!(
        "{:8}  {:25}  {:20}  {:16}  {:>11}  {:>11}  {:15}  {}",
        info.id.short(),
        time(snapshot.time),
        escape(snapshot.name.as_bytes()),
        escape(snapshot.host.as_bytes()),
        bytes(snapshot.summary.bytes),
        bytes(snapshot.summary.stored_bytes),
        verified,
        last.join(" "),
    )
}
