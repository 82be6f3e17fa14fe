//! Parts of the tables of prune rounds: content-addressed objects of at most 8 MiB (repo-format.md §8.2).

use crate::codec;
use crate::cpu;
use crate::error::{Context, Error, Result};
use crate::format::envelope::damaged;
use crate::format::gc::{Condemned, PartRef, RosterPart};
use crate::format::roster::{self, RosterEntry};
use crate::format::table::{self, ENTRIES_PER_PART_MAX, PREFIXES_PER_PART_MAX, TableEntry};
use crate::format::{GC_PART_LEN_BYTES_MAX, ObjectName};
use crate::repo::project::missing;
use crate::repo::{Keeping, METADATA_LEVEL, Project};
use crate::store::Created;
use crate::units::{ChunkId, Generation};

/// The tables of one prune round in the store.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(super) project: &'a Project,
    pub(super) generation: Generation,
}

impl Parts<'_> {
    pub(crate) fn name(self, id: ChunkId) -> ObjectName {
        ObjectName::GcPart(self.project.name().clone(), self.generation, id)
    }

    /// Reads a part of a table of chunks and pages; `None` where it is gone.
    pub(crate) async fn read_table(self, part: &PartRef) -> Result<Option<Vec<TableEntry>>> {
        let Some(plain) = self.read(part).await? else { return Ok(None) };
        table::decode(&plain, part.entries).context(self.name(part.id)).map(Some)
    }

    /// Reads a part's plaintext; `None` where it is gone.
    pub(crate) async fn read(self, part: &PartRef) -> Result<Option<Vec<u8>>> {
        let name = self.name(part.id);
        let Some(object) = self.project.get_object(&name).await? else { return Ok(None) };
        let (project, id) = (self.project.clone(), part.id);
        let opened = cpu::run(move || {
            let mut plain = Vec::new();
            codec::open(project.place(&name), &object, None, GC_PART_LEN_BYTES_MAX, &mut plain)
                .context(&name)?;
            match project.identify_page(&plain) == id {
                true => Ok(plain),
                false => Err(damaged(format!("{name}: its content has another id"))),
            }
        });
        opened.await.map(Some)
    }

    /// Why a part that a round names is not there: that round is long over, or it is damage.
    pub(crate) async fn gone(self, part: &PartRef) -> Result<Error> {
        if self.project.rounds().is_over(self.generation).await? {
            return Ok(Error::conflict(format!("prune round {} ended meanwhile", self.generation))
                .help("run the same command again"));
        }
        Ok(missing(&self.name(part.id)))
    }
}

impl Keeping<Parts<'_>> {
    /// Uploads a condemned table.
    pub(crate) async fn put_condemned(self, condemned: &Condemned) -> Result<Vec<PartRef>> {
        let mut parts = Vec::new();
        for prefixes in condemned.prefixes().chunks(PREFIXES_PER_PART_MAX) {
            parts.push(self.put_part(prefixes.concat(), prefixes.len()).await?);
        }
        Ok(parts)
    }

    /// Uploads a table of chunks and pages.
    pub(crate) async fn put_table(self, entries: &[TableEntry]) -> Result<Vec<PartRef>> {
        let mut parts = Vec::new();
        for entries in entries.chunks(ENTRIES_PER_PART_MAX) {
            parts.push(self.put_part(table::encode(entries), entries.len()).await?);
        }
        Ok(parts)
    }

    /// Uploads one part of a live index.
    pub(crate) async fn put_live(self, entries: Vec<TableEntry>) -> Result<PartRef> {
        let count = entries.len();
        let plain = cpu::run(move || Ok(table::encode(&entries))).await?;
        self.put_part(plain, count).await
    }

    /// Uploads a roster, ascending by volume.
    pub(crate) async fn put_roster(self, roster: &[RosterEntry]) -> Result<Vec<RosterPart>> {
        let mut parts = Vec::new();
        for entries in roster::parts_of(roster) {
            let part = self.put_part(roster::encode(entries)?, entries.len()).await?;
            parts.extend(entries.last().map(|last| RosterPart { last_volume: last.volume, part }));
        }
        Ok(parts)
    }

    async fn put_part(self, plain: Vec<u8>, entries: usize) -> Result<PartRef> {
        let (project, generation) = (self.project.clone(), self.generation);
        let sealed = cpu::run(move || {
            let name = project.parts(generation).name(project.identify_page(&plain));
            codec::seal(project.place(&name), &plain, METADATA_LEVEL)
        });
        let sealed = sealed.await?;
        let ObjectName::GcPart(_, _, id) = *sealed.name() else {
            return Err(Error::internal("a part under another name"));
        };
        let sealed_len_bytes = match self.project.create_sealed(&sealed).await? {
            Created::New => sealed.len_bytes(),
            // Another pruner came to the same table.
            Created::Exists { size_bytes, .. } => u32::try_from(size_bytes).unwrap_or(u32::MAX),
        };
        let entries = u32::try_from(entries).map_err(|_| Error::internal("a part of too many entries"))?;
        Ok(PartRef { id, sealed_len_bytes, entries })
    }
}
