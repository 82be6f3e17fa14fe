//! The paths that a file names, those of `use` with their braces expanded.

/// A path, and what it is called here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub segments: Vec<String>,
    pub alias: String,
    /// By a `use`, not in the middle of the code.
    pub is_use: bool,
}

/// All paths of `use`, and those in the code that begin with `crate`, `cuttle`, `self` or `super`.
pub(super) fn paths(code: &str) -> Vec<Named> {
    let (mut out, mut rest) = (Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
        if words.next() != Some("use") {
            rest.push_str(line);
            rest.push('\n');
            continue;
        }
        let mut tree = line.split_once("use ").map_or("", |(_, tree)| tree).to_owned();
        while !tree.contains(';') {
            let Some(more) = lines.next() else { break };
            tree.push_str(more);
        }
        let tree: String =
            tree.split(';').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        expand(&[], &tree, &mut out);
    }
    for start in ["crate::", "cuttle::", "self::", "super::"] {
        for (at, _) in rest.match_indices(start) {
            let is_whole = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if is_whole {
                let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
                let path: String = rest[at..].chars().take_while(|c| is_part(*c)).collect();
                let segments = path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
                out.push(Named { segments, alias: String::new(), is_use: false });
            }
        }
    }
    out
}

fn expand(before: &[String], tree: &str, out: &mut Vec<Named>) {
    let tree = tree.trim();
    if tree.is_empty() {
        return;
    }
    let (path, list) = match tree.split_once('{') {
        Some((path, list)) => (path, Some(list.strip_suffix('}').unwrap_or(list))),
        None => (tree, None),
    };
    let (path, alias) = path.split_once(" as ").map_or((path, None), |(path, alias)| (path, Some(alias)));
    let mut segments = before.to_vec();
    segments.extend(path.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned));
    if let Some(list) = list {
        top_level(list).iter().for_each(|part| expand(&segments, part, out));
        return;
    }
    if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
        segments.pop();
    }
    let alias = alias.or(segments.last().map(String::as_str)).unwrap_or_default().to_owned();
    out.push(Named { segments, alias, is_use: true });
}

/// Cuts at the commas that are in no bracket. `->` closes none.
pub(super) fn top_level(text: &str) -> Vec<String> {
    let (mut parts, mut depth, mut before) = (vec![String::new()], 0_i32, ' ');
    for c in text.chars() {
        match c {
            '{' | '(' | '[' | '<' => depth += 1,
            '>' if before == '-' || before == '=' => {}
            '}' | ')' | ']' | '>' => depth -= 1,
            _ => {}
        }
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            _ => parts.last_mut().into_iter().for_each(|part| part.push(c)),
        }
        before = c;
    }
    parts.retain(|part| !part.trim().is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_expanded_and_paths_in_the_code_found() {
        let code = "pub(crate) use crate::a::{\n    self, b::{C, D as E},\n};\nuse super::f;\nlet x = crate::g::h(y::z);\n";
        let found: Vec<(String, String)> =
            paths(code).into_iter().map(|named| (named.segments.join("/"), named.alias)).collect();
        let expected = [
            ("crate/a", "a"),
            ("crate/a/b/C", "C"),
            ("crate/a/b/D", "E"),
            ("super/f", "f"),
            ("crate/g/h", ""),
        ];
        assert_eq!(found, expected.map(|(path, alias)| (path.to_owned(), alias.to_owned())));
    }

    #[test]
    fn commas_in_brackets_do_not_part() {
        assert_eq!(
            top_level("a: Vec<(b, c)>, d: &dyn Fn(e, f) -> g, h"),
            ["a: Vec<(b, c)>", " d: &dyn Fn(e, f) -> g", " h"]
        );
    }
}
