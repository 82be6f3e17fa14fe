//! Puts a good object where a damaged or missing one is (repo-format.md §8.3).

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{self, Base};
use crate::cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::{Header, damaged};
use crate::format::names::quarantine_name;
use crate::format::page::{ObjectRef, PIECE_ID_LEN_BYTES};
use crate::format::{ObjectName, ObjectType};
use crate::repo::Keeper;
use crate::repo::content::Body;
use crate::verify::audit::{Audit, check_object};
use crate::verify::repair::sources::{Finder, content};
use crate::verify::repair::targets::{ChunkTarget, Targets};

/// Largest object that is copied to quarantine; no object of the format is nearly as large.
const QUARANTINED_LEN_BYTES_MAX: u64 = 64 << 20;

/// What became of one damaged object.
#[derive(Debug)]
pub(super) enum Attempt {
    /// A good object stands there now, made from what `from` tells.
    Mended { from: String, quarantined: Option<String> },
    /// Nothing need be written: another repair was faster, or the store gave other bytes before.
    Good,
    /// Nothing was written, and why.
    Left(String),
}

/// Mends the damage of one look.
pub(super) struct Mender<'a> {
    pub(super) audit: &'a Audit,
    pub(super) keeper: &'a Keeper,
    pub(super) finder: &'a Finder,
    pub(super) targets: &'a Targets,
    pub(super) dry_run: bool,
}

/// Whether bytes are the object that they must be, as a reader finds out.
type Check = dyn Fn(&[u8]) -> Result<()> + Send + Sync;

/// What an object, or a part of it, must be.
#[derive(Clone)]
struct Wanted {
    /// The object in the store.
    name: ObjectName,
    /// Where in it a piece begins; `None`: it is the whole object.
    offset_bytes: Option<u32>,
    /// What its header says of the objects below it.
    depth: u8,
    check: Arc<Check>,
}

/// The plaintext that a delta is decoded with.
struct BasePlain {
    depth: u8,
    plain: Vec<u8>,
}

impl BasePlain {
    fn base(&self) -> Base<'_> {
        Base { depth: self.depth, plain: &self.plain }
    }
}

/// What is put in a place, and where it was found.
struct Good {
    wanted: Wanted,
    bytes: Bytes,
    from: String,
}

impl Mender<'_> {
    /// Mends chunks that are pieces of one bundle, or a single object. What is below them comes first.
    pub(super) async fn chunks(&self, targets: &[&ChunkTarget]) -> Result<Vec<Attempt>> {
        let (mut attempts, mut goods) = (Vec::new(), Vec::new());
        for target in targets {
            match self.good(target).await? {
                Ok(good) => {
                    goods.push(good);
                    attempts.push(None);
                }
                Err(why) => attempts.push(Some(Attempt::Left(why))),
            }
        }
        let mut put = self.put(&goods).await?.into_iter();
        let nothing = || Attempt::Left("it was not put in its place".to_owned());
        Ok(attempts
            .into_iter()
            .map(|attempt| attempt.or_else(|| put.next()).unwrap_or_else(nothing))
            .collect())
    }

    /// What must stand where a chunk is, or why it cannot be made.
    async fn good(&self, target: &ChunkTarget) -> Result<Result<Good, String>> {
        let (object, project) = (target.object, self.audit.project.clone());
        if let Err(flaw) = self.audit.sane(&object) {
            return Ok(Err(flaw.message));
        }
        let Some(id) = target.id else { return Ok(Err("nothing tells any more what it held".to_owned())) };
        let base = match self.base(target).await? {
            Ok(base) => Arc::new(base),
            Err(why) => return Ok(Err(why)),
        };
        let Some((plain, from)) = self.finder.find(target).await? else {
            return Ok(Err("no source has its content".to_owned()));
        };
        let content = project.content();
        let (sealed_as, id_len_bytes) = match object.name.offset_bytes {
            None => (content.object_name(object.name), 0),
            Some(_) => (ObjectName::Piece(project.name().clone(), id), PIECE_ID_LEN_BYTES as u32),
        };
        let good = {
            let (project, base) = (project.clone(), Arc::clone(&base));
            let len_bytes = object.sealed_len_bytes.saturating_sub(id_len_bytes);
            cpu::run(move || {
                let base = (*base).as_ref().map(BasePlain::base);
                codec::seal_to_len(project.place(&sealed_as), &plain, base, len_bytes)
            })
            .await?
        };
        let Some(good) = good else {
            return Ok(Err(format!(
                "its content is in {from}, but cannot be made an object of {} bytes, as manifests say it is",
                object.sealed_len_bytes
            )));
        };
        let good = match object.name.offset_bytes {
            None => good.bytes().clone(),
            Some(_) => Bytes::from([&id.0[..], good.bytes()].concat()),
        };
        let (name, depth) = (content.object_name(object.name), target.below.len() as u8);
        let check: Arc<Check> = Arc::new(move |bytes| {
            let content = project.content();
            let body = match object.name.offset_bytes {
                // However long it is: what is good stays.
                None => Body { id: object.name.id, sealed: Bytes::copy_from_slice(bytes) },
                Some(_) => content.body(&object, Bytes::copy_from_slice(bytes))?,
            };
            if body.id != id {
                return Err(damaged("it holds another chunk"));
            }
            let base = (*base).as_ref().map(BasePlain::base);
            content.open_object(&object, &body, base, &mut Vec::new())?;
            check_object(&project, &body.name(content, &object), &body.sealed)
        });
        let wanted = Wanted { name, offset_bytes: object.name.offset_bytes, depth, check };
        Ok(Ok(Good { wanted, bytes: good, from }))
    }

    /// Mends a page from the copy that this host keeps.
    pub(super) async fn page(&self, object: ObjectRef) -> Result<Attempt> {
        let (name, project) =
            (self.audit.project.content().page_name(object.name), self.audit.project.clone());
        let Some(copy) = project.repository().cache.page(&name) else {
            return Ok(Attempt::Left("this host's cache has no copy".to_owned()));
        };
        let place = name.clone();
        let check: Arc<Check> = Arc::new(move |body| {
            let mut plain = Vec::new();
            codec::open(
                project.place(&place),
                body,
                None,
                ObjectType::Page.plain_len_bytes_max(),
                &mut plain,
            )?;
            if project.identify_page(&plain) != object.name.id {
                return Err(damaged("its content has another id"));
            }
            check_object(&project, &place, body)
        });
        let wanted = Wanted { name, offset_bytes: None, depth: 0, check };
        if copy.len() != object.sealed_len_bytes as usize || !wanted.passes(&copy).await? {
            return Ok(Attempt::Left("the copy in this host's cache is damaged too".to_owned()));
        }
        let good = Good { wanted, bytes: copy, from: "this host's cache".to_owned() };
        let put = self.put(std::slice::from_ref(&good)).await?;
        put.into_iter().next().ok_or_else(|| Error::internal("a page was not put in its place"))
    }

    /// The plaintext that a target is a delta against, or why it is not at hand.
    async fn base(&self, target: &ChunkTarget) -> Result<Result<Option<BasePlain>, String>> {
        let Some(below) = target.below.first() else { return Ok(Ok(None)) };
        let depth = target.below.len() as u8;
        let base = |plain| Ok(Ok(Some(BasePlain { depth, plain })));
        if let Some(plain) = or_why(content(&self.audit.project, &target.below, None).await)?.ok().flatten() {
            return base(plain);
        }
        // In a dry run what it needs was not mended, but could be.
        if self.dry_run
            && let Some(needed) = self.targets.chunks.get(&below.name)
            && let Some((plain, _)) = self.finder.find(needed).await?
        {
            return base(plain);
        }
        let name = self.audit.project.content().chunk_label(below.name);
        Ok(Err(format!("it is a delta, and what it is a delta against cannot be read: {name}")))
    }

    /// Puts what is good in the place of one object, or in the places of pieces of one bundle. Whatever is there is copied first; nothing
    /// is ever deleted. What became of each.
    async fn put(&self, goods: &[Good]) -> Result<Vec<Attempt>> {
        let Some(name) = goods.first().map(|good| &good.wanted.name) else { return Ok(Vec::new()) };
        let all = |attempt: fn(String) -> Attempt, why: &str| {
            goods.iter().map(|_| attempt(why.to_owned())).collect::<Vec<_>>()
        };
        let (store, key) = (self.keeper.store(), name.to_string());
        let found = match or_why(store.get(&key, QUARANTINED_LEN_BYTES_MAX).await)? {
            Ok(found) => found,
            Err(why) => return Ok(all(Attempt::Left, &format!("what is there cannot be copied: {why}"))),
        };
        let Some(found) = found else {
            let whole =
                goods.iter().fold(Bytes::new(), |whole, good| good.wanted.within(&whole, &good.bytes));
            let written = match self.dry_run {
                true => Ok(()),
                false => or_why(store.create(&key, whole.clone()).await.map(drop))?,
            };
            return self.settle(name, goods, &whole, written, None).await;
        };
        let mut attempts: Vec<Option<Attempt>> = Vec::new();
        for good in goods {
            attempts.push(self.stays(good, &found).await?);
        }
        let todo = goods.iter().zip(&attempts).filter(|(_, attempt)| attempt.is_none());
        let whole = todo.fold(found.clone(), |whole, (good, _)| good.wanted.within(&whole, &good.bytes));
        if attempts.iter().all(Option::is_some) {
            return Ok(attempts.into_iter().flatten().collect());
        }
        let copy = quarantine_name(name, &found);
        let written = match self.dry_run {
            true => Ok(()),
            false => match self.quarantine(&copy, &found).await? {
                Ok(()) => or_why(store.replace(&key, whole.clone()).await)?,
                Err(why) => Err(why),
            },
        };
        let settled = self.settle(name, goods, &whole, written, Some(copy)).await?;
        Ok(attempts.into_iter().zip(settled).map(|(stays, settled)| stays.unwrap_or(settled)).collect())
    }

    /// Why what is found in a place stays as it is; `None` where it does not.
    async fn stays(&self, good: &Good, found: &Bytes) -> Result<Option<Attempt>> {
        let Good { wanted, bytes, .. } = good;
        let here = wanted.part_of(found, bytes.len());
        if wanted.passes(&here).await? {
            return Ok(Some(match here.len() == bytes.len() {
                true => Attempt::Good,
                false => Attempt::Left(format!(
                    "it is good with {} bytes; a manifest says {}",
                    here.len(),
                    bytes.len()
                )),
            }));
        }
        if self.is_another(wanted, &here) {
            return Ok(Some(Attempt::Left(
                "it is as its writer made it; the manifest that names it says something else".to_owned(),
            )));
        }
        Ok(None)
    }

    /// Whether an object is unharmed, but decoded against something else than the manifest says. Others may need it so.
    fn is_another(&self, wanted: &Wanted, found: &Bytes) -> bool {
        wanted.offset_bytes.is_none()
            && check_object(&self.audit.project, &wanted.name, found).is_ok()
            && Header::decode(found, found.len() as u64).is_ok_and(|header| header.depth != wanted.depth)
    }

    /// Keeps the bytes of a damaged object, or says why it could not.
    async fn quarantine(&self, copy: &str, bytes: &Bytes) -> Result<Result<(), String>> {
        let store = self.keeper.store();
        if let Err(why) = or_why(store.create(copy, bytes.clone()).await)? {
            return Ok(Err(why));
        }
        let kept = or_why(store.get(copy, QUARANTINED_LEN_BYTES_MAX).await)?;
        Ok(kept.and_then(|kept| match kept.as_ref() == Some(bytes) {
            true => Ok(()),
            false => Err(format!("{copy} is not the copy that was just made")),
        }))
    }

    /// Looks at what stands there after a write.
    async fn settle(
        &self,
        name: &ObjectName,
        goods: &[Good],
        whole: &Bytes,
        written: Result<(), String>,
        quarantined: Option<String>,
    ) -> Result<Vec<Attempt>> {
        let mended =
            |good: &Good| Attempt::Mended { from: good.from.clone(), quarantined: quarantined.clone() };
        let store = self.keeper.store();
        let found = match written {
            Err(why) => Err(why),
            Ok(()) if self.dry_run => return Ok(goods.iter().map(mended).collect()),
            Ok(()) => or_why(store.get(&name.to_string(), QUARANTINED_LEN_BYTES_MAX).await)?,
        };
        let mut attempts = Vec::new();
        for good in goods {
            attempts.push(match &found {
                Ok(Some(found)) if found == whole => mended(good),
                // Another repair came between.
                Ok(Some(found)) if good.stands_in(found).await? => mended(good),
                Ok(_) => Attempt::Left("the store does not give back what was written".to_owned()),
                Err(why) => Attempt::Left(why.clone()),
            });
        }
        Ok(attempts)
    }
}

impl Good {
    async fn stands_in(&self, found: &Bytes) -> Result<bool> {
        let here = self.wanted.part_of(found, self.bytes.len());
        Ok(here.len() == self.bytes.len() && self.wanted.passes(&here).await?)
    }
}

impl Wanted {
    /// What an object has in its place.
    fn part_of(&self, whole: &Bytes, len: usize) -> Bytes {
        let Some(offset) = self.offset_bytes else { return whole.clone() };
        let start = whole.len().min(offset as usize);
        whole.slice(start..whole.len().min(start.saturating_add(len)))
    }

    /// The object with a good part in its place. What is missing before it are zeros: other pieces, which are mended by themselves.
    fn within(&self, whole: &[u8], good: &Bytes) -> Bytes {
        let Some(offset) = self.offset_bytes else { return good.clone() };
        let (start, end) = (offset as usize, offset as usize + good.len());
        let mut out = whole.to_vec();
        out.resize(whole.len().max(end), 0);
        out[start..end].copy_from_slice(good);
        Bytes::from(out)
    }

    async fn passes(&self, body: &Bytes) -> Result<bool> {
        let (check, body) = (Arc::clone(&self.check), body.clone());
        let checked = cpu::run(move || check(&body)).await;
        Ok(or_why(checked)?.is_ok())
    }
}

/// What keeps one object from being mended is told of it; what ends the run stays an error.
fn or_why<T>(result: Result<T>) -> Result<Result<T, String>> {
    match result {
        Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::Internal) => Err::<_, Error>(e),
        other => Ok(other.map_err(|e| e.to_string())),
    }
}
