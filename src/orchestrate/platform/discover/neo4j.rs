//! neo4j.conf, read as the driver reads it. A policy's directory begins at Neo4j's home, and its files at that directory;
//! what a policy does not name has a customary name there, so the directory is saved whole.

use std::collections::BTreeMap;

use super::keys::{Item, What};
use crate::source::neo4j::configuration::settings_of;

/// What a policy can name, beside its directory.
const FILES: [&str; 4] = ["private_key", "public_certificate", "trusted_dir", "revoked_dir"];

pub fn read(text: &str) -> Vec<Item> {
    let settings = settings_of(text);
    let mut directories: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, value) in settings.iter().filter_map(|(_, setting)| setting.as_ref().ok()) {
        if let Some((policy, "base_directory")) = of_policy(name).filter(|_| !value.is_empty()) {
            directories.insert(policy, value);
        }
    }
    let mut found = Vec::new();
    for (line, setting) in &settings {
        match setting {
            Ok((_, value)) if value.is_empty() => {}
            Ok((name, value)) => found.extend(items(*line, name, value, &directories)),
            Err(why) => {
                let (setting, what) = ("neo4j.conf".to_owned(), What::Unclear(why.clone()));
                found.push(Item { line: *line, setting, what });
            }
        }
    }
    found
}

fn items(line: usize, name: &str, value: &str, directories: &BTreeMap<&str, &str>) -> Vec<Item> {
    let item = |setting: &str, what| Item { line, setting: setting.to_owned(), what };
    match (name, of_policy(name)) {
        ("dbms.directories.neo4j_home", _) => vec![item(name, What::Base(value.to_owned()))],
        ("dbms.directories.certificates", _) | (_, Some((_, "base_directory"))) => {
            vec![item(name, What::Key(value.to_owned()))]
        }
        (_, Some((policy, what))) => {
            let customary = format!("certificates/{policy}");
            let directory = directories.get(policy).copied().unwrap_or(&customary);
            let setting = format!("dbms.ssl.policy.{policy}.base_directory");
            let mut items = vec![item(&setting, What::Default(directory.to_owned()))];
            if FILES.contains(&what) {
                let path = std::path::Path::new(directory).join(value);
                items.push(item(name, What::Key(path.to_string_lossy().into_owned())));
            }
            items
        }
        (_, None) => Vec::new(),
    }
}

/// The policy that a setting belongs to, and what it sets.
fn of_policy(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("dbms.ssl.policy.")?.split_once('.')
}
