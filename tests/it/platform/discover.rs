//! What of a profile's paths is there: globs, template units, symbolic links, and keys that configuration files name.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cairn::orchestrate::platform::discover::{Discovery, Finding, State, Via, discover};
use cairn::orchestrate::platform::files::Files;
use cairn::orchestrate::platform::profile::parse;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::machine::is_root;

/// A machine's tree.
struct Machine {
    root: TempDir,
}

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        let machine = Machine { root: tempfile::tempdir().unwrap() };
        files.iter().for_each(|(path, text)| machine.write(path, text));
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        std::fs::write(self.at(path), text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        symlink(target, self.at(path)).unwrap();
    }

    fn discover(&self, profile: &str) -> Discovery {
        let profile = parse("test", format!("extends = 'none'\nname = 'test'\n{profile}").as_bytes()).unwrap();
        discover(&profile, &Files::beneath(self.root.path()))
    }
}

fn path(finding: &Finding) -> String {
    String::from_utf8(finding.path.0.clone()).unwrap()
}

/// `path state` of each finding of the group `x`.
fn states(discovery: &Discovery) -> Vec<String> {
    discovery.groups["x"].iter().map(|finding| format!("{} {}", path(finding), word(&finding.state))).collect()
}

fn word(state: &State) -> &str {
    match state {
        State::Present { kind, .. } => kind,
        State::Absent => "absent",
        State::Unreadable { .. } => "unreadable",
    }
}

/// `file:line setting path state` of each key.
fn keys(discovery: &Discovery) -> Vec<String> {
    let key = |key: &cairn::orchestrate::platform::discover::KeyFinding| {
        let by = key.named_by.as_ref().map_or("listed".to_owned(), |by| {
            format!("{}:{} {}", String::from_utf8_lossy(&by.file.0), by.line, by.setting)
        });
        format!("{by} {} {}", path(&key.found), word(&key.found.state))
    };
    discovery.keys.iter().map(key).collect()
}

#[test]
fn listed_paths_are_present_absent_or_unreadable() {
    let machine = Machine::new(&[("/etc/a.conf", "12345"), ("/etc/d/one", ""), ("/etc/locked/x", "")]);
    std::fs::set_permissions(machine.at("/etc/locked"), std::fs::Permissions::from_mode(0o000)).unwrap();
    // Nobody reads what a link to itself leads to.
    symlink("loop", machine.at("/etc/loop")).unwrap();
    let found = machine.discover(
        "[config.groups.x]\npaths = ['/etc/a.conf', '/etc/d', '/etc/none', '/etc/a.conf/x', '/etc/loop/x', '/etc/locked/x', '/etc/a.conf']",
    );
    std::fs::set_permissions(machine.at("/etc/locked"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut expected = [
        "/etc/a.conf file",
        "/etc/d directory",
        "/etc/none absent",
        "/etc/a.conf/x absent",
        "/etc/loop/x unreadable",
        "/etc/locked/x unreadable",
    ];
    if is_root() {
        // Root reads what is locked.
        expected[5] = "/etc/locked/x file";
    }
    assert_eq!(states(&found), expected);
    assert_eq!(found.groups["x"][0].state, State::Present { kind: "file".to_owned(), bytes: Some(5) });
    let roots: Vec<PathBuf> = ["/etc/a.conf", "/etc/d", "/etc/locked/x", "/etc/loop/x"].map(PathBuf::from).to_vec();
    assert_eq!(found.roots(), roots, "what cannot be read is a root too, so that the backup becomes partial");
}

#[test]
fn globs_stand_for_what_is_there() {
    let machine = Machine::new(&[
        ("/etc/n/a.conf", ""),
        ("/etc/n/b.conf", ""),
        ("/etc/n/.hidden.conf", ""),
        ("/etc/n/c.txt", ""),
        ("/etc/m/a.conf", ""),
    ]);
    let found = machine
        .discover("[config.groups.x]\npaths = ['/etc/?/*.conf', '/etc/{n,m}/c.txt', '/etc/n/*.none', '/no/*/x']");
    assert_eq!(
        states(&found),
        [
            "/etc/m/a.conf file",
            "/etc/n/a.conf file",
            "/etc/n/b.conf file",
            "/etc/n/c.txt file",
            "/etc/n/*.none absent",
            "/no/*/x absent"
        ]
    );
    assert_eq!(found.roots().len(), 4);
    assert_eq!(found.groups["x"][0].via, Some(Via::Glob("/etc/?/*.conf".to_owned())));
}

#[test]
fn template_units_are_found_with_their_instances() {
    let machine = Machine::new(&[
        ("/usr/lib/systemd/system/p-worker@.service", ""),
        ("/usr/lib/systemd/system/p-other@.service", ""),
        ("/usr/lib/systemd/system/p-workers.service", ""),
        ("/etc/systemd/system/p-worker@common.service.d/10.conf", ""),
        ("/etc/systemd/system/p-worker@.service.d/10.conf", ""),
        ("/etc/systemd/system/p-worker@own.service", ""),
        ("/etc/systemd/system/unrelated@x.service", ""),
    ]);
    machine.link("/lib", "usr/lib");
    machine.link(
        "/etc/systemd/system/multi-user.target.wants/p-worker@common.service",
        "/lib/systemd/system/p-worker@.service",
    );
    let found = machine.discover("[config.groups.x]\npaths = ['/lib/systemd/system/p-*@.service']");
    let expected = [
        "/lib/systemd/system/p-other@.service file",
        "/lib/systemd/system/p-worker@.service file",
        "/etc/systemd/system/multi-user.target.wants/p-worker@common.service link",
        "/etc/systemd/system/p-worker@.service.d directory",
        "/etc/systemd/system/p-worker@common.service.d directory",
        "/etc/systemd/system/p-worker@own.service file",
    ];
    assert_eq!(states(&found), expected);
    let via = &found.groups["x"][5].via;
    assert!(matches!(via, Some(Via::Template(path)) if path.0 == b"/lib/systemd/system/p-worker@.service"), "{via:?}");
}

#[test]
fn what_a_link_leads_to_is_found_and_no_link_leads_out_of_the_root() {
    let machine = Machine::new(&[("/etc/keys/archive/k1.pem", "key")]);
    machine.link("/etc/keys/live.pem", "archive/../archive/k1.pem");
    machine.link("/etc/absolute", "/etc/keys/live.pem");
    machine.link("/etc/up", "../../../../../../../../../etc/passwd");
    machine.link("/etc/dangling", "nothing");
    machine.link("/etc/round", "round");
    machine.link("/etc/out", "/");
    let found = machine.discover(
        "[config.groups.x]\npaths = ['/etc/absolute', '/etc/up', '/etc/dangling', '/etc/round', '/etc/out/etc/hostname']",
    );
    let all = states(&found);
    let expected = [
        "/etc/absolute link",
        "/etc/keys/live.pem link",
        "/etc/keys/archive/k1.pem file",
        "/etc/up link",
        "/etc/passwd absent",
    ];
    assert_eq!(all[..5], expected);
    assert_eq!(all[5..7], ["/etc/dangling link", "/etc/nothing absent"]);
    assert_eq!(all[7..], ["/etc/round link", "/etc/out/etc/hostname absent"]);
}

const NGINX: &str = r#"
# ssl_certificate /etc/commented.pem;
http { include sites/*.conf; include /etc/nginx/more.conf ; include gone.conf;
  ssl_certificate     certs/site.pem ;
  ssl_certificate_key "/etc/pki/with space.key"; ssl_dhparam /etc/pki/dh.pem; ssl_password_file
      /etc/pki/passwords;
  proxy_ssl_trusted_certificate /etc/pki/ca.pem;
  ssl_certificate_key /etc/pki/$ssl_server_name.key; ssl_certificate data:$variable;
}
"#;

#[test]
fn nginx_names_keys_also_in_included_files() {
    let machine = Machine::new(&[
        ("/etc/nginx/nginx.conf", NGINX),
        (
            "/etc/nginx/sites/one.conf",
            "server { ssl_client_certificate clients.pem; include ../nginx.conf; include sites/one.conf; }",
        ),
        ("/etc/nginx/more.conf", "ssl_trusted_certificate '/etc/pki/trusted.pem';"),
        ("/etc/nginx/certs/site.pem", "x"),
        ("/etc/pki/with space.key", "x"),
    ]);
    let found = machine
        .discover("[keys]\npaths = ['/etc/pki/listed.pem']\nsearch.nginx = ['/etc/nginx/*.conf', '/etc/absent.conf']");
    let main = "/etc/nginx/nginx.conf";
    let all: BTreeSet<String> = keys(&found).into_iter().collect();
    for expected in [
        "listed /etc/pki/listed.pem absent".to_owned(),
        format!("{main}:4 ssl_certificate /etc/nginx/certs/site.pem file"),
        format!("{main}:5 ssl_certificate_key /etc/pki/with space.key file"),
        format!("{main}:5 ssl_dhparam /etc/pki/dh.pem absent"),
        format!("{main}:5 ssl_password_file /etc/pki/passwords absent"),
        format!("{main}:7 proxy_ssl_trusted_certificate /etc/pki/ca.pem absent"),
        "/etc/nginx/sites/one.conf:1 ssl_client_certificate /etc/nginx/clients.pem absent".to_owned(),
        "/etc/nginx/more.conf:1 ssl_trusted_certificate /etc/pki/trusted.pem absent".to_owned(),
    ] {
        assert!(all.contains(&expected), "{expected} is not in {all:#?}");
    }
    assert_eq!(all.len(), 8, "{all:#?}");
    let notes: Vec<&str> = found.notes.iter().map(|note| note.text.as_str()).collect();
    assert!(notes.iter().any(|text| text.contains("$ssl_server_name.key")), "{notes:?}");
    assert!(notes.iter().any(|text| text.contains("/etc/nginx/gone.conf, which is not there")), "{notes:?}");
    assert!(found.gaps.is_empty(), "{:?}", found.gaps);
}

#[test]
fn postgres_names_keys_relative_to_its_data_directory() {
    let machine = Machine::new(&[
        (
            "/etc/pg/postgresql.conf",
            "ssl = on # yes\nssl_cert_file = 'own.crt'\ninclude_dir 'conf.d'\ninclude_if_exists = 'none.conf'\n\
             include 'listen.conf'\n#ssl_ca_file = 'commented'\ndata_directory = '/media/data'\n",
        ),
        ("/etc/pg/conf.d/10.conf", "ssl_ca_file '/etc/pki/ca#1.crt'"),
        ("/etc/pg/conf.d/10.conf.bak", "ssl_crl_file 'bak'"),
        ("/etc/pg/listen.conf", "include 'postgresql.conf'\nssl_crl_file = crl.pem"),
        ("/media/data/own.crt", "x"),
    ]);
    let found = machine.discover("[keys]\nsearch.postgres = ['/etc/pg/postgresql.conf']");
    assert_eq!(
        keys(&found),
        [
            "/etc/pg/postgresql.conf:1 ssl_key_file /media/data/server.key absent",
            "/etc/pg/postgresql.conf:2 ssl_cert_file /media/data/own.crt file",
            "/etc/pg/conf.d/10.conf:1 ssl_ca_file /etc/pki/ca#1.crt absent",
            "/etc/pg/listen.conf:2 ssl_crl_file /media/data/crl.pem absent",
        ]
    );
}

#[test]
fn elasticsearch_names_keys_flat_and_nested() {
    let yaml = "cluster.name: x\n\
        xpack.security.transport.ssl.keystore.path: certs/k.p12 # comment\n\
        xpack:\n  security:\n    http.ssl:\n      key: \"/etc/es/h.key\"\n      certificate: h.crt\n      \
        certificate_authorities: [ \"ca1.crt\", 'ca2.crt' ]\n    authc:\n      realms:\n        ldap.ssl.truststore.path: t.jks\n\
        \x20       pki:\n          certificate_authorities:\n          - a.pem\n          - b.pem\n\
        xpack.monitoring.ssl.key: ${KEY}\n\
        xpack.x.ssl.certificate_authorities: [\n  c.pem,\n  d.pem ]\n\
        other.ssl.key: no.key\n";
    let machine = Machine::new(&[("/etc/es/elasticsearch.yml", yaml)]);
    let found = machine.discover("[keys]\nsearch.elasticsearch = ['/etc/es/elasticsearch.yml']");
    let paths: Vec<String> = found.keys.iter().map(|key| path(&key.found)).collect();
    let names = ["certs/k.p12", "h.key", "h.crt", "ca1.crt", "ca2.crt", "t.jks", "a.pem", "b.pem", "c.pem", "d.pem"];
    assert_eq!(paths, names.map(|name| format!("/etc/es/{name}")));
    assert_eq!(
        keys(&found)[5],
        "/etc/es/elasticsearch.yml:11 xpack.security.authc.realms.ldap.ssl.truststore.path /etc/es/t.jks absent"
    );
    assert!(found.notes[0].text.contains("${KEY}"), "{:?}", found.notes);
}

#[test]
fn neo4j_redis_and_python_settings_name_keys() {
    let machine = Machine::new(&[
        (
            "/etc/neo4j.conf",
            "dbms.ssl.policy.bolt.base_directory=certs/bolt\ndbms.ssl.policy.bolt.private_key=p.key\n\
             dbms.ssl.policy.bolt.trusted_dir=/etc/trusted\ndbms.ssl.policy.https.enabled=true\n#dbms.ssl.policy.x.private_key=y\n",
        ),
        ("/etc/redis.conf", "dir /var/redis\ntls-cert-file \"r.crt\"\ntls-key-file /etc/r.key\ninclude local.conf\n"),
        ("/etc/local.conf", "tls-ca-cert-dir cas\ninclude redis.conf"),
        (
            "/etc/settings.py",
            "A = '/etc/a.pem'  # '/etc/comment.pem'\nB = \"\"\"\n/etc/b.key\n\"\"\"\nC = r'it\\'s'\n\
             D = 'postgresql://h/db?sslrootcert=/etc/c.crt&sslkey=d.key'\nE = 'https://h/e.crt'\nF = 'unended\nG = '/etc/g.pem'\n",
        ),
    ]);
    let found = machine.discover(
        "[neo4j]\nhome = '/opt/neo4j'\n[keys.search]\nneo4j = ['/etc/neo4j.conf']\nredis = ['/etc/redis.conf']\n\
         python = ['/etc/settings.py']",
    );
    assert_eq!(
        keys(&found),
        [
            "/etc/neo4j.conf:1 dbms.ssl.policy.bolt.base_directory /opt/neo4j/certs/bolt absent",
            "/etc/neo4j.conf:2 dbms.ssl.policy.bolt.private_key /opt/neo4j/certs/bolt/p.key absent",
            "/etc/neo4j.conf:3 dbms.ssl.policy.bolt.trusted_dir /etc/trusted absent",
            "/etc/neo4j.conf:4 dbms.ssl.policy.https.base_directory /opt/neo4j/certificates/https absent",
            "/etc/redis.conf:2 tls-cert-file /var/redis/r.crt absent",
            "/etc/redis.conf:3 tls-key-file /etc/r.key absent",
            "/etc/local.conf:1 tls-ca-cert-dir /var/redis/cas absent",
            "/etc/settings.py:1 a text /etc/a.pem absent",
            "/etc/settings.py:2 a text /etc/b.key absent",
            "/etc/settings.py:6 a text /etc/c.crt absent",
            "/etc/settings.py:9 a text /etc/g.pem absent",
        ]
    );
    assert!(found.notes.iter().any(|note| note.text.contains("\"d.key\" is not absolute")), "{:?}", found.notes);
}

#[test]
fn files_that_cannot_be_searched_are_gaps() {
    let machine = Machine::new(&[("/etc/big.conf", "")]);
    machine.write("/etc/big.conf", vec![b'#'; 5 << 20]);
    std::fs::create_dir(machine.at("/etc/directory.conf")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, machine.at("/etc/fifo.conf"), rustix::fs::Mode::RWXU).unwrap();
    machine.write("/etc/many.conf", "include /etc/*;\n".repeat(100_000));
    let found = machine.discover(
        "[keys.search]\nnginx = ['/etc/big.conf', '/etc/directory.conf', '/etc/fifo.conf', '/etc/absent.conf', '/etc/many.conf']",
    );
    let gap = |word: &str| found.gaps.iter().any(|gap| gap.text.contains(word));
    assert!(
        gap("more than 4194304 bytes") && gap("no regular file") && gap("too much is included"),
        "{:?}",
        found.gaps.len()
    );
    assert!(found.gaps.iter().all(|gap| gap.file.0 != b"/etc/absent.conf"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_brings_a_search_down(pieces in proptest::collection::vec(proptest::sample::select(vec![
        "xpack.", "security:", "\n", " ", "  ", "key: ", "[", "]", "- ", "#", "'", "\"", "\"\"\"", "\\", ";", "{", "}", "ssl_certificate",
        "include", "include_dir ", "ssl_key_file", " = ", "on", "ssl", "dbms.ssl.policy.", "a.", "base_directory=", "tls-key-file ",
        "dir ", "/", "..", "*", "/etc/x.conf", ".pem", "ü", "\u{0}", "data_directory", "file://", "$x",
    ]), 0..60)) {
        let machine = Machine::new(&[("/etc/x.conf", &pieces.concat())]);
        let lists = ["nginx", "postgres", "elasticsearch", "neo4j", "redis", "python"]
            .map(|format| format!("{format} = ['/etc/x.conf']\n"));
        let found = machine.discover(&format!("[keys.search]\n{}", lists.concat()));
        for key in &found.keys {
            prop_assert!(Path::new(&path(&key.found)).is_absolute());
        }
    }
}

/// The driver took a line that goes on for one setting, and the search for keys for two, of which one named no file.
#[test]
fn a_key_named_in_a_continued_line_of_neo4j_conf_was_missed() {
    let text = "! a comment=x\ndbms.ssl.policy.bolt.private_key: \\\r\n    /etc/p.key\ndbms.ssl.policy.x.y=\\u00zz\n";
    let machine = Machine::new(&[("/etc/neo4j.conf", text)]);
    let found = machine.discover("[neo4j]\nhome = '/opt/neo4j'\n[keys.search]\nneo4j = ['/etc/neo4j.conf']");
    assert_eq!(
        keys(&found),
        [
            "/etc/neo4j.conf:2 dbms.ssl.policy.bolt.base_directory /opt/neo4j/certificates/bolt absent",
            "/etc/neo4j.conf:2 dbms.ssl.policy.bolt.private_key /etc/p.key absent",
        ]
    );
    assert!(found.notes.iter().any(|note| note.text.contains("\\u00zz")), "{:?}", found.notes);
}
