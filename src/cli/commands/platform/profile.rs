//! `cairn platform profile`, and how every command of the platform finds its profile.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::cli::args::platform::ProfileArgs;
use crate::cli::commands::Context;
use crate::cli::exit::{Exit, Usage};
use crate::orchestrate::platform::profile::{self, BUILT_IN, MAX_BYTES, Profile};

pub fn run(args: ProfileArgs, context: &Context<'_>) -> Result<Exit> {
    let profile = load(&args.profile)?;
    let text = profile.to_toml();
    context.output.line(text.trim_end())?;
    context.output.summary("", json!({ "name": profile.name, "toml": text }))?;
    Ok(Exit::Done)
}

/// The profile of this name, or in this file. A built-in name is never taken for a file: `./NAME` is one.
pub fn load(name: &OsStr) -> Result<Profile> {
    if let Some(profile) = name.to_str().and_then(profile::built_in) {
        return Ok(profile?);
    }
    let path = Path::new(name);
    let shown = path.display().to_string();
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let names = BUILT_IN.map(|(name, _)| name).join(", ");
            return Err(Usage(format!("there is no built-in profile and no file {shown:?}; built in: {names}")).into());
        }
        opened => opened.with_context(|| format!("cannot read the profile {shown}"))?,
    };
    let mut text = Vec::new();
    // One byte more than a profile may have is enough to know that it is too long.
    file.take(MAX_BYTES + 1).read_to_end(&mut text).with_context(|| format!("cannot read the profile {shown}"))?;
    Ok(profile::parse(&shown, &text)?)
}
