//! A new chunk against what was in its place before: as a delta where that is well under the full object.

use bytes::Bytes;

use crate::backup::encode::{Encoded, Encoder, NewChunk};
use crate::codec::{self, Base, Joined};
use crate::cpu;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::envelope::DeltaBase;
use crate::keys::random_array;
use crate::plan::delta::{Chain, Likeness, Verdict};
use crate::repo::Project;
use crate::units::ChunkId;

/// What was in a chunk's place.
pub(super) struct Below {
    pub chain: Chain,
    /// As long as the chunk, and known to be what the repository has under the id of the chain's top.
    pub plain: Vec<u8>,
    pub joined: Joined,
}

/// Memory that a chunk takes until it is encoded, in chunks: its own, the base that it wants, and the deltas that are joined.
pub(super) fn memory_chunks(chain: Option<&Chain>) -> u64 {
    chain.map_or(1, |chain| if chain.joined().is_empty() { 2 } else { 3 })
}

/// What the deltas replace that a new one takes in, given their bodies in the chain's order. `None` where one of them is lost or
/// damaged, or makes a chunk of another length: then the new chunk is not to stand on any of them.
pub(super) fn joined(
    project: &Project,
    chain: &Chain,
    bodies: &[Bytes],
    plain_len: usize,
) -> Result<Option<Joined>> {
    let mut joined = Joined::default();
    let taken_in = chain.joined().iter().zip(bodies).enumerate().try_for_each(|(place, (object, body))| {
        let (base, depth) =
            chain.under(place).ok_or_else(|| Error::internal("a delta that stands on nothing"))?;
        let (name, base) = (project.content().chunk_name(object.name), DeltaBase { name: base.name, depth });
        joined.take_in(project.place(&name), body, base, plain_len).context(&name)
    });
    unless_damaged(taken_in.map(|()| joined))
}

/// As [`joined`], from the store.
pub(super) async fn fetch_joined(
    project: &Project,
    chain: &Chain,
    plain_len: usize,
) -> Result<Option<Joined>> {
    if chain.joined().is_empty() {
        return Ok(Some(Joined::default()));
    }
    let bodies = unless_damaged(project.content().get_chunk_objects(chain.joined()).await)?;
    let Some(bodies) = bodies else { return Ok(None) };
    let (project, chain) = (project.clone(), chain.clone());
    cpu::run(move || joined(&project, &chain, &bodies, plain_len)).await
}

fn unless_damaged<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tracing::warn!(%error, "a delta cannot be joined, so the chunk is stored in full; run `cuttle verify`");
            Ok(None)
        }
        found => found.map(Some),
    }
}

impl Encoder {
    /// Whether a plaintext that the source has is the base that the repository has.
    pub(super) fn is_base(&self, chain: &Chain, plain: &[u8]) -> bool {
        chain.top().is_some_and(|top| top.name.id == self.project.identify(plain))
    }

    /// Encodes a chunk that [`look`](Self::look) found new, against `below` where that saves enough.
    pub(super) fn encode_new(&self, id: ChunkId, plain: &[u8], below: Option<&Below>) -> Result<Encoded> {
        let delta = match below {
            Some(below) => self.delta(id, plain, below)?,
            None => None,
        };
        let Some((delta, verdict)) = delta else { return self.full(id, plain).map(Encoded::New) };
        if verdict == Verdict::Keep {
            return Ok(Encoded::New(delta));
        }
        let full = self.full(id, plain)?;
        let [delta_bytes, full_bytes] = [&delta, &full].map(|new| u64::from(new.sealed.len_bytes()));
        let keep = delta.chain.as_ref().is_some_and(|chain| chain.is_well_under(delta_bytes, full_bytes));
        Ok(Encoded::New(if keep { delta } else { full }))
    }

    /// A delta, where one may come to anything.
    fn delta(&self, id: ChunkId, plain: &[u8], below: &Below) -> Result<Option<(NewChunk, Verdict)>> {
        let Below { chain, plain: base_plain, joined } = below;
        let likeness = Likeness::of(plain, base_plain);
        let Some(base) = chain.base().filter(|_| likeness.is_worth_a_try()) else { return Ok(None) };
        // Nobody else may come upon a delta, as nobody else knows its base (repo-format.md, section 2).
        let name = self.name(id, u32::from_le_bytes(random_array()?).max(1));
        let base = Base { name: base.name, depth: chain.depth(), plain: base_plain };
        let sealed = codec::seal_delta(self.project.place(&name), plain, base, joined, self.level)?;
        let verdict = chain.judge(u64::from(sealed.len_bytes()), likeness);
        Ok(Some((NewChunk { id, sealed, chain: Some(chain.clone()) }, verdict)))
    }
}
