//! Recovery to a time: what a restored data directory is told, and what is asked of the server afterwards.
//!
//! The server ends recovery by itself at the target and begins a new timeline. It does so without hot standby: then no
//! setting has to be at least what it once was on the server whose log is replayed. Until all was compared it archives
//! nothing, so that the archive hears of a new timeline only if it stays.
//!
//! Invariants: nobody's settings are lost: ours are the last lines of `postgresql.auto.conf`, behind a mark, and go again
//! by it. No secret is in them, only where secrets are. What is recovered where log is archived begins a timeline of its
//! own: on one that was there it would write segments that are archived already, with other content.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::format::timeline::{Fork, history};
use crate::source::SourceError;
use crate::source::command::{Account, CommandSpec};
use crate::source::postgres::base::written;
use crate::source::postgres::files::{self, unfit};
use crate::source::postgres::{Cluster, PostgresSettings};

const SETTINGS: &str = "postgresql.auto.conf";
const REPLACED: &str = "postgresql.auto.conf.cairn";
/// Before version 12, settings of a recovery have a file of their own, which the server renames at its end.
const OWN_FILE: &str = "recovery.conf";
const OWN_FILE_AFTER: &str = "recovery.done";
const TRIAL: &str = "cairn-trial";
const MAX_OUTPUT: usize = 64 << 10;
/// How long it may take to get one file.
const FETCHED_WITHIN: Duration = Duration::from_secs(300);
const SIGNAL: &str = "recovery.signal";
const STANDBY: &str = "standby.signal";
const MARK: &str = "# Only for a recovery to a time: cairn removes this line and all that follow.";
/// A file of settings has at most so many bytes, and one of a timeline's history.
const MAX_SETTINGS: u64 = 4 << 20;
const MAX_HISTORY: u64 = 1 << 20;
/// What a running server is told besides: nothing of another purpose is to end or delay this recovery, and what the
/// server says goes where the service manager hears it.
const BESIDES: [(&str, &str); 3] = [("hot_standby", "off"), ("archive_command", ""), ("logging_collector", "off")];
const NOT_MEANT: [&str; 8] = [
    "recovery_target",
    "recovery_target_time",
    "recovery_target_name",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_end_command",
    "archive_cleanup_command",
    "primary_conninfo",
];

/// How far a recovery goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Every transaction that ended then or before.
    Time(Timestamp),
    /// No further than the base backup itself.
    Consistent,
}

/// Where a recovery goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How far.
    pub until: Until,
    /// Along this timeline; none for the one that the base backup is of.
    pub timeline: Option<u32>,
    /// Gets a file of the log: [`restore_command`].
    pub command: String,
}

/// Where a recovery has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The cluster's identifier.
    pub system_id: String,
    /// The timeline that begins there.
    pub timeline: u32,
    /// The one that it left.
    pub parent: u32,
    /// Where it left that.
    pub position: u64,
    /// When the last transaction ended that was replayed.
    pub last: Option<Timestamp>,
}

/// A command for the server's shell from a program and its arguments; the server puts the wanted file's name and place
/// at its end.
pub fn restore_command(argv: &[OsString]) -> Result<String, SourceError> {
    let mut command = "exec".to_owned();
    for argument in argv {
        let text = argument.to_str().filter(|text| !text.contains(['\n', '\r', '\0'])).ok_or_else(|| {
            let why = "a command for PostgreSQL must be UTF-8, in one line".to_owned();
            SourceError::Setting { setting: argument.to_string_lossy().into_owned(), why }
        })?;
        command.push_str(&format!(" '{}'", text.replace('\'', r"'\''").replace('%', "%%")));
    }
    Ok(command + " \"%f\" \"%p\"")
}

/// A command for a recovery that has all its log already.
pub const NOTHING: &str = "false";

/// Puts histories of timelines where a server looks that gets nothing from an archive: the timeline that it begins is to
/// be none of these.
pub fn put_histories(
    settings: &PostgresSettings,
    data: &Path,
    histories: &[(String, Vec<u8>)],
) -> Result<(), SourceError> {
    let account = settings.account()?;
    for (name, content) in histories {
        let place = data.join("pg_wal").join(name);
        if place.symlink_metadata().is_err() {
            written(&place, content, &account)?;
        }
    }
    Ok(())
}

/// Gets one file as the server will, and takes it away again: what is wrong with the key, the repository or the rights of
/// the server's account is known before anything is stopped.
pub fn try_fetch(
    settings: &PostgresSettings,
    data: &Path,
    argv: &[OsString],
    name: &str,
    stop: &dyn Fn() -> bool,
) -> Result<(), SourceError> {
    let place = data.join("pg_wal").join(TRIAL);
    let spec = CommandSpec::new(argv).arg(name).arg(&place).user(&settings.account()?).directory(data);
    spec.run(MAX_OUTPUT, FETCHED_WITHIN, stop)?.output()?;
    fs::remove_file(&place).map_err(SourceError::when("remove", &place))
}

/// A line of a file of settings.
fn line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\\', r"\\").replace('\'', "''"))
}

/// Tells a restored data directory, in which no server has worked yet, to recover to a time.
pub fn prepare_recovery(settings: &PostgresSettings, data: &Path, target: &Target) -> Result<(), SourceError> {
    let account = settings.account()?;
    if let Some(pid) = files::is_running(data)? {
        return Err(unfit(data, format!("process {pid} works on it; stop the server first")));
    }
    for other in [STANDBY, SIGNAL, OWN_FILE] {
        if data.join(other).symlink_metadata().is_ok() {
            return Err(unfit(data, format!("it has a {other}, so it is no primary's")));
        }
    }
    let major: u32 = version(data)?;
    let mut ours = line("restore_command", &target.command);
    match target.until {
        Until::Time(time) => {
            ours += &line("recovery_target_time", &time.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string());
            ours += &line("recovery_target_inclusive", "true");
        }
        Until::Consistent => ours += &line("recovery_target", "immediate"),
    }
    ours += &line("recovery_target_action", "promote");
    match target.timeline {
        Some(timeline) => ours += &line("recovery_target_timeline", &timeline.to_string()),
        None if major >= 12 => ours += &line("recovery_target_timeline", "current"),
        // It is what an older server does if it is not told anything, and knows no word for.
        None => {}
    }
    let mut besides: String = BESIDES.iter().map(|(name, value)| line(name, value)).collect();
    if major >= 12 {
        besides += &NOT_MEANT.iter().map(|name| line(name, "")).collect::<String>();
        besides += &line("recovery_min_apply_delay", "0");
        if major >= 15 {
            // It would ask for segments behind the end of the recovery, and a gap there would end it.
            besides += &line("recovery_prefetch", "off");
        }
        besides += &ours;
    }
    let before = small(&data.join(SETTINGS), MAX_SETTINGS)?.unwrap_or_default();
    let mut content = without_ours(&before).unwrap_or(&before).to_vec();
    if content.last().is_some_and(|last| *last != b'\n') {
        content.push(b'\n');
    }
    content.extend_from_slice(format!("{MARK}\n{besides}").as_bytes());
    replace(data, &content, &account)?;
    match major {
        12.. => written(&data.join(SIGNAL), b"", &account)?,
        _ => written(&data.join(OWN_FILE), ours.as_bytes(), &account)?,
    }
    flush(data)
}

/// Removes what [`prepare_recovery`] has told. To be called once the recovery has ended; a running server keeps what it
/// was told until it is started anew.
pub fn end_recovery(settings: &PostgresSettings, data: &Path) -> Result<(), SourceError> {
    for left in [SIGNAL, OWN_FILE] {
        if data.join(left).symlink_metadata().is_ok() {
            return Err(unfit(data, format!("its {left} is still there: the recovery has not ended")));
        }
    }
    let there = small(&data.join(SETTINGS), MAX_SETTINGS)?.unwrap_or_default();
    // `ALTER SYSTEM` writes the whole file anew, without comments.
    let rest = without_ours(&there).ok_or_else(|| {
        let names = BESIDES.iter().map(|(name, _)| *name).chain(["recovery_*", "restore_command"]).collect::<Vec<_>>();
        let what = format!(
            "something has rewritten it since the recovery began (ALTER SYSTEM?), so the mark of the settings that cairn put \
             there is gone, and with it what these were before: {}. A server that starts with them archives nothing. Where this \
             directory stays, remove them by hand, set archive_command anew, and restart the server",
            names.join(", ")
        );
        unfit(&data.join(SETTINGS), what)
    })?;
    replace(data, rest, &settings.account()?)?;
    match fs::remove_file(data.join(OWN_FILE_AFTER)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(SourceError::when("remove", &data.join(OWN_FILE_AFTER))(error));
        }
        _ => {}
    }
    flush(data)
}

/// Asks a server that has recovered where it ended.
pub fn recovered(settings: &PostgresSettings, data: &Path) -> Result<Recovered, SourceError> {
    let cluster = Cluster::connect(settings)?;
    let at = cluster.coordinates()?;
    let sql = "SELECT (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::int8";
    let row = cluster.one("ask for the last transaction that was replayed", sql)?;
    let last = cluster.value::<Option<i64>>(&row, 0)?.map(Timestamp::from_microsecond).transpose();
    let last = last.map_err(|_| cluster.unfit("a time that is none"))?;
    let path = data.join("pg_wal").join(format!("{:08X}.history", at.timeline));
    let content = small(&path, MAX_HISTORY)?
        .ok_or_else(|| unfit(&path, "it is not there, so no recovery has begun this timeline".to_owned()))?;
    let forks = history(at.timeline, &content).map_err(|error| unfit(&path, error.to_string()))?;
    let Fork { parent, position } = *forks.last().ok_or_else(|| unfit(&path, "it is empty".to_owned()))?;
    Ok(Recovered { system_id: at.system_id, timeline: at.timeline, parent, position, last })
}

fn version(data: &Path) -> Result<u32, SourceError> {
    let path = data.join("PG_VERSION");
    let text = small(&path, 64)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    text.parse().map_err(|_| unfit(&path, format!("it says {text:?}, which is no version that is known")))
}

/// What comes before our mark; nothing if that is not there.
fn without_ours(content: &[u8]) -> Option<&[u8]> {
    let mark = MARK.as_bytes();
    let begins = |at: usize| at == 0 || content[at - 1] == b'\n';
    let found = content.windows(mark.len()).enumerate().find(|(at, window)| *window == mark && begins(*at));
    found.map(|(at, _)| &content[..at])
}

fn small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, SourceError> {
    let file = match files::open_plain(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(SourceError::when("open", path)(error)),
    };
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).map_err(SourceError::when("read", path))?;
    match content.len() as u64 > limit {
        true => Err(unfit(path, format!("it has more than {limit} bytes"))),
        false => Ok(Some(content)),
    }
}

/// Replaces the file of settings as a whole.
fn replace(data: &Path, content: &[u8], account: &Account) -> Result<(), SourceError> {
    let (new, place) = (data.join(REPLACED), data.join(SETTINGS));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(SourceError::when("remove", &new)(error)),
        _ => {}
    }
    written(&new, content, account)?;
    fs::rename(&new, &place).map_err(SourceError::when("replace", &place))
}

fn flush(data: &Path) -> Result<(), SourceError> {
    let directory = File::open(data).map_err(SourceError::when("open", data))?;
    directory.sync_all().map_err(SourceError::when("flush", data))
}

#[cfg(test)]
mod tests {
    use super::{MARK, line, restore_command, without_ours};

    #[test]
    fn a_command_is_quoted_for_the_shell_and_for_the_file_of_settings() {
        let argv = ["/opt/it's/cairn", "--repo", "/a b/50%\\n"].map(Into::into);
        let command = restore_command(&argv).unwrap_or_default();
        assert_eq!(command, r#"exec '/opt/it'\''s/cairn' '--repo' '/a b/50%%\n' "%f" "%p""#);
        assert_eq!(line("a", r"'\"), "a = '''\\\\'\n");
        assert!(restore_command(&["a\nb".into()]).is_err());
    }

    #[test]
    fn settings_of_others_stay() {
        assert_eq!(without_ours(format!("a = 'b'\n{MARK}\nc").as_bytes()), Some(b"a = 'b'\n".as_slice()));
        assert_eq!(without_ours(b"a = 'b'\n"), None);
    }
}
