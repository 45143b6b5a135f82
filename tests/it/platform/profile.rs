//! Profiles: the built-in one is complete, a user's one changes what it names, and errors point into his file.

use cairn::orchestrate::platform::profile::{BUILT_IN, Component, Profile, built_in, parse};
use proptest::prelude::*;

fn centos() -> Profile {
    built_in("eclecticiq-centos").unwrap().unwrap()
}

/// Every path of the vendor's guidelines, written here a second time on purpose.
fn guideline_paths() -> Vec<String> {
    let mut all: Vec<String> = [
        "/etc/environment",
        "/lib/systemd/system/eclecticiq-platform-backend-*@.service",
        "/lib/systemd/system/eclecticiq-secrets-setter.service",
        "/opt/eclecticiq-platform-backend/alembic.ini",
        "/etc/systemd/system/elasticsearch.service.d/20-eclecticiq.conf",
        "/etc/sysconfig/elasticsearch",
        "/media/elasticsearch/nodes",
        "/media/elasticsearch/tmp",
        "/etc/eclecticiq-kibana/kibana.yml",
        "/etc/kibana/kibana.yml",
        "/etc/kibana/node.options",
        "/etc/systemd/system/kibana.service.d/20-eclecticiq_es_hosts.conf",
        "/etc/default/logstash",
        "/etc/systemd/system/logstash.service.d/20-eclecticiq-env-vars.conf",
        "/etc/eclecticiq-neo4jbatcher/neo4jbatcher.conf",
        "/lib/systemd/system/eclecticiq-neo4jbatcher.service",
        "/etc/systemd/system/eclecticiq-neo4jbatcher.service.d/20-eclecticiq.conf",
        "/etc/systemd/system/statsite.service.d/override.conf",
        "/etc/eclecticiq-redis/redis.conf",
        "/etc/eclecticiq-redis/local.conf",
        "/etc/redis/redis.conf",
        "/etc/eclecticiq-nginx/sites.conf.d/eclecticiq-default.conf",
        "/etc/systemd/system/nginx.service.d/20-eclecticiq.conf",
        "/media/pgsql/11/data/postgresql.conf",
        "/etc/postfix/main.cf",
        "/etc/logrotate.d/eclecticiq",
        "/opt/eclecticiq-rsyslog-forwarder",
        "/etc/rsyslog.d/eclecticiq.conf",
        "/etc/default/eclecticiq-platform",
    ]
    .map(str::to_owned)
    .to_vec();
    let families: [(&str, &str, &str); 11] = [
        ("/etc/eclecticiq/", "platform_settings.py opentaxii.yml proxy_url", ""),
        (
            "/etc/default/eclecticiq-platform-backend-worker-",
            "outgoing-transports common outgoing-transports-priority discovery reindexing discovery-priority \
             retention-policies entity-rules-priority retention-policies-priority extract-rules-priority utilities \
             incoming-transports utilities-priority incoming-transports-priority",
            "",
        ),
        (
            "/lib/systemd/system/eclecticiq-platform-backend-",
            "graphindex ingestion opentaxii scheduler searchindex services web workers",
            ".service",
        ),
        ("/etc/eclecticiq-elasticsearch/", "elasticsearch.yml jvm.options log4j2.properties", ""),
        (
            "/etc/elasticsearch/",
            "elasticsearch-plugins.example.yml elasticsearch.keystore elasticsearch.yml jvm.options log4j2.properties \
             role_mapping.yml roles.yml users users_roles",
            "",
        ),
        (
            "/etc/logstash/",
            "logstash.yml jvm.options log4j2.properties logstash-sample.conf pipelines.yml startup.options \
             conf.d/eclecticiq.conf",
            "",
        ),
        ("/etc/eclecticiq-neo4j/", "neo4j.conf template-neo4j.conf", ""),
        ("/opt/statsite/etc/", "statsite.conf elasticsearch_template.json statsite.service", ""),
        (
            "/etc/eclecticiq-nginx/",
            "nginx.centos.conf nginx.common.conf nginx.conf nginx.rhel.conf nginx.ubuntu.conf proxy_params.conf",
            "",
        ),
        ("/etc/eclecticiq-nginx/locations.conf.d/", "neo4jbatcher platform-frontend tip-backend", ".conf"),
        ("/etc/eclecticiq-postgres/", "eclecticiq-postgres.conf listen-addresses.conf pg_hba.conf", ""),
    ];
    for (start, names, end) in families {
        all.extend(names.split_whitespace().map(|name| format!("{start}{name}{end}")));
    }
    all
}

#[test]
fn the_built_in_profile_has_every_path_of_the_guidelines() {
    let profile = centos();
    let listed: Vec<&str> =
        profile.config.groups.values().flat_map(|group| &group.paths).map(|path| path.as_str()).collect();
    let expected = guideline_paths();
    for path in &expected {
        assert!(listed.contains(&path.as_str()), "{path} is not in the profile");
    }
    assert_eq!(listed.len(), expected.len(), "a path more or twice: {listed:?}");
}

#[test]
fn the_built_in_profile_has_every_queue_service_and_command_of_the_guidelines() {
    let text = centos().to_toml();
    for word in [
        "enrichers",
        "integrations",
        "priority_enrichers",
        "priority_providers",
        "priority_utilities",
        "providers",
        "reindexing",
        "utilities",
        "queue:ingestion:inbound",
        "queue:graph:inbound",
        "queue:search:inbound",
        "eclecticiq-platform-backend-services",
        "eclecticiq-platform-backend-worker*.service",
        "beat",
        "http://localhost:9200",
        "/db-backup/elasticsearch",
        "/etc/eclecticiq-elasticsearch/elasticsearch.yml",
        "audit",
        "documents",
        "draft-entities*",
        "extracts*",
        "logstash*",
        "statsite*",
        "stix*",
        "who",
    ] {
        assert!(text.contains(&format!("\"{word}\"")), "{word} is not in:\n{text}");
    }
    let profile = centos();
    assert_eq!(profile.services.first[0].as_str(), "eclecticiq-platform-backend-services");
    assert_eq!(profile.services.workers[0].as_str(), "eclecticiq-platform-backend-worker*.service");
    let after = &profile.after_restore;
    let program = "/opt/eclecticiq-platform-backend/bin/eiq-platform";
    assert_eq!(after.reindex.with("index", "stix").words(), [program, "search", "reindex", "--index=stix"]);
    assert_eq!(after.upgrade.words(), [program, "search", "upgrade"]);
    assert_eq!(after.environment["EIQ_PLATFORM_SETTINGS"], "/etc/eclecticiq/platform_settings.py");
    assert_eq!(after.user.as_ref().unwrap().as_str(), "eclecticiq");
    assert!(after.failed_packages.contains("processing_status NOT IN ('success', 'pending')"));
    assert!(profile.processes.pid_files.iter().all(|path| path.starts_with("/var/run/")));
    assert_eq!(profile.components, Component::ALL);
}

#[test]
fn a_profile_that_is_printed_is_read_again_as_the_same() {
    let file =
        b"extends = 'eclecticiq-centos'\nname = 'lab'\n[config.groups.nginx]\npaths-add = ['/etc/nginx/x.conf']\n";
    let profile = parse("lab.toml", file).unwrap();
    let again = parse("printed", profile.to_toml().as_bytes()).unwrap();
    assert_eq!(again.to_toml(), profile.to_toml());
    assert_eq!(again.config, profile.config);
}

#[test]
fn a_users_file_changes_single_values() {
    let file = r#"
        extends = "eclecticiq-centos"
        name = "lab"
        [config.groups.nginx]
        paths-add = ["/etc/nginx/extra/*.conf", "/etc/eclecticiq-nginx/nginx.conf"]
        [config.groups.general]
        paths = ["/etc/hosts"]
        [config.groups.ours]
        paths-add = ["/srv/ours"]
        [services.health]
        timeout-seconds = 60
        [elasticsearch]
        url = "http://localhost:9201"
        [after-restore.environment]
        LANG = "C"
    "#;
    let (profile, base) = (parse("lab.toml", file.as_bytes()).unwrap(), centos());
    assert_eq!(profile.name, "lab");
    let paths = |profile: &Profile, group: &str| -> Vec<String> {
        profile.config.groups[group].paths.iter().map(|path| path.to_string()).collect()
    };
    let mut nginx = paths(&base, "nginx");
    nginx.push("/etc/nginx/extra/*.conf".to_owned());
    assert_eq!(paths(&profile, "nginx"), nginx, "what is added comes last, and nothing is there twice");
    assert_eq!(paths(&profile, "general"), ["/etc/hosts"], "an array replaces");
    assert_eq!(paths(&profile, "ours"), ["/srv/ours"]);
    assert_eq!(paths(&profile, "platform"), paths(&base, "platform"));
    assert_eq!(profile.services.health.timeout_seconds.duration().as_secs(), 60);
    assert_eq!(profile.services.health.ports, base.services.health.ports);
    assert_eq!(profile.services.first, base.services.first);
    assert_eq!(profile.elasticsearch.url, "http://localhost:9201");
    assert_eq!(profile.elasticsearch.location, base.elasticsearch.location);
    assert_eq!(profile.after_restore.environment.len(), 2, "tables merge");
}

#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let error = cairn::repo::chain(&parse("lab.toml", text.as_bytes()).unwrap_err());
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn errors_name_file_line_key_and_what_was_expected() {
    let with = |text: &str| format!("extends = \"eclecticiq-centos\"\n{text}");
    refused("name = \"x\"\n", &["lab.toml: ", "`extends` is missing", "\"eclecticiq-centos\"", "\"none\""]);
    refused("extends = \"eclecticiq-cents\"\n", &["lab.toml:1:11: `extends`", "did you mean `eclecticiq-centos`?"]);
    refused(&with("[redis\n"), &["lab.toml:2:"]);
    refused(
        &with("[processes]\nuser-ports = [80, \"x\"]\n"),
        &["lab.toml:3:19: `processes.user-ports`", "expected u16"],
    );
    refused(&with("[processes]\nuser-ports = [70000]\n"), &["lab.toml:3:15: `processes.user-ports`", "70000"]);
    refused(&with("[servces]\nfirst = []\n"), &["lab.toml:2:2: `servces`", "did you mean `services`?"]);
    refused(&with("[services]\nfrist = []\n"), &["lab.toml:3:1: `services.frist`", "did you mean `first`?"]);
    refused(
        &with("[services]\nzzzzzzzz = 1\n"),
        &["lab.toml:3:1", "expected one of first, workers, others, ingestion, health"],
    );
    refused(
        &with("[services.health]\ntimeout-seconds = 0\n"),
        &["lab.toml:3:19: `services.health.timeout-seconds`", "between 1 and 604800 seconds"],
    );
    refused(
        &with("[services.health]\ntimeout-seconds = \"5m\"\n"),
        &["lab.toml:3:19", "invalid type: string \"5m\", expected whole seconds between 1 and 604800"],
    );
    refused(&with("[services]\nfirst = [\"a\", \"b c\"]\n"), &["lab.toml:3:15: `services.first`", "unit's name"]);
    refused(&with("[services]\nfirst = [\"-a\"]\n"), &["lab.toml:3:10", "begins with -"]);
    refused(
        &with("[config.groups.x]\npaths = [\n  \"/etc/x\",\n  \"etc/y\",\n]\n"),
        &["lab.toml:5:3: `config.groups.x.paths`", "does not begin with /", "expected an absolute path"],
    );
    refused(&with("[config.groups.x]\npaths = [\"/etc/../x\"]\n"), &["lab.toml:3:10", "`config.groups.x.paths`"]);
    refused(&with("[config.groups.x]\npaths = [\"/etc/**\"]\n"), &["lab.toml:3:10", "list the directory itself"]);
    refused(&with("[config.groups.x]\npaths = [\"/etc/[a\"]\n"), &["lab.toml:3:10", "is no glob"]);
    refused(&with("[config.groups.x]\npaths-add = [\"etc\"]\n"), &["lab.toml:3:14", "does not begin with /"]);
    refused(
        &with("[config.groups.x]\npaths-add = \"/etc\"\n"),
        &["lab.toml:3:13: `config.groups.x.paths-add`", "array"],
    );
    refused(&with("[config.groups.x]\npahts-add = [\"/etc\"]\n"), &["lab.toml:3:1", "did you mean `paths`?"]);
    refused(
        &with("[after-restore]\nupgrade = \"a b\"\n"),
        &["lab.toml:3:11: `after-restore.upgrade`", "array of strings"],
    );
    refused(&with("[after-restore]\nupgrade = [\"a b\"]\n"), &["lab.toml:3:11", "no arguments, and no shell"]);
    refused(&with("[services.health]\nports = [\"localhost\"]\n"), &["lab.toml:3:10", "no port", "HOST:PORT"]);
    refused(
        &with("[processes]\nrules-add = [{ name = \"x\", user = [] }]\n"),
        &["lab.toml:3:28: `processes.rules-add`", "there is no key \"user\"", "did you mean `users`?"],
    );
    refused(&with("[postgres]\nmethod = \"dmup\"\n"), &["lab.toml:3:10: `postgres.method`", "did you mean `dump`?"]);
    refused(&with("[elasticsearch]\nurll = \"x\"\n"), &["lab.toml:3:1: `elasticsearch.urll`", "did you mean `url`?"]);
    refused(&with("components = [\"confg\"]\n"), &["lab.toml:2:15: `components`", "did you mean `config`?"]);
    refused(&with("components = []\n"), &["nothing to capture"]);
    refused(&with("name = \"a b\"\n"), &["lab.toml: `name` cannot be used", "only ASCII letters"]);
    refused("extends = \"none\"\n", &["lab.toml: `name` cannot be used", "1 to 128 characters"]);
    refused(&with(&"#".repeat(2 << 20)), &["longer than 1048576 bytes"]);
    let error = parse("lab.toml", b"name = \"a\"\nx = \"\xff\"").unwrap_err().to_string();
    assert!(error.starts_with("lab.toml:2:6: "), "{error}");
    assert!(built_in("eclecticiq").is_none());
}

#[test]
fn seconds_that_would_overflow_a_driver_are_refused_where_they_stand() {
    let with = |text: &str| format!("extends = \"eclecticiq-centos\"\n{text}");
    refused(
        &with("[elasticsearch]\nrequest-timeout-seconds = 9223372036854775807\n"),
        &["lab.toml:3:27: `elasticsearch.request-timeout-seconds`", "not between 0 and 604800 seconds (a week)"],
    );
    refused(&with("redis.drain-timeout-seconds = 604_801\n"), &["lab.toml:2:31: `redis.drain-timeout-seconds`"]);
    refused(
        &with("postgres = { query-timeout-seconds = 0xffffffffffff }\n"),
        &["lab.toml:2:38", "query-timeout-seconds"],
    );
    refused(&with("[systemd]\nsettle-seconds = -1\n"), &["lab.toml:3:18: `systemd.settle-seconds`"]);
    let allowed = parse("lab.toml", with("[systemd]\nsettle-seconds = 0\nstop-timeout-seconds = 604_800\n").as_bytes());
    let systemd = allowed.unwrap().systemd;
    assert_eq!((systemd.settle_seconds, systemd.stop_timeout_seconds), (0, 604_800));
}

/// Changes a few bytes of the built-in profile's text.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let text = BUILT_IN[0].1.as_bytes();
    let change = (0..text.len(), any::<u8>(), 0..3_u8);
    proptest::collection::vec(change, 1..8).prop_map(|changes| {
        let mut bytes = BUILT_IN[0].1.as_bytes().to_vec();
        for (at, byte, how) in changes {
            let at = at.min(bytes.len() - 1);
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.drain(at..(at + usize::from(byte)).min(bytes.len() - 1))),
            }
        }
        bytes
    })
}

/// Lines that could be in a profile, in any order.
fn shuffled() -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<&'static str> = BUILT_IN[0].1.lines().collect();
    let more = [
        "[config]",
        "paths-add = [1]",
        "-add = []",
        "[[config.groups.x]]",
        "'a`b' = 1",
        "[processes]\nuser-ports-add = [1]",
    ];
    let lines: Vec<&'static str> = lines.into_iter().chain(more).collect();
    proptest::collection::vec(proptest::sample::select(lines), 1..30)
        .prop_map(|lines| format!("extends = 'none'\n{}", lines.join("\n")).into_bytes())
}

fn never_panics(bytes: &[u8]) {
    match parse("x", bytes) {
        Ok(profile) => {
            let again = parse("printed", profile.to_toml().as_bytes()).unwrap();
            assert_eq!(again.to_toml(), profile.to_toml());
        }
        Err(error) => assert!(error.to_string().starts_with("x:"), "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_refused_in_words(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        never_panics(&bytes);
    }

    #[test]
    fn a_damaged_profile_is_refused_in_words_or_read(bytes in mutated()) {
        never_panics(&bytes);
    }

    #[test]
    fn lines_in_any_order_are_refused_in_words_or_read(bytes in shuffled()) {
        never_panics(&bytes);
    }
}
