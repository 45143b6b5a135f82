//! `cairn platform restore --report`: the page of a restore, however it ends.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::platform_diff::Files;
use super::text;

impl Files {
    /// Restores with a page: the exit status, what was said, and the page.
    fn restore(&self, options: &[&str]) -> (Option<i32>, String, String) {
        let page = self.place.path().join("page/report.html");
        let arguments = ["--json", "platform", "restore", "--set", "latest", "--allow", "online", "--profile"];
        let report = ["--report", page.to_str().unwrap()];
        let arguments = [&arguments[..], &[&self.profile], &report, options].concat();
        // Nothing that it needs is there, so it fails wherever the test runs, when it looks which units run.
        let output = self.place.command().env("PATH", "/nowhere").args(arguments).output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.code(), said, fs::read_to_string(&page).unwrap_or_default())
    }
}

/// Whoever runs the program may write there.
fn make_page_directory(files: &Files) {
    let directory = files.place.path().join("page");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn the_page_of_a_restore_that_failed_says_why_and_that_all_is_as_it_was() {
    let files = Files::new();
    make_page_directory(&files);
    files.write("plain.conf", b"<b>changed</b>\n");
    let (code, said, page) = files.restore(&["--yes"]);
    assert_eq!(code, Some(1), "{said}");
    for words in [
        "<title>Restore of backup set ",
        "<span class=\"state failed\">failed</span>",
        "everything is as it was before",
        "<h2>What ended it</h2>",
        "systemctl",
        "In spite of it being</dt>\n<dd>online",
        "neo4j: it was not asked for",
        "<dt>Exit status</dt>\n<dd>1</dd>",
    ] {
        assert!(page.contains(words), "{words:?} is not in\n{page}");
    }
    assert!(!page.contains(">restored<") && !page.contains("http:") && !page.contains("<script"), "{page}");
    assert_eq!(fs::read(files.etc.join("plain.conf")).unwrap(), b"<b>changed</b>\n");

    // A page that cannot be written is known before anything is begun.
    fs::remove_dir_all(files.place.path().join("page")).unwrap();
    let (code, said, _) = files.restore(&["--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot write the report to") && !said.contains("systemctl"), "{said}");
}
