//! PostgreSQL: who is in a transaction, and whether its programs are there and fit the server.

use std::time::Duration;

use super::services::Units;
use super::{Check, LONG, Look, PATIENCE, Verdict, counted, few, shortened};
use crate::orchestrate::platform::profile::Component;
use crate::source::SourceError;
use crate::source::postgres::{
    Activity, Archiving, Cluster, Method, PostgresSettings, Session, Tool, Version, data_layout, is_running, tools,
};
use crate::source::wait;

const ADVICE: &str = "is PostgreSQL up, and the profile's [postgres] right?";

/// What the server says.
struct Seen {
    version: Version,
    superuser: bool,
    activity: Result<Activity, SourceError>,
    /// If its log is to be archived.
    archiving: Option<Archiving>,
}

/// What there is to be asked.
enum Server {
    Answers(Seen),
    /// It is stopped, and its files are to be saved: nothing else is needed of it.
    AtRest(Version),
    Silent(SourceError),
}

pub(super) fn look(look: &Look<'_>, units: Units) -> Vec<Check> {
    if !look.has(Component::Postgres) {
        return Vec::new();
    }
    let stop = || look.monitor.interrupted();
    let settings = &look.profile.postgres;
    let settings = PostgresSettings {
        connect_timeout_seconds: shortened(settings.connect_timeout_seconds),
        query_timeout_seconds: shortened(settings.query_timeout_seconds),
        ..settings.clone()
    };
    let server = server(&settings, &stop);
    let mut checks = Vec::new();
    if look.is_full() {
        checks.push(sessions(&server, units).of("postgres-sessions"));
    }
    checks.push(programs(&settings, &server, &stop).of("postgres-programs"));
    checks
}

fn server(settings: &PostgresSettings, stop: &dyn Fn() -> bool) -> Server {
    let asked = settings.clone();
    let what = format!("{} did not answer", settings.server());
    let seen = wait::attended(&what, PATIENCE * 2, stop, move || {
        let cluster = Cluster::connect(&asked)?;
        let (version, superuser) = (cluster.version()?, cluster.is_superuser()?);
        let archiving = asked.archive.enabled.then(|| cluster.archiving()).transpose()?;
        Ok(Seen { version, superuser, activity: cluster.activity(), archiving })
    });
    match seen.and_then(|seen: Result<Seen, SourceError>| seen) {
        Ok(seen) => Server::Answers(seen),
        Err(error) if settings.method == Method::Files => match at_rest(settings) {
            Some(version) => Server::AtRest(version),
            None => Server::Silent(error),
        },
        Err(error) => Server::Silent(error),
    }
}

/// The version of files on which no server works.
fn at_rest(settings: &PostgresSettings) -> Option<Version> {
    let layout = data_layout(settings).ok()?;
    let stopped = matches!(is_running(&layout.data), Ok(None));
    let major = layout.version.parse().ok().filter(|_| stopped)?;
    Some(Version { major, text: layout.version })
}

fn sessions(server: &Server, units: Units) -> Verdict {
    let seen = match server {
        Server::Answers(seen) => seen,
        Server::AtRest(_) => return Verdict::pass("the server is stopped"),
        Server::Silent(error) => return Verdict::of_error(error, ADVICE),
    };
    let activity = match &seen.activity {
        Ok(activity) => activity,
        Err(error) => return Verdict::of_error(error, ADVICE),
    };
    if !seen.superuser {
        let advice = "set postgres.user to a superuser";
        return Verdict::unknown("our role is no superuser, so sessions of others are hidden from it", advice);
    }
    if activity.prepared_transactions > 0 {
        let seen = format!(
            "{} neither committed nor rolled back",
            counted(activity.prepared_transactions, "prepared transaction")
        );
        return Verdict::fail(seen, "COMMIT PREPARED or ROLLBACK PREPARED each of pg_prepared_xacts");
    }
    let disturbed: Vec<String> =
        activity.busy.iter().filter(|session| !units.runs || session.transaction >= LONG).map(shown).collect();
    if !disturbed.is_empty() {
        let advice = "wait for their end, or end them: SELECT pg_terminate_backend(PID)";
        return Verdict::fail(few(&disturbed), advice);
    }
    let clients = counted(activity.clients, "client");
    Verdict::pass(match activity.busy.len() {
        0 => format!("{clients} besides us, none in a transaction"),
        busy => format!(
            "{clients} besides us, {busy} in a transaction for less than {} s; they end with the platform",
            LONG.as_secs()
        ),
    })
}

fn shown(session: &Session) -> String {
    let Session { pid, database, user, application, state, transaction, since: _ } = session;
    let application = if application.is_empty() { String::new() } else { format!(" ({application})") };
    let ago = match *transaction {
        Duration::ZERO => String::new(),
        time => format!(" for {} s", time.as_secs()),
    };
    format!("process {pid}, {user} in {database}{application}: {state}{ago}")
}

/// Why a base backup would wait for its log in vain.
fn archives_nothing(server: &Server) -> Option<Verdict> {
    let Server::Answers(Seen { archiving: Some(Archiving { mode, command, failing }), .. }) = server else {
        return None;
    };
    if mode == "off" || command.is_empty() {
        let advice = "set archive_mode and archive_command, or postgres.archive.enabled to false";
        return Some(Verdict::fail("its log is not archived, which a base backup waits for", advice));
    }
    failing.as_ref().map(|what| {
        let advice = "see the server's log, and `cairn wal status`: a base backup waits for its log";
        Verdict::fail(format!("archive_command last failed for {what}"), advice)
    })
}

fn programs(settings: &PostgresSettings, server: &Server, stop: &dyn Fn() -> bool) -> Verdict {
    let (version, superuser) = match server {
        Server::Answers(seen) => (&seen.version, seen.superuser),
        Server::AtRest(version) => (version, true),
        Server::Silent(error) => return Verdict::of_error(error, ADVICE),
    };
    if !superuser {
        let advice = "set postgres.user to a superuser";
        return Verdict::fail(format!("{:?} is no superuser, and only one may read everything", settings.user), advice);
    }
    if settings.method == Method::Base
        && let Some(verdict) = archives_nothing(server)
    {
        return verdict;
    }
    let needed: &[&str] = match settings.method {
        Method::Dump => &["pg_dump", "pg_dumpall"],
        Method::Files => &["pg_controldata"],
        Method::Base => &[],
    };
    let found: Vec<Tool> = tools(settings, stop).into_iter().filter(|tool| needed.contains(&tool.name)).collect();
    let unfit: Vec<String> = found.iter().filter_map(|tool| tool.unfit_for(version)).collect();
    if !unfit.is_empty() {
        return Verdict::fail(few(&unfit), "set postgres.bin-directory to the server's own programs");
    }
    let mut seen = vec![format!("server {}", version.text)];
    let version_of = |tool: &Tool| tool.version.as_ref().map_or_else(|_| String::new(), |version| version.text.clone());
    seen.extend(found.iter().map(|tool| format!("{} {}", tool.name, version_of(tool))));
    if needed.is_empty() {
        seen.push("its method needs no program".to_owned());
    }
    seen.extend(found.iter().find_map(|tool| tool.advice_for(version)));
    Verdict::pass(seen.join("; "))
}
