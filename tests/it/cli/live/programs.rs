//! What programs are told: JSON, the journal, and the service manager.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use cairn::cli::systemd::{Journal, Notify, Priority};
use cairn::format::ObjectId;
use cairn::format::set::Status;
use cairn::progress::{Monitor, Notice, Phase, StepState, StepWork};
use serde_json::Value;
use tempfile::TempDir;

use super::{MIB, Shown, two_components};
use crate::sets::set_of;
use crate::support::pty::wait_until;

fn objects(shown: &Shown) -> Vec<Value> {
    shown.results.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn json_has_an_object_an_event_and_work_at_most_once_a_second_and_step() {
    let shown = Shown::with(|setup| setup.output.json = true);
    let begun = std::time::Instant::now();
    two_components(&shown);
    let work = |step: &str| {
        let of = |object: &Value| object["type"] == "work" && object["step"] == step;
        objects(&shown).into_iter().filter(of).collect::<Vec<_>>()
    };
    while work("capture-postgres").len() < 2 {
        shown.live.within("capture-postgres", StepWork::Advance(1));
        assert!(begun.elapsed() < Duration::from_secs(120), "no work is told");
        std::thread::sleep(Duration::from_millis(5));
    }
    let allowed = begun.elapsed().as_secs() as usize;
    assert!(work("capture-postgres").len() <= allowed, "{:?} in {allowed} s", work("capture-postgres"));
    let postgres = &work("capture-postgres")[0];
    assert_eq!((&postgres["phase"], &postgres["unit"]), (&"backup".into(), &"bytes".into()), "{postgres}");
    assert_eq!((&postgres["total"], &postgres["item"]), (&(400 * MIB).into(), &"/a/file".into()), "{postgres}");
    assert!(postgres["done"].as_u64() >= Some(100 * MIB) && postgres["per_second"].as_u64() > Some(0), "{postgres}");
    let config = work("capture-config");
    assert_eq!((config.len(), &config[0]["total"]), (1, &Value::Null), "what stands still is told once");
    shown.step("capture-config", "Capture configuration files", StepState::Done, "it is \x1b there");
    shown.live.notice(Notice { subject: "/etc/x".to_owned(), message: "unread".to_owned() });
    shown.live.finish("");
    let all = objects(&shown);
    assert_eq!(
        (&all[0]["type"], &all[0]["state"], &all[0]["step"]),
        (&"step".into(), &"running".into(), &"capture-postgres".into())
    );
    let done = all.iter().find(|object| object["state"] == "done").unwrap();
    assert_eq!((&done["detail"], &done["bytes"]), (&"it is \x1b there".into(), &(100 * MIB).into()), "{done}");
    assert!(done["milliseconds"].is_u64() && done["time"].as_str().unwrap().ends_with('Z'), "{done}");
    let notice = all.last().unwrap();
    assert_eq!(
        (&notice["type"], &notice["subject"], &notice["message"]),
        (&"notice".into(), &"/etc/x".into(), &"unread".into())
    );
    assert_eq!(shown.messages.text(), "cairn: /etc/x: unread\n", "people are told of notices only");
}

fn listen(directory: &TempDir) -> (UnixDatagram, std::path::PathBuf) {
    let path = directory.path().join("socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    (socket, path)
}

fn receive(socket: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 16];
    let length = socket.recv(&mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}

#[test]
fn systemd_is_told_what_runs_and_asked_for_time_to_undo() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, path) = listen(&directory);
    let shown = Shown::with(|setup| setup.notify = Notify::at(path.as_os_str()));
    two_components(&shown);
    shown.step("evil", "a\nREADY=1\nb", StepState::Running, "");
    let next = || String::from_utf8(receive(&socket)).unwrap();
    loop {
        let told = next();
        assert!(told.starts_with("STATUS=") && told.matches('\n').count() == 1, "{told:?}");
        if told.contains("a READY=1 b") {
            assert!(told.contains("Capture PostgreSQL: backing up 100.00 MiB of 400.00 MiB"), "{told}");
            assert!(told.contains("; Capture configuration files: backing up 100.00 MiB"), "{told}");
            break;
        }
    }
    shown.stop.shared().store(true, std::sync::atomic::Ordering::SeqCst);
    let told: Vec<String> = std::iter::repeat_with(next).take(50).collect();
    assert!(told.iter().any(|told| told == "EXTEND_TIMEOUT_USEC=60000000\n"), "{told:?}");
    assert!(told.iter().any(|told| told.starts_with("STATUS=stopping: Capture")), "{told:?}");
    // It is read no longer; nobody waits for that.
    std::thread::sleep(Duration::from_millis(300));
    drop(socket);
    shown.live.finish("done");
}

#[test]
fn the_last_status_is_the_one_that_was_given_and_an_abstract_address_is_one() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("cairn-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    let shown = Shown::with(|setup| setup.notify = Notify::at(format!("@{name}").as_ref()));
    shown.live.finish("backup set abcd: complete");
    assert_eq!(receive(&socket), b"STATUS=backup set abcd: complete\n");
    Notify::at(format!("@{name}").as_ref()).unwrap().status("a\nREADY=1");
    assert_eq!(receive(&socket), b"STATUS=a READY=1\n", "one text is one variable");
    assert!(Notify::at("vsock:2:1".as_ref()).is_none() && Notify::at("".as_ref()).is_none());
}

/// The fields of an entry.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
        let line = String::from_utf8(entry[..end].to_vec()).unwrap();
        entry = &entry[end + 1..];
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let (length, rest) = entry.split_at(8);
                let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
                let value = String::from_utf8(rest[..length].to_vec()).unwrap();
                assert_eq!(rest[length], b'\n');
                entry = &rest[length + 1..];
                (line, value)
            }
        };
        fields.insert(name, value);
    }
    fields
}

#[test]
fn the_journal_gets_fields_and_a_priority() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, path) = listen(&directory);
    let shown = Shown::with(|setup| setup.journal = Journal::at(&path));
    shown.step("stop-first:x", "Stop x", StepState::Running, "");
    shown.step("stop-first:x", "Stop x", StepState::Failed, "one line\nPRIORITY=0");
    shown.live.notice(Notice { subject: "/etc/x".to_owned(), message: "unread".to_owned() });
    let id = ObjectId::from_bytes([7; 32]);
    shown.live.published(&id, &set_of("2026-03-01T02:00:00Z", Status::Partial, &[id]));
    let entries: Vec<_> = std::iter::repeat_with(|| fields(&receive(&socket))).take(4).collect();
    let want = |number: usize, name: &str, value: &str| {
        assert_eq!(entries[number].get(name).map(String::as_str), Some(value), "{:?}", entries[number]);
    };
    want(0, "MESSAGE", "running stop-first:x  Stop x");
    want(0, "PRIORITY", "6");
    want(0, "SYSLOG_IDENTIFIER", "cairn");
    want(1, "CAIRN_STEP", "stop-first:x");
    want(1, "CAIRN_STATE", "failed");
    want(1, "CAIRN_DETAIL", "one line\nPRIORITY=0");
    want(1, "PRIORITY", "3");
    assert!(entries[1]["MESSAGE"].starts_with("failed  stop-first:x  Stop x (0.0 s): one line PRIORITY=0"));
    want(2, "PRIORITY", "4");
    want(2, "MESSAGE", "cairn: /etc/x: unread");
    want(2, "CAIRN_SUBJECT", "/etc/x");
    want(3, "CAIRN_SET", &id.to_string());
    want(3, "CAIRN_STATUS", "partial");
    want(3, "PRIORITY", "4");
    shown.live.finish("");
    assert_eq!(shown.messages.text(), "", "what the journal has is not said twice");
}

#[test]
fn a_journal_that_takes_nothing_blocks_nobody_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, path) = listen(&directory);
    let shown = Shown::with(|setup| setup.journal = Journal::at(&path));
    // More than the socket holds while nobody reads.
    for number in 0..2000 {
        shown.step(&number.to_string(), "Step", StepState::Done, "");
    }
    shown.live.finish("");
    socket.set_nonblocking(true).unwrap();
    let mut taken = 0;
    while socket.recv(&mut [0; 4096]).is_ok() {
        taken += 1;
    }
    assert!(taken > 0 && taken < 2000, "{taken}");
    assert_eq!(taken + shown.messages.lines().len(), 2000);
    let gone = Journal::at(Path::new("/nonexistent/socket")).unwrap();
    assert!(!gone.entry(Priority::Info, "m", &[]));
}

#[test]
fn a_view_that_is_dropped_has_written_everything() {
    let shown = Shown::with(|_| {});
    for number in 0..500 {
        shown.step(&number.to_string(), "Step", StepState::Done, "");
    }
    shown.live.begin(Phase::Index, Some(10));
    shown.live.advance(5);
    shown.live.end();
    let messages = shown.messages.clone();
    drop(shown);
    assert_eq!(messages.lines().len(), 500);
    wait_until("no thread holds the stream", || std::sync::Arc::strong_count(&messages.0) == 1);
}
