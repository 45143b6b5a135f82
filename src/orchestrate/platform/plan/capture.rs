//! The steps that capture a component.

use super::steps::stop_unit;
use super::{Mode, PlannedStep, Use};
use crate::format::codec::escape_path;
use crate::orchestrate::platform::discover::Discovery;
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::source::postgres::Method;

/// The steps of a component.
pub fn steps(profile: &Profile, component: Component, mode: Mode, discovery: &Discovery) -> Vec<PlannedStep> {
    let steps = match component {
        Component::Config => vec![config(discovery)],
        Component::Postgres => postgres(profile),
        Component::Elasticsearch => elasticsearch(profile),
        Component::Neo4j => neo4j(profile, mode),
        Component::Redis => vec![redis(profile)],
    };
    steps.into_iter().map(|step| PlannedStep { component: Some(component), ..step }).collect()
}

/// The units of servers that are stopped for their capture, in that order.
pub fn stopped_units(profile: &Profile, components: &[Component]) -> Vec<String> {
    let mut units = Vec::new();
    if components.contains(&Component::Postgres) && profile.postgres.method == Method::Files {
        units.push(profile.postgres.service.clone());
    }
    if components.contains(&Component::Neo4j) {
        units.push(profile.neo4j.service.clone());
    }
    units
}

/// PostgreSQL's socket.
pub fn postgres_address(profile: &Profile) -> String {
    let postgres = &profile.postgres;
    format!("{}/.s.PGSQL.{}", postgres.socket_directory.display(), postgres.port)
}

fn step(id: &str, title: &str, uses: Vec<Use>) -> PlannedStep {
    PlannedStep { id: id.to_owned(), title: title.to_owned(), uses, ..PlannedStep::default() }
}

fn config(discovery: &Discovery) -> PlannedStep {
    let (present, absent, unreadable) = discovery.counts();
    let title = format!("save configuration and keys: {present} there, {absent} absent, {unreadable} unreadable");
    step("capture-config", &title, discovery.roots().iter().map(|path| Use::path(escape_path(path))).collect())
}

fn postgres(profile: &Profile) -> Vec<PlannedStep> {
    let settings = &profile.postgres;
    let program = |name: &str, more: &[&str]| {
        let path = settings.bin_directory.join(name).display().to_string();
        let (user, socket, port) = (&settings.user, settings.socket_directory.display(), settings.port);
        let given = [path, "--no-password".to_owned(), "--username".to_owned(), user.clone(), "--host".to_owned()];
        let mut argv = given.to_vec();
        argv.extend([socket.to_string(), "--port".to_owned(), port.to_string()]);
        argv.extend(more.iter().map(|word| (*word).to_owned()));
        Use::Command { argv, user: Some(user.clone()), environment: Default::default() }
    };
    let directories = settings.data_directories.iter().map(|path| Use::path(path.display()));
    match settings.method {
        Method::Dump => vec![step(
            "capture-postgres",
            "dump PostgreSQL: globals, then each database in a snapshot of its own, with rows and checksums of tables",
            vec![
                program("pg_dumpall", &["--globals-only", "--database", &settings.maintenance_database]),
                program("pg_dump", &["--format=plain", "--create", "--snapshot={snapshot}", "--dbname", "{database}"]),
            ],
        )],
        Method::Base => vec![step(
            "capture-postgres",
            "copy PostgreSQL while it runs, with the write-ahead log that makes the copy one point in time",
            vec![program("pg_basebackup", &[]), Use::limit(settings.wal_timeout_seconds)],
        )],
        Method::Files => vec![
            stop_unit(profile, "stop-postgres".to_owned(), "stop PostgreSQL, and prove it", &settings.service),
            step("capture-postgres", "save the data directory and tablespaces of PostgreSQL", directories.collect()),
        ],
    }
}

fn elasticsearch(profile: &Profile) -> Vec<PlannedStep> {
    let settings = &profile.elasticsearch;
    let url = settings.url.trim_end_matches('/');
    let repository = format!("{url}/_snapshot/{}", settings.repository);
    let request = |method: &str, url: String| Use::Request { method: method.to_owned(), url };
    let location = || Use::path(settings.location.display());
    let snapshot = format!("{repository}/snapshot-YYYYMMDDHHMM");
    let mut read_only = step(
        "seal-elasticsearch",
        "make the snapshot repository read-only while it is copied",
        vec![request("PUT", repository.clone())],
    );
    read_only.changes = true;
    read_only.undo = vec![Use::note("make it writable again"), request("PUT", repository.clone())];
    let mut configure = step(
        "configure-elasticsearch",
        "allow the directory in path.repo, keeping the rest of the file, and start Elasticsearch anew",
        vec![
            Use::path(settings.configuration_file.display()),
            location(),
            Use::command([profile.systemd.systemctl.as_str(), "stop", settings.service.as_str()]),
            Use::command([profile.systemd.systemctl.as_str(), "start", settings.service.as_str()]),
            Use::limit(settings.health_timeout_seconds),
        ],
    );
    configure.only_if = Some("--configure-path-repo".to_owned());
    configure.changes = true;
    configure.undo = vec![Use::note("if the backup fails: the file as it was, and Elasticsearch started anew")];
    let mut register = step(
        "register-elasticsearch",
        "check the directory, its owner and path.repo; register the snapshot repository if it is not",
        vec![
            location(),
            Use::note(format!("owner {}", settings.owner)),
            Use::path(settings.configuration_file.display()),
            request("GET", format!("{url}/_snapshot/_all")),
            request("PUT", repository.clone()),
        ],
    );
    register.changes = true;
    let mut take = step(
        "snapshot-elasticsearch",
        &match settings.indices.is_empty() {
            true => "take a snapshot of all indices; it must be SUCCESS with no failed shard".to_owned(),
            false => {
                format!("take a snapshot of {}; it must be SUCCESS with no failed shard", settings.indices.join(", "))
            }
        },
        vec![
            request("PUT", format!("{snapshot}?wait_for_completion=false")),
            request("GET", snapshot.clone()),
            Use::limit(settings.snapshot_timeout_seconds),
        ],
    );
    take.changes = true;
    take.undo = vec![Use::note("if the backup fails: delete it, unless it is whole")];
    let mut prune = step(
        "prune-elasticsearch",
        &format!("delete old snapshots; {} stay", settings.keep_snapshots),
        vec![request("DELETE", format!("{repository}/NAME")), Use::limit(settings.delete_timeout_seconds)],
    );
    prune.changes = true;
    let copy = step("capture-elasticsearch", "save the snapshot repository's directory", vec![location()]);
    vec![configure, register, take, prune, read_only, copy]
}

fn neo4j(profile: &Profile, mode: Mode) -> Vec<PlannedStep> {
    let settings = &profile.neo4j;
    let count = step(
        "count-neo4j",
        "count nodes, relationships and labels",
        vec![Use::address(&settings.address), Use::limit(settings.query_timeout_seconds)],
    );
    let title = match mode {
        Mode::Full => "stop Neo4j, and prove that nothing uses its files",
        Mode::Online => "stop Neo4j alone for a short time, and prove that nothing uses its files",
    };
    let mut stop = stop_unit(profile, "stop-neo4j".to_owned(), title, &settings.service);
    stop.uses.push(Use::limit(settings.stop_timeout_seconds));
    let uses = vec![
        Use::note("dbms.directories.data and dbms.active_database of"),
        Use::path(settings.configuration_file.display()),
        Use::note("straight into the repository: no copy is made in /tmp or elsewhere"),
    ];
    vec![count, stop, step("capture-neo4j", "save the database's files", uses)]
}

fn redis(profile: &Profile) -> PlannedStep {
    let settings = &profile.redis;
    let mut uses = vec![Use::address(settings.shown())];
    uses.extend(settings.all_queues().map(Use::queue));
    step("capture-redis", "save what is in the queues", uses)
}
