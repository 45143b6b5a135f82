//! `cairn platform reindex`, `migrate` and `failed-packages`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use unicode_width::UnicodeWidthStr;

use crate::cli::args::platform::{FailedPackagesArgs, MigrateArgs, ReindexArgs};
use crate::cli::commands::Context;
use crate::cli::commands::platform::{lock, profile, undo_first, watch};
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::{Output, time, visible};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::after::failed_packages;
use crate::orchestrate::platform::after::migrate::{self, Started, UNIT, Worker};
use crate::orchestrate::platform::after::record::{Ended, Files, Record, State};
use crate::orchestrate::platform::after::reindex::{self, Reindexed};
use crate::orchestrate::platform::state::StateDir;
use crate::source::postgres::Table;
use crate::source::wait;

/// So many of a migration's last lines are told.
const LAST_LINES: usize = 20;

pub fn reindex(args: ReindexArgs, context: &Context<'_>) -> Result<Exit> {
    let profile = profile::load(&args.profile.profile)?;
    let indices = reindex::wanted(&profile, &args.only).map_err(Usage)?;
    let (state, _lock) = lock(&profile, args.wait, context)?;
    let live = watch(context)?;
    // A stop has to be waited for: the program that runs is ended first, and what was done is told.
    undo_first(context)?;
    let ended = reindex::reindex(&state, &profile, &indices, &live);
    live.finish("");
    let ended = ended?;
    for one in &ended {
        context.output.object("index", one)?;
        context.output.line(&index_line(one))?;
    }
    let count = |state| ended.iter().filter(|one| one.state == state).count();
    let (done, failed) = (count(reindex::State::Done), count(reindex::State::Failed));
    let exit = match failed {
        _ if done + failed < ended.len() => Exit::Interrupted,
        0 => Exit::Done,
        _ => Exit::Failed,
    };
    let sentence = format!("{done} of {} indices are filled from PostgreSQL; {failed} failed", ended.len());
    context.output.summary(&sentence, json!({ "exit": exit as u8, "done": done, "failed": failed }))?;
    Ok(exit)
}

fn index_line(one: &Reindexed) -> String {
    let seconds = one.milliseconds as f64 / 1000.0;
    format!("{:<11} {:20} {seconds:>8.1} s  {}", one.state.word(), visible(&one.index), visible(&one.detail))
}

pub fn migrate(args: MigrateArgs, context: &Context<'_>) -> Result<Exit> {
    let profile = profile::load(&args.profile.profile)?;
    let state = StateDir::open(&profile.state.directory)?;
    let files = Files::of(&state);
    let monitor = context.monitor;
    let stop = || monitor.interrupted();
    if let Some(id) = &args.worker {
        context.interrupts.undo_first();
        let record = migrate::work(&state, &profile, id, &stop)?;
        return Ok(exit_of(record.ended.as_ref()));
    }
    if args.status {
        return status(&files, context.output);
    }
    if args.watch {
        return watch_log(&files, &stop, context.output);
    }
    let program = std::env::current_exe().context("cannot find out where this program is")?;
    let worker = Worker { program: &program, arguments: &["platform", "migrate"] };
    match migrate::start(&state, &profile, worker, Duration::from_secs(args.wait), &stop)? {
        Started::Begun(record) if record.ended.is_some() => status(&files, context.output),
        Started::Begun(record) => tell_running("the migration has begun", &record, context.output),
        Started::Already(record) => tell_running("a migration runs already", &record, context.output),
    }
}

fn tell_running(what: &str, record: &Record, output: Output) -> Result<Exit> {
    let since = time(record.began);
    let sentence = format!(
        "{what} (process {}, since {since}); it goes on without this session; `cairn platform migrate --watch` shows it",
        record.process
    );
    output.summary(&sentence, json!({ "state": State::Running, "record": record, "unit": UNIT }))?;
    Ok(Exit::Done)
}

/// 0 for a program that ended well and said nothing, 3 for one that ended well and said something, 1 for all others.
fn exit_of(ended: Option<&Ended>) -> Exit {
    match ended {
        Some(ended) if ended.is_success() => Exit::Done,
        Some(Ended { exit_status: Some(0), .. }) => Exit::Unread,
        _ => Exit::Failed,
    }
}

fn status(files: &Files<'_>, output: Output) -> Result<Exit> {
    let (state, record) = files.look()?;
    let lines = files.last_lines(LAST_LINES)?;
    for line in &lines {
        output.line(&visible(line))?;
    }
    tell(state, record.as_ref(), &lines, output)
}

fn tell(state: State, record: Option<&Record>, lines: &[String], output: Output) -> Result<Exit> {
    let ended = record.and_then(|record| record.ended.as_ref());
    let (exit, sentence) = match (state, record, ended) {
        (State::Running, Some(record), _) => return tell_with(record, lines, output),
        (State::Ended, Some(_), Some(ended)) => (exit_of(Some(ended)), in_words(ended)),
        (State::None, ..) => (Exit::Done, "no migration was started yet".to_owned()),
        _ => (
            Exit::Failed,
            "the migration was cut off; run `cairn platform migrate` again, which does no harm".to_owned(),
        ),
    };
    let sentence = visible(&sentence);
    if exit == Exit::Failed {
        output.error(&sentence, exit as u8);
    }
    let note = if exit == Exit::Failed { "" } else { sentence.as_str() };
    let summary = json!({ "state": state, "record": record, "exit": exit as u8, "last_lines": lines });
    output.summary(note, summary)?;
    Ok(exit)
}

fn tell_with(record: &Record, lines: &[String], output: Output) -> Result<Exit> {
    let sentence = format!("the migration runs (process {}, since {})", record.process, time(record.began));
    let summary = json!({ "state": State::Running, "record": record, "exit": 0, "last_lines": lines });
    output.summary(&sentence, summary)?;
    Ok(Exit::Done)
}

fn in_words(ended: &Ended) -> String {
    let at = time(ended.time);
    match ended.exit_status {
        Some(0) if ended.lines == 0 => format!("the migration ended at {at}, without a message: all is well"),
        Some(0) => format!(
            "the migration ended at {at} with status 0, and it said something ({} lines): read it, since no message \
             means success",
            ended.lines
        ),
        _ => format!("the migration failed at {at}: {}", ended.how),
    }
}

/// Shows the log from its beginning until the migration ends.
fn watch_log(files: &Files<'_>, stop: &dyn Fn() -> bool, output: Output) -> Result<Exit> {
    let (mut offset, mut begun) = (0, Vec::new());
    loop {
        // Looked at before the log is read: what was written until then is read below.
        let (state, record) = files.look()?;
        loop {
            let some = files.log_from(offset)?;
            if some.is_empty() {
                break;
            }
            offset += some.len() as u64;
            begun.extend(some);
            while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = begun.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                output.object("line", json!({ "line": line }))?;
                output.line(&visible(&line))?;
            }
        }
        if state != State::Running {
            let lines = files.last_lines(LAST_LINES)?;
            return tell(state, record.as_ref(), &lines, output);
        }
        if wait::pause(wait::INTERVAL, stop).is_err() {
            output.note("the migration goes on; `cairn platform migrate --watch` shows it again");
            return Err(OrchestrateError::Interrupted.into());
        }
    }
}

pub fn failed_packages(args: FailedPackagesArgs, context: &Context<'_>) -> Result<Exit> {
    if args.csv && context.output.json {
        return Err(Usage("--csv and --json cannot be had together".to_owned()).into());
    }
    let profile = profile::load(&args.profile.profile)?;
    context.interrupts.only_reading();
    let table = failed_packages::failed_packages(&profile, &|| context.monitor.interrupted())?;
    match args.csv {
        true => show_csv(&table, context.output)?,
        false => show_table(&table, context.output)?,
    }
    let rows = table.rows.len();
    let exit = if rows == 0 { Exit::Done } else { Exit::Unread };
    let sentence = match (rows, table.has_more) {
        (0, _) => "every package was ingested, or waits for it".to_owned(),
        (_, true) => format!("{rows} packages were not ingested, and there are more that are not shown"),
        (_, false) => format!("{rows} packages were not ingested; decide which of them to ingest again"),
    };
    context.output.summary(&sentence, json!({ "packages": rows, "has_more": table.has_more, "exit": exit as u8 }))?;
    Ok(exit)
}

fn show_csv(table: &Table, output: Output) -> Result<()> {
    output.line(&csv_line(table.columns.iter().map(|name| Some(name.as_str()))))?;
    table.rows.iter().try_for_each(|row| output.line(&csv_line(row.iter().map(Option::as_deref))))
}

/// A record of RFC 4180. As PostgreSQL's own CSV has it, NULL is a field of nothing, and a text of nothing is in quotes.
fn csv_line<'t>(fields: impl Iterator<Item = Option<&'t str>>) -> String {
    let quoted = |field: Option<&str>| match field {
        None => String::new(),
        Some(text) if text.is_empty() || text.contains([',', '"', '\n', '\r', ' ', '\t']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Some(text) => text.to_owned(),
    };
    fields.map(quoted).collect::<Vec<_>>().join(",")
}

fn show_table(table: &Table, output: Output) -> Result<()> {
    let shown: Vec<Vec<String>> = table
        .rows
        .iter()
        .map(|row| row.iter().map(|value| value.as_deref().map_or("-".to_owned(), visible)).collect())
        .collect();
    let names: Vec<String> = table.columns.iter().map(|name| visible(&name.to_uppercase())).collect();
    let width = |at: usize| {
        let cells = shown.iter().filter_map(|row| row.get(at)).chain(names.get(at));
        cells.map(|cell| cell.width()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| {
            let padding = width.saturating_sub(cell.width());
            format!("{cell}{:padding$}", "")
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    if !shown.is_empty() {
        output.line(&line(&names))?;
    }
    for (row, cells) in table.rows.iter().zip(&shown) {
        let row: serde_json::Map<String, serde_json::Value> =
            table.columns.iter().cloned().zip(row.iter().map(|value| json!(value))).collect();
        output.object("package", json!({ "row": row }))?;
        output.line(&line(cells))?;
    }
    Ok(())
}
