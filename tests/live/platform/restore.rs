//! A restore of configuration that is killed at every entry of the journal; and its undoing, too.

use super::light::{CONTENT, JOURNAL, Light, PAGE, PROFILE, shown};

/// Replaced, gone, and not there before.
const FILES: [(&str, &str); 2] =
    [("/etc/eclecticiq/proxy_url", "of the set"), ("/etc/eclecticiq/opentaxii.yml", "# of the set\n")];
const RESTORE: [&str; 7] = ["--set", "latest", "--only", "config", "--yes", "--report", PAGE];

/// What is in the files, as far as they are there, and what a restore has left beside them.
fn state(light: &Light) -> (Vec<Option<String>>, String) {
    let content = FILES.map(|(path, _)| std::fs::read_to_string(light.lab.path(path)).ok());
    let script = "find /etc /var/lib/cairn -name '*.before-*' -o -name '*.cairn-new-*' | sort";
    (content.to_vec(), light.lab.ok(&["sh", "-ec", script]))
}

/// The undoing is killed, too, wherever there is much to undo; how often.
fn resume_killed_at_each_entry(light: &Light, cut_at: usize) -> usize {
    let (mut entries, mut kills) = (cut_at + 1, 0);
    loop {
        let mut resume = light.start("resume", &[]);
        if !resume.reaches(entries) {
            let output = resume.ended();
            assert!(output.status.success(), "killed at {cut_at}: {}", shown(&output));
            return kills;
        }
        resume.killed();
        (entries, kills) = (light.entries().max(entries) + 1, kills + 1);
    }
}

#[test]
fn a_restore_killed_at_any_entry_of_its_journal_is_undone_and_can_be_begun_again() {
    let Some(light) = Light::boot() else { return };
    // One service is enough: how all of them are stopped and started is shown of backups.
    let services = "[services]\nfirst = [\"eclecticiq-platform-backend-opentaxii\"]\nworkers = []\nothers = []\n";
    let others =
        "[services]\nothers = [\"eclecticiq-platform-backend-scheduler\", \"eclecticiq-platform-backend-web\"]\n";
    assert!(CONTENT.contains(others));
    light.write(PROFILE, &CONTENT.replace(others, services));
    light.lab.ok(&["systemctl", "start", "eclecticiq-platform-backend-opentaxii"]);
    for (path, content) in FILES {
        light.write(path, content);
    }
    light.ends("backup", &["--only", "config"], 0);
    let meant = state(&light);
    light.write(FILES[0].0, "of today");
    std::fs::remove_file(light.lab.path(FILES[1].0)).unwrap();
    let (before, active) = (state(&light), light.active());
    assert_ne!(before, meant);

    let (mut entries, mut resumes) = (1, 0);
    loop {
        let mut restore = light.start("restore", &RESTORE);
        if !restore.reaches(entries) {
            let output = restore.ended();
            assert!(output.status.success(), "{}", shown(&output));
            break;
        }
        restore.killed();
        let cut_at = light.entries();
        let when = format!("killed at entry {cut_at}");
        if cut_at > 0 && light.has_journal() {
            assert!(light.page().contains("class=\"state running\""), "{when}: the page of an earlier run");
        }
        let journal = std::fs::read_to_string(light.lab.path(JOURNAL)).unwrap_or_default();
        if journal.contains("put-config") {
            resumes += resume_killed_at_each_entry(&light, cut_at);
        }
        light.ends("resume", &[], 0);
        assert_eq!(light.active(), active, "{when}");
        light.is_clean();
        // At its very end it has gone well, and stays.
        if journal.is_empty() || journal.contains(r#""entry":"undone","step":"put-config""#) {
            assert_eq!(state(&light).0, meant.0, "{when}");
            light.lab.ok(&["sh", "-ec", "rm -r /var/lib/cairn/*.before-*"]);
            light.write(FILES[0].0, "of today");
            std::fs::remove_file(light.lab.path(FILES[1].0)).unwrap();
        }
        assert_eq!(state(&light), before, "{when}");
        entries = cut_at.max(entries) + 1;
    }
    assert!(entries > 10 && resumes > 2, "only {entries} entries and {resumes} of resume were seen");
    let (content, beside) = state(&light);
    assert_eq!((content, light.active()), (meant.0, active));
    assert!(beside.starts_with("/var/lib/cairn/configuration.before-") && !beside.contains("cairn-new"), "{beside}");
    let page = light.page();
    for words in ["class=\"state complete\"", "1 are new, 1 were replaced", "<h2>Moved aside</h2>", beside.as_str()] {
        assert!(page.contains(words), "{words:?} is not in {page}");
    }
}
