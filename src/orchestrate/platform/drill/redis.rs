//! Redis: what is saved of queues read through and counted; and, where the program is there, a server of its own that
//! gets it. Its own dump needs that server.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::format::set::{Component, Facts, Part, RedisFacts};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::drill::bench::{Bench, Finding, account, cannot_start, text};
use crate::orchestrate::platform::drill::plan::{COMPARE_REDIS, READ_REDIS, START_REDIS};
use crate::orchestrate::platform::profile::ScratchServer;
use crate::orchestrate::platform::restore::plan::part;
use crate::orchestrate::platform::restore::trees::read_failed;
use crate::orchestrate::platform::store::Role;
use crate::source::SourceError;
use crate::source::command::{Account, Background};
use crate::source::redis::encoding::{Decoder, Item};
use crate::source::redis::{Client, RedisSettings};
use crate::source::scratch::{end_server, owned_file};
use crate::source::wait::pause;

/// How often a server that reads its data is asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// Elements, by queue.
type Counts = BTreeMap<String, u64>;

/// Why what is saved cannot be looked at without a server.
pub fn trouble(held: &Component, server: &ScratchServer) -> Option<String> {
    let dump = part(&held.parts, Role::RDB).is_ok();
    cannot_start(server, None, "redis").filter(|_| dump)
}

pub fn drill(bench: &Bench<'_>, held: &Component) -> Result<Finding, OrchestrateError> {
    let Some(Facts::Redis(facts)) = &held.facts else {
        return Err(OrchestrateError::Unfit("the set says nothing of its Redis: see its report".to_owned()));
    };
    let profile = bench.executor.profile;
    let queues = part(&held.parts, Role::QUEUES)?;
    let purged = part(&held.parts, Role::PURGED).ok();
    let dump = part(&held.parts, Role::RDB).ok();
    let account = match cannot_start(&profile.drill.redis, None, "redis") {
        None => Some(account(&profile.drill.redis, None, "redis")?),
        Some(_) => None,
    };
    let directory = account.as_ref().map(|account| bench.scratch().directory("redis", Some(account))).transpose()?;
    let (queued, purged, saved) = bench.executor.step(READ_REDIS, None, || {
        let queued = read(bench, queues)?;
        let purged = purged.map(|part| read(bench, part)).transpose()?.unwrap_or_default();
        let saved =
            dump.zip(directory.as_deref()).map(|(dump, directory)| write(bench, dump, directory)).transpose()?;
        let elements: u64 = queued.values().chain(purged.values()).sum();
        Ok((format!("{elements} elements"), (queued, purged, saved)))
    })?;
    let mut differences = differ("read through", &profile.redis, &facts.queues, &queued);
    differences.extend(differ("purged, read through", &profile.redis, &facts.purged, &purged));
    let (Some(account), Some(directory)) = (account, directory) else {
        return bench.compare(COMPARE_REDIS, || Ok(Finding::of(seen(facts, "read through"), differences)));
    };
    let settings = settings(&profile.redis, &directory)?;
    let mut server = bench.executor.step(START_REDIS, None, || {
        let started = || start(bench, &account, &directory, &settings, saved.as_deref());
        let server = match &saved {
            Some(_) => bench.start_on(started, || on_nothing(bench, &account))?,
            None => started()?,
        };
        Ok((Client::connect(&settings)?.info()?.version, server))
    })?;
    let finding = bench.compare(COMPARE_REDIS, || {
        let mut client = Client::connect(&settings)?;
        let version = client.info()?.version;
        let how = match dump {
            Some(_) => "in the server's own dump",
            None => {
                client.push_back(bench.stream(COMPARE_REDIS, queues)?)?;
                "pushed into a server"
            }
        };
        let names: Vec<String> = facts.queues.keys().cloned().collect();
        let found = client.lengths(&names)?;
        differences.extend(differences_of(how, &facts.queues, &found));
        server.must_run()?;
        Ok(Finding::of(seen(facts, how), differences).with_version("redis", version))
    })?;
    end_server(server)?;
    Ok(finding)
}

fn seen(facts: &RedisFacts, how: &str) -> String {
    let elements = facts.queues.values().chain(facts.purged.values()).copied().fold(0, u64::saturating_add);
    format!("{elements} elements of {} queues {how}, as recorded", facts.queues.len())
}

/// Reads a stream through; elements by key.
fn read(bench: &Bench<'_>, part: &Part) -> Result<Counts, OrchestrateError> {
    let mut decoder = Decoder::new(bench.stream(READ_REDIS, part)?);
    let mut counts = Counts::new();
    loop {
        if bench.executor.monitor.interrupted() {
            return Err(OrchestrateError::Interrupted);
        }
        match decoder.next_item().map_err(read_failed)? {
            Item::KeyEnd(saved) => drop(counts.insert(saved.key, saved.elements)),
            Item::Key { .. } | Item::Element(_) => {}
            Item::End => return Ok(counts),
        }
    }
}

/// What differs between queues that were recorded, and the keys that hold their elements.
fn differ(how: &str, settings: &RedisSettings, recorded: &Counts, keys: &Counts) -> Vec<String> {
    let count = |queue: &String| settings.keys(queue).iter().filter_map(|key| keys.get(key)).sum();
    let found = recorded.keys().map(|queue| (queue.clone(), count(queue))).collect();
    differences_of(how, recorded, &found)
}

fn differences_of(how: &str, recorded: &Counts, found: &Counts) -> Vec<String> {
    let found = |queue: &String| found.get(queue).copied().unwrap_or_default();
    let differs = recorded.iter().filter(|(queue, count)| found(queue) != **count);
    let told = |(queue, count): (&String, &u64)| {
        format!("the queue {queue} has {} elements {how}, and {count} were recorded", found(queue))
    };
    differs.map(told).collect()
}

fn settings(platform: &RedisSettings, directory: &Path) -> Result<RedisSettings, SourceError> {
    text(directory)?;
    Ok(RedisSettings {
        socket: Some(directory.join("socket")),
        username: None,
        password_file: None,
        password_credential: None,
        password_env: None,
        ..platform.clone()
    })
}

/// Writes the server's own dump; the name of the file.
fn write(bench: &Bench<'_>, dump: &Part, directory: &Path) -> Result<String, OrchestrateError> {
    let mut name = "dump.rdb".to_owned();
    for root in bench.roots(dump)? {
        bench.write(READ_REDIS, dump, &root, directory)?;
        name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    }
    Ok(name)
}

/// A server that has nothing.
fn on_nothing(bench: &Bench<'_>, account: &Account) -> Result<Background, OrchestrateError> {
    let directory = bench.scratch().directory("empty", Some(account))?;
    start(bench, account, &directory, &settings(&bench.executor.profile.redis, &directory)?, None)
}

fn start(
    bench: &Bench<'_>,
    account: &Account,
    directory: &Path,
    settings: &RedisSettings,
    saved: Option<&str>,
) -> Result<Background, OrchestrateError> {
    let (here, name) = (text(directory)?, saved.unwrap_or("dump.rdb"));
    if [here, name].iter().any(|text| text.contains(['"', '\\', '\n'])) {
        return Err(OrchestrateError::Unfit("a path has characters that redis.conf cannot have".to_owned()));
    }
    let databases = settings.database.saturating_add(1).max(16);
    let content = format!(
        "port 0\nunixsocket \"{here}/socket\"\ndir \"{here}\"\ndbfilename \"{name}\"\nsave \"\"\nappendonly no\n\
         daemonize no\ndatabases {databases}\n"
    );
    owned_file(&directory.join("redis.conf"), &content, Some(account))?;
    let places = [("directory", here), ("configuration", here)];
    let mut server = bench.start(&bench.executor.profile.drill.redis, account, directory, &places)?;
    let queues: Vec<String> = settings.all_queues().cloned().collect();
    server.ready(&settings.shown(), bench.start_limit(), &bench.executor.stop(), |enough| {
        loop {
            match Client::connect(settings).and_then(|mut client| client.lengths(&queues)) {
                Ok(_) => return Ok(()),
                Err(SourceError::Server { .. }) => pause(AGAIN, enough)?,
                Err(error) => return Err(error),
            }
        }
    })?;
    Ok(server)
}
