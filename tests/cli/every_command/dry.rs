//! `-n`: a command says what it would do, and does nothing, or says that it knows no such thing.

use std::fs;
use std::path::{Path, PathBuf};

use super::each_row;
use super::rows::Row;
use super::run::Trouble;

/// All that a command could change; what it keeps for itself is below `home`.
fn files(dir: &Path, out: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true if path.ends_with("home") => {}
            true => {
                out.push((path.clone(), Vec::new()));
                files(&path, out);
            }
            false => out.push((path.clone(), fs::read(&path).expect("a file"))),
        }
    }
    out.sort();
}

#[test]
fn with_n_no_command_changes_anything() {
    each_row(|world, row| {
        let place = world.place();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        files(place.dir.path(), &mut before);
        let dry = Row { args: [&["-n"][..], &row.args].concat(), ..row.clone() };
        let ended = place.start(&dry, Trouble::None).end();
        files(place.dir.path(), &mut after);
        let mut wrong = Vec::new();
        if before != after {
            wrong.push(format!("{dry}: changes something"));
        }
        let refused = ended.code == Some(1) && ended.stderr.contains("knows no --dry-run");
        if ended.code != Some(row.code) && !refused {
            wrong.push(format!("{dry}: {ended}, expected {}", row.code));
        }
        wrong
    });
}
