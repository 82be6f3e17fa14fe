//! A new chunk against what was in its place before: as a delta where that is well under the full object.

use crate::backup::encode::{Encoded, Encoder, NewChunk};
use crate::codec::{self, Base};
use crate::error::Result;
use crate::keys::random_array;
use crate::plan::delta::{Chain, Likeness, Verdict, is_well_under};
use crate::units::ChunkId;

/// What was in a chunk's place.
pub struct Below {
    pub chain: Chain,
    /// As long as the chunk, and known to be what the repository has under the base's id.
    pub plain: Vec<u8>,
}

impl Encoder {
    /// Whether a plaintext that the source has is the base that the repository has.
    pub fn is_base(&self, chain: &Chain, plain: &[u8]) -> bool {
        chain.base().is_some_and(|base| base.name.id == self.project.identify(plain))
    }

    /// Encodes a chunk that [`look`](Self::look) found new, against `below` where that saves enough.
    pub fn encode_new(&self, id: ChunkId, plain: &[u8], below: Option<&Below>) -> Result<Encoded> {
        let delta = match below {
            Some(below) => self.delta(id, plain, below)?,
            None => None,
        };
        let Some((delta, verdict)) = delta else { return self.full(id, plain).map(Encoded::New) };
        if verdict == Verdict::Keep {
            return Ok(Encoded::New(delta));
        }
        let full = self.full(id, plain)?;
        let keep = is_well_under(u64::from(delta.sealed.len_bytes()), u64::from(full.sealed.len_bytes()));
        Ok(Encoded::New(if keep { delta } else { full }))
    }

    /// A delta that is not refused.
    fn delta(&self, id: ChunkId, plain: &[u8], below: &Below) -> Result<Option<(NewChunk, Verdict)>> {
        let Below { chain, plain: base_plain } = below;
        let likeness = Likeness::of(plain, base_plain);
        let Some(base) = chain.base().filter(|_| likeness.is_worth_a_try()) else { return Ok(None) };
        // Nobody else may come upon a delta, as nobody else knows its base (repo-format.md, section 2).
        let name = self.name(id, u32::from_le_bytes(random_array()?).max(1));
        let base = Base { name: base.name, depth: chain.depth(), plain: base_plain };
        let sealed = codec::seal_delta(self.project.place(&name), plain, base, self.level)?;
        let verdict = chain.judge(u64::from(sealed.len_bytes()), likeness);
        let delta = NewChunk { id, sealed, chain: Some(chain.clone()) };
        Ok((verdict != Verdict::Refuse).then_some((delta, verdict)))
    }
}
