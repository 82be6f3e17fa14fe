//! Puts a good object where a damaged or missing one is (repo-format.md §8.3).

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{self, Base};
use crate::cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::{DeltaBase, Header, damaged};
use crate::format::names::{ContentName, quarantine_name};
use crate::format::page::ObjectRef;
use crate::format::{ObjectName, ObjectType};
use crate::repo::Keeper;
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

/// What an object must be.
#[derive(Clone)]
struct Wanted {
    name: ObjectName,
    base: Option<DeltaBase>,
    check: Arc<Check>,
}

/// The plaintext that a delta is decoded with.
struct BasePlain {
    name: ContentName,
    depth: u8,
    plain: Vec<u8>,
}

impl BasePlain {
    fn base(&self) -> Base<'_> {
        Base { name: self.name, depth: self.depth, plain: &self.plain }
    }
}

impl Mender<'_> {
    /// Mends a chunk. The objects below it come first.
    pub(super) async fn chunk(&self, target: &ChunkTarget) -> Result<Attempt> {
        let (object, project) = (target.object, self.audit.project.clone());
        if let Err(flaw) = self.audit.sane(&object) {
            return Ok(Attempt::Left(flaw.message));
        }
        let base = match self.base(target).await? {
            Ok(base) => Arc::new(base),
            Err(why) => return Ok(Attempt::Left(why)),
        };
        let Some((plain, from)) = self.finder.find(target).await? else {
            return Ok(Attempt::Left("no source has its content".to_owned()));
        };
        let name = project.content().chunk_name(object.name);
        let good = {
            let (project, name, base) = (project.clone(), name.clone(), Arc::clone(&base));
            cpu::run(move || {
                let base = (*base).as_ref().map(BasePlain::base);
                codec::seal_to_len(project.place(&name), &plain, base, object.sealed_len_bytes)
            })
            .await?
        };
        let Some(good) = good else {
            return Ok(Attempt::Left(format!(
                "its content is in {from}, but cannot be made an object of {} bytes, as manifests say it is",
                object.sealed_len_bytes
            )));
        };
        let delta = (*base).as_ref().map(|b| DeltaBase { name: b.name, depth: b.depth });
        let check: Arc<Check> = {
            let name = name.clone();
            Arc::new(move |body| {
                let base = (*base).as_ref().map(BasePlain::base);
                project.content().open_object(&object, body, base, &mut Vec::new())?;
                check_object(&project, &name, body)
            })
        };
        self.put(&Wanted { name, base: delta, check }, good.bytes().clone(), from).await
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
        let wanted = Wanted { name, base: None, check };
        if copy.len() != object.sealed_len_bytes as usize || !wanted.passes(&copy).await? {
            return Ok(Attempt::Left("the copy in this host's cache is damaged too".to_owned()));
        }
        self.put(&wanted, copy, "this host's cache".to_owned()).await
    }

    /// The plaintext that a target is a delta against, or why it is not at hand.
    async fn base(&self, target: &ChunkTarget) -> Result<Result<Option<BasePlain>, String>> {
        let Some(below) = target.below.first() else { return Ok(Ok(None)) };
        let depth = target.below.len() as u8;
        let base = |plain| Ok(Ok(Some(BasePlain { name: below.name, depth, plain })));
        if let Some(plain) = or_why(content(&self.audit.project, &target.below).await)?.ok().flatten() {
            return base(plain);
        }
        // In a dry run what it needs was not mended, but could be.
        if self.dry_run
            && let Some(needed) = self.targets.chunks.get(&below.name)
            && let Some((plain, _)) = self.finder.find(needed).await?
        {
            return base(plain);
        }
        let name = self.audit.project.content().chunk_name(below.name);
        Ok(Err(format!("it is a delta, and what it is a delta against cannot be read: {name}")))
    }

    /// Puts a good object in its place. Whatever is there is copied first; nothing is ever deleted.
    async fn put(&self, wanted: &Wanted, good: Bytes, from: String) -> Result<Attempt> {
        let store = self.keeper.store();
        let key = wanted.name.to_string();
        let found = match or_why(store.get(&key, QUARANTINED_LEN_BYTES_MAX).await)? {
            Ok(found) => found,
            Err(why) => return Ok(Attempt::Left(format!("what is there cannot be copied: {why}"))),
        };
        let Some(found) = found else {
            let written = match self.dry_run {
                true => Ok(()),
                false => or_why(store.create(&key, good.clone()).await.map(drop))?,
            };
            return self.settle(wanted, &good, written, Attempt::Mended { from, quarantined: None }).await;
        };
        if wanted.passes(&found).await? {
            return Ok(match found.len() == good.len() {
                true => Attempt::Good,
                false => Attempt::Left(format!(
                    "it is good with {} bytes; a manifest says {}",
                    found.len(),
                    good.len()
                )),
            });
        }
        if self.is_another(wanted, &found) {
            return Ok(Attempt::Left(
                "it is as its writer made it; the manifest that names it says something else".to_owned(),
            ));
        }
        let copy = quarantine_name(&wanted.name, &found);
        let written = match self.dry_run {
            true => Ok(()),
            false => match self.quarantine(&copy, &found).await? {
                Ok(()) => or_why(store.replace(&key, good.clone()).await)?,
                Err(why) => Err(why),
            },
        };
        let mended = Attempt::Mended { from, quarantined: Some(copy) };
        self.settle(wanted, &good, written, mended).await
    }

    /// Whether an object is unharmed, but decoded against something else than the manifest says. Others may need it so.
    fn is_another(&self, wanted: &Wanted, found: &Bytes) -> bool {
        check_object(&self.audit.project, &wanted.name, found).is_ok()
            && Header::decode(found, found.len() as u64).is_ok_and(|header| header.base != wanted.base)
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

    /// Looks at what stands there after a write; `mended` is what is said where that is well.
    async fn settle(
        &self,
        wanted: &Wanted,
        good: &Bytes,
        written: Result<(), String>,
        mended: Attempt,
    ) -> Result<Attempt> {
        if let Err(why) = written {
            return Ok(Attempt::Left(why));
        }
        if self.dry_run {
            return Ok(mended);
        }
        let store = self.keeper.store();
        match or_why(store.get(&wanted.name.to_string(), good.len() as u64).await)? {
            Ok(Some(found)) if found == *good => Ok(mended),
            // Another repair came between.
            Ok(Some(found)) if found.len() == good.len() && wanted.passes(&found).await? => Ok(mended),
            Ok(_) => Ok(Attempt::Left("the store does not give back what was written".to_owned())),
            Err(why) => Ok(Attempt::Left(why)),
        }
    }
}

impl Wanted {
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
