//! The report of a backup set in a real browser, as wide as a phone and as a desk: it shows everything, runs no script,
//! loads nothing, and nothing sticks out at the side.

#[path = "../it/support/full_set.rs"]
mod full_set;

use std::path::Path;
use std::process::Command;

use cairn::cli::report::html;
use cairn::cli::report::unpublished::{End, Unpublished};
use cairn::format::ObjectId;
use full_set::set;

fn browser(directory: &Path, args: &[String]) -> String {
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--timeout=20000"]);
    command.arg(format!("--user-data-dir={}", directory.join("profile").display())).args(args);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Shows the page in a frame of this width with every fold open: the width of what is in it, and its title.
fn look(directory: &Path, width: u32) -> (u32, String) {
    let wrapper = format!(
        "<iframe id=f src=report.html style='width:{width}px;height:900px;border:0'></iframe><pre id=seen></pre><script>\
f.onload = () => {{ const d = f.contentDocument; d.querySelectorAll('details').forEach(x => x.open = true);\
seen.textContent = 'seen:' + d.documentElement.scrollWidth + ':' + d.title + ':' }}</script>"
    );
    std::fs::write(directory.join("wrapper.html"), wrapper).unwrap();
    let url = format!("file://{}", directory.join("wrapper.html").display());
    let dom = browser(directory, &["--virtual-time-budget=5000".to_owned(), "--dump-dom".to_owned(), url]);
    let seen = dom.split("seen:").nth(1).unwrap_or_else(|| panic!("the page was not shown: {dom}"));
    let mut fields = seen.split(':');
    (fields.next().unwrap().parse().unwrap(), fields.next().unwrap().to_owned())
}

#[test]
fn the_report_fits_a_phone_and_a_desk_and_runs_nothing() {
    if Command::new("chromium").arg("--version").output().is_err() {
        return crate::servers::skip("chromium is missing");
    }
    let page = html(&ObjectId::from_bytes([0xab; 32]), &set());
    for word in ["1234567", "snapshot-202603010200", "graph.db", "&lt;b&gt;bold", "7 min 31 s", "partial"] {
        assert!(page.contains(word), "{word} is not in the report");
    }
    fits("report", "Backup set abababab of eclecticiq-centos", &page);
}

#[test]
fn the_page_of_a_run_without_a_set_fits_a_phone_and_a_desk_and_runs_nothing() {
    if Command::new("chromium").arg("--version").output().is_err() {
        return crate::servers::skip("chromium is missing");
    }
    let mut steps = set().steps;
    steps[1].detail = format!(
        "pg_dumpall --host /run/{} ended with status 1; its last words:\nlost\n{}",
        "x".repeat(90),
        steps[1].detail
    );
    let page = cairn::cli::report::unpublished::html(&Unpublished {
        profile: "eclecticiq-centos",
        host: "intel-1.example",
        began: "2026-03-01T02:00:00Z".parse().unwrap(),
        now: "2026-03-01T02:07:31Z".parse().unwrap(),
        end: End::Stuck,
        exit: Some(1),
        failures: vec!["nothing could be captured, so no backup set was published".to_owned()],
        stuck: vec!["undo: stop nginx failed: nginx.service: failed <b>bold</b>".to_owned()],
        steps: &steps,
    });
    for word in
        ["its last words:\nlost", "&lt;b&gt;bold", "&lt;script&gt;", "7 min 31 s", "<code>cairn platform resume</code>"]
    {
        assert!(page.contains(word), "{word} is not in the page");
    }
    fits("unpublished", "No backup set of eclecticiq-centos", &page);
}

fn fits(name: &str, called: &str, page: &str) {
    for load in ["http:", "https:", "src=", "<script"] {
        assert!(!page.contains(load), "the report has {load}");
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("report.html"), page).unwrap();
    for width in [360, 768, 1280] {
        let (wide, title) = look(directory.path(), width);
        assert_eq!(title, called);
        assert!(wide <= width, "at {width} pixels the report is {wide} wide");
    }
    if let Some(keep) = std::env::var_os("CAIRN_TEST_KEEP") {
        std::fs::copy(directory.path().join("report.html"), Path::new(&keep).join(format!("{name}.html"))).unwrap();
    }
}
