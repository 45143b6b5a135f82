//! PostgreSQL 11 itself, beside the newer one that the lab has under its name.

use cairn::format::set::PostgresFacts;
use cairn::source::postgres::{Method, compare, facts};

use super::BARE;
use super::restores::{cluster, dump, recorded, tree};
use crate::platform::Platform;
use crate::servers::postgres::{directory, version_11};
use crate::servers::skip;

const UNIT: &str = "/etc/systemd/system/old.service";
const DATA: &str = "/media/pgsql/old";

/// What `pg_controldata` would say: the archive with version 11 lacks it, and that of another version refuses the file.
const CONTROL_DATA: &str = r#"#!/usr/bin/python3
import struct, sys
if "--version" in sys.argv:
    sys.exit(print("pg_controldata (PostgreSQL) 11.22"))
with open(sys.argv[sys.argv.index("-D") + 1] + "/global/pg_control", "rb") as file:
    content = file.read()
system, version, _, state = struct.unpack_from("<QIIi", content)
checkpoint, redo, timeline = struct.unpack_from("<QQI", content, 32)
assert version == 1100, version
states = ["starting up", "shut down", "shut down in recovery", "shutting down", "in crash recovery", "in archive recovery", "in production"]
print("Database system identifier:           ", system)
print("Database cluster state:               ", states[state])
print("Latest checkpoint location:           ", f"{checkpoint >> 32:X}/{checkpoint & 0xffffffff:X}")
print("Latest checkpoint's TimeLineID:       ", timeline)
"#;

pub fn version_11_is_captured(platform: &Platform) {
    let unpacked = directory().unwrap();
    let bin = match version_11(unpacked.path()) {
        Ok(bin) => bin,
        Err(why) => return skip(&why),
    };
    let lab = &platform.lab;
    let copied = std::process::Command::new("cp").arg("-a").arg(unpacked.path()).arg(lab.path("/opt/old")).status();
    assert!(copied.unwrap().success());
    platform.write("/opt/old/bin/pg_controldata", CONTROL_DATA);
    let script = format!(
        "chown -R root: /opt/old; chmod 755 /opt/old /opt/old/bin/pg_controldata; install -d -o postgres {DATA}
         ln -s /usr/pgsql-11/bin/pg_dump /usr/pgsql-11/bin/pg_dumpall /usr/pgsql-11/bin/psql /opt/old/bin/
         runuser -u postgres -- /opt/old/bin/initdb -D {DATA} -E UTF8 --no-locale --auth-local=peer --auth-host=reject"
    );
    lab.ok(&["sh", "-ec", &script]);
    let unit = std::fs::read_to_string(lab.path("/etc/systemd/system/postgresql-11.service")).unwrap();
    let start = format!("ExecStart=/opt/old/bin/postgres -D {DATA} -p 5411 -k /run/old\n");
    let lines = unit.lines().map(|line| match line {
        _ if line.starts_with("ExecStart=") => start.clone(),
        "Type=notify" => {
            "Type=simple\nExecStartPost=/bin/sh -c 'until [ -S /run/old/.s.PGSQL.5411 ]; do sleep 0.1; done'\n"
                .to_owned()
        }
        "RuntimeDirectory=postgresql" => "RuntimeDirectory=old\n".to_owned(),
        line => format!("{line}\n"),
    });
    platform.write(UNIT, &lines.collect::<String>());
    lab.ok(&["systemctl", "daemon-reload"]);
    lab.ok(&["systemctl", "start", "old"]);
    let sql = "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i";
    let psql = ["psql", "-qX", "-h", "/run/old", "-p", "5411", "-d", "postgres", "-c", sql];
    lab.ok(&[&["runuser", "-u", "postgres", "--"], psql.as_slice()].concat());

    let server = format!(
        "{BARE}[postgres]\nbin-directory = \"/opt/old/bin\"\nsocket-directory = \"/run/old\"\nport = 5411\n\
         service = \"old\"\ndata-directories = [\"{DATA}\"]\n"
    );
    let profile = platform.profile("old-dump", &server);
    let ended = platform.backup(&profile, &["--online", "--only", "postgres"]).must(0);
    assert!(ended.component("postgres")["versions"]["postgresql"].as_str().unwrap().starts_with("11."));
    dump(platform, &ended);
    let proven = platform.drill(&profile, &["--allow", "online"]).must(0);
    assert!(proven.summary["components"][0]["versions"]["postgresql"].as_str().unwrap().starts_with("11."));

    let profile = platform.profile("old-files", &format!("{server}method = \"files\"\n"));
    let ended = platform.backup(&profile, &["--only", "postgres"]).must(0);
    assert!(lab.is_active("old"));
    platform.drill(&profile, &[]).must(0);
    let target = tempfile::tempdir().unwrap();
    tree(platform, ended.part("postgres", "files"), target.path());
    let to = cluster(target.path(), DATA, &bin);
    to.up();
    let recorded: PostgresFacts = recorded(&ended, "postgres");
    assert_eq!(compare(&recorded, &facts(&to.settings, Method::Files, &|| false).unwrap()), []);
    assert_eq!(to.sql("postgres", "SELECT count(*) FROM t"), "5000");
    lab.ok(&["systemctl", "stop", "old"]);
    std::fs::remove_file(lab.path(UNIT)).unwrap();
    lab.ok(&["systemctl", "daemon-reload"]);
}
