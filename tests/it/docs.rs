//! The operator's guide runs: every `sh` block of `docs/operator.md`, in order, by a shell that stops at the first failure.

use std::process::{Command, Stdio};

#[test]
fn every_command_of_the_operators_guide_works() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operator.md")).unwrap();
    let mut script = String::from("set -eu\n");
    let mut blocks = 0;
    for block in guide.split("```sh\n").skip(1) {
        script.push_str(block.split("```").next().unwrap());
        blocks += 1;
    }
    assert!(blocks >= 7, "only {blocks} blocks were found");
    let directory = tempfile::tempdir().unwrap();
    let program = assert_cmd::cargo::cargo_bin!("cairn");
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(directory.path())
        .env_clear()
        .env("PATH", path)
        .env("CAIRN_REPO", directory.path().join("repository"))
        .env("CAIRN_CACHE_DIR", directory.path().join("cache"))
        .env("CAIRN_PASSWORD", "a password for the guide")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let hosts = std::fs::read("/etc/hosts").unwrap();
    assert_eq!(std::fs::read(directory.path().join("restored/hosts")).unwrap(), hosts);
    assert!(std::fs::read_to_string(directory.path().join("numbers.txt")).unwrap().ends_with("20000\n"));
}
