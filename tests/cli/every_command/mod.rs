//! Every command, whatever becomes of its output, its home and itself: it comes to its own end, leaves nothing half done, and the
//! next run succeeds.
//!
//! The commands are those of clap's own tree, by way of docs/options.md, which is made from it: a new command has no row in
//! [`rows::rows`] and fails here.

mod dry;
mod rows;
mod run;
mod signals;
mod terminal;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rows::{Row, rows};
use run::{Ended, Trouble, World};

/// The commands that do something: each has a heading, as `## cuttle key add`.
fn commands() -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/options.md");
    let page = std::fs::read_to_string(page).expect("the page about options");
    page.lines()
        .filter_map(|line| line.strip_prefix("## cuttle "))
        .map(|words| words.replace(' ', "-"))
        .collect()
}

#[test]
fn no_command_is_forgotten() {
    let known: BTreeSet<String> = rows().iter().map(|row| row.command.to_owned()).collect();
    assert_eq!(commands(), known);
}

/// Does something with every row, on two threads, and gathers what is wrong.
fn each_row(work: impl Fn(&World, &Row) -> Vec<String> + Sync) {
    let (world, rows) = (World::new(), rows());
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = work(&world, row);
                    wrong.lock().expect("no panic").extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic");
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Output is what ends, and not the outcome: the exit code is that of an undisturbed run. A memory that cannot be written and
/// a home that is not there are no reason to fail either.
#[test]
fn no_command_fails_or_succeeds_for_what_becomes_of_its_output_or_home() {
    each_row(|world, row| {
        let calm = world.run(row, Trouble::None);
        let mut wrong = Vec::new();
        if calm.code != Some(row.code) {
            wrong.push(format!("{row}: undisturbed: {calm}, expected {}", row.code));
        }
        for trouble in Trouble::ALL {
            let ended = world.run(row, trouble);
            let expected = expected(row, &calm, trouble);
            if ended.code != Some(expected) {
                wrong.push(format!("{row}: {trouble:?}: {ended}, expected {expected}"));
            }
            if ended.stderr.contains("panicked") {
                wrong.push(format!("{row}: {trouble:?}: {ended}"));
            }
            if ended.code == Some(0) {
                wrong.extend(ended.leftovers.iter().map(|left| format!("{row}: {trouble:?} leaves {left}")));
            }
        }
        wrong
    });
}

fn expected(row: &Row, calm: &Ended, trouble: Trouble) -> i32 {
    match trouble {
        // The data is the point, and it did not arrive.
        Trouble::StdoutGone | Trouble::BothGone | Trouble::Full if row.stdout_is_data => 1,
        // Somebody has half of what was printed.
        Trouble::Full if row.code == 0 && !calm.stdout.is_empty() => 1,
        _ => row.code,
    }
}
