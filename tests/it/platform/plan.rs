//! Plans: the order of the steps, what is chosen, and that nothing of the profile is missing from them.

use cairn::orchestrate::OrchestrateError;
use cairn::orchestrate::platform::discover::discover;
use cairn::orchestrate::platform::files::Files;
use cairn::orchestrate::platform::plan::{Mode, Plan, Request, plan};
use cairn::orchestrate::platform::profile::{Component, parse};

fn planned(changes: &str, request: &Request) -> Result<Plan, OrchestrateError> {
    let root = tempfile::tempdir().unwrap();
    let text = format!("extends = 'eclecticiq-centos'\n{changes}");
    let profile = parse("test", text.as_bytes()).unwrap();
    plan(&profile, discover(&profile, &Files::beneath(root.path())), request)
}

fn full() -> Plan {
    planned("", &Request::default()).unwrap()
}

fn online(neo4j_may_stop: bool) -> Request {
    Request { mode: Mode::Online, neo4j_may_stop, ..Request::default() }
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.id.as_str()).collect()
}

#[test]
fn a_full_backup_follows_the_order_of_the_guidelines() {
    assert_eq!(
        ids(&full()),
        [
            "preflight",
            "census",
            "stop-first:eclecticiq-platform-backend-services",
            "drain-queues",
            "purge-queues",
            "stop-workers:eclecticiq-platform-backend-worker*.service",
            "stop-others:eclecticiq-platform-backend-scheduler",
            "stop-others:eclecticiq-platform-backend-opentaxii",
            "stop-others:eclecticiq-platform-backend-ingestion",
            "stop-others:eclecticiq-platform-backend-graphindex",
            "stop-others:eclecticiq-platform-backend-searchindex",
            "stop-others:eclecticiq-platform-backend-web",
            "stop-others:eclecticiq-neo4jbatcher",
            "stop-others:logstash",
            "stop-others:statsite",
            "leftovers",
            "last-look",
            "capture-config",
            "capture-postgres",
            "configure-elasticsearch",
            "register-elasticsearch",
            "snapshot-elasticsearch",
            "prune-elasticsearch",
            "seal-elasticsearch",
            "capture-elasticsearch",
            "count-neo4j",
            "stop-neo4j",
            "capture-neo4j",
            "capture-redis",
            "still-at-rest",
            "start",
            "prove-up",
            "publish",
        ]
    );
}

#[test]
fn whatever_is_stopped_is_started_in_reverse_order() {
    let plan = full();
    let words = |uses: &[cairn::orchestrate::platform::plan::Use], verb: &str| -> Vec<String> {
        let of = |used: &serde_json::Value| match used["argv"].as_array().map(Vec::as_slice) {
            Some([_, found, unit]) if *found == verb => Some(unit.as_str().unwrap().to_owned()),
            _ => None,
        };
        serde_json::to_value(uses).unwrap().as_array().unwrap().iter().filter_map(of).collect()
    };
    // What is only started anew, by its own step, is not stopped.
    let stops = plan.steps.iter().filter(|step| step.id.starts_with("stop-"));
    let mut stopped: Vec<String> = stops.flat_map(|step| words(&step.uses, "stop")).collect();
    let started: Vec<String> =
        plan.steps.iter().filter(|step| step.id == "start").flat_map(|step| words(&step.uses, "start")).collect();
    stopped.reverse();
    assert_eq!(started, stopped);
    for step in plan.steps.iter().filter(|step| step.id.starts_with("stop-")) {
        assert!(step.changes, "{}", step.id);
        assert_eq!(words(&step.undo, "start"), words(&step.uses, "stop"), "{}", step.id);
    }
}

#[test]
fn an_online_backup_stops_nothing_unless_neo4j_may_be_stopped() {
    let plan = planned("", &online(false)).unwrap();
    assert_eq!(plan.components, [Component::Config, Component::Postgres, Component::Elasticsearch]);
    assert!(ids(&plan).iter().all(|id| !id.contains("stop") && !id.contains("start") && !id.contains("queue")));
    assert!(plan.skipped[&Component::Neo4j].contains("not allowed"));
    assert!(plan.skipped[&Component::Redis].contains("at rest"));
    let plan = planned("", &online(true)).unwrap();
    let stops: Vec<&str> = ids(&plan).into_iter().filter(|id| id.contains("stop") || id.contains("start")).collect();
    assert_eq!(stops, ["stop-neo4j", "start"]);
}

#[test]
fn components_are_chosen_and_what_cannot_be_had_is_refused() {
    let only = |only: &[Component]| Request { only: only.to_vec(), ..Request::default() };
    let plan = planned("", &only(&[Component::Config, Component::Redis])).unwrap();
    assert_eq!(plan.components, [Component::Config, Component::Redis]);
    assert_eq!(plan.skipped[&Component::Neo4j], "it was not asked for");
    let skip = Request { skip: vec![Component::Neo4j], ..Request::default() };
    assert!(!ids(&planned("", &skip).unwrap()).contains(&"stop-neo4j"));
    let refused = |changes: &str, request: &Request, word: &str| {
        let error = planned(changes, request).unwrap_err().to_string();
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    };
    refused("components = ['config']", &only(&[Component::Redis]), "redis was asked for");
    refused("", &Request { skip: Component::ALL.to_vec(), ..Request::default() }, "no component is left");
    refused("", &Request { only: vec![Component::Redis], ..online(false) }, "redis was asked for");
    refused("[postgres]\nmethod = 'files'", &online(false), "dump or base");
    let files = planned("[postgres]\nmethod = 'files'", &Request::default()).unwrap();
    assert!(ids(&files).contains(&"stop-postgres"));
}

#[test]
fn a_plan_is_read_back_from_its_json() {
    let plan = full();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}
