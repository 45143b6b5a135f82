//! `cairn platform restore --diff`: what would change of the configuration.

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use crate::cli::commands::Context;
use crate::cli::exit::Exit;
use crate::cli::render::{Output, visible};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::choose::Choice;
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::orchestrate::platform::restore::Options;
use crate::orchestrate::platform::restore::diff::{Change, Content, Difference, Shape, Told, differences};
use crate::orchestrate::platform::restore::plan::Look;
use crate::progress::Notice;
use crate::repo::{Repository, chain};

/// Shows each file that differs. Servers are not asked, and nobody is waited for: nothing is changed.
pub fn show(
    repository: &Repository,
    profile: &Profile,
    options: &Options,
    choice: &Choice,
    context: &Context<'_>,
) -> Result<Exit> {
    let output = context.output;
    let snapshots = repository.readable_snapshots()?.found;
    let stop = || context.monitor.interrupted();
    let look = Look { repository, profile, options, snapshots: &snapshots, mark: "", stop: &stop };
    let name = Component::Config.name();
    let found = choice.info.set.components.iter().find(|one| one.name == name);
    let found = found.ok_or_else(|| {
        let id = choice.info.id.short();
        anyhow!(OrchestrateError::Unfit(format!("backup set {id} holds no configuration: see its report")))
    })?;
    let totals = differences::<anyhow::Error>(&look, found, &mut |told| match told {
        Told::Difference(difference) => told_difference(difference, output),
        Told::Unread(path, error) => {
            context.monitor.notice(Notice { subject: path, message: chain(&error) });
            Ok(())
        }
    })?;
    let exit = if totals.unread > 0 { Exit::Unread } else { Exit::Done };
    let unread = if totals.unread > 0 { format!(", {} could not be compared", totals.unread) } else { String::new() };
    let sentence = format!(
        "nothing was changed: of the configuration in backup set {}, {} entries would come back, {} would change, {} are equal{unread}",
        choice.info.id.short(),
        totals.added,
        totals.changed,
        totals.equal
    );
    let mut summary = json!({ "set": choice.info.id, "exit": exit as u8 });
    if let (Some(summary), Value::Object(totals)) = (summary.as_object_mut(), serde_json::to_value(totals)?) {
        summary.extend(totals);
    }
    output.summary(&sentence, summary)?;
    Ok(exit)
}

fn told_difference(difference: &Difference, output: Output) -> Result<()> {
    output.object("difference", difference)?;
    let Difference { path, change, is, becomes, content } = difference;
    match (change, is) {
        (Change::Changed, Some(is)) => {
            output.line(&format!("changed  {path}"))?;
            for line in attributes(is, becomes) {
                output.line(&format!("         {line}"))?;
            }
        }
        _ => output.line(&format!("added    {path}: {}", in_words(becomes)))?,
    }
    match content {
        Content::Same => {}
        Content::Secret => output.line("         its content differs, and is not shown: it is a key")?,
        Content::Sums { is, becomes } => output.line(&format!("         BLAKE3: {is} -> {becomes}"))?,
        Content::Text { diff, .. } => {
            for line in diff {
                output.line(&format!("    {}", plain(line)))?;
            }
        }
    }
    Ok(())
}

/// A line of a file: a tab stays, since it may be what differs.
fn plain(line: &str) -> String {
    line.split('\t').map(visible).collect::<Vec<_>>().join("\t")
}

fn in_words(shape: &Shape) -> String {
    let Shape { kind, mode, user, group, bytes, target } = shape;
    match (bytes, target) {
        (_, Some(target)) => format!("{kind} to {target}"),
        (Some(bytes), _) => format!("{kind} of {bytes} bytes, mode {mode}, {user}:{group}"),
        _ => format!("{kind}, mode {mode}, {user}:{group}"),
    }
}

/// What differs besides the content.
fn attributes(is: &Shape, becomes: &Shape) -> Vec<String> {
    let of = |what: &str, is: &str, becomes: &str| (is != becomes).then(|| format!("{what}: {is} -> {becomes}"));
    let bytes = |shape: &Shape| shape.bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
    let target = |shape: &Shape| shape.target.clone().unwrap_or_default();
    let all = [
        of("kind", is.kind, becomes.kind),
        of("mode", &is.mode, &becomes.mode),
        of("user", &is.user, &becomes.user),
        of("group", &is.group, &becomes.group),
        of("bytes", &bytes(is), &bytes(becomes)),
        of("leads to", &target(is), &target(becomes)),
    ];
    all.into_iter().flatten().collect()
}
