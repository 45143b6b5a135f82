//! What is shown of processes.

use cairn::source::process::{Process, ProcessId};

fn shown(arguments: &[&str]) -> String {
    let id = ProcessId { pid: 7, start: 1 };
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Process { id, parent: 1, uid: 0, name: "x".to_owned(), arguments, ended: false }.shown()
}

/// Command lines of leftover processes go into the log, the set and its report.
#[test]
fn a_secret_in_a_command_line_is_not_shown() {
    for (arguments, seen) in [
        (&["celery", "-b", "redis://:hunter2@localhost:6379/0", "worker"][..], "redis://***@localhost:6379/0 worker"),
        (&["p", "amqp://user:hunter2@host/a@b"], "amqp://***@host/a@b"),
        (&["p", "--password=hunter2", "--other=x"], "p --password=*** --other=x"),
        (&["p", "--api-token", "hunter2", "rest"], "p --api-token *** rest"),
        (&["p", "--password", "--loglevel=info"], "p --password --loglevel=info"),
        (&["p", "http://host/path@x"], "p http://host/path@x"),
    ] {
        let text = shown(arguments);
        assert!(text.ends_with(seen) && !text.contains("hunter2"), "{text}");
    }
}
