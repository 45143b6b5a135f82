//! `cairn key`.

use anyhow::Result;
use serde_json::json;

use crate::cli::args::{Global, KeyCommand};
use crate::cli::commands::{Context, open};
use crate::cli::exit::Exit;
use crate::cli::settings;
use crate::format::codec::escape;
use crate::format::key::PasswordCost;

pub fn run(global: &Global, command: KeyCommand, context: &Context<'_>) -> Result<Exit> {
    let output = &context.output;
    let repository = open(global, context)?;
    match command {
        KeyCommand::Add(args) => {
            let credential = settings::new_credential(&args, context)?;
            let id = repository.add_key(&credential, args.label, PasswordCost::DEFAULT)?;
            output.summary(&format!("added key {}", id.short()), json!({ "key": id }))?;
        }
        KeyCommand::List => {
            let keys = repository.list_keys()?;
            for key in &keys {
                let label = escape(key.label.as_bytes());
                output.line(&format!(
                    "{}  {:8}  {}  {label}",
                    key.id.short(),
                    key.method,
                    escape(key.created.as_bytes())
                ))?;
                let object = json!({ "id": key.id, "method": key.method, "created": key.created, "label": key.label });
                output.object("key", object)?;
            }
            output.summary("", json!({ "keys": keys.len() }))?;
        }
        KeyCommand::Remove { id } => {
            let removed = repository.remove_key(&id)?;
            output.summary(&format!("removed key {}", removed.short()), json!({ "key": removed }))?;
        }
        KeyCommand::Passwd(args) => {
            let old = settings::credential(global, context, false)?;
            let new = settings::new_credential(&args, context)?;
            let id = repository.change_key(&old, &new, PasswordCost::DEFAULT)?;
            output.summary(&format!("replaced by key {}", id.short()), json!({ "key": id }))?;
        }
    }
    Ok(Exit::Done)
}
