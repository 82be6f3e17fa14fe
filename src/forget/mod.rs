//! Forgets snapshots: by name, or all that a retention policy does not keep.
//!
//! Nothing is deleted here. A forgotten snapshot is no longer live, and the next prune frees what only it needed. So
//! forgetting needs no permission to delete, and any number of hosts may do it at once.

mod by_name;
mod by_policy;
mod recall;
#[cfg(test)]
mod tests;

use futures::{TryStreamExt, stream};

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::family::Point;
use crate::repo::Keeper;
use crate::repo::history::SnapshotEntry;
use crate::repo::notes::{Forgotten, Noted};
use crate::store::Ledger;

pub use by_name::by_name;
pub use by_policy::by_policy;
pub use recall::{Recalled, recall};

/// Snapshots forgotten at once.
const SNAPSHOTS_INFLIGHT_MAX: usize = 16;

/// What becomes of snapshots.
#[derive(Debug, Default)]
pub struct ForgetReport {
    /// The project's name.
    pub project: String,
    /// Nothing was done.
    pub dry_run: bool,
    /// By volume name, oldest first. Those that a policy is not for are left out.
    pub snapshots: Vec<Judged>,
    /// What could not even be looked at: the volume or name, and why.
    pub failures: Vec<(String, Error)>,
    /// Requests of this operation alone.
    pub ledger: Ledger,
}

/// A snapshot and what becomes of it.
#[derive(Debug)]
pub struct Judged {
    /// The volume's name.
    pub volume_name: String,
    /// The snapshot, and what is said of it: protection and tags.
    pub noted: Noted,
    /// When the store says that it was committed; 0 where its record cannot be read.
    pub committed_unix_ms: u64,
    /// What becomes of it.
    pub fate: Fate,
    /// Why it stays; what its going means.
    pub reasons: Vec<String>,
}

/// What becomes of a snapshot.
#[derive(Debug)]
pub enum Fate {
    /// It stays.
    Kept,
    /// It is forgotten; in a dry run, it would be.
    Forgotten,
    /// It was asked for by name but is protected.
    Refused,
    /// It was to be forgotten, and that could not be done: it stays, as far as is known.
    Failed(Error),
}

impl ForgetReport {
    fn new(project: &Keeper, dry_run: bool) -> Self {
        Self { project: project.name().to_string(), dry_run, ..Self::default() }
    }

    /// Whether all was done that was asked for.
    pub fn ok(&self) -> bool {
        let bad = |j: &Judged| matches!(j.fate, Fate::Refused | Fate::Failed(_));
        self.failures.is_empty() && !self.snapshots.iter().any(bad)
    }

    /// How many are kept; those that were refused or that failed are not counted.
    pub fn kept(&self) -> u64 {
        self.count(|fate| matches!(fate, Fate::Kept))
    }

    /// How many are forgotten; in a dry run, would be.
    pub fn forgotten(&self) -> u64 {
        self.count(|fate| matches!(fate, Fate::Forgotten))
    }

    fn count(&self, is: impl Fn(&Fate) -> bool) -> u64 {
        self.snapshots.iter().filter(|j| is(&j.fate)).count() as u64
    }
}

impl Judged {
    /// The manifest's root, which may be large, is left behind.
    fn new(entry: &SnapshotEntry, fate: Fate, reasons: Vec<String>) -> Self {
        Self {
            volume_name: entry.volume_name.clone(),
            noted: Noted::from(entry),
            committed_unix_ms: entry.committed_unix_ms,
            fate,
            reasons,
        }
    }

    fn point(&self) -> Point {
        (self.noted.volume, self.noted.sequence)
    }

    /// `vms/db@14`
    pub fn name(&self) -> String {
        format!("{}@{}", self.volume_name, self.noted.sequence)
    }
}

/// Forgets what is to go. One that was protected since is `meanwhile`'s.
async fn carry_out(
    project: &Keeper,
    snapshots: &mut [Judged],
    cancel: &Cancel,
    meanwhile: fn() -> Fate,
) -> Result<()> {
    let going = snapshots.iter_mut().filter(|j| matches!(j.fate, Fate::Forgotten));
    stream::iter(going.map(Ok))
        .try_for_each_concurrent(SNAPSHOTS_INFLIGHT_MAX, |judged| async move {
            cancel.check()?;
            match project.notes().forget(&judged.noted).await {
                Ok(Forgotten::Now | Forgotten::Already) => {}
                Ok(Forgotten::Protected) => {
                    judged.noted.note.protected = true;
                    (judged.fate, judged.reasons) = (meanwhile(), vec![PROTECTED.to_owned()]);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
                Err(e) => judged.fate = Fate::Failed(e),
            }
            Ok(())
        })
        .await
}

const PROTECTED: &str = "protected";
