//! Queues of a real Redis, with a real Celery worker at them.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::time::{Duration, Instant};

use cairn::source::SourceError;
use cairn::source::redis::{Client, Drain, End};
use redis::Commands;

use crate::servers::PATIENCE;
use crate::servers::redis::Redis;

const QUEUE: &str = "queue:ingestion:inbound";

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn never() -> bool {
    false
}

/// Everything that a stream says, and what it says that it saved.
fn read(client: &Client, keys: &[&str]) -> (Vec<u8>, Vec<cairn::source::redis::encoding::Saved>) {
    let mut reader = client.read_keys(&names(keys)).unwrap();
    let mut stream = Vec::new();
    reader.read_to_end(&mut stream).unwrap();
    (stream, reader.saved().unwrap().to_vec())
}

fn list(connection: &mut redis::Connection, key: &str) -> Vec<Vec<u8>> {
    connection.lrange(key, 0, -1).unwrap()
}

#[test]
fn queues_come_back_in_their_order() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut raw = server.raw();
    let mut elements: Vec<Vec<u8>> = (0..3000).map(|number| format!("task {number}").into_bytes()).collect();
    elements.extend([vec![0, 255, b'\r', b'\n'], Vec::new(), vec![7; 5 << 20]]);
    for some in elements.chunks(100) {
        raw.rpush::<_, _, ()>("providers", some).unwrap();
    }
    let fields: Vec<(String, String)> = (0..700).map(|number| (format!("tag {number}"), "x".repeat(number))).collect();
    raw.hset_multiple::<_, _, _, ()>("unacked", &fields).unwrap();
    raw.zadd_multiple::<_, _, _, ()>("unacked_index", &[(1.5, "a"), (17e9, "b"), (-0.25, "c")]).unwrap();
    raw.sadd::<_, _, ()>("bindings", &["a", "b"]).unwrap();

    let mut client = server.client();
    let keys = ["providers", "utilities", "unacked", "unacked_index", "bindings"];
    let (stream, saved) = read(&client, &keys);
    assert_eq!(saved.iter().map(|saved| saved.elements).collect::<Vec<_>>(), [3003, 0, 700, 3, 2]);
    redis::cmd("FLUSHALL").exec(&mut raw).unwrap();
    let pushed = client.push_back(Cursor::new(&stream)).unwrap();
    assert_eq!(pushed["providers"], 3003);
    assert!(list(&mut raw, "providers") == elements, "the elements differ");
    let (again, _) = read(&client, &keys[..2]);
    assert!(stream.starts_with(&again[..again.len() - 5]), "the lists' records differ");
    let hash: BTreeMap<String, String> = raw.hgetall("unacked").unwrap();
    assert_eq!(hash, fields.into_iter().collect());
    let scores: Vec<(String, f64)> = raw.zrange_withscores("unacked_index", 0, -1).unwrap();
    assert_eq!(scores, [("c".to_owned(), -0.25), ("a".to_owned(), 1.5), ("b".to_owned(), 17e9)]);
    let left: Vec<String> = raw.keys("cairn:*").unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_comes_back_is_consumed_before_what_is_there() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut raw = server.raw();
    for (key, from, old_new_old) in [("providers", End::Right, false), (QUEUE, End::Left, true)] {
        let old: Vec<String> = (0..200).map(|number| format!("old {number}")).collect();
        raw.rpush::<_, _, ()>(key, &old).unwrap();
        let mut client = server.client();
        assert_eq!(client.settings().consumed_from(key), from);
        let (stream, _) = read(&client, &[key]);
        raw.del::<_, ()>(key).unwrap();
        raw.rpush::<_, _, ()>(key, &["new 0", "new 1"]).unwrap();
        client.push_back(Cursor::new(stream)).unwrap();
        let new = names(&["new 0", "new 1"]);
        let expected: Vec<String> =
            if old_new_old { old.into_iter().chain(new).collect() } else { new.into_iter().chain(old).collect() };
        let found: Vec<String> = raw.lrange(key, 0, -1).unwrap();
        assert_eq!(found, expected, "{key}");
    }
}

#[test]
fn a_queue_that_changes_while_it_is_read_is_an_error() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut raw = server.raw();
    let elements: Vec<Vec<u8>> = (0..1000).map(|_| vec![1; 10_000]).collect();
    raw.rpush::<_, _, ()>(QUEUE, &elements).unwrap();
    let client = server.client();
    let mut reader = client.read_queue(QUEUE).unwrap();
    reader.read_exact(&mut vec![0; 100_000]).unwrap();
    // As many as before: a count alone would not see it.
    raw.lpush::<_, _, ()>(QUEUE, "new").unwrap();
    raw.rpop::<_, ()>(QUEUE, None).unwrap();
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("changed while it was being read"), "{error}");
    assert!(reader.saved().is_none());
}

#[test]
fn a_purge_deletes_what_was_saved_and_nothing_else() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut raw = server.raw();
    let mut client = server.client();
    raw.rpush::<_, _, ()>(QUEUE, &["a", "b"]).unwrap();
    let (_, saved) = read(&client, &[QUEUE]);

    raw.rpush::<_, _, ()>(QUEUE, "unsaved").unwrap();
    assert!(matches!(client.purge(&saved[0]), Err(SourceError::Changed { .. })));
    assert_eq!(list(&mut raw, QUEUE), [b"a".to_vec(), b"b".to_vec(), b"unsaved".to_vec()], "put back as it was");

    // Same length, other content.
    raw.lset::<_, _, ()>(QUEUE, 1, "other").unwrap();
    raw.rpop::<_, ()>(QUEUE, None).unwrap();
    assert!(matches!(client.purge(&saved[0]), Err(SourceError::Changed { .. })));
    assert_eq!(list(&mut raw, QUEUE), [b"a".to_vec(), b"other".to_vec()]);

    let (_, saved) = read(&client, &[QUEUE]);
    client.purge(&saved[0]).unwrap();
    assert_eq!(client.lengths(&names(&[QUEUE])).unwrap()[QUEUE], 0);
    assert!(client.set_aside_already(&names(&[QUEUE])).unwrap().is_empty());
}

#[test]
fn what_is_pushed_while_a_queue_is_aside_stays() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut raw = server.raw();
    let mut client = server.client();
    let keys = names(&[QUEUE, "queue:graph:inbound"]);
    raw.rpush::<_, _, ()>(QUEUE, &["a", "b"]).unwrap();
    assert_eq!(client.set_aside(&keys).unwrap(), BTreeMap::from([(QUEUE.to_owned(), 2)]));
    raw.rpush::<_, _, ()>(QUEUE, "c").unwrap();

    let error = client.set_aside(&keys).unwrap_err().to_string();
    assert!(error.contains("put them back first"), "{error}");
    let mut reader = client.read_aside(&keys).unwrap();
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    let saved = reader.saved().unwrap().to_vec();
    assert_eq!((saved[0].key.as_str(), saved[0].elements), (QUEUE, 2));

    // The undo joins; done twice, it does nothing more.
    client.put_back(&keys).unwrap();
    client.put_back(&keys).unwrap();
    assert_eq!(list(&mut raw, QUEUE), [b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);

    // Saved before "c" came in: now it must not go with the others.
    client.set_aside(&keys).unwrap();
    assert!(matches!(client.drop_aside(&saved), Err(SourceError::Changed { .. })));
    client.put_back(&keys).unwrap();
    assert_eq!(list(&mut raw, QUEUE).len(), 3);
}

#[test]
fn a_stream_that_is_cut_changes_nothing() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut raw = server.raw();
    raw.rpush::<_, _, ()>("providers", &["a", "b"]).unwrap();
    raw.rpush::<_, _, ()>("utilities", &["c"]).unwrap();
    let mut client = server.client();
    let (stream, _) = read(&client, &["providers", "utilities"]);
    for length in 0..stream.len() {
        client.push_back(&stream[..length]).unwrap_err();
    }
    let keys: Vec<String> = raw.keys("*").unwrap();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_eq!(list(&mut raw, "providers").len(), 2);
}

#[test]
fn a_key_that_is_no_queue_is_told() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut raw = server.raw();
    raw.set::<_, _, ()>(QUEUE, "text").unwrap();
    let mut client = server.client();
    let error = client.lengths(&names(&[QUEUE])).unwrap_err().to_string();
    assert!(error.contains(QUEUE), "{error}");
    let error = client.set_aside(&names(&["providers", QUEUE])).unwrap_err().to_string();
    assert!(error.contains("is a string"), "{error}");
    let error = client.read_queue(QUEUE).unwrap().read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("is a string"), "{error}");
}

#[test]
fn a_worker_s_tasks_are_waited_for() {
    let Some(server) = Redis::start(&[]) else { return };
    let Some(celery) = server.celery() else { return };
    celery.send("providers", 3, 1.0, None);
    celery.send("providers", 1, 1.0, Some(9));
    let mut client = server.client();
    let queues = names(&["providers", "utilities"]);
    assert_eq!(client.lengths(&queues).unwrap()["providers"], 4, "one of them has a priority");

    let limit = Duration::from_millis(1200);
    let drain = Drain { queues: &queues, unacked: true, limit };
    let error = client.wait_drained(drain, &never, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }));
    assert!(error.to_string().contains("(providers: 4)"), "{error}");
    let begun = Instant::now();
    let patient = Drain { limit: PATIENCE, ..drain };
    let stopped = client.wait_drained(patient, &|| begun.elapsed() > limit, &mut |_| Ok(()));
    assert!(matches!(stopped, Err(SourceError::Interrupted)));

    let worker = celery.work("providers");
    let mut seen = Vec::new();
    let mut look = |left: &BTreeMap<String, u64>| {
        seen.push(left.clone());
        Ok(())
    };
    client.wait_drained(patient, &never, &mut look).unwrap();
    assert!(seen.iter().any(|left| left["unacked"] > 0), "{seen:?}");
    assert!(seen.last().unwrap().values().all(|length| *length == 0), "{seen:?}");
    assert!(client.other_clients().unwrap().0 > 0, "the worker is connected");
    drop(worker);
}

#[test]
fn tasks_that_a_dead_worker_had_taken_are_saved_and_come_back() {
    let Some(server) = Redis::start(&[]) else { return };
    let Some(celery) = server.celery() else { return };
    celery.send("providers", 3, 600.0, None);
    let worker = celery.work("providers");
    let mut client = server.client();
    let begun = Instant::now();
    while client.unacked().unwrap() == 0 {
        assert!(begun.elapsed() < PATIENCE, "the worker takes no tasks");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(worker);
    let taken = client.unacked().unwrap();
    let queues = names(&["providers"]);
    let waiting = client.lengths(&queues).unwrap();
    let mut keys = client.settings().keys("providers");
    keys.extend(client.settings().unacked_keys());
    let mut stream = Vec::new();
    client.read_keys(&keys).unwrap().read_to_end(&mut stream).unwrap();
    let mut raw = server.raw();
    redis::cmd("FLUSHALL").exec(&mut raw).unwrap();
    client.push_back(Cursor::new(stream)).unwrap();
    assert_eq!(client.unacked().unwrap(), taken);
    assert_eq!(client.lengths(&queues).unwrap(), waiting);
}

#[test]
fn a_dump_is_proven_to_be_new() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut client = server.client();
    let info = client.info().unwrap();
    assert_eq!(info.role, "master");
    assert_eq!(info.rdb.as_deref(), Some(server.directory().join("dump.rdb").as_path()));
    let first = client.bgsave(&never).unwrap();
    server.raw().set::<_, _, ()>("key", "x".repeat(1000)).unwrap();
    let second = client.bgsave(&never).unwrap();
    assert!(second.time > first.time && second.bytes > first.bytes, "{first:?} {second:?}");

    // A server that cannot write says so, and its old dump is not taken for a new one.
    std::fs::remove_file(server.directory().join("dump.rdb")).unwrap();
    std::fs::create_dir_all(server.directory().join("dump.rdb/in the way")).unwrap();
    let error = client.bgsave(&never).unwrap_err().to_string();
    assert!(error.contains("background save failed"), "{error}");
}

#[test]
fn other_clients_are_told_from_us() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut client = server.client();
    let _reader = client.read_queue(QUEUE).unwrap();
    assert_eq!(client.other_clients().unwrap().0, 0);
    let mut raw = server.raw();
    raw.set::<_, _, ()>("key", 1).unwrap();
    let (count, clients) = client.other_clients().unwrap();
    assert_eq!((count, clients[0].command.as_str()), (1, "set"), "{clients:?}");
}

#[test]
fn a_password_is_taken_from_its_file() {
    let Some(server) = Redis::start(&["--requirepass", "correct horse"]) else { return };
    let file = server.directory().join("password");
    std::fs::write(&file, "correct horse\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let settings = server.settings();
    Client::connect(&settings).err().expect("without a password nothing is answered");
    let settings = cairn::source::redis::RedisSettings { password_file: Some(file.clone()), ..settings };
    assert_eq!(Client::connect(&settings).unwrap().lengths(&names(&[QUEUE])).unwrap()[QUEUE], 0);
    std::fs::write(&file, "wrong battery").unwrap();
    let mut error: Option<&dyn std::error::Error> = None;
    let failed = Client::connect(&settings).err().unwrap();
    let mut told = failed.to_string();
    while let Some(source) = error.map_or(std::error::Error::source(&failed), std::error::Error::source) {
        told += &source.to_string();
        error = Some(source);
    }
    assert!(!told.contains("battery"), "{told}");
}
