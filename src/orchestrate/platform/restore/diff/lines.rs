//! A unified diff of two short texts, without the lines that look secret.

use std::time::Duration;

use similar::{ChangeTag, TextDiff};

use super::secret::hidden;

/// A longer content is told by its sum.
pub const MAX_TEXT: usize = 128 << 10;
/// Equal lines around a change.
const AROUND: usize = 3;
/// After so long a shorter diff is no longer looked for.
const LIMIT: Duration = Duration::from_secs(2);
const HIDDEN: &str = "(not shown: it looks secret)";

/// A content as a text, if it is one.
pub fn text(content: &[u8]) -> Option<&str> {
    std::str::from_utf8(content).ok().filter(|text| !text.contains('\0'))
}

/// The lines of a diff, each with its sign, and how many of them are hidden.
pub fn unified(old: &str, new: &str) -> (Vec<String>, usize) {
    let (old_lines, new_lines): (Vec<&str>, Vec<&str>) =
        (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let (old_hidden, new_hidden) = (hidden(&old_lines), hidden(&new_lines));
    let diff = TextDiff::configure().timeout(LIMIT).diff_slices(&old_lines, &new_lines);
    let (mut lines, mut count) = (Vec::new(), 0);
    for group in diff.grouped_ops(AROUND) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let (old, new) = (first.old_range().start..last.old_range().end, first.new_range().start..last.new_range().end);
        lines.push(format!("@@ -{} +{} @@", span(&old), span(&new)));
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let secret = |hidden: &[bool], at: Option<usize>| at.and_then(|at| hidden.get(at)).is_some_and(|one| *one);
            let is_hidden = secret(&old_hidden, change.old_index()) || secret(&new_hidden, change.new_index());
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            let line = change.value();
            match is_hidden {
                true => lines.push(format!("{sign}{HIDDEN}")),
                false => lines.push(format!("{sign}{}", line.strip_suffix('\n').unwrap_or(line))),
            }
            count += usize::from(is_hidden);
            if !line.ends_with('\n') {
                lines.push("\\ No newline at end of file".to_owned());
            }
        }
    }
    (lines, count)
}

/// `first,count`, counted from 1; of no lines the line before them.
fn span(lines: &std::ops::Range<usize>) -> String {
    let first = if lines.is_empty() { lines.start } else { lines.start + 1 };
    format!("{first},{}", lines.len())
}

#[cfg(test)]
mod tests {
    use super::unified;

    #[test]
    fn a_diff_has_places_signs_and_no_secrets() {
        let old = "one\ntwo\nthree\nfour\nfive\nsix\npassword = old\n";
        let new = "one\n2\nthree\nfour\nfive\nsix\npassword = new";
        let (lines, hidden) = unified(old, new);
        assert_eq!(hidden, 2);
        assert_eq!(
            lines,
            [
                "@@ -1,7 +1,7 @@",
                " one",
                "-two",
                "+2",
                " three",
                " four",
                " five",
                " six",
                "-(not shown: it looks secret)",
                "+(not shown: it looks secret)",
                "\\ No newline at end of file",
            ]
        );
        assert_eq!(unified("", "a\n").0, ["@@ -0,0 +1,1 @@", "+a"]);
    }
}
