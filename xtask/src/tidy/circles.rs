//! Files of a room do not use each other in circles.
//!
//! What a file uses of the folders that it lies in does not count: a `mod.rs` has what all files beside it share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::paths::{Named, paths};
use super::source::Source;

/// Circles that stay, by one file that each of their files is in a circle with, and why.
const STAY: [(&str, &str); 1] =
    [("repo/project", "a project hands out its views, and each of them holds the project")];

/// The segments of a file's module: `["a", "b"]` for `src/a/b.rs` and `src/a/b/mod.rs`.
type Module = Vec<String>;

pub(super) fn check(sources: &[Source], faults: &mut Vec<String>) {
    let uses = uses(sources);
    let mut known: BTreeSet<&Module> = BTreeSet::new();
    for module in uses.keys() {
        if known.contains(module) {
            continue;
        }
        let circle: Vec<&Module> = uses
            .keys()
            .filter(|other| {
                *other == module || (reaches(&uses, module, other) && reaches(&uses, other, module))
            })
            .collect();
        known.extend(circle.iter().copied());
        let stays = circle.iter().any(|module| STAY.iter().any(|(stays, _)| module.join("/") == *stays));
        if circle.len() > 1 && !stays {
            let names: Vec<String> = circle.iter().map(|module| module.join("/")).collect();
            faults.push(format!("{}: these files use each other in a circle", names.join(", ")));
        }
    }
}

fn reaches(uses: &BTreeMap<Module, BTreeSet<Module>>, from: &Module, to: &Module) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        for used in uses.get(module).into_iter().flatten() {
            if used == to {
                return true;
            }
            if seen.insert(used) {
                next.push(used);
            }
        }
    }
    false
}

/// Which files of its own room each file uses.
fn uses(sources: &[Source]) -> BTreeMap<Module, BTreeSet<Module>> {
    let names: BTreeMap<Module, Vec<Named>> =
        sources.iter().map(|source| (module(&source.path), paths(&source.code()))).collect();
    let mut out = BTreeMap::new();
    for (module, named) in &names {
        let mut used: BTreeSet<Module> =
            named.iter().filter_map(|named| resolve(&names, module, &named.segments, 8)).collect();
        used.retain(|used| used.first() == module.first() && !module.starts_with(used));
        out.insert(module.clone(), used);
    }
    out
}

fn module(path: &Path) -> Module {
    let below = path.strip_prefix("src").unwrap_or(path).with_extension("");
    let mut out: Module = below.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    out.pop_if(|last| last == "mod" || last == "lib");
    out
}

/// The file that a path leads to, through what others hand on by `pub use`.
fn resolve(
    names: &BTreeMap<Module, Vec<Named>>,
    from: &Module,
    segments: &[String],
    more: u8,
) -> Option<Module> {
    let (mut at, mut rest) = match segments.first()?.as_str() {
        "crate" | "cuttle" => (Module::new(), &segments[1..]),
        "self" => (from.clone(), &segments[1..]),
        // Above it, a module of its own, or nothing of the crate's.
        _ => (from.clone(), segments),
    };
    while let Some(("super", behind)) = rest.split_first().map(|(first, behind)| (first.as_str(), behind)) {
        at.pop();
        rest = behind;
    }
    let begun = at.clone();
    while let Some((first, behind)) = rest.split_first() {
        let deeper: Module = at.iter().chain([first]).cloned().collect();
        if !names.contains_key(&deeper) {
            break;
        }
        (at, rest) = (deeper, behind);
    }
    let handed_on = rest
        .first()
        .and_then(|name| names.get(&at)?.iter().find(|named| named.is_use && named.alias == *name));
    if let (Some(named), Some(left)) = (handed_on, more.checked_sub(1)) {
        // A file's own names are no path to itself.
        if at != *from || begun != at {
            let path: Vec<String> = named.segments.iter().chain(&rest[1..]).cloned().collect();
            if let Some(found) = resolve(names, &at, &path, left) {
                return Some(found);
            }
        }
    }
    (at != *from && names.contains_key(&at)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> =
            files.iter().map(|(path, text)| Source::new(Path::new(path), text)).collect();
        let mut faults = Vec::new();
        check(&sources, &mut faults);
        faults
    }

    #[test]
    fn a_circle_of_files_is_a_fault() {
        let said = "a/b, a/c, a/d: these files use each other in a circle";
        let files = [
            ("src/a/mod.rs", "mod b;\nmod c;\nmod d;\npub use c::C;\n"),
            ("src/a/b.rs", "use super::C;\n"),
            ("src/a/c.rs", "fn f() { crate::a::d::g() }\n"),
            ("src/a/d.rs", "use super::{b::B, X};\n"),
            ("src/a/e.rs", "use super::b;\n"),
        ];
        assert_eq!(faults(&files), [said]);
        let mut open = files;
        open[1].1 = "use super::{X, Y};\n#[cfg(test)]\nmod tests {\n    use super::super::c;\n}\n";
        assert_eq!(faults(&open), [""; 0]);
    }

    #[test]
    fn what_is_of_the_folder_and_of_other_rooms_makes_no_circle() {
        let files = [
            ("src/a/mod.rs", "mod b;\nuse b::B;\nuse crate::z::Z;\n"),
            ("src/a/b.rs", "use super::A;\nuse crate::a::A2;\n"),
            ("src/z.rs", "use crate::a::b::B;\n"),
        ];
        assert_eq!(faults(&files), [""; 0]);
    }
}
