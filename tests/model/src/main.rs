//! The protocol of `repo-format.md` §8, searched state by state.
//!
//! A plain breadth-first search goes through every state that any interleaving of sessions, pruners, operator and store can
//! reach within some bounds, and holds each against the laws. `cargo test` makes the searches of [`scenarios::IN_TESTS`],
//! `cargo xtask model --full` those of [`scenarios::BY_COMMAND`] too. Each broken rule of [`rules::Broken`] must be found out:
//! `cargo xtask model --broken NAME` prints the shortest way to the loss.
//!
//! # The laws
//!
//! 1. No live snapshot (committed, not forgotten) references an object that is missing, its closure included.
//! 2. A commit that landed, and so may have been acknowledged, is live until somebody forgets it.
//! 3. What the last roster shows live is live or forgotten: without damage no round has to stop.
//! 4. Once all is quiet, two rounds of one pruner leave no round unfinished and nothing unreferenced, whether what was under
//!    way lands before or never. Tried from one state in eight, chosen by its fingerprint.
//! 5. A snapshot whose session had read what is recorded as lost references nothing of it, closures included. What was lost
//!    below the protocol is left out of law 1, until it is there again.
//! 6. What a session might recall now is all there, and what the last seal keeps has its records. Looked at where the quiet end is tried.
//! 7. No pruner takes an honest seal for a forged one.
//!
//! # What is modelled
//!
//! - **The log.** Sequences, each with `.open`, one `.end` that is outcome and manifest in one, `.forget`. A session registers
//!   with any generation it may ever have seen, looks again, learns what is condemned, references, commits.
//! - **References.** A live snapshot's, the live index of the last seal (or of the one before while there is none), a full chunk of
//!   the own generation found by create, HEAD or LIST, or a delta of its own on any of these.
//! - **Chunks.** One full chunk in each generation, and one delta for each session, whose base is of any generation up to its own
//!   and may be a delta itself.
//! - **Bundles** (where `bundles` says so): a delta lies in one object with a full chunk that its session made as well. Each may be referenced without
//!   the other, and keeps the object. A session also finds what lies in bundles of its own generation, whoever made them: a delta only on what it
//!   may reference by itself. `Broken::PieceUnmarked`, `Broken::FoundDeltaUnchecked`.
//! - **Age** (where `ages` says so): a round deletes all records of what was over by the seal before it, but an aborted `.end`; the deletes land late
//!   and again, and a late commit brings an `.end` back. Readers, sessions and the final mark go by a roster: sessions by that of the last seal when they looked
//!   again. A number whose records are all gone may be registered anew by whoever does not know better. `Broken::AgesByOwnSeal`, `Broken::AgesAborted`,
//!   `Broken::RegistersBelowHighWater`, `Broken::ParentWithoutRoster`, `Broken::MarksWithoutRoster`.
//! - **The undo window** (where `window` says so): a roster also has forgotten snapshots that it *keeps*. The final mark, and the advisory walk,
//!   choose of every forgotten snapshot whether it is kept: windows differ, and clocks do. What is kept is marked as what is live, and its `.end`
//!   stays. Only what the last roster does not say is over may be kept, so that whatever one roster lets go of is over for good. A session may
//!   *recall*, that is take references from a forgotten snapshot, if the roster that it read does not say that it is over and nothing of it is
//!   condemned; it does not ask for `.forget`. `Broken::KeptNotMarked`, `Broken::KeptCleaned`, `Broken::KeepsAgain`, `Broken::RecallsUnkept`,
//!   `Broken::RecallsCondemned`.
//! - **The roster of the very last seal.** For parents an older roster does as well: it only says less. For recalling and keeping, less is too
//!   little: between the two seals chunks may be gone. So roster and condemned set must be of one reading (`Broken::RecallsByOlderRoster`;
//!   `Broken::KnowsTheRoundUnderWay`); and where the last seal turned foreign (where `foreign` says so), or is a copy of a roster from before a
//!   foreign one, nothing is recalled or kept by it: `Broken::RecallsAcrossForeign`, `Broken::KeepsAcrossForeign`, `Broken::CopyTrusted`. A window is
//!   shut by that for what was forgotten before the next seal.
//! - **Found seals beside a window.** Whoever finds a seal marks anew what is live, and every forgotten snapshot that the seal does not call over,
//!   whatever his own window: `Broken::ComparesEarlierMarks`, `Broken::ComparesOwnWindow`, `Broken::RecallableUncompared`. And its roster must call
//!   over what the one before did: `Broken::FormerRosterUncompared`. Then no honest seal differs (`Broken::ComparesHonestSeals`) and no forged one
//!   does harm (`Broken::SealForgedInWindow`).
//! - **Rounds.** `begin` with its condemned set, `seal` with roster, high water, live index and deletes, `done`. The next begins
//!   only when the last is done. Any pruner finishes what another began, joins what it finds begun, and carries out the seal that it finds. Where a seal
//!   may be forged it marks again and stops if the two differ: `Broken::SealForged`; without, `Broken::SealObeyed`.
//! - **Planted names** are what they do to whoever believes them: `Broken::DoneByName`, `Broken::ForgetByName`. Whoever opens them first
//!   sees nothing.
//! - **The final mark** reads one sequence after the other, in every order, while snapshots are committed and forgotten.
//! - **Clean-up** deletes committed `.end` of sequences that had an outcome when the final mark read them and that the roster does not show live or
//!   kept. By `.forget` instead, whatever the roster says, nothing is lost either: `Broken::CleansForgotten`; but it may take what could be recalled.
//!   By the roster up to the last sequence, without asking for `.forget`, it loses what was under way: `Broken::HighWaterIsLast`.
//! - **Requests.** A create or DELETE of a chunk, a commit, an abort and a DELETE of `.end` that was sent once may land at any later
//!   time, any number of times, or never. An actor may stop at every step for ever: it just is not chosen again.
//!
//! # What is abstracted away, and why nothing is lost by it
//!
//! - **Clocks.** Every lease may run out at any time, every session give up at any time: an abort may be under way from the
//!   registration on. Signs of life only make that rarer.
//! - **Ages of `.forget`.** Each mark keeps any set of what it may, so whatever time passes between two of them is covered, and a time that runs
//!   backwards.
//! - **Recalls are sessions.** Every session may recall, also beside what else it references, and make deltas on that: more than `recall` does.
//! - **The advisory walk and its listing.** A round may condemn any set of names below its generation: whatever a walk of any
//!   age found, with short or stale listings, exact or by a part of the id. Its marks are followed where `advisory` says so: a walk
//!   marks any live snapshots it likes. They count in the seal, for the index and against deleting.
//! - **Deletes** are all condemned and unmarked names below the round's generation, listed or not: a short listing only deletes less.
//! - **Volumes.** A session may take any live snapshot as its parent, not only the newest of one volume, and each sequence's high
//!   water is its own. So each sequence may be of any volume. Numbers stay without gaps, as a session tries the next only after it
//!   saw the last; a confirmed listing therefore is one moment in which all sequences are known, and how it came about is not modelled.
//! - **Several chunks, pages.** Each chunk is safe or not by itself. A page with what hangs below it is an object with a closure, as a delta is.
//! - **Reading `.end` and `.forget`** of a sequence is one step: absent, committed, forgotten follow in this order, and any two
//!   readings agree with some moment between them.
//! - **Caches** hold nothing that decides. What a host kept of a copy that went another way is another outcome under the same
//!   name: `Broken::CachedOutcome`.
//! - **A late create of begin, seal or done** is its pruner taking that step late; they are never deleted.
//! - **Parts of tables** exist before what names them, and are deleted only when no session that needs them can still commit.
//! - **A pruner in a round that is over** has nothing left to do: `done` comes after all deletes were sent, and sent deletes land for ever.
//!
//! - **A number that is registered anew**: what its first session may still send is forgotten then. Its commit would find another's outcome there, or be one that
//!   every roster calls over.
//! - **A loss.** One object, at any time, known to nobody until it is recorded. More than one, and what is damaged instead of
//!   missing, are no different; a variant in the name of what is stored again is the same object here, come back.
//!
//! Stores without create-if-absent, and repair are not modelled: the hurt-store tests have them.
//!
//! # The search
//!
//! States that differ only in what can have no effect any more, or only in which pruner is which, count as one
//! ([`rules::Reduction`]); a test searches small bounds without that and compares. Of a visited state 64 bits are kept: see
//! [`search::search`] for the chance that one is missed. The `stateright` crate was weighed: it keeps whole states with their
//! history behind maps and brings a dependency tree and a web server, for what takes a page here.

mod laws;
mod pruner;
mod rules;
mod scenarios;
mod seals;
mod search;
mod session;
mod step;
mod store;
#[cfg(test)]
mod tests;
mod world;

use std::process::ExitCode;

use scenarios::Scenario;

const HELP: &str = "\
cargo xtask model [--full] [--states N] [--only TEXT]
cargo xtask model --broken [NAME]
  --full          also the long searches, more than 4 * 10^8 states: a quarter of an hour and 4 GiB
  --states N      stops each search after N states
  --only TEXT     only the searches with TEXT in their names
  --broken NAME   breaks a rule and prints the shortest way to the loss; without NAME, all of them in short
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (mut full, mut states_max, mut only) = (false, u64::MAX, "");
    let mut rest = args.as_slice();
    loop {
        match rest {
            [] => break,
            ["--full", more @ ..] => (full, rest) = (true, more),
            ["--states", number, more @ ..] if number.parse::<u64>().is_ok() => {
                states_max = number.parse().unwrap_or(u64::MAX);
                rest = more;
            }
            ["--only", text, more @ ..] => (only, rest) = (text, more),
            ["--broken"] => return broken(None),
            ["--broken", name] => return broken(Some(name)),
            _ => {
                print!("{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    let long: &[Scenario] = if full { &scenarios::BY_COMMAND } else { &[] };
    sound(scenarios::IN_TESTS.iter().chain(long).filter(|s| s.name.contains(only)), states_max)
}

/// Searches with the rules as they are.
fn sound<'a>(scenarios: impl Iterator<Item = &'a Scenario>, states_max: u64) -> ExitCode {
    let mut states = 0;
    for scenario in scenarios {
        let report = search::search(&scenario.rules, states_max);
        states += report.states;
        println!("{report}  {}", scenario.name);
        if let Some(violation) = report.violation {
            println!("VIOLATION: {violation}");
            print_way(&scenario.rules, states_max);
            return ExitCode::FAILURE;
        }
        if report.complete && report.states < scenario.states_min {
            println!("fewer states than {}: the model has lost something", scenario.states_min);
            return ExitCode::FAILURE;
        }
    }
    println!("{states} states, no violation");
    ExitCode::SUCCESS
}

/// Searches with one rule broken; `None`: one after the other.
fn broken(name: Option<&str>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let mut any = false;
    for variant in scenarios::variants() {
        let own_name = format!("{:?}", variant.broken);
        if name.is_some_and(|name| name != own_name) {
            continue;
        }
        any = true;
        let report = search::search(&variant.rules, u64::MAX);
        println!("{report}  {own_name}: {}", report.violation.as_deref().unwrap_or("no violation"));
        if report.violation.is_some() != variant.finds.is_some() {
            code = ExitCode::FAILURE;
        }
        if name.is_some() {
            print_way(&variant.rules, u64::MAX);
        }
    }
    if !any {
        println!("no rule has that name; `cargo xtask model --broken` names all");
        code = ExitCode::from(2);
    }
    code
}

fn print_way(rules: &rules::Rules, states_max: u64) {
    if let Some((way, why)) = search::trace(rules, states_max) {
        print!("{}", search::way_text(&way));
        println!("     {why}");
    }
}
