//! cuttle's own snapshots of an image: made under a name that is free, and removed where that hurts nobody.

use super::rbd_taken::{HeadFacts, Taken};
use super::rbd_target::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::rbd::{Access, Image, Snapshot, advice, lock, migration};

/// How many names are tried for a snapshot: the one that is wanted, and that with a number behind it.
const NAMES_MAX: u32 = 16;
/// A client that holds an image's lock and says nothing for so long does not answer.
const ANSWER_TIMEOUT_MS: u64 = 5_000;

/// Makes and removes snapshots of one image.
#[derive(Debug, Clone)]
pub(super) struct OwnSnapshots {
    pub target: Target,
    /// Whether an image is left alone whose lock would have to be taken from a client that does not answer.
    pub keep_locks: bool,
}

impl OwnSnapshots {
    /// Makes a snapshot of this name, or the next that is free: an image keeps its snapshots when it is renamed or moved, and
    /// its volume, under its new name, counts from 1 again.
    /// What other snapshots there are is seen right before and after; `own_prefix` tells which of them are cuttle's.
    pub(super) fn make(&self, name: &str, own_prefix: &str) -> Result<Taken> {
        // Closed again at once, so that the exclusive lock is not held while guests want to write.
        let image = self.target.open(Access::ReadWrite)?;
        self.look_at_lock(&image)?;
        let before = HeadFacts::look(&self.target, &image, own_prefix)?;
        for number in 1..=NAMES_MAX {
            let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
            if let Some(made) = image.snapshots().create_unless_taken(&name)? {
                return Ok(before.made(&image, made));
            }
        }
        let path = self.target.path();
        Err(Error::conflict(format!(
            "{path} has snapshots {name} and {name}-2 to {name}-{NAMES_MAX} already"
        ))
        .help(format!("remove those that nobody needs: `rbd snap ls {path}`, `rbd snap rm {path}@{name}`")))
    }

    /// Removes some snapshots; an image that is gone has none. Those that cannot be removed stay, and are named.
    pub(super) fn remove(&self, which: impl Fn(&Snapshot) -> bool) -> Result<()> {
        let image = match self.target.open(Access::ReadWrite) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            image => image?,
        };
        let doomed: Vec<Snapshot> = image.snapshots().list()?.into_iter().filter(which).collect();
        if doomed.is_empty() {
            return Ok(());
        }
        if migration::source(&image)?.is_some() {
            let names: Vec<&str> = doomed.iter().map(|s| s.name.as_str()).collect();
            let what =
                format!("{}: {} must stay while the image is migrated", self.target.path(), names.join(", "));
            let [_, commit] = advice::end_migration(&self.target.path());
            return Err(Error::conflict(what).help(format!(
                "whoever uses the image would die of a removal now; the first backup after `{commit}` tidies up"
            )));
        }
        self.look_at_lock(&image)?;
        let mut failed = Vec::new();
        for snapshot in doomed {
            if let Err(error) = image.snapshots().remove(&snapshot.name) {
                failed.push(error.to_string());
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Error::conflict(failed.join("; "))
            .help("a snapshot that is protected or has clones stays until they are gone; the next backup tries again"))
    }

    /// Says what will happen to who holds the image's lock and does not answer, before it happens.
    fn look_at_lock(&self, image: &Image) -> Result<()> {
        let owner = match lock::owner(image, ANSWER_TIMEOUT_MS) {
            Err(error) if !self.keep_locks => {
                tracing::info!(%error, "who holds the exclusive lock could not be found out");
                return Ok(());
            }
            owner => owner?,
        };
        let Some(owner) = owner.filter(|owner| !owner.answers) else { return Ok(()) };
        let (path, address) = (self.target.path(), &owner.address);
        let silent =
            format!("{path}: its exclusive lock is held by a client at {address} that does not answer");
        if self.keep_locks {
            return Err(Error::conflict(silent).help(format!(
                "see whether that host still runs and reaches the cluster (`{}`, `{}`); without --no-break-lock its lock is taken \
                 away, and the cluster refuses what it writes from then on",
                advice::show_watchers(&path),
                advice::list_locks(&path),
            )));
        }
        let when = if owner.watches { "unless it answers within 30 s, librbd" } else { "librbd" };
        tracing::warn!(
            "{silent}: {when} takes it for dead, takes the lock away and has the cluster refuse what it writes from then on \
             (blocklist). Where it lives it must be started again. --no-break-lock leaves such images alone"
        );
        Ok(())
    }
}
