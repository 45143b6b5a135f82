//! `cairn platform plan`.

use anyhow::Result;
use serde_json::json;

use crate::cli::args::platform::PlanArgs;
use crate::cli::commands::Context;
use crate::cli::commands::platform::asked;
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::Output;
use crate::format::codec::escape;
use crate::orchestrate::platform::discover::{Discovery, Finding, Note, State, Via, discover};
use crate::orchestrate::platform::files::Files;
use crate::orchestrate::platform::plan::{Mode, Plan, PlannedStep, Use, plan};

pub fn run(args: PlanArgs, context: &Context<'_>) -> Result<Exit> {
    let (profile, request) = asked(&args.profile, args.selection)?;
    if !args.root.is_dir() {
        // Otherwise a mistyped directory would look like a machine on which everything is absent.
        return Err(Usage(format!("--root {}: no such directory", args.root.display())).into());
    }
    let found = discover(&profile, &Files::beneath(&args.root));
    let plan = plan(&profile, found, &request).map_err(|error| Usage(error.to_string()))?;
    show_all(&plan, context.output)
}

/// Prints a plan and says that nothing was done.
pub fn show_all(plan: &Plan, output: Output) -> Result<Exit> {
    output.object("plan", plan)?;
    show(plan, output)?;
    let (present, absent, unreadable) = plan.discovery.counts();
    let sentence = format!(
        "{} steps; of the paths {present} are there, {absent} absent, {unreadable} unreadable; nothing was changed",
        plan.steps.len()
    );
    let counts = json!({ "steps": plan.steps.len(), "present": present, "absent": absent, "unreadable": unreadable });
    output.summary(&sentence, counts)?;
    Ok(Exit::Done)
}

fn show(plan: &Plan, output: Output) -> Result<()> {
    let mode = match plan.mode {
        Mode::Full => "full backup, one point in time",
        Mode::Online => "online backup, not one point in time",
    };
    output.line(&format!("{}: {mode}", escape(plan.profile.as_bytes())))?;
    output.line(&escape(plan.description.as_bytes()))?;
    let names: Vec<&str> = plan.components.iter().map(|component| component.name()).collect();
    output.line(&format!("captured: {}", names.join(", ")))?;
    for (component, why) in &plan.skipped {
        output.line(&format!("not captured: {}: {why}", component.name()))?;
    }
    output.line("\nSTEPS (! changes the platform)")?;
    for (at, step) in plan.steps.iter().enumerate() {
        show_step(at + 1, step, output)?;
    }
    output.line("\nAFTER A RESTORE (no part of the backup)")?;
    for (at, step) in plan.after_restore.iter().enumerate() {
        show_step(at + 1, step, output)?;
    }
    show_files(&plan.discovery, output)?;
    output.line("\nSETTINGS")?;
    for (key, value) in &plan.settings {
        let value = match value {
            serde_json::Value::Array(all) => all.iter().map(word).collect::<Vec<_>>().join(", "),
            value => word(value),
        };
        output.line(&format!("  {} = {value}", escape(key.as_bytes())))?;
    }
    Ok(())
}

/// A step with what it uses, and how it is undone.
pub fn show_step(number: usize, step: &PlannedStep, output: Output) -> Result<()> {
    let mark = if step.changes { '!' } else { ' ' };
    let only_if = step.only_if.as_ref().map_or_else(String::new, |option| format!(" [only with {option}]"));
    output.line(&format!("{number:3} {mark} {}{only_if}", escape(step.title.as_bytes())))?;
    for used in &step.uses {
        output.line(&format!("        {}", in_words(used)))?;
    }
    for undo in &step.undo {
        output.line(&format!("        undo: {}", in_words(undo)))?;
    }
    Ok(())
}

fn in_words(used: &Use) -> String {
    let text = match used {
        Use::Command { argv, user, environment } => {
            let variables: String = environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
            let user = user.as_ref().map_or_else(String::new, |user| format!("  (as {user})"));
            format!("$ {variables}{}{user}", argv.iter().map(|one| quoted(one)).collect::<Vec<_>>().join(" "))
        }
        Use::Request { method, url } => format!("{method} {url}"),
        Use::Query { text } | Use::Note { text } => text.clone(),
        Use::Path { path } => format!("path {path}"),
        Use::Address { address } => format!("at {address}"),
        Use::Queue { queue } => format!("queue {queue}"),
        Use::Limit { seconds } => format!("within {seconds} s"),
    };
    escape(text.as_bytes())
}

/// An argument as a shell would have to be given it; cairn gives it to none.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-*{}".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn show_files(found: &Discovery, output: Output) -> Result<()> {
    output.line("\nFILES")?;
    for (group, findings) in &found.groups {
        output.line(&format!("  {}", escape(group.as_bytes())))?;
        for finding in findings {
            output.line(&format!("    {}", line(finding)))?;
        }
    }
    output.line("\nKEYS AND CERTIFICATES")?;
    for key in &found.keys {
        let by = key.named_by.as_ref().map_or_else(
            || "listed in the profile".to_owned(),
            |by| format!("{} in {}:{}", escape(by.setting.as_bytes()), escape(&by.file.0), by.line),
        );
        output.line(&format!("    {}  <- {by}", line(&key.found)))?;
    }
    show_notes("WHAT COULD NOT BE KNOWN (it makes the configuration partial)", &found.gaps, output)?;
    show_notes("NOTES", &found.notes, output)
}

fn line(finding: &Finding) -> String {
    let state = match &finding.state {
        State::Present { kind, .. } if kind != "file" => format!("present ({kind})"),
        State::Present { .. } => "present".to_owned(),
        State::Absent => "absent".to_owned(),
        State::Unreadable { why } => format!("unreadable: {}", escape(why.as_bytes())),
    };
    let via = match &finding.via {
        None => String::new(),
        Some(Via::Glob(glob)) if glob.as_bytes() == finding.path.0 => String::new(),
        Some(Via::Glob(glob)) => format!("  <- {}", escape(glob.as_bytes())),
        Some(Via::Template(template)) => format!("  <- instance of {}", escape(&template.0)),
        Some(Via::Link(link)) => format!("  <- link {}", escape(&link.0)),
    };
    format!("{:10}  {}{via}", state, escape(&finding.path.0))
}

fn show_notes(heading: &str, notes: &[Note], output: Output) -> Result<()> {
    if notes.is_empty() {
        return Ok(());
    }
    output.line(&format!("\n{heading}"))?;
    for note in notes {
        let line = note.line.map_or_else(String::new, |line| format!(":{line}"));
        output.line(&format!("    {}{line}: {}", escape(&note.file.0), escape(note.text.as_bytes())))?;
    }
    Ok(())
}

fn word(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => escape(text.as_bytes()),
        value => escape(value.to_string().as_bytes()),
    }
}
