//! The operator's guide runs: every `sh` block of `docs/operator.md`, in order, by a shell that stops at the first failure.
//! Whatever command of cairn another document shows is one that the program takes.

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

/// The commands of cairn that a text shows: in blocks, and between backquotes if they have options.
fn commands(text: &str) -> Vec<String> {
    let (mut found, mut block, mut continued) = (Vec::<String>::new(), None, false);
    for line in text.lines().map(str::trim) {
        if let Some(kind) = line.strip_prefix("```") {
            (block, continued) = (if block.is_some() { None } else { Some(kind) }, false);
        } else if matches!(block, Some("sh" | "text" | "console")) {
            let line = line.split(" #").next().unwrap().trim_end();
            if continued && let Some(last) = found.last_mut() {
                last.push_str(line);
            } else if line.starts_with("cairn ") {
                found.push(line.to_owned());
            }
            continued = line.ends_with('\\') && (continued || line.starts_with("cairn "));
        } else if block.is_none() && line.matches('`').count().is_multiple_of(2) {
            let quoted = line.split('`').skip(1).step_by(2);
            let commands = quoted.filter(|quoted| quoted.starts_with("cairn ") && quoted.contains(" --"));
            found.extend(commands.map(str::to_owned));
        }
    }
    found
}

/// Words of a command as a shell takes them apart, up to what another program gets.
fn words(command: &str) -> Vec<String> {
    let end = [" > ", " | ", " || ", " && ", "; ", " 2>"].iter().filter_map(|end| command.find(end)).min();
    let command = command[..end.unwrap_or(command.len())].replace('\\', " ");
    command.split_whitespace().map(|word| word.trim_matches(['\'', '"']).to_owned()).collect()
}

#[test]
fn every_command_that_a_document_shows_is_one_of_the_program() {
    use clap::Parser;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let documents = std::fs::read_dir(format!("{root}docs")).unwrap().map(|entry| entry.unwrap().path());
    let (mut seen, mut wrong) = (0, Vec::new());
    for path in documents.chain([std::path::PathBuf::from(format!("{root}README.md"))]) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for command in commands(&std::fs::read_to_string(&path).unwrap()) {
            // A form, not a command: it says what may be written.
            if command.contains(['[', '(', '{']) || command.contains("...") || command.contains("COMMAND") {
                continue;
            }
            seen += 1;
            if let Err(error) = cairn::cli::args::Cli::try_parse_from(words(&command)) {
                wrong.push(format!("{name}: {command}\n{error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 60, "only {seen} commands were found");
}

/// Every key of a table, with those of its tables before it.
fn keys(above: &str, table: &toml::Table, all: &mut Vec<String>) {
    for (key, value) in table {
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match value {
            toml::Value::Table(inner) if key != "groups" && key != "environment" => {
                keys(&path, inner, all);
            }
            _ => all.push(path),
        }
    }
}

#[test]
fn the_document_on_profiles_has_every_key_and_its_examples_are_profiles() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/profile.md")).unwrap();
    let mut blocks = 0;
    for block in text.split("```toml\n").skip(1) {
        let example = block.split("```").next().unwrap();
        cairn::orchestrate::platform::profile::parse("docs/profile.md", example.as_bytes()).unwrap();
        blocks += 1;
    }
    assert!(blocks > 0);
    let profile = cairn::orchestrate::platform::profile::built_in("eclecticiq-centos").unwrap().unwrap();
    let mut all = Vec::new();
    keys("", &toml::from_str(&profile.to_toml()).unwrap(), &mut all);
    assert!(all.len() > 80, "{}", all.len());
    for key in all {
        let known =
            text.contains(&format!("`{key}`")) || (key == "config.groups" && text.contains("config.groups.NAME"));
        assert!(known, "docs/profile.md does not have `{key}`");
    }
}

#[test]
fn the_document_on_the_preflight_has_a_row_for_each_check_and_for_nothing_else() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/preflight.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let ids: Vec<&str> = cairn::orchestrate::platform::preflight::ids().collect();
    assert_eq!(rows, ids);
}

#[test]
fn every_step_of_the_coverage_is_in_the_plan_and_every_test_is_where_it_says() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let coverage = std::fs::read_to_string(format!("{root}docs/platform-coverage.md")).unwrap();
    let read = |path: &str| std::fs::read_to_string(format!("{root}{path}"));
    let plan = ["plan", "plan/steps", "plan/capture"]
        .map(|name| read(&format!("src/orchestrate/platform/{name}.rs")).unwrap())
        .concat();
    let prefixes = ["stop-", "capture-", "drain-", "purge-", "prune-", "register-", "snapshot-", "prove-"];
    let (mut steps, mut tests, mut file, mut unnamed) = (0, 0, None, None);
    for quoted in coverage.split('`').skip(1).step_by(2) {
        if quoted.starts_with("live/") || quoted.starts_with("it/") {
            assert_eq!(unnamed, None, "no test of this file is named where it stands");
            let is_directory = quoted.ends_with('/');
            assert!(std::path::Path::new(&format!("{root}tests/{quoted}")).is_dir() == is_directory, "{quoted}");
            if !is_directory {
                let text = read(&format!("tests/{quoted}")).unwrap_or_else(|error| panic!("{quoted}: {error}"));
                (file, unnamed) = (Some((quoted, text)), Some(quoted));
            }
        } else if quoted.len() > 15 && quoted.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            let (path, text) = file.as_ref().unwrap_or_else(|| panic!("in which file is {quoted}?"));
            assert!(text.contains(&format!("fn {quoted}(")), "no test {quoted} in {path}");
            (tests, unnamed) = (tests + 1, None);
        }
        let step = quoted.strip_prefix("after-restore:").unwrap_or(quoted);
        if prefixes.iter().any(|prefix| step.starts_with(prefix)) {
            assert!(plan.contains(&format!("\"{step}\"")), "no step {step}");
            steps += 1;
        }
    }
    assert_eq!(unnamed, None, "no test of this file is named where it stands");
    assert!(steps > 15 && tests > 40, "{steps} steps, {tests} tests");
}
