//! What a prune did, or would do.

use std::ops::AddAssign;

use serde::Serialize;

use crate::format::roster::VOLUMES_PER_PART_MAX;
use crate::format::table::{ENTRIES_PER_PART_MAX, PREFIXES_PER_PART_MAX};
use crate::store::Ledger;

/// Objects and their bytes in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// How many.
    pub objects: u64,
    /// As the store has them, headers included.
    pub bytes: u64,
}

impl Counted {
    pub(super) fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

/// What a prune did, or in a dry run would do.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PruneReport {
    /// The project's name.
    pub project: String,
    /// Nothing was written or deleted.
    pub dry_run: bool,
    /// Volumes in the catalog.
    pub volumes: u64,
    /// Live snapshots; none where they were not counted, as a round that is open is to be finished first.
    pub snapshots: Option<u64>,
    /// Manifest pages read.
    pub pages: u64,
    /// Names of referenced chunks and pages that were remembered at once, at most.
    pub marks: u64,
    /// Chunks and pages in the store before; none as above.
    pub stored: Option<Counted>,
    /// Of those, the ones that no live snapshot needed. Sessions under way may need some.
    pub unreferenced: Counted,
    /// In bundles that stay: pieces that no live snapshot needs, and the tables. None where there are too many to tell, or as above.
    pub dead_bytes: Option<u64>,
    /// Deleted, or gone already: of prunes that carry out one round at once each counts all that it asked for, as stores
    /// do not tell who was first.
    pub deleted_chunks: Counted,
    /// Manifest pages, counted likewise.
    pub deleted_pages: Counted,
    /// Bundles, counted likewise.
    pub deleted_bundles: Counted,
    /// Small objects deleted beside: outcomes and notes of forgotten snapshots, signs of life, tables of older rounds.
    pub deleted_records: u64,
    /// Forgotten snapshots that are kept, and can be recalled.
    pub kept_forgotten: u64,
    /// What crashes left beside the repository's objects: probes, staging files of a local store.
    pub swept: Counted,
    /// What the store refused to delete.
    pub locked: Counted,
    /// Rounds that this run began itself.
    pub rounds_begun: u64,
    /// Rounds of other prunes that this one helped to finish.
    pub rounds_joined: u64,
    /// Rounds that came to their end in this run, begun here or joined.
    pub rounds_finished: u64,
    /// A round is open: sessions under way are waited for, or it was found so in a dry run.
    pub round_open: bool,
    /// Sessions that gave no sign of life within the lease, ended as aborted.
    pub aborted: Vec<Waiting>,
    /// Sessions that the open round waits for.
    pub waiting: Vec<Waiting>,
    /// Chunks and pages that live snapshots need and the store does not have; the first of them by name.
    pub lost_objects: u64,
    /// The first of them by name; the list is shorter where there are many.
    pub lost: Vec<LostObject>,
    /// Of these, the ones that are remembered since now: no backup will build on them.
    pub recorded: u64,
    /// Requests that a prune would make after a dry run's own, about.
    pub deletes_to_come: u64,
    /// Creates of records and tables; 0 where there is nothing to delete.
    pub puts_to_come: u64,
    /// Pages of listings; 0 where there is nothing to delete.
    pub lists_to_come: u64,
    /// Requests of this operation alone.
    pub ledger: Ledger,
    /// How long it took.
    pub seconds: f64,
}

/// Something that a live snapshot needs and that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostObject {
    /// The object's name.
    pub object: String,
    /// One that needs it, such as `vms/db@14`.
    pub snapshot: String,
}

/// A session without an outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// The volume's name.
    pub volume: String,
    /// What the session would become.
    pub sequence: u32,
    /// The name of its host, for people; where its `.open` cannot be read, words that say so.
    pub host: String,
    /// Its process id on that host; 0 where its `.open` cannot be read.
    pub process: u32,
    /// By the store's clock.
    pub last_sign_unix_ms: u64,
}

impl PruneReport {
    /// Chunks and pages together.
    pub fn deleted(&self) -> Counted {
        let mut all = self.deleted_chunks;
        all += self.deleted_pages;
        all += self.deleted_bundles;
        all
    }

    /// Whether there was nothing to do.
    pub fn is_idle(&self) -> bool {
        self.rounds_begun == 0
            && self.rounds_joined == 0
            && self.deleted().objects == 0
            && self.locked.objects == 0
    }

    pub(super) fn estimate(&mut self, kept: usize, live_parts: usize) {
        let parts = |entries: usize, each: usize| entries.div_ceil(each) as u64;
        self.deletes_to_come = self.unreferenced.objects;
        if self.unreferenced.objects > 0 {
            // Begin, seal and done, and their tables.
            self.puts_to_come = 3
                + parts(kept, PREFIXES_PER_PART_MAX)
                + parts(kept, ENTRIES_PER_PART_MAX)
                + live_parts as u64
                + parts(self.volumes as usize, VOLUMES_PER_PART_MAX);
            self.lists_to_come = self.ledger.list_requests.max(self.volumes + 2);
        }
    }
}
