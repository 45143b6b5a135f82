//! `cairn platform requeue`.

use anyhow::Result;
use serde_json::json;

use crate::cli::args::Global;
use crate::cli::args::platform::RequeueArgs;
use crate::cli::commands::platform::profile;
use crate::cli::commands::platform::sets::meant;
use crate::cli::commands::{Context, open};
use crate::cli::exit::Exit;
use crate::format::codec::escape;
use crate::orchestrate::platform::requeue::requeue;
use crate::orchestrate::platform::store::Role;

pub fn run(global: &Global, args: RequeueArgs, context: &Context<'_>) -> Result<Exit> {
    let profile = profile::load(&args.profile.profile)?;
    let repository = open(global, context)?;
    let (sets, _) = repository.readable_sets()?;
    let info = meant(&sets, &args.set)?;
    let role = if args.all_queues { Role::QUEUES } else { Role::PURGED };
    let pushed = requeue(&repository, &profile, &info.set, role)?;
    for (key, elements) in &pushed {
        context.output.line(&format!("{elements:>10}  {}", escape(key.as_bytes())))?;
    }
    let elements: u64 = pushed.values().sum();
    let sentence = format!("{elements} elements are back in the queues; the same once more would push them twice");
    context.output.summary(&sentence, json!({ "set": info.id, "elements": elements, "queues": pushed }))?;
    Ok(Exit::Done)
}
