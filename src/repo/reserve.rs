//! Room kept for a store that takes nothing more (repo-format.md §8.7): before anything may be deleted, a little is to be
//! written, and in a full store nobody can.

use std::collections::BTreeSet;

use crate::error::{Error, ErrorKind, Result};
use crate::format::names::{
    RESERVE_PIECE_LEN_BYTES, RESERVE_PIECES, is_reserve, reserve_name, reserve_prefix,
};
use crate::format::{ObjectName, Record};
use crate::random::random;
use crate::repo::{Creating, Keeping, Project};
use crate::store::{Created, Deleted};

/// Pieces that are left to a prune by what comes before it: forgetting, and giving up a backup.
const LEFT_FOR_PRUNE: usize = 5;

/// The reserve of a project.
#[derive(Clone, Copy)]
pub struct Reserve<'a> {
    pub(super) project: &'a Project,
}

impl Reserve<'_> {
    /// As [`Project::create_record`], for what has to be said in a full store too, before a prune can make room:
    /// takes that much of the reserve.
    pub(super) async fn create_record<R: Record + PartialEq>(
        self,
        name: &ObjectName,
        record: &R,
    ) -> Result<Created> {
        for _ in 0..RESERVE_PIECES {
            match self.project.create_record(name, record).await {
                Err(e) if e.kind() == ErrorKind::NoSpace && self.give_up_piece().await? => {}
                Err(e) if e.kind() == ErrorKind::NoSpace => {
                    return Err(e.help(
                        "the store is full, or a quota on it is. What is forgotten already makes room: `cuttle prune`, then run this \
                         again. Otherwise raise the quota by a few MiB",
                    ));
                }
                done => return done,
            }
        }
        Err(Error::no_space(format!("create {name}: the store takes nothing, whatever is given up for it"))
            .help("stop what writes there, and raise the quota by a few MiB"))
    }

    /// Deletes a piece of the reserve; false where none can be spared.
    async fn give_up_piece(self) -> Result<bool> {
        let mut there = self.listed().await?;
        if there.len() <= LEFT_FOR_PRUNE {
            return Ok(false);
        }
        let Some(name) = there.pop_last() else { return Ok(false) };
        Ok(self.project.repository().store.delete_unless_refused(&name).await? == Deleted::Gone)
    }

    /// What a listing shows of it.
    async fn listed(self) -> Result<BTreeSet<String>> {
        let listed =
            self.project.repository().store().list(&reserve_prefix(self.project.name()), None).await?;
        Ok(listed.into_iter().map(|info| info.key).filter(|key| is_reserve(key)).collect())
    }
}

impl Creating<Reserve<'_>> {
    /// Makes what is missing of the reserve.
    ///
    /// # Errors
    /// `NoSpace` where there is no room for it: then there may be less of it than there should be.
    pub async fn fill(self) -> Result<()> {
        let there = self.listed().await?;
        for piece in 1..=RESERVE_PIECES {
            let name = reserve_name(self.project.name(), piece);
            if there.contains(&name) {
                continue;
            }
            // Nothing that a store could make smaller, or keep once for all.
            let mut noise = vec![0; RESERVE_PIECE_LEN_BYTES];
            random(&mut noise)?;
            self.project.repository().store.create(&name, noise.into()).await?;
        }
        Ok(())
    }
}

impl Keeping<Reserve<'_>> {
    /// Deletes the reserve, for a prune to have room. How many bytes that freed.
    pub(crate) async fn give_up(self) -> Result<u64> {
        let names: Vec<String> = self.listed().await?.into_iter().collect();
        let deleted = self.project.repository().store.delete_all_unless_refused(&names).await?;
        let pieces = deleted.iter().filter(|done| **done == Deleted::Gone).count();
        Ok(pieces as u64 * RESERVE_PIECE_LEN_BYTES as u64)
    }
}
