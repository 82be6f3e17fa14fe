//! Reads chunks: each object is fetched once, authenticated, decompressed and re-hashed, whatever else needs it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::budget::Share;
use crate::cancel::interrupted;
use crate::codec::Base;
use crate::cpu;
use crate::error::{Error, Result};
use crate::format::page::ObjectRef;
use crate::progress::{Outcome, Step};
use crate::repo::content::{check_plain_len, chunk_object_len_bytes_max};
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

/// A full object, how long its plaintext must be where it is used as it is, and the deltas that end in it.
struct Group {
    root: ObjectRef,
    lens_bytes: Vec<u32>,
    chains: Vec<Chain>,
}

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
    for group in groups(wanted) {
        if slice.is_some_and(|slice| !slice.contains(&group.root.name.id)) {
            continue;
        }
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
        let name = audit.project.content().chunk_name(object.name).to_string();
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
    let own = Arc::clone(audit);
    let decoded = cpu::run(move || {
        let mut plain = own.budget.buffer();
        decode(&own, &root, &body, None, &mut plain)?;
        Ok(plain)
    });
    match looked(decoded.await)? {
        Err(flaw) => read.flaws.push((root, (root.name, None), flaw)),
        Ok(plain) => {
            read.count(plain.len());
            read.check_lens(root, plain.len(), group.lens_bytes.iter().copied());
            audit.budget.give_back(plain);
        }
    }
    Ok(())
}

/// A full object and the deltas above it. Chains are sorted, so those that share a part of the way follow one
/// another; what is decoded along the way is kept as long as the next one needs it.
async fn tree(audit: &Arc<Audit>, group: &Group, read: &mut Read) -> Result<()> {
    let mut way: Vec<(ObjectRef, Arc<Vec<u8>>)> = Vec::new();
    // The last prefix that could not be decoded: nothing above it can be.
    let mut blocked: Vec<ObjectRef> = Vec::new();
    let root = Chain { objects: Box::new([group.root]), len_bytes: 0 };
    for (chain, lens_bytes) in std::iter::once((&root, &group.lens_bytes[..]))
        .chain(group.chains.iter().map(|chain| (chain, std::slice::from_ref(&chain.len_bytes))))
    {
        if !blocked.is_empty() && chain.objects.starts_with(&blocked) {
            continue;
        }
        let common = way.iter().zip(&chain.objects).take_while(|((have, _), want)| have == *want).count();
        way.truncate(common);
        for (depth, object) in chain.objects.iter().enumerate().skip(common) {
            let below = way.last().map(|(name, plain)| (*name, Arc::clone(plain)));
            match step(audit, *object, below, depth, read).await? {
                Some(plain) => way.push((*object, plain)),
                None => {
                    blocked = chain.objects[..=depth].to_vec();
                    break;
                }
            }
        }
        if let Some((object, plain)) = way.last()
            && way.len() == chain.objects.len()
        {
            read.check_lens(*object, plain.len(), lens_bytes.iter().copied());
        }
    }
    Ok(())
}

/// One object of a chain; `None` where it cannot be decoded.
async fn step(
    audit: &Arc<Audit>,
    object: ObjectRef,
    below: Option<(ObjectRef, Arc<Vec<u8>>)>,
    depth: usize,
    read: &mut Read,
) -> Result<Option<Arc<Vec<u8>>>> {
    let Some(body) = fetch(audit, object, read).await? else { return Ok(None) };
    let audit = Arc::clone(audit);
    let decoded = cpu::run(move || {
        let mut plain = Vec::new();
        let base =
            below.as_ref().map(|(o, plain)| Base { name: o.name, depth: depth as u8, plain: &plain[..] });
        decode(&audit, &object, &body, base, &mut plain)?;
        Ok(Arc::new(plain))
    });
    match looked(decoded.await)? {
        Ok(plain) => {
            read.count(plain.len());
            Ok(Some(plain))
        }
        Err(flaw) => {
            read.flaws.push((object, (object.name, None), flaw));
            Ok(None)
        }
    }
}

async fn fetch(audit: &Audit, object: ObjectRef, read: &mut Read) -> Result<Option<Bytes>> {
    let name = audit.project.content().chunk_name(object.name);
    let found = match audit.sane(&object) {
        Ok(()) => audit.sized_object(&name, &object).await?,
        Err(flaw) => Err(flaw),
    };
    Ok(found.map_err(|flaw| read.flaws.push((object, (object.name, None), flaw))).ok())
}

/// All that a restore checks, and the checksum, which a restore does not need where there is a key.
fn decode(
    audit: &Audit,
    object: &ObjectRef,
    body: &[u8],
    base: Option<Base<'_>>,
    plain: &mut Vec<u8>,
) -> Result<()> {
    audit.project.content().open_object(object, body, base, plain)?;
    check_object(&audit.project, &audit.project.content().chunk_name(object.name), body)
}

impl Read {
    fn count(&mut self, plain_len: usize) {
        self.chunks += 1;
        self.bytes += plain_len as u64;
    }

    fn check_lens(&mut self, object: ObjectRef, found: usize, expected: impl Iterator<Item = u32>) {
        for expected in expected {
            if let Err(e) = check_plain_len(&object.name, found, expected) {
                let flaw = Flaw::damaged(e.to_string());
                self.flaws.push((object, (object.name, Some(expected)), flaw));
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
        let mut group = Group { root, lens_bytes: Vec::new(), chains: Vec::new() };
        while let Some(Full { len_bytes, .. }) = full.next_if(|f| f.object == root) {
            group.lens_bytes.push(len_bytes);
        }
        while let Some(chain) = chains.next_if(|c| c.root() == root) {
            group.chains.push(chain);
        }
        Some(group)
    })
}
