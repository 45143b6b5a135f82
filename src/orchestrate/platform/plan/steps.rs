//! The steps that concern the platform as a whole, in the order of its vendor's guidelines.

use super::capture;
use super::{Mode, PlannedStep, Use};
use crate::orchestrate::platform::discover::Discovery;
use crate::orchestrate::platform::profile::{Argv, Component, Profile, Unit};

/// The steps of a backup.
pub fn all(profile: &Profile, components: &[Component], mode: Mode, discovery: &Discovery) -> Vec<PlannedStep> {
    let mut steps = vec![preflight(profile, components, mode), census(profile, components, mode)];
    if mode == Mode::Full {
        steps.extend(at_rest(profile));
    }
    for component in components {
        steps.extend(capture::steps(profile, *component, mode, discovery));
    }
    if mode == Mode::Full {
        let uses = profile.processes.rules.iter().map(|rule| Use::note(&rule.name));
        steps.push(PlannedStep {
            id: "still-at-rest".to_owned(),
            title: "look whether the platform is still at rest: else the set is not one point in time".to_owned(),
            uses: uses
                .chain(profile.services.units().map(|unit| systemctl(profile, "is-active", unit.as_str())))
                .collect(),
            ..PlannedStep::default()
        });
    }
    steps.extend(up_again(profile, components, mode));
    steps.push(PlannedStep {
        id: "publish".to_owned(),
        title: "publish the backup set, as the last write".to_owned(),
        ..PlannedStep::default()
    });
    steps
}

fn preflight(profile: &Profile, components: &[Component], mode: Mode) -> PlannedStep {
    let mut uses = Vec::new();
    if mode == Mode::Full {
        uses.push(Use::note("no user is signed in: logins, and connections of other machines to these ports"));
        uses.push(Use::command(profile.processes.who.iter().cloned()));
        uses.extend(profile.processes.user_ports.iter().map(|port| Use::address(format!("port {port}"))));
        if profile.celery.command.is_empty() {
            uses.push(Use::note("no task is running: unacknowledged tasks in Redis (workers are not asked)"));
        } else {
            let argv = profile.celery.command.iter().cloned().chain(["inspect".to_owned()]).collect();
            let (user, environment) = (profile.celery.user.clone(), profile.celery.environment.clone());
            uses.push(Use::Command { argv, user, environment });
        }
        uses.push(Use::note("no queue is pending, nothing reads or writes Redis"));
        uses.push(Use::address(profile.redis.shown()));
        uses.extend(profile.redis.all_queues().map(Use::queue));
        uses.push(Use::note("the platform's services are down, or will be stopped"));
        uses.extend(profile.services.units().map(|unit| systemctl(profile, "is-active", unit.as_str())));
        uses.push(Use::note("no read or write is in progress"));
    }
    for component in components {
        match component {
            Component::Postgres => uses.push(Use::address(capture::postgres_address(profile))),
            Component::Elasticsearch => uses.push(Use::address(&profile.elasticsearch.url)),
            Component::Neo4j => uses.push(Use::address(&profile.neo4j.address)),
            Component::Config | Component::Redis => {}
        }
    }
    uses.push(Use::note("programs, versions, free space, owners of directories, the repository and its password"));
    let title = "preflight: the platform is quiet, and everything that is needed is there".to_owned();
    PlannedStep { id: "preflight".to_owned(), title, uses, ..PlannedStep::default() }
}

/// What runs is written down before anything is stopped: stopping one unit may stop others.
pub fn census(profile: &Profile, components: &[Component], mode: Mode) -> PlannedStep {
    let mut asked: Vec<Use> = Vec::new();
    if mode == Mode::Full {
        asked.extend(profile.services.units().map(|unit| systemctl(profile, "show", unit.as_str())));
    }
    asked.extend(capture::stopped_units(profile, components).iter().map(|unit| systemctl(profile, "show", unit)));
    asked.extend(profile.services.health.ports.iter().map(Use::address));
    let title = "write down which units run and which ports are open".to_owned();
    PlannedStep { id: "census".to_owned(), title, uses: asked, ..PlannedStep::default() }
}

/// From the first service stopped to the last look at processes.
fn at_rest(profile: &Profile) -> Vec<PlannedStep> {
    let mut steps = stopped(profile);
    // As soon as nothing fills the queues any more.
    let first = profile.services.first.len();
    steps.splice(first..first, drained(profile));
    steps
}

/// Everything stopped, whatever is in the queues: what they would change is replaced.
pub fn stopped(profile: &Profile) -> Vec<PlannedStep> {
    let services = &profile.services;
    let mut steps: Vec<PlannedStep> = stop(profile, "stop-first", "stop", &services.first);
    steps.extend(stop(profile, "stop-workers", "stop the workers:", &services.workers));
    steps.extend(stop(profile, "stop-others", "stop", &services.others));
    steps.extend(nobody_left(profile));
    steps
}

fn drained(profile: &Profile) -> Vec<PlannedStep> {
    let mut steps = Vec::new();
    let queues: Vec<Use> = profile.redis.all_queues().map(Use::queue).collect();
    let mut drain = queues.clone();
    let ingestion = "the queues of data on its way in are waited for only while what empties them runs, and not with \
                     --purge-queues";
    drain.push(Use::note(ingestion));
    drain.extend(profile.services.ingestion.iter().map(|unit| systemctl(profile, "show", unit.as_str())));
    drain.push(Use::address(profile.redis.shown()));
    drain.push(Use::limit(profile.redis.drain_timeout_seconds));
    steps.push(PlannedStep {
        id: "drain-queues".to_owned(),
        title: "wait until every queue is empty (LLEN)".to_owned(),
        uses: drain,
        ..PlannedStep::default()
    });
    steps.push(PlannedStep {
        id: "purge-queues".to_owned(),
        title: "save what is left in queues in the backup set, then empty them (DEL, when the set is published)"
            .to_owned(),
        only_if: Some("--purge-queues".to_owned()),
        changes: true,
        undo: vec![Use::note("if the backup fails: put the elements back")],
        uses: queues,
        ..PlannedStep::default()
    });
    steps
}

fn nobody_left(profile: &Profile) -> Vec<PlannedStep> {
    let mut steps = Vec::new();
    let processes = &profile.processes;
    let mut leftovers = Vec::new();
    for rule in &processes.rules {
        let who = if rule.users.is_empty() { "anyone".to_owned() } else { rule.users.join(", ") };
        leftovers.push(Use::note(format!("{}: of {who}, with arguments {}", rule.name, rule.arguments.join(" and "))));
    }
    leftovers.extend(processes.pid_files.iter().map(Use::path));
    leftovers.push(Use::limit(processes.terminate_timeout_seconds));
    leftovers.push(Use::limit(processes.kill_timeout_seconds));
    steps.push(PlannedStep {
        id: "leftovers".to_owned(),
        title: "end leftover processes (SIGTERM, then SIGKILL), remove PID files whose process is dead".to_owned(),
        changes: true,
        uses: leftovers,
        ..PlannedStep::default()
    });
    steps.push(PlannedStep {
        id: "last-look".to_owned(),
        title: "look at all processes once more: none of the platform's is left".to_owned(),
        uses: processes.rules.iter().map(|rule| Use::note(&rule.name)).collect(),
        ..PlannedStep::default()
    });
    steps
}

/// One step for each unit, or glob of units.
fn stop(profile: &Profile, id: &str, verb: &str, units: &[Unit]) -> Vec<PlannedStep> {
    units
        .iter()
        .map(|unit| stop_unit(profile, format!("{id}:{unit}"), &format!("{verb} {unit}"), unit.as_str()))
        .collect()
}

/// A step that stops a unit. It will be started again only if it ran.
pub fn stop_unit(profile: &Profile, id: String, title: &str, unit: &str) -> PlannedStep {
    PlannedStep {
        id,
        title: title.to_owned(),
        changes: true,
        undo: vec![systemctl(profile, "start", unit)],
        uses: vec![systemctl(profile, "stop", unit), Use::limit(profile.systemd.stop_timeout_seconds)],
        ..PlannedStep::default()
    }
}

fn systemctl(profile: &Profile, verb: &str, unit: &str) -> Use {
    Use::command([profile.systemd.systemctl.as_str(), verb, unit])
}

pub fn up_again(profile: &Profile, components: &[Component], mode: Mode) -> Vec<PlannedStep> {
    let servers = capture::stopped_units(profile, components);
    let mut starts: Vec<Use> = servers.iter().rev().map(|unit| systemctl(profile, "start", unit)).collect();
    if mode == Mode::Full {
        starts.extend(profile.services.units().rev().map(|unit| systemctl(profile, "start", unit.as_str())));
    }
    if starts.is_empty() {
        return Vec::new();
    }
    let mut health: Vec<Use> = starts
        .iter()
        .filter_map(|start| match start {
            Use::Command { argv, .. } => argv.last(),
            _ => None,
        })
        .map(|unit| systemctl(profile, "is-active", unit))
        .collect();
    health.extend(profile.services.health.ports.iter().map(Use::address));
    health.push(Use::limit(profile.services.health.timeout_seconds.duration().as_secs()));
    starts.push(Use::limit(profile.systemd.start_timeout_seconds));
    let step = |id: &str, title: &str, changes, uses| PlannedStep {
        id: id.to_owned(),
        title: title.to_owned(),
        changes,
        uses,
        ..PlannedStep::default()
    };
    vec![
        step("start", "start, in reverse order, what was running before", true, starts),
        step("prove-up", "prove that it is up: units are active, ports that were open are open again", false, health),
    ]
}

/// What is done once a backup was restored.
pub fn after_restore(profile: &Profile) -> Vec<PlannedStep> {
    let after = &profile.after_restore;
    let user = after.user.as_ref().map(|user| user.as_str());
    let run = |argv: Argv| Use::argv(&argv, user, &after.environment);
    let mut steps = Vec::new();
    let mut step = |id: &str, title: &str, changes, uses: Vec<Use>| {
        if !uses.is_empty() {
            let (id, title) = (format!("after-restore:{id}"), title.to_owned());
            steps.push(PlannedStep { id, title, changes, uses, ..PlannedStep::default() });
        }
    };
    if !after.reindex.is_empty() {
        let each = after.indices.iter().map(|index| run(after.reindex.with("index", index.as_str())));
        step("reindex", "copy from PostgreSQL to Elasticsearch, with the platform stopped", true, each.collect());
    }
    if !after.upgrade.is_empty() {
        step("migrate", "bring the indices to the present version", true, vec![run(after.upgrade.clone())]);
    }
    if !after.failed_packages.is_empty() {
        let text = after.failed_packages.clone();
        let uses = vec![Use::note(format!("in the database {}", after.database)), Use::Query { text }];
        step("failed-packages", "list packages that were not ingested", false, uses);
    }
    steps
}
