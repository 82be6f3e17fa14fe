//! No type is a house of its own: one whose methods are in several files has few.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::source::Source;

/// Methods of a type over more than one file, its traits not counted.
const METHODS_MAX: usize = 20;

pub(super) fn check(sources: &[Source], faults: &mut Vec<String>) {
    let defined: BTreeSet<(String, &Path)> = sources.iter().flat_map(defined).collect();
    let mut methods: BTreeMap<(&Path, String), BTreeMap<&Path, usize>> = BTreeMap::new();
    for source in sources {
        for (name, count) in counted(source) {
            let home = home(&defined, &name, &source.path);
            *methods.entry((home, name)).or_default().entry(&source.path).or_default() += count;
        }
    }
    for ((home, name), files) in methods {
        let count: usize = files.values().sum();
        if files.len() > 1 && count > METHODS_MAX {
            faults.push(format!(
                "{}: {name} has {count} methods in {} files, at most {METHODS_MAX}: which of them are of a part, or of none?",
                home.display(),
                files.len()
            ));
        }
    }
}

fn defined(source: &Source) -> Vec<(String, &Path)> {
    let code = source.lines.iter().filter_map(|(_, line)| {
        let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
        let kind = words.next().filter(|word| ["struct", "enum"].contains(word));
        kind.and(words.next()).map(|name| (identifier(name), source.path.as_path()))
    });
    code.collect()
}

/// The file where a type is defined: the one that has most of its path in common, of several.
fn home<'a>(defined: &BTreeSet<(String, &'a Path)>, name: &str, path: &'a Path) -> &'a Path {
    let shared = |other: &Path| path.components().zip(other.components()).take_while(|(a, b)| a == b).count();
    let named = defined.iter().filter(|(defined, _)| defined == name).map(|(_, path)| *path);
    named.max_by_key(|other| shared(other)).unwrap_or(path)
}

/// How many methods each `impl` has that is not of a trait.
fn counted(source: &Source) -> Vec<(String, usize)> {
    let mut out: Vec<(String, usize)> = Vec::new();
    let mut inside = false;
    for (_, line) in &source.lines {
        if let Some(header) = line.strip_prefix("impl") {
            inside = !header.contains(" for ") && header.ends_with('{');
            if inside {
                out.push((implemented(header), 0));
            }
        } else if line.starts_with('}') {
            inside = false;
        } else if inside && is_method(line) {
            out.last_mut().into_iter().for_each(|(_, count)| *count += 1);
        }
    }
    out
}

/// The type of `<'a, T: B<C>> Name<'a, T> {`.
fn implemented(header: &str) -> String {
    let mut depth = 0_i32;
    let generic = header.starts_with('<');
    let behind = header.find(|c| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        generic && depth == 0
    });
    identifier(header[behind.map_or(0, |at| at + 1)..].trim_start())
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn is_method(line: &str) -> bool {
    let Some(code) = line.strip_prefix("    ").filter(|code| !code.starts_with(' ')) else { return false };
    let words = code.split_whitespace();
    let mut words =
        words.skip_while(|word| word.starts_with("pub") || ["const", "async", "unsafe"].contains(word));
    words.next() == Some("fn")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_counted_where_their_type_is_at_home() {
        let body =
            |count: usize| "    pub(crate) async fn f(&self) {\n        fn inner() {}\n    }\n".repeat(count);
        let file = |path: &str, text: String| Source::new(Path::new(path), &text);
        let sources = [
            file(
                "src/a/mod.rs",
                format!("pub struct Big<T>(T);\nimpl<T: Into<u8>> Big<T> {{\n{}}}\n", body(20)),
            ),
            file(
                "src/a/b.rs",
                format!("impl Big<u8> {{\n{}}}\nimpl X for Big<u8> {{\n{}}}\n", body(1), body(9)),
            ),
            file("src/c/mod.rs", format!("struct Big;\nimpl Big {{\n{}}}\n", body(30))),
        ];
        let mut faults = Vec::new();
        check(&sources, &mut faults);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("src/a/mod.rs: Big has 21 methods in 2 files"), "{faults:?}");
    }
}
