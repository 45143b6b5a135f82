//! neo4j.conf: where the store is, as Neo4j itself reads it.
//!
//! The file is one of Java's property files: comments begin with `#` or `!`, a value goes on behind a line that ends in
//! a backslash, and what is given twice counts as given last. Invariant: directories are told exactly as Neo4j would
//! find them, since a guess could copy the wrong, perhaps empty, store and call it a backup.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Neo4jSettings;
use crate::source::SourceError;

/// The file is at most so long.
const LIMIT: u64 = 1 << 20;

/// What neo4j.conf says, with the settings of the profile on top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The database, if it is named: else `neo4j` (4.x) or `graph.db` (3.5).
    pub database: Option<String>,
    /// Neo4j's home.
    pub home: PathBuf,
    /// The data directory.
    pub data: PathBuf,
    /// The directory that has a directory for each database.
    pub databases: PathBuf,
    /// The directory that has each database's transaction logs.
    pub transactions: PathBuf,
    /// The transaction logs of 3.5, if they are not in the database.
    pub transaction_log: Option<PathBuf>,
    /// Names that were given more than once: Neo4j takes the last.
    pub duplicates: Vec<String>,
}

/// Reads the file that the settings name.
pub fn read(settings: &Neo4jSettings) -> Result<Configuration, SourceError> {
    let path = &settings.configuration_file;
    let length = std::fs::metadata(path).map_err(|error| SourceError::at("look at", path, error))?.len();
    if length > LIMIT {
        return Err(SourceError::Setting {
            setting: path.display().to_string(),
            why: "it is longer than 1 MiB; is this Neo4j's configuration?".to_owned(),
        });
    }
    let bytes = std::fs::read(path).map_err(|error| SourceError::at("read", path, error))?;
    configuration(&latin1(&bytes), settings)
        .map_err(|why| SourceError::Setting { setting: path.display().to_string(), why })
}

/// What a configuration's text says, with the settings of the profile on top; `Err` says why it cannot be used.
pub fn configuration(text: &str, settings: &Neo4jSettings) -> Result<Configuration, String> {
    let (values, duplicates) = properties(text)?;
    let value = |name: &str| values.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let path = |name: &str| value(name).map(PathBuf::from);
    let home = path("dbms.directories.neo4j_home").unwrap_or_else(|| settings.home.clone());
    if !home.is_absolute() {
        return Err(format!("Neo4j's home is {}, which is not absolute; set home", home.display()));
    }
    let below = |base: &Path, given: Option<PathBuf>, default: &str| base.join(given.unwrap_or(default.into()));
    let given = settings.data_directory.clone().or_else(|| path("dbms.directories.data"));
    let data = below(&home, given, "data");
    // Relative to the data directory, by Neo4j's rules: only the home and absolute paths are others.
    let databases = below(&data, path("unsupported.dbms.directories.databases.root"), "databases");
    let transactions = below(&data, path("dbms.directories.transaction.logs.root"), "transactions");
    // A relative one is in the database itself.
    let transaction_log = path("dbms.directories.tx_log").filter(|given| given.is_absolute());
    let named = value("dbms.default_database").or(value("dbms.active_database")).map(str::to_owned);
    let database = settings.database.clone().or(named);
    if let Some(name) = &database
        && (name.contains('/') || name.starts_with('.') || name.is_empty())
    {
        return Err(format!("{name:?} is no name of a database"));
    }
    Ok(Configuration { database, home, data, databases, transactions, transaction_log, duplicates })
}

/// The values of a property file, and the names that were given more than once.
fn properties(text: &str) -> Result<(BTreeMap<String, String>, Vec<String>), String> {
    let mut values = BTreeMap::new();
    let mut duplicates = Vec::new();
    for (_, property) in settings_of(text) {
        let (name, value) = property?;
        // Arguments of the virtual machine are meant to be given many times.
        if values.insert(name.clone(), value).is_some() && name != "dbms.jvm.additional" && !duplicates.contains(&name)
        {
            duplicates.push(name);
        }
    }
    Ok((values, duplicates))
}

/// A setting's name and value, or why it cannot be read.
pub type Property = Result<(String, String), String>;

/// All settings of a text in order, those that are given twice, too, each with the line where it begins, from 1.
pub fn settings_of(text: &str) -> Vec<(usize, Property)> {
    let property = |line: &str| {
        let (name, value) = split(line);
        Ok((unescaped(name)?, unescaped(value)?.trim().to_owned()))
    };
    logical_lines(text).into_iter().map(|(number, line)| (number, property(&line))).collect()
}

/// Lines with what continues them, without comments and leading space, each with the number of the first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in text.replace("\r\n", "\n").split(['\n', '\r']).enumerate() {
        let line = line.trim_start_matches([' ', '\t', '\u{c}']);
        // Only what begins a line can be a comment or nothing.
        if open.is_none() && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        let goes_on = backslashes % 2 == 1;
        let content = if goes_on { &line[..line.len() - 1] } else { line };
        let (number, before) = open.take().unwrap_or((at + 1, String::new()));
        let whole = (number, before + content);
        match goes_on {
            true => open = Some(whole),
            false => lines.push(whole),
        }
    }
    lines.extend(open);
    lines
}

/// Name and value: the name ends at the first `=`, `:` or space that no backslash protects.
fn split(line: &str) -> (&str, &str) {
    let mut protected = false;
    let end = line.find(|character: char| {
        let ends = !protected && matches!(character, '=' | ':' | ' ' | '\t' | '\u{c}');
        protected = !protected && character == '\\';
        ends
    });
    let Some(end) = end else { return (line, "") };
    let space = [' ', '\t', '\u{c}'];
    let rest = line[end..].trim_start_matches(space);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], rest.trim_start_matches(space))
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\u{c}'),
            Some('u') => {
                let digits: String = characters.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                let character = code.and_then(char::from_u32);
                plain.push(character.ok_or_else(|| format!("{text:?} has the escape \\u{digits}, which is none"))?);
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    Ok(plain)
}

/// Neo4j reads the file as ISO 8859-1, in which every byte is a character. A path in UTF-8 is taken as what was meant.
fn latin1(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}
