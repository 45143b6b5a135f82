//! `cairn platform sets`.

use std::io::Write;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::cli::args::Global;
use crate::cli::args::platform::SetsArgs;
use crate::cli::commands::{Context, open, select_set};
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::{bytes, time};
use crate::cli::report;
use crate::format::codec::escape;
use crate::format::set::{Consistency, Status};
use crate::progress::Notice;
use crate::repo::sets::SetInfo;

pub fn run(global: &Global, args: SetsArgs, context: &Context<'_>) -> Result<Exit> {
    if args.report.is_some() && args.output.is_none() && context.output.json {
        return Err(Usage("--json and a report on standard output cannot be had together: add --output".into()).into());
    }
    let repository = open(global, context)?;
    let (mut all, damaged) = repository.readable_sets()?;
    for record in damaged {
        let subject = format!("{} {}", record.kind, record.id);
        context.monitor.notice(Notice { subject, message: record.message() });
    }
    all.retain(|info| args.profile.as_ref().is_none_or(|profile| *profile == info.set.profile));
    match &args.report {
        Some(text) => write_report(&all, text, &args, context),
        None => list(&all, context),
    }
}

fn list(all: &[SetInfo], context: &Context<'_>) -> Result<Exit> {
    if !all.is_empty() {
        context.output.line(&format!(
            "{:8}  {:25}  {:20}  {:16}  {:8}  {:6}  {:>11}  {:>11}  {}",
            "ID", "TIME", "PROFILE", "HOST", "STATUS", "POINT", "SIZE", "STORED", "COMPONENTS"
        ))?;
    }
    for info in all {
        context.output.object("set", json!({ "id": info.id, "set": info.set }))?;
        context.output.line(&line(info))?;
    }
    context.output.summary(&format!("{} backup sets", all.len()), json!({ "sets": all.len() }))?;
    Ok(Exit::Done)
}

fn line(info: &SetInfo) -> String {
    let set = &info.set;
    let point = match set.consistency {
        Consistency::OnePointInTime => "one",
        Consistency::Online => "online",
    };
    let component = |component: &crate::format::set::Component| match component.status {
        Status::Complete => escape(component.name.as_bytes()),
        status => format!("{} ({})", escape(component.name.as_bytes()), report::status(status)),
    };
    format!(
        "{:8}  {:25}  {:20}  {:16}  {:8}  {:6}  {:>11}  {:>11}  {}",
        info.id.short(),
        time(set.time),
        escape(set.profile.as_bytes()),
        escape(set.host.as_bytes()),
        report::status(set.status),
        point,
        bytes(set.bytes()),
        bytes(set.stored_bytes()),
        set.components.iter().map(component).collect::<Vec<_>>().join(", "),
    )
}

fn write_report(all: &[SetInfo], text: &str, args: &SetsArgs, context: &Context<'_>) -> Result<Exit> {
    let missing = || Usage(format!("no backup set, or more than one, is meant by {text:?}: see `cairn platform sets`"));
    let info = if text == "latest" { all.last() } else { select_set(all, text) }.ok_or_else(missing)?;
    let page = report::html(&info.id, &info.set);
    let Some(path) = &args.output else {
        std::io::stdout().write_all(page.as_bytes())?;
        return Ok(Exit::Done);
    };
    std::fs::write(path, page).with_context(|| format!("cannot write the report to {}", path.display()))?;
    let sentence = format!("the report of backup set {} is in {}", info.id.short(), path.display());
    context.output.summary(&sentence, json!({ "set": info.id, "output": path.display().to_string() }))?;
    Ok(Exit::Done)
}
