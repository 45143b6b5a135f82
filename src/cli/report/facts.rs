//! What was counted of each component, folded away until somebody wants it.

use super::Page;
use crate::format::codec::escape;
use crate::format::set::{Component, ConfigFacts, Facts, PostgresFacts};

/// Writes what was recorded of a component.
pub fn write(page: &mut Page, component: &Component) {
    match &component.facts {
        None => {}
        Some(Facts::Config(facts)) => config(page, facts),
        Some(all @ Facts::Postgres(facts)) => postgres(page, &coordinates(all), facts),
        Some(all @ Facts::Elasticsearch(facts)) => {
            let head = format!("Elasticsearch: {}", coordinates(all));
            counts(page, &head, ["Index", "Documents"], &mut facts.documents.iter());
            if !facts.closed.is_empty() {
                let head = "Elasticsearch: indices that were closed";
                counts(page, head, ["Index", "Documents"], &mut facts.closed.iter());
            }
        }
        Some(all @ Facts::Neo4j(facts)) => {
            let head = format!("Neo4j: {}", coordinates(all));
            counts(page, &head, ["Label", "Nodes"], &mut facts.labels.iter());
        }
        Some(Facts::Redis(facts)) => {
            counts(page, "Redis: queues", ["Queue", "Elements"], &mut facts.queues.iter());
            if !facts.purged.is_empty() {
                let head = "Redis: elements saved here and removed from their queues";
                counts(page, head, ["Queue", "Elements"], &mut facts.purged.iter());
            }
        }
    }
}

/// What makes a component a point in time, and how much is in it, in a line. What comes from a set is not escaped yet.
pub fn coordinates(facts: &Facts) -> String {
    match facts {
        Facts::Config(facts) => {
            let missing = facts.keys.iter().filter(|key| !key.present).count();
            let mut line = format!("{} key and certificate files", facts.keys.len());
            if missing > 0 {
                line.push_str(&format!(", {missing} of them absent"));
            }
            format!("{line}, {} listed paths absent", facts.absent.len())
        }
        Facts::Postgres(facts) => {
            let tables = facts.databases.iter().flat_map(|database| &database.tables);
            format!(
                "{}, system {}, timeline {}, position {}, {} databases, {} tables, {} rows",
                facts.method,
                facts.system_id,
                facts.timeline,
                facts.lsn,
                facts.databases.len(),
                tables.clone().count(),
                sum(tables.map(|table| &table.rows)),
            )
        }
        Facts::Elasticsearch(facts) => format!(
            "cluster {} ({}), snapshot {} ({}), {} indices, {} documents",
            facts.cluster_name,
            facts.cluster_uuid,
            facts.snapshot,
            facts.snapshot_uuid,
            facts.documents.len() + facts.closed.len(),
            sum(facts.documents.values()),
        ),
        Facts::Neo4j(facts) => format!(
            "database {}, store {}, {} nodes, {} relationships",
            facts.database, facts.store_id, facts.nodes, facts.relationships
        ),
        Facts::Redis(facts) => {
            let saved = format!("{} queues, {} elements", facts.queues.len(), sum(facts.queues.values()));
            match sum(facts.purged.values()) {
                0 => saved,
                purged => format!("{saved}, {purged} elements removed from their queues once they were saved"),
            }
        }
    }
}

/// The sum of figures that a record claims: whatever they are, there is one.
fn sum<'a>(figures: impl Iterator<Item = &'a u64>) -> u64 {
    figures.fold(0, |sum, figure| sum.saturating_add(*figure))
}

fn folded(page: &mut Page, head: &str, body: impl FnOnce(&mut Page)) {
    page.raw("<details>\n");
    page.element("summary", head);
    body(page);
    page.raw("</details>\n");
}

fn counts(page: &mut Page, head: &str, names: [&str; 2], rows: &mut dyn Iterator<Item = (&String, &u64)>) {
    let number = format!("#{}", names[1]);
    folded(page, head, |page| {
        page.table(&[names[0], &number], |page| {
            for (name, count) in rows {
                page.row(&[(names[0], name), (&number, &count.to_string())]);
            }
        });
    });
}

fn config(page: &mut Page, facts: &ConfigFacts) {
    if !facts.absent.is_empty() {
        folded(page, &format!("Configuration: {} listed paths were absent", facts.absent.len()), |page| {
            page.table(&["Path"], |page| {
                facts.absent.iter().for_each(|path| page.row(&[("Path", &escape(&path.0))]));
            });
        });
    }
    if !facts.keys.is_empty() {
        folded(page, &format!("Configuration: {} key and certificate files", facts.keys.len()), |page| {
            page.table(&["File", "Named by", "State"], |page| {
                for key in &facts.keys {
                    let by = key.named_by.as_ref().map_or("the profile".to_owned(), |path| escape(&path.0));
                    let state = if key.present { "stored" } else { "absent" };
                    page.row(&[("File", &escape(&key.path.0)), ("Named by", &by), ("State", state)]);
                }
            });
        });
    }
}

fn postgres(page: &mut Page, coordinates: &str, facts: &PostgresFacts) {
    folded(page, &format!("PostgreSQL: {coordinates}"), |page| {
        page.table(&["Table", "#Rows", "Checksum"], |page| {
            for database in &facts.databases {
                for table in &database.tables {
                    let name = format!("{}: {}.{}", database.name, table.schema, table.name);
                    let checksum = table.checksum.as_deref().unwrap_or("none");
                    let rows = table.rows.to_string();
                    page.row(&[("Table", &name), ("#Rows", &rows), ("Checksum", checksum)]);
                }
            }
        });
    });
}
