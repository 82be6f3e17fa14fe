//! Who may use whom: the table in ARCHITECTURE.md, held against every path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};

use super::paths::paths;
use super::source::Source;

const LEAVES: [&str; 10] =
    ["units", "volume", "error", "progress", "clock", "cancel", "cpu", "budget", "random", "testing"];

pub(super) fn check(sources: &[Source], faults: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string("ARCHITECTURE.md").context("read ARCHITECTURE.md")?;
    let table = text
        .split("| room | may use |")
        .nth(1)
        .context("ARCHITECTURE.md has no table of who may use whom")?;
    hold(&rows(table), sources, faults);
    Ok(())
}

type Table<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn rows(table: &str) -> Table<'_> {
    let mut out = Table::new();
    for line in table.lines().skip(2).take_while(|l| l.starts_with('|')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, room, uses, ..] = cells[..] {
            out.insert(room, uses.split(", ").filter(|s| !s.is_empty()).collect());
        }
    }
    out
}

/// What is used and not allowed is a fault, and what is allowed and not used.
fn hold(table: &Table<'_>, sources: &[Source], faults: &mut Vec<String>) {
    let none = BTreeSet::new();
    let mut unused = table.clone();
    for source in sources {
        let Some(room) = source.room().filter(|r| *r != "lib" && *r != "main") else { continue };
        let allowed = match table.get(room) {
            Some(allowed) => allowed,
            None if LEAVES.contains(&room) => &none,
            None => {
                faults.push(format!(
                    "{}: room {room} is not in ARCHITECTURE.md's table",
                    source.path.display()
                ));
                continue;
            }
        };
        for used in used_rooms(source) {
            if let Some(row) = unused.get_mut(room) {
                row.remove(used.as_str());
            }
            let fine = used == room || LEAVES.contains(&used.as_str()) || allowed.contains(used.as_str());
            if !fine {
                faults.push(format!("{}: {room} may not use {used}", source.path.display()));
            }
        }
    }
    for (room, row) in unused {
        for used in row {
            faults.push(format!("ARCHITECTURE.md: {room} may use {used}, and does not"));
        }
    }
}

/// First segments behind `crate::` and `cuttle::` that are modules.
fn used_rooms(source: &Source) -> BTreeSet<String> {
    let named = paths(&source.code()).into_iter().filter_map(|named| match &named.segments[..] {
        [root, room, ..] if root == "crate" || root == "cuttle" => Some(room.clone()),
        _ => None,
    });
    named.filter(|room| room.starts_with(char::is_lowercase)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_row_that_nobody_uses_is_a_fault_as_a_use_without_a_row_is() {
        let table = rows(" \n|---|---|\n| a | b, c |\n| b | |\n\n");
        let file = |path: &str, text: &str| Source::new(Path::new(path), text);
        let hold = |sources: &[Source]| {
            let mut faults = Vec::new();
            super::hold(&table, sources, &mut faults);
            faults
        };
        let [good, comment] = ["use crate::{b::X, c};\n", "// crate::c::y\nuse crate::b;\n"];
        assert_eq!(hold(&[file("src/a/mod.rs", good), file("src/b.rs", "crate::units::x()\n")]), [""; 0]);
        assert_eq!(hold(&[file("src/a/mod.rs", comment)]), ["ARCHITECTURE.md: a may use c, and does not"]);
        let sources = [file("src/a/mod.rs", good), file("src/b.rs", "use crate::{units::{x, y}, c::d};\n")];
        assert_eq!(hold(&sources), ["src/b.rs: b may not use c"]);
        let hidden = "#[cfg(test)]\nmod tests;\nuse crate::c;\n";
        assert_eq!(
            hold(&[file("src/a/mod.rs", good), file("src/b.rs", hidden)]),
            ["src/b.rs: b may not use c"]
        );
    }
}
