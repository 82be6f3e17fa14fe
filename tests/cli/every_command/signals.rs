//! Signals at any moment.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::each_row;
use super::rows::Row;
use super::run::{Ended, Place, Trouble, World, files};
use crate::support::Numbers;

/// Signals that end a command cleanly, those that it does not care about, and one that nobody catches.
const SIGNALS: [Signal; 5] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::PIPE, Signal::USR1];

/// Every file with its size and time: what tells whether a run has begun to do anything.
fn state(place: &Place) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    files(place.dir.path(), &mut |path| {
        if let Ok(metadata) = path.symlink_metadata() {
            found.insert(path.to_owned(), (metadata.size(), metadata.mtime(), metadata.mtime_nsec()));
        }
    });
    found
}

/// At a random time after the start, a signal: the run ends by itself with 130, or as if nothing had come; verify finds nothing
/// wrong, and the same command then does what it is for.
#[test]
fn a_signal_at_any_moment_breaks_nothing() {
    each_row(|world, row| {
        let began = Instant::now();
        let calm = world.run(row, Trouble::None);
        let usual = began.elapsed().as_micros() as u64;
        let seed =
            row.to_string().bytes().fold(11, |seed: u64, b| seed.wrapping_mul(31).wrapping_add(b.into()));
        let mut numbers = Numbers::new(seed);
        let mut wrong = Vec::new();
        // Two of them; all rows together get them all.
        let first = numbers.below(SIGNALS.len() as u64) as usize;
        for signal in [SIGNALS[first], SIGNALS[(first + 2) % SIGNALS.len()]] {
            let delay = Duration::from_micros(numbers.below(usual + usual / 8));
            let found = disturbed(world, row, &calm, signal, delay);
            wrong.extend(found.map(|found| format!("{row}: {signal:?} after {delay:?}: {found}")));
        }
        wrong
    });
}

fn disturbed(world: &World, row: &Row, calm: &Ended, signal: Signal, delay: Duration) -> Option<String> {
    let place = world.place();
    if !place.can(row) {
        return None;
    }
    let before = state(&place);
    let mut running = place.start(row, Trouble::None);
    // The moment is what is random here; nothing waits for anything.
    std::thread::sleep(delay);
    running.signal(signal);
    if row.serves && matches!(signal, Signal::PIPE) {
        running.serving();
        running.signal(Signal::TERM);
    }
    let ended = running.end();
    unmount(&place);
    let clean = match signal {
        Signal::USR1 => ended.signal == Some(Signal::USR1.as_raw()),
        // Before it listens for signals, or is this program at all, it does nothing else either.
        _ => {
            let stopped = ended.code == Some(130) && signal != Signal::PIPE;
            stopped || ended.signal == Some(signal.as_raw()) && state(&place) == before
        }
    };
    if !clean && ended.code != calm.code {
        return Some(format!("{ended}"));
    }
    next(&place, row, &ended)
}

/// What the next runs find.
fn next(place: &Place, row: &Row, ended: &Ended) -> Option<String> {
    let interrupted = ended.code != Some(row.code);
    // What was done once is not done twice, and it may have been done before the signal.
    if interrupted && !row.once && !row.serves {
        let again = place.start(row, Trouble::None).end();
        if again.code != Some(row.code) {
            return Some(format!("{ended}, and the next run: {again}"));
        }
    }
    let verify = super::rows::rows().into_iter().find(|row| row.command == "verify")?;
    let writes =
        ["backup", "forget", "prune", "tag", "protect", "unprotect", "key-add"].contains(&row.command);
    let verified = writes.then(|| place.start(&verify, Trouble::None).end())?;
    (verified.code != Some(0)).then(|| format!("{ended}, and then verify: {verified}"))
}

/// A mount whose process was killed stays, as for every such program.
fn unmount(place: &Place) {
    let mnt = place.path("mnt");
    if std::fs::read_dir(&mnt).is_err() {
        let _ = Command::new("umount").arg("-l").arg(&mnt).output();
    }
}
