//! Where `path.repo` stands in a YAML text, by a reader that knows just enough of YAML for that.
//!
//! Invariant: what is not understood for certain is an error, never a guess.

use std::ops::Range;

/// `path.repo` in a text.
pub struct Found {
    /// The indentation of the text's own keys.
    indent: usize,
    place: Place,
}

enum Place {
    /// It is not there; a line can be put at this offset.
    Absent { insert: usize },
    /// It has no value; one can be put at this offset.
    Empty { insert: usize },
    /// One text, which Elasticsearch splits at commas.
    Scalar { range: Range<usize>, values: Vec<String> },
    /// `[a, b]`; another item can be put at this offset.
    Flow { insert: usize, values: Vec<String> },
    /// Lines of `- item`; another line can be put at this offset.
    Block { insert: usize, indent: usize, values: Vec<String> },
}

impl Found {
    /// The directories it names.
    pub fn values(&self) -> Vec<String> {
        match &self.place {
            Place::Absent { .. } | Place::Empty { .. } => Vec::new(),
            Place::Scalar { values, .. } | Place::Flow { values, .. } | Place::Block { values, .. } => values.clone(),
        }
    }

    /// The text in which it was found, with one more directory.
    pub fn extended(&self, text: &str, location: &str) -> String {
        let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
        let item = quoted(location);
        let line = |indent: usize, at: usize, content: String| {
            // The last line may lack its end.
            let before = if at > 0 && !text[..at].ends_with('\n') { newline } else { "" };
            format!("{before}{}{content}{newline}", " ".repeat(indent))
        };
        let (range, new) = match &self.place {
            Place::Absent { insert } => (*insert..*insert, line(self.indent, *insert, format!("path.repo: [{item}]"))),
            Place::Empty { insert } => (*insert..*insert, format!(" [{item}]")),
            Place::Scalar { range, values } => {
                let all: Vec<String> = values.iter().map(|value| quoted(value)).chain([item]).collect();
                (range.clone(), format!("[{}]", all.join(", ")))
            }
            Place::Flow { insert, values } if values.is_empty() => (*insert..*insert, item),
            Place::Flow { insert, .. } => (*insert..*insert, format!(", {item}")),
            Place::Block { insert, indent, .. } => (*insert..*insert, line(*indent, *insert, format!("- {item}"))),
        };
        format!("{}{new}{}", &text[..range.start], &text[range.end..])
    }
}

/// A line that is neither empty nor a comment.
#[derive(Clone)]
struct Line {
    number: usize,
    start: usize,
    end: usize,
    indent: usize,
}

/// A key and the lines that belong to it.
struct Entry {
    key: String,
    line: Line,
    /// Where the value may begin: behind the colon.
    value: usize,
    /// Lines that follow it and belong to it.
    rest: Vec<Line>,
}

/// Finds `path.repo`, whether written as one key or as `repo` below `path`.
pub fn find(text: &str) -> Result<Found, String> {
    let lines = lines(text)?;
    let indent = lines.first().map_or(0, |line| line.indent);
    let mut places = Vec::new();
    for entry in entries(text, &lines)? {
        match entry.key.as_str() {
            "path.repo" => places.push(value(text, &entry)?),
            "path" => match text[entry.value..entry.line.end].trim_start().chars().next() {
                None | Some('#') => {
                    for child in entries(text, &entry.rest)? {
                        match child.key.as_str() {
                            "repo" => places.push(value(text, &child)?),
                            key if key.starts_with("repo.") => return Err(unknown(&child.line)),
                            _ => {}
                        }
                    }
                }
                Some(_) => return Err(unknown(&entry.line)),
            },
            key if key.starts_with("path.repo.") => return Err(unknown(&entry.line)),
            _ => {}
        }
    }
    let place = places.pop();
    if !places.is_empty() {
        return Err("path.repo is there more than once".to_owned());
    }
    Ok(Found { indent, place: place.unwrap_or_else(|| Place::Absent { insert: gap(text, &lines, indent) }) })
}

/// The lines with content. Markers of documents are accepted before the first only.
fn lines(text: &str) -> Result<Vec<Line>, String> {
    let mut lines: Vec<Line> = Vec::new();
    let mut start = 0;
    for (number, raw) in text.split_inclusive('\n').enumerate() {
        let content = raw.trim_end_matches(['\n', '\r']);
        let line = Line { number: number + 1, start, end: start + content.len(), indent: leading(content) };
        start += raw.len();
        let rest = &content[line.indent..];
        if rest.trim().is_empty() || rest.starts_with('#') {
            continue;
        }
        if rest.starts_with(['\t', '\u{feff}', '%']) {
            return Err(unknown(&line));
        }
        if line.indent == 0 && (rest.starts_with("---") || rest.starts_with("...")) {
            match lines.is_empty() && rest.trim_end() == "---" {
                true => continue,
                false => return Err(format!("line {} ends a document, and only one is understood", line.number)),
            }
        }
        lines.push(line);
    }
    Ok(lines)
}

/// The keys of the outermost mapping in these lines.
fn entries(text: &str, lines: &[Line]) -> Result<Vec<Entry>, String> {
    let Some(indent) = lines.first().map(|line| line.indent) else { return Ok(Vec::new()) };
    let mut entries: Vec<Entry> = Vec::new();
    let mut brackets = Brackets::default();
    for line in lines {
        let content = &text[line.start + line.indent..line.end];
        let item = content == "-" || content.starts_with("- ");
        let belongs = brackets.are_open() || line.indent > indent || (item && line.indent == indent);
        if belongs {
            let Some(entry) = entries.last_mut() else { return Err(unknown(line)) };
            entry.rest.push(line.clone());
            if brackets.are_open() {
                brackets.read(content, line)?;
            }
            continue;
        }
        if line.indent < indent {
            return Err(unknown(line));
        }
        let (key, length) = key(content).ok_or_else(|| unknown(line))?;
        let value = line.start + line.indent + length;
        if text[value..line.end].trim_start().starts_with(['[', '{']) {
            brackets.read(&text[value..line.end], line)?;
        }
        entries.push(Entry { key, line: line.clone(), value, rest: Vec::new() });
    }
    match brackets.are_open() {
        true => Err("a bracket is not closed".to_owned()),
        false => Ok(entries),
    }
}

/// A key, and how many bytes it takes with its colon.
fn key(content: &str) -> Option<(String, usize)> {
    let quote = content.chars().next().filter(|first| matches!(first, '"' | '\''));
    if let Some(quote) = quote {
        let end = content[1..].find(quote)? + 1;
        let name = &content[1..end];
        let after = content[end + 1..].strip_prefix(':')?;
        let plain = !name.contains('\\') && (after.is_empty() || after.starts_with([' ', '\t']));
        return plain.then(|| (name.to_owned(), end + 2));
    }
    if content.starts_with(['[', '{', '&', '*', '!', '|', '>', '@', '`', '?', '-', ',']) {
        return None;
    }
    let end = content.match_indices(':').map(|(place, _)| place).find(|place| {
        let after = &content[place + 1..];
        after.is_empty() || after.starts_with([' ', '\t'])
    })?;
    let name = content[..end].trim_end();
    (!name.contains(" #")).then(|| (name.to_owned(), end + 1))
}

fn value(text: &str, entry: &Entry) -> Result<Place, String> {
    let content = &text[entry.value..entry.line.end];
    let start = entry.value + content.len() - content.trim_start().len();
    match text[start..entry.line.end].chars().next() {
        None | Some('#') if entry.rest.is_empty() => Ok(Place::Empty { insert: entry.value }),
        None | Some('#') => block(text, entry),
        Some('[') => flow(text, entry, start),
        Some(_) if entry.rest.is_empty() => {
            let (token, range) = scalar(text, start..entry.line.end, &entry.line)?;
            let values = token.split(',').map(str::trim).filter(|value| !value.is_empty());
            let values = values.map(str::to_owned).collect();
            Ok(Place::Scalar { values, range })
        }
        Some(_) => Err(unknown(&entry.line)),
    }
}

fn block(text: &str, entry: &Entry) -> Result<Place, String> {
    let mut values = Vec::new();
    let indent = entry.rest.first().map_or(0, |line| line.indent);
    let mut insert = entry.line.end;
    for line in &entry.rest {
        let content = &text[line.start + line.indent..line.end];
        let Some(item) = content.strip_prefix("- ").filter(|_| line.indent == indent) else {
            return Err(unknown(line));
        };
        let start = line.end - item.trim_start().len();
        values.push(scalar(text, start..line.end, line)?.0);
        // Behind the line's end, of which the last line may have none.
        let end = &text[line.end..];
        insert = line.end + end.find('\n').map_or(end.len(), |place| place + 1);
    }
    Ok(Place::Block { insert, indent, values })
}

fn flow(text: &str, entry: &Entry, start: usize) -> Result<Place, String> {
    let mut values = Vec::new();
    let mut insert = start + 1;
    let mut closed = false;
    let mut wants_item = true;
    for (line, from) in
        [(&entry.line, start + 1)].into_iter().chain(entry.rest.iter().map(|line| (line, line.start + line.indent)))
    {
        let mut at = from;
        while let Some(next) = text[at..line.end].chars().next() {
            match next {
                ' ' | '\t' => at += 1,
                '#' => break,
                _ if closed => return Err(unknown(line)),
                ']' => {
                    closed = true;
                    at += 1;
                }
                ',' if !wants_item => {
                    wants_item = true;
                    at += 1;
                }
                _ if wants_item => {
                    let (item, range) = scalar(text, at..item_end(text, at, line.end), line)?;
                    values.push(item);
                    at = range.end;
                    insert = range.end;
                    wants_item = false;
                }
                _ => return Err(unknown(line)),
            }
        }
    }
    match closed {
        true => Ok(Place::Flow { insert, values }),
        false => Err(unknown(&entry.line)),
    }
}

/// Where an unquoted item of a list in brackets ends at the latest.
fn item_end(text: &str, start: usize, end: usize) -> usize {
    match text[start..].starts_with(['"', '\'']) {
        true => end,
        false => text[start..end].find([',', ']', '[', '{', '}']).map_or(end, |length| start + length),
    }
}

/// One text, quoted or not; for the former, nothing but a comment or a list's syntax may follow.
fn scalar(text: &str, range: Range<usize>, line: &Line) -> Result<(String, Range<usize>), String> {
    let content = &text[range.clone()];
    let Some(quote) = content.chars().next().filter(|first| matches!(first, '"' | '\'')) else {
        let forbidden = ['[', '{', '&', '*', '!', '|', '>', '%', '@', '`', '?', '-', ',', '}', ']'];
        let plain = content.find(" #").map_or(content, |comment| &content[..comment]).trim_end();
        return match plain.is_empty() || plain.starts_with(forbidden) || plain.contains(": ") {
            true => Err(unknown(line)),
            false => Ok((plain.to_owned(), range.start..range.start + plain.len())),
        };
    };
    let length = content[1..].find(quote).ok_or_else(|| unknown(line))?;
    let inner = &content[1..=length];
    let after = &content[length + 2..];
    // An escape could hide a quote or spell another path.
    let doubled = quote == '\'' && after.starts_with('\'');
    let ends = after.trim_start().is_empty() || after.trim_start().starts_with(['#', ',', ']']);
    match inner.contains('\\') || doubled || !ends {
        true => Err(unknown(line)),
        false => Ok((inner.to_owned(), range.start..range.start + length + 2)),
    }
}

/// Where a line for `path.repo` fits: behind one that is commented out, if no value goes on behind it; else at the end.
fn gap(text: &str, lines: &[Line], indent: usize) -> usize {
    let mut start = 0;
    let mut found = text.len();
    for raw in text.split_inclusive('\n') {
        start += raw.len();
        let comment = raw.trim_start().strip_prefix('#').map(str::trim_start).unwrap_or_default();
        if comment.strip_prefix("path.repo").is_some_and(|rest| rest.trim_start().starts_with(':')) {
            let next = lines.iter().find(|line| line.start >= start);
            if next.is_none_or(|line| line.indent == indent && key(&text[line.start + line.indent..line.end]).is_some())
            {
                found = start;
            }
        }
    }
    found
}

/// Open brackets, over several lines.
#[derive(Default)]
struct Brackets {
    depth: usize,
}

impl Brackets {
    fn are_open(&self) -> bool {
        self.depth > 0
    }

    fn read(&mut self, content: &str, line: &Line) -> Result<(), String> {
        let mut quote = None;
        let mut before = ' ';
        for character in content.chars() {
            match (quote, character) {
                (Some(open), close) if open == close => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(character),
                (None, '#') if before.is_whitespace() => break,
                (None, '[' | '{') => self.depth += 1,
                (None, ']' | '}') => self.depth = self.depth.checked_sub(1).ok_or_else(|| unknown(line))?,
                (None, _) => {}
            }
            before = character;
        }
        match quote {
            Some(_) => Err(unknown(line)),
            None => Ok(()),
        }
    }
}

fn leading(content: &str) -> usize {
    content.len() - content.trim_start_matches(' ').len()
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn unknown(line: &Line) -> String {
    format!("line {} is written in a way that is not understood here", line.number)
}
