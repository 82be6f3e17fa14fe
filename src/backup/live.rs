//! Reading the live index of the last seal: which chunks of older generations there are. The seal answers for them, as a manifest does for what it
//! names.

use std::fmt;
use std::iter;
use std::sync::{Arc, OnceLock};

use futures::{StreamExt, stream};
use tokio::sync::Mutex;

use crate::backup::index::Index;
use crate::cancel::Cancel;
use crate::cpu;
use crate::error::{Context as _, Result};
use crate::format::HEADER_LEN_BYTES;
use crate::format::envelope::damaged;
use crate::format::gc::PartRef;
use crate::format::live::{LivePart, check_count, decode};
use crate::format::page::ObjectRef;
use crate::repo::Project;
use crate::repo::content::chunk_object_len_bytes_max;
use crate::repo::found::Found;
use crate::units::{ChunkId, Generation};

/// A backup spends at most this part of the bytes that it reads of its volume: all of an index of 25 million chunks takes about 1 GB.
const WORTH_DIVISOR: u64 = 4;
/// Parts that are read at once, of some 20 MiB each.
const PARTS_INFLIGHT_MAX: usize = 4;

/// The live index that the sessions of one generation go by.
#[derive(Default)]
pub(super) struct Live {
    index: OnceLock<Arc<Index>>,
    /// Of one session at a time; those that wait want it, too.
    reading: Mutex<Option<Reading>>,
}

/// How far an index was read.
struct Reading {
    /// Of the seal that names it.
    generation: Generation,
    /// The last first.
    left: Vec<(LivePart, PartRef)>,
    spent_bytes: u64,
    worth_bytes: u64,
}

impl Live {
    /// The object that holds a chunk, as far as the index was read.
    pub(super) fn find(&self, id: &ChunkId) -> Option<ObjectRef> {
        self.index.get()?.find(id)
    }

    /// Reads as much of it as a backup that reads so many bytes is worth, before that begins: what it comes to before it knows of it, it uploads. Every
    /// chunk in it was live then, and stays until a round that waits for this session, unless a round under way condemned it (invariants I4, I6).
    pub(super) async fn read(
        &self,
        project: &Project,
        generation: Generation,
        volume_bytes: Option<u64>,
        cancel: &Cancel,
    ) -> Result<()> {
        let mut reading = self.reading.lock().await;
        let reading = match &mut *reading {
            Some(reading) => reading,
            none => none.insert(Reading::begin(project, generation).await?),
        };
        let worth_bytes = volume_bytes.unwrap_or(u64::MAX) / WORTH_DIVISOR;
        reading.worth_bytes = reading.worth_bytes.saturating_add(worth_bytes);
        let Some((LivePart { count, .. }, _)) = reading.left.last().copied() else { return Ok(()) };
        let new = || Arc::new(Index::new(project.repository().cache.scratch(), count));
        let (index, seal) = (self.index.get_or_init(new), reading.generation);
        let mut parts = stream::iter(iter::from_fn(|| reading.next()))
            .map(|(part, of)| read_part(project, seal, part, of, index))
            .buffered(PARTS_INFLIGHT_MAX);
        while let Some(is_there) = parts.next().await {
            cancel.check()?;
            if !is_there? {
                // A later round was sealed, and this one's tables are cleaned up.
                drop(parts);
                reading.left.clear();
                break;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl Reading {
    /// The index of the round that began the generation, or of the one before while that is not sealed.
    async fn begin(project: &Project, generation: Generation) -> Result<Self> {
        let mut reading = Self { generation, left: Vec::new(), spent_bytes: 0, worth_bytes: 0 };
        for seal in [generation.0, generation.0.saturating_sub(1)].into_iter().filter(|g| *g > 0) {
            match project.rounds().look_seal(Generation(seal)).await? {
                Found::Opens(seal) => {
                    let count = seal.live_index.len();
                    check_count(count)?;
                    let parts = seal.live_index.into_iter().enumerate().filter(|(_, of)| of.entries > 0);
                    reading.left = parts.map(|(number, of)| (LivePart { number, count }, of)).rev().collect();
                    reading.generation = seal.generation;
                    break;
                }
                Found::Absent => {}
                // It may be a seal, and delete what the one before names.
                Found::Foreign(_) => break,
            }
        }
        Ok(reading)
    }

    /// The next part that is worth it. The first is: most projects have no other.
    fn next(&mut self) -> Option<(LivePart, PartRef)> {
        let (_, of) = self.left.last()?;
        let spent_bytes = self.spent_bytes + u64::from(of.sealed_len_bytes);
        if self.spent_bytes > 0 && spent_bytes > self.worth_bytes {
            return None;
        }
        self.spent_bytes = spent_bytes;
        self.left.pop()
    }
}

/// Whether the part is there.
async fn read_part(
    project: &Project,
    seal: Generation,
    part: LivePart,
    of: PartRef,
    index: &Arc<Index>,
) -> Result<bool> {
    let parts = project.parts(seal);
    let Some(plain) = parts.read(&of).await? else { return Ok(false) };
    let (name, project, index) = (parts.name(of.id), project.clone(), Arc::clone(index));
    let entries = cpu::run(move || {
        let entries = decode(&plain, of.entries, part).context(&name)?;
        let may_be = |object: &ObjectRef| {
            object.name.generation <= seal && may_have(&project, object.sealed_len_bytes.into())
        };
        match entries.iter().map(|entry| entry.object).find(|object| !may_be(object)) {
            None => Ok((plain, entries)),
            Some(ObjectRef { name: chunk, sealed_len_bytes }) => Err(damaged(format!(
                "{name}: chunk {chunk} of {sealed_len_bytes} bytes, expected a size that chunks have and a generation up to {seal}"
            ))),
        }
    });
    let (plain, entries) = entries.await?;
    cpu::block(move || index.add(part.number, &plain, &entries)).await?;
    Ok(true)
}

/// Whether a chunk's object may be so large.
pub(super) fn may_have(project: &Project, size_bytes: u64) -> bool {
    let max = chunk_object_len_bytes_max(project.chunk_size_bytes());
    (HEADER_LEN_BYTES as u64..=max).contains(&size_bytes)
}
