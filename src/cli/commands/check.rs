//! `cairn check` and `verify`.

use anyhow::Result;
use serde_json::json;

use crate::cli::args::{CheckArgs, Global, VerifyArgs};
use crate::cli::commands::{Context, open, select_one, snapshots};
use crate::cli::exit::{self, Exit, Usage};
use crate::cli::render::bytes;
use crate::repo::check::CheckOptions;
use crate::repo::{RepoError, SnapshotInfo};

pub fn check(global: &Global, args: CheckArgs, context: &Context<'_>) -> Result<Exit> {
    let percent = args.sample.unwrap_or(100.0);
    if !(percent > 0.0 && percent <= 100.0) {
        return Err(Usage(format!("--sample {percent}: give a percentage above 0 and up to 100")).into());
    }
    let repository = open(global, context)?;
    let options = CheckOptions { read_data_percent: args.read_data.then_some(percent) };
    let report = repository.check(&options, context.monitor)?;
    for problem in &report.problems {
        context.output.object("problem", problem)?;
        context.output.line(&format!("{}: {}", problem.subject, problem.message))?;
    }
    let read = if args.read_data {
        let log =
            if report.log_files_read > 0 { format!(", {} log files", report.log_files_read) } else { String::new() };
        format!(", {} packs{log} and {} read back", report.packs_read, bytes(report.bytes_read))
    } else {
        String::new()
    };
    let debris = if report.debris > 0 {
        format!(", {} pieces of debris (gc removes them)", report.debris)
    } else {
        String::new()
    };
    let count = report.problems.len();
    let log = if report.log_files > 0 { format!(", {} log files", report.log_files) } else { String::new() };
    let sentence = format!(
        "{} snapshots, {} packs, {} chunks{log} checked{read}{debris}: {}",
        report.snapshots,
        report.packs,
        report.chunks,
        if count == 0 { "no problems".to_owned() } else { format!("{count} PROBLEMS") },
    );
    context.output.summary(&sentence, &report)?;
    if count > 0 {
        return Err(anyhow::anyhow!(
            "{count} problems were found; what does not need the objects named still restores"
        ));
    }
    Ok(Exit::Done)
}

pub fn verify(global: &Global, args: VerifyArgs, context: &Context<'_>) -> Result<Exit> {
    let repository = open(global, context)?;
    let all = snapshots(&repository, context)?;
    let chosen: Vec<&SnapshotInfo> = if args.all {
        all.found.iter().collect()
    } else {
        args.snap.iter().map(|text| select_one(&all, text, context)).collect::<Result<_, _>>()?
    };
    let mut failed = 0;
    for damaged in all.damaged.iter().filter(|_| args.all) {
        failed += 1;
        context.output.object("problem", json!({ "snapshot": damaged.id, "message": damaged.message }))?;
        context.output.line(&format!("snapshot {} NOT verified: {}", damaged.id.short(), damaged.message))?;
    }
    let mut verified = 0;
    for info in &chosen {
        match repository.verify(info, context.monitor) {
            Ok(proof) => {
                verified += 1;
                let sentence = format!("snapshot {} verified: {}", info.id.short(), bytes(proof.bytes));
                context.output.line(&sentence)?;
                context.output.object("proof", &proof)?;
            }
            Err(error @ RepoError::Interrupted) => return Err(error.into()),
            Err(error) => {
                failed += 1;
                let message = exit::message(&error.into());
                context.output.object("problem", json!({ "snapshot": info.id, "message": message }))?;
                context.output.line(&format!("snapshot {} NOT verified: {message}", info.id.short()))?;
            }
        }
    }
    let sentence = format!("{verified} snapshots verified, {failed} failed");
    context.output.summary(&sentence, json!({ "verified": verified, "failed": failed }))?;
    if failed > 0 {
        return Err(anyhow::anyhow!("{failed} snapshots could not be verified"));
    }
    Ok(Exit::Done)
}
