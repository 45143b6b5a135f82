//! `cairn platform sets`.

use std::collections::HashMap;
use std::io::Write;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::cli::args::Global;
use crate::cli::args::platform::{ReportFormat, SetsArgs};
use crate::cli::commands::{Context, open, select_set};
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::{self, bytes, time};
use crate::cli::report;
use crate::format::ObjectId;
use crate::format::codec::{escape, escape_path};
use crate::format::set::{Consistency, Status};
use crate::progress::Notice;
use crate::repo::proven::SetProof;
use crate::repo::sets::SetInfo;

/// How wide a report in a file is.
const USUAL_COLUMNS: usize = 80;

pub fn run(global: &Global, args: SetsArgs, context: &Context<'_>) -> Result<Exit> {
    let has_report = args.report.is_some() && args.output.is_none();
    if has_report && context.output.json && format(&args, context) != ReportFormat::Json {
        let text = "--json and such a report on standard output cannot be had together: add --output";
        return Err(Usage(text.into()).into());
    }
    let repository = open(global, context)?;
    let (mut all, damaged) = repository.readable_sets()?;
    let snapshots = repository.readable_snapshots()?;
    let proofs = snapshots.proven(&all);
    for record in damaged.into_iter().chain(snapshots.damaged_proofs) {
        let subject = format!("{} {}", record.kind, record.id);
        context.monitor.notice(Notice { subject, message: record.message() });
    }
    all.retain(|info| args.profile.as_ref().is_none_or(|profile| *profile == info.set.profile));
    match &args.report {
        Some(text) => write_report(&all, text, &proofs, &args, context),
        None => list(&all, &proofs, context),
    }
}

/// What drills have proven, by set.
type Proofs = HashMap<ObjectId, SetProof>;

fn list(all: &[SetInfo], proofs: &Proofs, context: &Context<'_>) -> Result<Exit> {
    if !all.is_empty() {
        context.output.line(&format!(
            "{:8}  {:25}  {:20}  {:16}  {:8}  {:6}  {:20}  {:>12}  {:>11}  {:>11}  {}",
            "ID", "TIME", "PROFILE", "HOST", "STATUS", "POINT", "PROVEN", "DRILL TOOK", "SIZE", "STORED", "COMPONENTS"
        ))?;
    }
    for info in all {
        let proof = proofs.get(&info.id);
        context.output.object("set", fields(info, proof))?;
        context.output.line(&line(info, proof))?;
    }
    context.output.summary(&format!("{} backup sets", all.len()), json!({ "sets": all.len() }))?;
    Ok(Exit::Done)
}

fn line(info: &SetInfo, proof: Option<&SetProof>) -> String {
    let set = &info.set;
    let day = |time: Timestamp| time.to_zoned_datetime(TimeZone::system()).date().to_string();
    let proven = proof.map_or("-".to_owned(), |proof| match (proof.last_different(), proof.proven) {
        (Some(found), _) => format!("{} {}", found.word().to_uppercase(), day(found.time)),
        (None, Some(since)) => day(since),
        (None, None) => "in part".to_owned(),
    });
    let took = proof.filter(|proof| !proof.components.is_empty());
    let took = took.map_or("-".to_owned(), |proof| report::duration(proof.milliseconds()));
    let point = match set.consistency {
        Consistency::OnePointInTime => "one",
        Consistency::Online => "online",
    };
    let component = |component: &crate::format::set::Component| match component.status {
        Status::Complete => escape(component.name.as_bytes()),
        status => format!("{} ({})", escape(component.name.as_bytes()), report::status(status)),
    };
    format!(
        "{:8}  {:25}  {:20}  {:16}  {:8}  {:6}  {:20}  {:>12}  {:>11}  {:>11}  {}",
        info.id.short(),
        time(set.time),
        escape(set.profile.as_bytes()),
        escape(set.host.as_bytes()),
        report::status(set.status),
        point,
        proven,
        took,
        bytes(set.bytes()),
        bytes(set.stored_bytes()),
        set.components.iter().map(component).collect::<Vec<_>>().join(", "),
    )
}

/// The set that is meant by an id prefix or `latest`.
pub fn meant<'s>(all: &'s [SetInfo], text: &str) -> Result<&'s SetInfo> {
    let missing = || Usage(format!("no backup set, or more than one, is meant by {text:?}: see `cairn platform sets`"));
    Ok(if text == "latest" { all.last() } else { select_set(all, text) }.ok_or_else(missing)?)
}

fn write_report(all: &[SetInfo], text: &str, proofs: &Proofs, args: &SetsArgs, context: &Context<'_>) -> Result<Exit> {
    let info = meant(all, text)?;
    let report = match format(args, context) {
        ReportFormat::Html => report::html(&info.id, &info.set, proofs.get(&info.id)),
        ReportFormat::Text => {
            let columns = if args.output.is_some() { USUAL_COLUMNS } else { report::terminal::columns() };
            report::terminal::text(&info.id, &info.set, proofs.get(&info.id), columns)
        }
        ReportFormat::Json => format!("{}\n", render::object("set", fields(info, proofs.get(&info.id)))?),
    };
    let Some(path) = &args.output else {
        std::io::stdout().write_all(report.as_bytes())?;
        // A stream of objects ends with a summary.
        context.output.object("summary", json!({ "set": info.id }))?;
        return Ok(Exit::Done);
    };
    std::fs::write(path, report).with_context(|| format!("cannot write the report to {}", escape_path(path)))?;
    let sentence = format!("the report of backup set {} is in {}", info.id.short(), escape_path(path));
    context.output.summary(&sentence, json!({ "set": info.id, "output": escape_path(path) }))?;
    Ok(Exit::Done)
}

/// The form that was asked for: with `--json` and no file, an object; else the page.
fn format(args: &SetsArgs, context: &Context<'_>) -> ReportFormat {
    let usual = if context.output.json && args.output.is_none() { ReportFormat::Json } else { ReportFormat::Html };
    args.format.unwrap_or(usual)
}

/// A set for programs.
fn fields(info: &SetInfo, proof: Option<&SetProof>) -> Value {
    json!({ "id": info.id, "set": info.set, "proof": proof })
}
