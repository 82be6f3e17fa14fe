//! Reads chunks: each object is fetched once, authenticated, decompressed and re-hashed, whatever else needs it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::budget::Share;
use crate::cancel::interrupted;
use crate::codec::Base;
use crate::cpu;
use crate::error::{Error, Result};
use crate::format::names::ContentName;
use crate::format::page::ObjectRef;
use crate::progress::{Outcome, Step};
use crate::repo::content::{Body, check_plain_len, chunk_object_len_bytes_max};
use crate::units::ChunkId;
use crate::verify::audit::{Audit, check_object};
use crate::verify::report::{ChunkKey, Findings, Flaw, looked};
use crate::verify::slice::Slice;
use crate::verify::wanted::{Chain, Full, Wanted};

/// Chunks in flight, however small they are.
const TASKS_MAX: usize = 128;

/// What one task found.
#[derive(Default)]
pub(crate) struct Read {
    flaws: Vec<(ObjectRef, ChunkKey, Flaw)>,
    chunks: u64,
    bytes: u64,
}

/// A full object, what it must hold and how long that must be where it is used as it is, and the deltas that end in it.
struct Group {
    root: ObjectRef,
    uses: Vec<Use>,
    chains: Vec<Chain>,
}

impl Group {
    fn place(&self) -> ContentName {
        let tops = self.chains.iter().filter_map(|chain| chain.objects.last());
        tops.map(|top| top.name).max().unwrap_or(self.root.name)
    }

    /// All that is read, each once.
    fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        let chains = self.chains.iter().flat_map(|chain| chain.objects.iter());
        let all: BTreeSet<&ObjectRef> = std::iter::once(&self.root).chain(chains).collect();
        all.into_iter()
    }
}

/// What a chunk must hold, and how many bytes that must be.
type Use = (ChunkId, u32);

/// Plaintext read.
#[derive(Default)]
pub(crate) struct Total {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
}

/// Reads all objects of the table that belong to the slice.
pub(crate) async fn read_objects(
    audit: &Arc<Audit>,
    wanted: Wanted,
    slice: Option<Slice>,
    findings: &mut Findings,
) -> Result<Total> {
    let mut tasks = JoinSet::new();
    let mut total = Total::default();
    let mut cancel = audit.cancel.clone();
    let in_slice = |group: &Group| slice.is_none_or(|slice| slice.contains(&group.root.name.id));
    let mut groups: Vec<Group> = groups(wanted).filter(in_slice).collect();
    // As the newest deltas lie in their bundles, which is the order of volumes.
    groups.sort_by_key(Group::place);
    audit.neighbours.announce(groups.iter().flat_map(Group::objects));
    for group in groups {
        while tasks.len() >= TASKS_MAX {
            settle(audit, tasks.join_next().await, findings, &mut total)?;
        }
        let share = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted()),
            share = audit.budget.take(group_bytes(audit, &group)) => share?,
        };
        tasks.spawn(read_group(Arc::clone(audit), group, share));
        while let Some(done) = tasks.try_join_next() {
            settle(audit, Some(done), findings, &mut total)?;
        }
    }
    while !tasks.is_empty() {
        let done = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted()),
            done = tasks.join_next() => done,
        };
        settle(audit, done, findings, &mut total)?;
    }
    Ok(total)
}

fn settle(
    audit: &Audit,
    done: Option<std::result::Result<Result<Read>, tokio::task::JoinError>>,
    findings: &mut Findings,
    total: &mut Total,
) -> Result<()> {
    let Some(done) = done else { return Ok(()) };
    let read = done.map_err(|e| Error::internal("a task failed").caused_by(e))??;
    for (object, key, flaw) in read.flaws {
        let name = audit.project.content().chunk_label(object.name);
        findings.chunk(key, name, flaw)?;
    }
    total.chunks += read.chunks;
    total.bytes += read.bytes;
    audit.progress.step(Step { bytes: read.bytes, chunks: read.chunks, outcome: Outcome::New });
    Ok(())
}

/// Most memory that reading a group takes: one object, and the plaintexts of a chain as deep as its deepest.
fn group_bytes(audit: &Audit, group: &Group) -> u64 {
    let size = audit.project.chunk_size_bytes();
    let deepest = group.chains.iter().map(|c| c.objects.len()).max().unwrap_or(1) as u64;
    let sealed = match group.chains.is_empty() {
        true => u64::from(group.root.sealed_len_bytes),
        false => u64::MAX,
    };
    sealed.min(chunk_object_len_bytes_max(size)) + deepest * u64::from(size)
}

async fn read_group(audit: Arc<Audit>, group: Group, share: Share) -> Result<Read> {
    let mut read = Read::default();
    if group.chains.is_empty() {
        full(&audit, &group, &mut read).await?;
    } else {
        tree(&audit, &group, &mut read).await?;
    }
    drop(share);
    Ok(read)
}

/// A full object that no delta needs, into a buffer that was used before.
async fn full(audit: &Arc<Audit>, group: &Group, read: &mut Read) -> Result<()> {
    let root = group.root;
    let Some(body) = fetch(audit, root, read).await? else { return Ok(()) };
    let (own, id) = (Arc::clone(audit), body.id);
    let decoded = cpu::run(move || {
        let mut plain = own.budget.buffer();
        decode(&own, &root, &body, None, &mut plain)?;
        Ok(plain)
    });
    match looked(decoded.await)? {
        Err(flaw) => read.flaws.push((root, (root.name, None), flaw)),
        Ok(plain) => {
            read.count(plain.len());
            read.check_uses(root, id, plain.len(), &group.uses);
            audit.budget.give_back(plain);
        }
    }
    Ok(())
}

/// A full object and the deltas above it. Chains are sorted, so those that share a part of the way follow one
/// another; what is decoded along the way is kept as long as the next one needs it.
async fn tree(audit: &Arc<Audit>, group: &Group, read: &mut Read) -> Result<()> {
    let mut way: Vec<Decoded> = Vec::new();
    // The last prefix that could not be decoded: nothing above it can be.
    let mut blocked: Vec<ObjectRef> = Vec::new();
    let root = [group.root];
    let chains = group.chains.iter().map(|chain| (&chain.objects[..], vec![(chain.id, chain.len_bytes)]));
    for (objects, uses) in std::iter::once((&root[..], group.uses.clone())).chain(chains) {
        if !blocked.is_empty() && objects.starts_with(&blocked) {
            continue;
        }
        let common = way.iter().zip(objects).take_while(|(have, want)| have.object == **want).count();
        way.truncate(common);
        for (depth, object) in objects.iter().enumerate().skip(common) {
            let below = way.last().map(|below| Arc::clone(&below.plain));
            match step(audit, *object, below, depth, read).await? {
                Some(decoded) => way.push(decoded),
                None => {
                    blocked = objects[..=depth].to_vec();
                    break;
                }
            }
        }
        if let Some(top) = way.last().filter(|_| way.len() == objects.len()) {
            read.check_uses(top.object, top.id, top.plain.len(), &uses);
        }
    }
    Ok(())
}

/// An object of a chain, and what it comes to.
struct Decoded {
    object: ObjectRef,
    id: ChunkId,
    plain: Arc<Vec<u8>>,
}

/// One object of a chain; `None` where it cannot be decoded.
async fn step(
    audit: &Arc<Audit>,
    object: ObjectRef,
    below: Option<Arc<Vec<u8>>>,
    depth: usize,
    read: &mut Read,
) -> Result<Option<Decoded>> {
    let Some(body) = fetch(audit, object, read).await? else { return Ok(None) };
    let (audit, id) = (Arc::clone(audit), body.id);
    let decoded = cpu::run(move || {
        let mut plain = Vec::new();
        let base = below.as_ref().map(|plain| Base { depth: depth as u8, plain: &plain[..] });
        decode(&audit, &object, &body, base, &mut plain)?;
        Ok(Arc::new(plain))
    });
    match looked(decoded.await)? {
        Ok(plain) => {
            read.count(plain.len());
            Ok(Some(Decoded { object, id, plain }))
        }
        Err(flaw) => {
            read.flaws.push((object, (object.name, None), flaw));
            Ok(None)
        }
    }
}

async fn fetch(audit: &Audit, object: ObjectRef, read: &mut Read) -> Result<Option<Body>> {
    Ok(audit.chunk(&object).await?.map_err(|flaw| read.flaws.push((object, (object.name, None), flaw))).ok())
}

/// All that a restore checks, and the checksum, which a restore does not need where there is a key.
fn decode(
    audit: &Audit,
    object: &ObjectRef,
    body: &Body,
    base: Option<Base<'_>>,
    plain: &mut Vec<u8>,
) -> Result<()> {
    let content = audit.project.content();
    content.open_object(object, body, base, plain)?;
    check_object(&audit.project, &body.name(content, object), &body.sealed)
}

impl Read {
    fn count(&mut self, plain_len: usize) {
        self.chunks += 1;
        self.bytes += plain_len as u64;
    }

    fn check_uses(&mut self, object: ObjectRef, id: ChunkId, found: usize, uses: &[Use]) {
        for (expected_id, expected) in uses {
            if id != *expected_id {
                let flaw = Flaw::damaged(format!("it holds chunk {id}, its manifest says {expected_id}"));
                self.flaws.push((object, (object.name, None), flaw));
            } else if let Err(e) = check_plain_len(&id, found, *expected) {
                let flaw = Flaw::damaged(e.to_string());
                self.flaws.push((object, (object.name, Some(*expected)), flaw));
            }
        }
    }
}

/// Each full object with what ends in it, as the sorted table has them.
fn groups(wanted: Wanted) -> impl Iterator<Item = Group> {
    let mut full = wanted.full.into_iter().peekable();
    let mut chains = wanted.chains.into_iter().peekable();
    std::iter::from_fn(move || {
        let next_full = full.peek().map(|f| f.object);
        let next_chain = chains.peek().map(Chain::root);
        let root = next_full.into_iter().chain(next_chain).min()?;
        let mut group = Group { root, uses: Vec::new(), chains: Vec::new() };
        while let Some(Full { id, len_bytes, .. }) = full.next_if(|f| f.object == root) {
            group.uses.push((id, len_bytes));
        }
        while let Some(chain) = chains.next_if(|c| c.root() == root) {
            group.chains.push(chain);
        }
        Some(group)
    })
}
