//! A new chunk against what was in its place before: as a delta where that is well under the full object.

use crate::backup::encode::{Encoded, Encoder, Made, NewChunk};
use crate::backup::tables::TakenIn;
use crate::codec::{self, Base, Joined, Piece, SealedDelta};
use crate::cpu;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::bundle::DeltaParts;
use crate::plan::delta::{Chain, Likeness, Verdict};
use crate::repo::Project;
use crate::repo::content::Body;
use crate::units::ChunkId;

/// What was in a chunk's place.
pub(super) struct Below {
    pub chain: Chain,
    /// As long as the chunk, and known to be what the repository has under the id of the chain's top.
    pub plain: Vec<u8>,
    pub taken_in: TakenIn,
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
    bodies: &[Body],
    plain_len: usize,
) -> Result<Option<TakenIn>> {
    let mut joined = Joined::default();
    let taken_in = chain.joined().iter().zip(bodies).enumerate().try_for_each(|(place, (object, body))| {
        let depth =
            chain.depth_under(place).ok_or_else(|| Error::internal("a delta that stands on nothing"))?;
        let name = body.name(project.content(), object);
        joined.take_in(project.place(&name), &body.sealed, depth, plain_len).context(&name)
    });
    let base = match chain.joined().len() {
        0 => Some(chain.top_id()),
        // What is below them, where that came as well.
        count => bodies.get(count).map(|body| body.id),
    };
    unless_damaged(taken_in.map(|()| TakenIn { joined, base }))
}

/// As [`joined`], by what the tables of bundles tell; where these do not, the deltas are read.
pub(super) async fn fetch_joined(
    encoder: &Encoder,
    chain: &Chain,
    plain_len: usize,
) -> Result<Option<TakenIn>> {
    let project = &encoder.project;
    if chain.joined().is_empty() {
        return Ok(Some(TakenIn { base: Some(chain.top_id()), ..TakenIn::default() }));
    }
    if let Some(told) = encoder.tables.joined(chain, plain_len).await? {
        return Ok(Some(told));
    }
    if !project.opens_chunks() {
        return Ok(None);
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
        chain.top_id() == self.project.identify(plain)
    }

    /// Encodes a chunk that [`look`](Self::look) found new, against `below` where that saves enough.
    pub(super) fn encode_new(&self, id: ChunkId, plain: &[u8], below: Option<&Below>) -> Result<Encoded> {
        if let Some(Below { chain, taken_in, .. }) = below
            && let Some(chunk) = self.resumed.on(id, chain, taken_in.base)
        {
            return Ok(Encoded::Found(chunk));
        }
        let delta = match below {
            Some(below) => self.delta(id, plain, below)?,
            None => None,
        };
        let Some((delta, verdict)) = delta else { return Ok(Encoded::New(Box::new(self.full(id, plain)?))) };
        if verdict == Verdict::Keep {
            return Ok(Encoded::New(Box::new(delta)));
        }
        let full = self.full(id, plain)?;
        let [delta_bytes, full_bytes] = [&delta, &full].map(|new| u64::from(new.made.len_bytes()));
        let keep = delta.chain.as_ref().is_some_and(|chain| chain.is_well_under(delta_bytes, full_bytes));
        Ok(Encoded::New(Box::new(if keep { delta } else { full })))
    }

    /// A delta, where one may come to anything.
    fn delta(&self, id: ChunkId, plain: &[u8], below: &Below) -> Result<Option<(NewChunk, Verdict)>> {
        let Below { chain, plain: base_plain, taken_in: TakenIn { joined, base: base_id } } = below;
        let likeness = Likeness::of(plain, base_plain);
        if !likeness.is_worth_a_try() {
            return Ok(None);
        }
        let name = self.piece_name(id);
        let base = Base { depth: chain.depth(), plain: base_plain };
        let SealedDelta { sealed, runs } =
            codec::seal_delta(self.project.place(&name), plain, base, joined, self.level())?;
        let delta = Some(DeltaParts { base: *base_id, runs });
        let made = Made::Piece(Piece { id, sealed, delta });
        let verdict = chain.judge(u64::from(made.len_bytes()), likeness);
        Ok(Some((NewChunk { id, made, chain: Some(chain.clone()) }, verdict)))
    }
}
