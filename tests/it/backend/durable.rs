//! The order of system calls that makes a write durable, as strace sees it. No test can pull the plug, but this one
//! fails when a flush is missing or comes too late.

use std::path::Path;
use std::process::Command;

use cairn::backend::Backend;
use cairn::backend::local::Local;
use cairn::format::{Kind, ObjectId};

use crate::support::conformance::id;
use crate::support::machine::skip;

const CHILD: &str = "CAIRN_TEST_TRACED_WRITER";

/// The child of the next test.
#[test]
fn traced_writer() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let local = Local::create(Path::new(&path)).unwrap();
    local.write_new(Kind::DataPack, &id(0xab, 1), b"content").unwrap();
    local.write_new(Kind::Snapshot, &id(0xcd, 1), b"content").unwrap();
    let mut object = local.begin_new(Kind::Wal, &id(0xef, 1), 4).unwrap();
    object.write(b"content").unwrap();
    object.finish(b"head").unwrap();
    local.sync().unwrap();
    local.remove(Kind::Snapshot, &id(0xcd, 1)).unwrap();
    local.sync().unwrap();
    local.sync().unwrap();
    local.write_new(Kind::Config, &ObjectId::ZERO, b"last").unwrap();
}

#[test]
fn every_write_is_flushed_before_it_appears_and_its_directory_by_sync() {
    let directory = tempfile::tempdir().unwrap();
    let (path, log) = (directory.path().join("repository"), directory.path().join("log"));
    let traced = Command::new("strace")
        .args(["--follow-forks", "--decode-fds=path", "--trace=fsync,fdatasync,rename,renameat,renameat2,unlink", "-o"])
        .arg(&log)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "backend::durable::traced_writer"])
        .env(CHILD, &path)
        .output();
    let Ok(text) = std::fs::read_to_string(&log) else {
        return skip("strace does not run here");
    };
    assert!(traced.unwrap().status.success());
    let calls = calls(&text, &path);
    let expected = |place: &str| ["fsync tmp/T".to_owned(), format!("rename tmp/T {place}")];
    let flush = |places: &[&str]| places.iter().map(|place| format!("fsync {place}")).collect::<Vec<_>>();
    let (data, snapshot) = (id(0xab, 1).to_string(), format!("snapshots/{}", id(0xcd, 1)));
    let all: Vec<String> = [
        flush(&["..", "."]),
        expected(&format!("data/ab/{data}")).to_vec(),
        expected(&snapshot).to_vec(),
        expected(&format!("wal/{}", id(0xef, 1))).to_vec(),
        flush(&[".", "data", "data/ab", "snapshots", "wal"]),
        vec![format!("unlink {snapshot}")],
        flush(&["snapshots"]),
        expected("config").to_vec(),
    ]
    .concat();
    assert_eq!(calls, all);
}

/// The traced calls with paths relative to the repository, and `tmp/T` for each temporary file.
fn calls(log: &str, repository: &Path) -> Vec<String> {
    let relative = |path: &str| match Path::new(path).strip_prefix(repository) {
        Ok(inside) if inside.starts_with("tmp") => "tmp/T".to_owned(),
        Ok(inside) if inside.as_os_str().is_empty() => ".".to_owned(),
        Ok(inside) => inside.display().to_string(),
        Err(_) if Some(Path::new(path)) == repository.parent() => "..".to_owned(),
        Err(_) => path.to_owned(),
    };
    let mut found = Vec::new();
    for line in log.lines().filter(|line| line.contains(" = 0")) {
        let call = line.split_whitespace().nth(1).unwrap_or_default().split('(').next().unwrap_or_default();
        let between = |from: char, to: char| {
            line.split(from).skip(1).filter_map(move |part| part.split_once(to).map(|(path, _)| path))
        };
        match call {
            "fsync" => found.push(format!("fsync {}", relative(between('<', '>').next().unwrap()))),
            "renameat2" => {
                assert!(line.contains("RENAME_NOREPLACE"), "{line}");
                let paths: Vec<&str> = line.split('"').collect();
                found.push(format!("rename {} {}", relative(paths[1]), relative(paths[3])));
            }
            "unlink" => found.push(format!("unlink {}", relative(line.split('"').nth(1).unwrap()))),
            _ => {}
        }
    }
    found
}
