//! `docs/recovery.md`, section by section, by a shell that stops at the first failure.

use super::lost::wipe;
use crate::platform::Platform;

const GUIDE: &str = include_str!("../../../../docs/recovery.md");
const SETTINGS: &str = "export CAIRN_REPO=/srv/backup CAIRN_PASSWORD_FILE=/root/password\n";

/// The commands of a section: what its `sh` blocks say.
fn section(name: &str) -> String {
    let begin = GUIDE.find(&format!("# {name}\n")).unwrap_or_else(|| panic!("docs/recovery.md has no section {name}"));
    let text = &GUIDE[begin + 2..];
    let end = ["\n## ", "\n### "].iter().filter_map(|next| text.find(next)).min().unwrap_or(text.len());
    let (mut script, mut inside) = (String::new(), false);
    for line in text[..end].lines().map(str::trim_start) {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            command if inside => script.extend([command, "\n"]),
            _ => {}
        }
    }
    assert!(!script.is_empty(), "{name} has no commands");
    script
}

fn follow(platform: &Platform, name: &str) -> String {
    platform.lab.ok(&["sh", "-exc", &format!("{SETTINGS}{}", section(name))])
}

pub fn the_guide_leads_through_an_upgrade_and_a_disaster(platform: &Platform) {
    let (contents, active) = (platform.contents(&[]), platform.active());
    follow(platform, "Before");
    follow(platform, "Upgrade");
    assert_eq!(platform.active(), active);
    platform.sql("platform", "DROP TABLE blob");
    let told = follow(platform, "If the upgrade fails: everything back");
    assert_eq!(platform.active(), active);
    // What the migration has made is no index of the set.
    let of_the_set = |text: &str| -> Vec<String> {
        let made = |line: &&str| !["index logstash ", "index statsite "].iter().any(|made| line.starts_with(made));
        text.lines().filter(made).map(str::to_owned).collect()
    };
    assert_eq!(of_the_set(&platform.contents(&[])), of_the_set(&contents), "{told}");

    wipe(platform);
    let told = follow(platform, "Disaster recovery");
    assert_eq!(platform.active(), active);
    assert_eq!(platform.contents(&[]), contents, "{told}");
    platform.in_shell("rm -rf $(find /media /var/lib/cairn -name '*.before-*')");
}
