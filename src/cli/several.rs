//! Volumes that are worked on side by side, each on its own: one that fails does not stop the others.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use serde::Serialize;

use cuttle::cancel::{Cancel, interrupted};
use cuttle::store::Ledger;
use cuttle::{ErrorKind, cpu};

use super::failure::Failure;
use super::report::{ledger_line, lines};
use super::table::{Column, table};
use super::{Exit, human};

/// What became of one volume.
pub enum Fate<T> {
    Done(T),
    Failed(Failure),
    /// Somebody else is at it already.
    Skipped(Failure),
    /// The user wanted to stop before its turn came.
    NotStarted(Failure),
}

impl<T> Fate<T> {
    /// Does the work, unless the user wanted to stop. Whatever becomes of it, others go on and are told of.
    pub async fn of(cancel: &Cancel, work: impl Future<Output = cuttle::Result<T>>) -> Self {
        if cancel.is_cancelled() {
            return Self::NotStarted((&interrupted()).into());
        }
        let done = AssertUnwindSafe(work).catch_unwind().await;
        match done.unwrap_or_else(|panic| Err(cpu::panicked(&*panic))) {
            Ok(done) => Self::Done(done),
            Err(e) if e.kind() == ErrorKind::Busy => Self::Skipped((&e).into()),
            Err(e) => Self::Failed((&e).into()),
        }
    }

    /// Why it is not done: the status in JSON, the words in a table, and the reason.
    pub fn not_done(&self) -> Option<(&'static str, String, &Failure)> {
        let word = |word: &str| word.to_owned();
        match self {
            Self::Done(_) => None,
            Self::Failed(error) if error.kind == ErrorKind::Interrupted => {
                Some(("failed", word("interrupted"), error))
            }
            Self::Failed(error) => Some(("failed", word("FAILED"), error)),
            Self::Skipped(error) => Some(("skipped", format!("skipped: {}", error.message), error)),
            Self::NotStarted(error) => Some(("not_started", word("not started"), error)),
        }
    }
}

/// How many volumes met which fate.
#[derive(Debug, Default, Serialize)]
pub struct Tally {
    pub volumes_ok: u64,
    /// Of these, the ones that somebody has to see to.
    pub volumes_hurt: u64,
    pub volumes_failed: u64,
    pub volumes_skipped: u64,
    pub volumes_not_started: u64,
    #[serde(skip)]
    pub interrupted: bool,
}

impl Tally {
    pub fn add<T>(&mut self, fate: &Fate<T>) {
        match fate {
            Fate::Done(_) => self.volumes_ok += 1,
            Fate::Failed(error) => {
                self.volumes_failed += 1;
                self.interrupted |= error.kind == ErrorKind::Interrupted;
            }
            Fate::Skipped(_) => self.volumes_skipped += 1,
            Fate::NotStarted(_) => {
                self.volumes_not_started += 1;
                self.interrupted = true;
            }
        }
    }

    pub fn exit(&self) -> Exit {
        match (self.volumes_ok, self.volumes_failed) {
            _ if self.interrupted => Exit::Interrupted,
            (_, 0) if self.volumes_hurt == 0 => Exit::Success,
            (0, _) => Exit::Failure,
            _ => Exit::Partial,
        }
    }

    /// What was done, and what was not: `interrupted: 3 volumes restored, 1 FAILED, 2 not started`
    pub fn told(&self, done: &str) -> String {
        let mut text = if self.interrupted { format!("interrupted: {done}") } else { done.to_owned() };
        let not_well = [
            (self.volumes_hurt, "HURT"),
            (self.volumes_failed, "FAILED"),
            (self.volumes_skipped, "skipped"),
            (self.volumes_not_started, "not started"),
        ];
        for (n, what) in not_well {
            if n > 0 {
                text += &format!(", {} {what}", human::count(n));
            }
        }
        text
    }
}

/// A summary for people: a table by volume, with the totals and the requests below it.
pub fn told(columns: &[Column], rows: &[Vec<String>], totals: String, ledger: &Ledger) -> String {
    let mut rows = rows.to_vec();
    rows.sort();
    lines([table(columns, rows), totals, ledger_line(ledger)])
}

#[cfg(test)]
mod tests {
    use super::{Fate, Tally};
    use crate::cli::Exit;
    use cuttle::cancel::interrupted;
    use cuttle::{Error, ErrorKind};

    #[tokio::test]
    async fn one_that_panics_is_one_that_failed() {
        let (_canceller, cancel) = cuttle::cancel::pair();
        let fate: Fate<()> = Fate::of(&cancel, async { panic!("no such thing") }).await;
        let (status, _, failure) = fate.not_done().expect("it is not done");
        assert_eq!((status, failure.kind), ("failed", ErrorKind::Internal));
        assert!(failure.message.contains("no such thing"), "{}", failure.message);
        let fate: Fate<()> = Fate::of(&cancel, async { Err(Error::busy("in progress on b, 12 min")) }).await;
        assert_eq!(
            fate.not_done().map(|(status, word, _)| (status, word)),
            Some(("skipped", "skipped: in progress on b, 12 min".to_owned()))
        );
    }

    #[test]
    fn exits_follow_the_fates() {
        let done = || Fate::Done(());
        let failed = || Fate::Failed((&Error::invalid("no")).into());
        let stopped = || Fate::Failed((&interrupted()).into());
        let busy = || Fate::Skipped((&Error::busy("in progress")).into());
        let waiting = || Fate::NotStarted((&interrupted()).into());
        for (fates, exit, told) in [
            (vec![done(), done()], Exit::Success, "x"),
            (vec![done(), failed()], Exit::Partial, "x, 1 FAILED"),
            (vec![failed(), failed()], Exit::Failure, "x, 2 FAILED"),
            (vec![busy(), busy()], Exit::Success, "x, 2 skipped"),
            (vec![busy(), done(), failed()], Exit::Partial, "x, 1 FAILED, 1 skipped"),
            (
                vec![done(), stopped(), waiting()],
                Exit::Interrupted,
                "interrupted: x, 1 FAILED, 1 not started",
            ),
            (vec![], Exit::Success, "x"),
        ] {
            let mut tally = Tally::default();
            fates.iter().for_each(|fate| tally.add(fate));
            assert_eq!((tally.exit(), tally.told("x").as_str()), (exit, told));
        }
    }
}
