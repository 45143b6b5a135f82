//! The report of a backup set in a real browser, as wide as a phone and as a desk: it shows everything, runs no script,
//! loads nothing, and nothing sticks out at the side.

#[path = "../it/support/full_set.rs"]
mod full_set;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cairn::backend::local::Local;
use cairn::cli::exit::Exit;
use cairn::cli::report::drilled::Drill;
use cairn::cli::report::html;
use cairn::cli::report::restored::Restoration;
use cairn::cli::report::unpublished::{End, Unpublished};
use cairn::format::ObjectId;
use cairn::format::key::{Credential, PasswordCost};
use cairn::orchestrate::platform::choose::{Choice, Flaw, Passed};
use cairn::orchestrate::platform::drill;
use cairn::orchestrate::platform::profile::{Component, parse};
use cairn::orchestrate::platform::restore::plan::{Intent, Look, RestorePlan, plan};
use cairn::orchestrate::platform::restore::{Old, Options, Restored, State};
use cairn::progress::Silent;
use cairn::repo::sets::SetInfo;
use cairn::repo::{InitOptions, OpenOptions, Repository};
use cairn::source::files::swap::Swap;
use full_set::{proof, set};

fn browser(directory: &Path, args: &[String]) -> String {
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--timeout=20000"]);
    command.arg(format!("--user-data-dir={}", directory.join("profile").display())).args(args);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Shows the page in a frame of this width with every fold open: the width of what is in it, and its title.
fn look(directory: &Path, width: u32) -> (u32, String) {
    let wrapper = format!(
        "<iframe id=f src=report.html style='width:{width}px;height:900px;border:0'></iframe><pre id=seen></pre><script>\
f.onload = () => {{ const d = f.contentDocument; d.querySelectorAll('details').forEach(x => x.open = true);\
seen.textContent = 'seen:' + d.documentElement.scrollWidth + ':' + d.title + ':' }}</script>"
    );
    std::fs::write(directory.join("wrapper.html"), wrapper).unwrap();
    let url = format!("file://{}", directory.join("wrapper.html").display());
    let dom = browser(directory, &["--virtual-time-budget=5000".to_owned(), "--dump-dom".to_owned(), url]);
    let seen = dom.split("seen:").nth(1).unwrap_or_else(|| panic!("the page was not shown: {dom}"));
    let mut fields = seen.split(':');
    (fields.next().unwrap().parse().unwrap(), fields.next().unwrap().to_owned())
}

#[test]
fn the_report_fits_a_phone_and_a_desk_and_runs_nothing() {
    if Command::new("chromium").arg("--version").output().is_err() {
        return crate::servers::skip("chromium is missing");
    }
    let page = html(&ObjectId::from_bytes([0xab; 32]), &set(), Some(&proof()));
    for word in ["no: different", "&lt;i&gt;stix_v4", "audit_v2 is missing", "no drill has looked at it", "scratch-1"] {
        assert!(page.contains(word), "{word} is not in the report");
    }
    for word in ["1234567", "snapshot-202603010200", "graph.db", "&lt;b&gt;bold", "7 min 31 s", "partial"] {
        assert!(page.contains(word), "{word} is not in the report");
    }
    fits("report", "Backup set abababab of eclecticiq-centos", &page);
}

#[test]
fn the_page_of_a_run_without_a_set_fits_a_phone_and_a_desk_and_runs_nothing() {
    if Command::new("chromium").arg("--version").output().is_err() {
        return crate::servers::skip("chromium is missing");
    }
    let mut steps = set().steps;
    steps[1].detail = format!(
        "pg_dumpall --host /run/{} ended with status 1; its last words:\nlost\n{}",
        "x".repeat(90),
        steps[1].detail
    );
    let page = cairn::cli::report::unpublished::html(&Unpublished {
        profile: "eclecticiq-centos",
        host: "intel-1.example",
        began: "2026-03-01T02:00:00Z".parse().unwrap(),
        now: "2026-03-01T02:07:31Z".parse().unwrap(),
        end: End::Stuck,
        exit: Some(1),
        failures: vec!["nothing could be captured, so no backup set was published".to_owned()],
        stuck: vec!["undo: stop nginx failed: nginx.service: failed <b>bold</b>".to_owned()],
        steps: &steps,
    });
    for word in
        ["its last words:\nlost", "&lt;b&gt;bold", "&lt;script&gt;", "7 min 31 s", "<code>cairn platform resume</code>"]
    {
        assert!(page.contains(word), "{word} is not in the page");
    }
    fits("unpublished", "No backup set of eclecticiq-centos", &page);
}

/// A plan of everything, made of one for a directory: what a page shows of a component does not depend on what it is.
fn restore_plan(directory: &Path) -> RestorePlan {
    let (place, etc) = (directory.join("repo"), directory.join("etc"));
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(etc.join("app.conf"), "level = 1\n").unwrap();
    let credential = Credential::KeyFile([5; 32].into());
    let cost = PasswordCost { memory_kib: 64, passes: 1, lanes: 1 };
    let options = InitOptions { cost, ..InitOptions::default() };
    Repository::init(&Local::create(&place).unwrap(), &credential, &options).unwrap();
    std::fs::write(directory.join("key"), [5; 32]).unwrap();
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
    command.arg("-q").arg("-r").arg(&place).arg("--key-file").arg(directory.join("key"));
    command.arg("--cache-dir").arg(directory.join("cache"));
    assert!(command.args(["backup", "--name", "etc"]).arg(&etc).status().unwrap().success());
    let options = OpenOptions { cache: None, host: "live".to_owned() };
    let repository = Repository::open(Arc::new(Local::open(&place).unwrap()), &credential, &options, &Silent).unwrap();
    let snapshots = repository.snapshots().unwrap();

    let text = format!(
        "extends = 'none'\nname = 'p'\ncomponents = ['config']\n[state]\ndirectory = '{}'\n[config.groups.mine]\npaths = ['{}']\n",
        directory.display(),
        etc.display()
    );
    let profile = parse("p.toml", text.as_bytes()).unwrap();
    let mut set = set();
    set.components[0].parts[0].snapshot = snapshots[0].id;
    let passed = vec![Passed { id: ObjectId::of(b"newer"), time: set.ended, flaws: Flaw::ALL.to_vec() }];
    let info = SetInfo { id: ObjectId::from_bytes([0xab; 32]), set };
    let choice = Choice { info, flaws: vec![Flaw::Partial, Flaw::Unverified], proven: None, passed };
    let options = Options { target_root: "/".into(), ..Options::default() };
    let look = Look {
        repository: &repository,
        profile: &profile,
        options: &options,
        snapshots: &snapshots,
        mark: "20260301020000",
        stop: &|| false,
    };
    let mut plan = plan(&look, choice, &[Component::Config]).unwrap();
    let one = plan.components.pop().unwrap();
    let as_other = |component| Intent { component, bytes: 734_003_200, ..one.clone() };
    plan.components = Component::ALL.map(as_other).into();
    plan
}

#[test]
fn the_page_of_a_restore_fits_a_phone_and_a_desk_and_runs_nothing() {
    if Command::new("chromium").arg("--version").output().is_err() {
        return crate::servers::skip("chromium is missing");
    }
    let directory = tempfile::tempdir().unwrap();
    let plan = restore_plan(directory.path());
    let data = Path::new("/media/a-disk-with-a-long-name/pgsql/11/data-of-the-threat-intelligence-platform");
    let aside = vec![
        Old::Path(Swap::plan(data, "20260301020000").unwrap()),
        Old::Indices { indices: vec!["stix_v4".to_owned(); 30], snapshot: "before-restore-20260301020000".to_owned() },
    ];
    let restored = |component, state, detail: &str| Restored {
        component,
        state,
        detail: detail.to_owned(),
        aside: if state == State::Restored { aside.clone() } else { Vec::new() },
        notes: vec!["<b>bold</b>: ANALYZE took 3.1 s".to_owned()],
        milliseconds: 83_400,
    };
    let components = [
        restored(Component::Postgres, State::Restored, "rows and checksums of 214 tables in 3 databases are equal"),
        restored(Component::Elasticsearch, State::Uncompared, "nothing was recorded that it could be compared with"),
        restored(
            Component::Neo4j,
            State::Failed,
            "start Neo4j failed: /opt/neo4j/bin/neo4j ended with status 1\nno heap",
        ),
    ];
    let steps = set().steps;
    let page = cairn::cli::report::restored::html(&Restoration {
        plan: &plan,
        host: "intel-2.example",
        began: "2026-03-02T02:00:00Z".parse().unwrap(),
        now: "2026-03-02T02:07:31Z".parse().unwrap(),
        end: cairn::cli::report::restored::End::Part,
        exit: Some(3),
        components: &components,
        failures: Vec::new(),
        stuck: Vec::new(),
        steps: &steps,
    });
    for word in
        ["uncompared", "as before", "&lt;b&gt;bold", "Moved aside", "no heap", "partial and online and unverified"]
    {
        assert!(page.contains(word), "{word} is not in the page");
    }
    fits("restored", "Restore of backup set abababab", &page);
}

#[test]
fn the_page_of_a_drill_fits_a_phone_and_a_desk_and_runs_nothing() {
    if Command::new("chromium").arg("--version").output().is_err() {
        return crate::servers::skip("chromium is missing");
    }
    let directory = tempfile::tempdir().unwrap();
    let profile = parse("p.toml", b"extends = 'eclecticiq-centos'\nname = 'p'\n").unwrap();
    let look = drill::plan::Look {
        profile: &profile,
        snapshots: &[],
        parent: directory.path(),
        mark: "20260305060000-4242",
        stop: &|| false,
    };
    let info = SetInfo { id: ObjectId::from_bytes([0xab; 32]), set: set() };
    let choice = Choice { info, flaws: vec![Flaw::Partial, Flaw::Different], proven: None, passed: Vec::new() };
    let plan = drill::plan::plan(&look, choice, &Component::ALL).unwrap();
    let drilled = |component, state, detail: &str, differences: &[&str]| drill::Drilled {
        component,
        state,
        detail: detail.to_owned(),
        differences: differences.iter().map(|line| (*line).to_owned()).collect(),
        versions: BTreeMap::from([("postgresql".to_owned(), "11.22".to_owned())]),
        notes: vec!["<b>bold</b>: it took long".to_owned()],
        restore_milliseconds: 83_400,
        compare_milliseconds: 1500,
    };
    let differs = ["table \"public\".\"entity\" of the database platform has 1234566 rows, and 1234567 were recorded"];
    let components = vec![
        drilled(Component::Config, drill::State::Proven, "4711 files read back and equal", &[]),
        drilled(Component::Postgres, drill::State::Different, "it is not equal to what was recorded", &differs),
        drilled(Component::Elasticsearch, drill::State::NotStarted, "the profile does not say how it is started", &[]),
        drilled(Component::Redis, drill::State::Failed, "frame 7 of a pack cannot be read\nits last words", &[]),
    ];
    let outcome = drill::Outcome {
        components,
        proofs: Vec::new(),
        findings: Vec::new(),
        error: None,
        stuck: Vec::new(),
        steps: set().steps,
    };
    let page = cairn::cli::report::drilled::html(&Drill {
        plan: &plan,
        host: "scratch-1.example",
        began: "2026-03-05T06:00:00Z".parse().unwrap(),
        outcome: Some(&outcome),
        exit: Some(Exit::Failed),
    });
    for word in ["What differs", "1234566 rows", "&lt;b&gt;bold", "its last words", "4711 files"] {
        assert!(page.contains(word), "{word} is not in the page");
    }
    fits("drilled", "Drill of backup set abababab", &page);
}

fn fits(name: &str, called: &str, page: &str) {
    for load in ["http:", "https:", "src=", "<script"] {
        assert!(!page.contains(load), "the report has {load}");
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("report.html"), page).unwrap();
    for width in [360, 768, 1280] {
        let (wide, title) = look(directory.path(), width);
        assert_eq!(title, called);
        assert!(wide <= width, "at {width} pixels the report is {wide} wide");
    }
    if let Some(keep) = std::env::var_os("CAIRN_TEST_KEEP") {
        std::fs::copy(directory.path().join("report.html"), Path::new(&keep).join(format!("{name}.html"))).unwrap();
    }
}
