//! What all stages of a verification share: the project, the bounds, and reading one object at a time.

use std::sync::Arc;

use bytes::Bytes;

use crate::budget::Budget;
use crate::cancel::Cancel;
use crate::codec;
use crate::cpu;
use crate::error::{Context, Error, Result};
use crate::format::envelope::scrub;
use crate::format::page::ObjectRef;
use crate::format::{ObjectName, Page, Record};
use crate::progress::Progress;
use crate::reading::need::{neighbours_bytes, reading_budget};
use crate::repo::Project;
use crate::repo::content::Body;
use crate::repo::neighbours::Neighbours;
use crate::verify::VerifyOptions;
use crate::verify::report::{Flaw, Looked, looked};

/// Everything is read from the store, never from the cache: what stands in the store is the question.
pub(crate) struct Audit {
    pub(crate) project: Project,
    pub(crate) budget: Budget,
    pub(crate) neighbours: Neighbours,
    pub(crate) progress: Arc<dyn Progress>,
    pub(crate) cancel: Cancel,
}

impl Audit {
    pub(crate) fn new(
        project: &Project,
        options: &VerifyOptions,
        progress: Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Arc<Self> {
        let budget = reading_budget(options.inflight_bytes);
        Arc::new(Self {
            project: project.clone(),
            neighbours: Neighbours::new(project, neighbours_bytes(&budget)),
            budget,
            progress,
            cancel,
        })
    }

    /// The bytes of an object of at most this size.
    pub(crate) async fn object(&self, name: &ObjectName, len_bytes_max: u64) -> Looked<Bytes> {
        let store = self.project.repository().store();
        let found = looked(store.get(&name.to_string(), len_bytes_max).await)?;
        Ok(found.and_then(|bytes| bytes.ok_or_else(Flaw::missing)))
    }

    /// The bytes of an object that a manifest names, whose size must be what it says.
    pub(crate) async fn sized_object(&self, name: &ObjectName, object: &ObjectRef) -> Looked<Bytes> {
        let found = self.object(name, u64::from(object.sealed_len_bytes)).await?;
        Ok(found.and_then(|bytes| match bytes.len() == object.sealed_len_bytes as usize {
            true => Ok(bytes),
            false => Err(wrong_size(bytes.len() as u64, object)),
        }))
    }

    /// A chunk's object or piece that a manifest names.
    pub(crate) async fn chunk(&self, object: &ObjectRef) -> Looked<Body> {
        if let Err(flaw) = self.sane(object) {
            return Ok(Err(flaw));
        }
        let (content, key) = (self.project.content(), self.project.content().object_name(object.name));
        if let Some(bytes) = self.neighbours.piece(object).await {
            return looked(content.body(object, bytes));
        }
        let found = match object.name.offset_bytes {
            None => self.sized_object(&key, object).await?,
            Some(offset) => {
                let (store, start) = (self.project.repository().store(), u64::from(offset));
                let range = start..start + u64::from(object.sealed_len_bytes);
                let found = looked(store.get_range(&key.to_string(), range).await)?;
                found.and_then(|bytes| bytes.ok_or_else(Flaw::missing))
            }
        };
        match found {
            Ok(bytes) => looked(content.body(object, bytes)),
            Err(flaw) => Ok(Err(flaw)),
        }
    }

    /// Reads a record and checks every byte of its object.
    pub(crate) async fn record<R: Record + Send + 'static>(&self, name: &ObjectName) -> Looked<R> {
        let bytes = match self.object(name, name.object_type().object_len_bytes_max() as u64).await? {
            Ok(bytes) => bytes,
            Err(flaw) => return Ok(Err(flaw)),
        };
        let (project, name) = (self.project.clone(), name.clone());
        looked(
            cpu::run(move || {
                check_object(&project, &name, &bytes)?;
                codec::open_record(project.place(&name), &bytes)
            })
            .await,
        )
    }

    /// Reads a page and checks every byte of its object.
    pub(crate) async fn page(&self, object: &ObjectRef, level: u8, count: usize) -> Looked<Page> {
        let name = self.project.content().page_name(object.name);
        let bytes = match self.sized_object(&name, object).await? {
            Ok(bytes) => bytes,
            Err(flaw) => return Ok(Err(flaw)),
        };
        let page =
            match looked(self.project.content().open_page(&name, object, bytes.clone(), level, count).await)?
            {
                Ok(page) => page,
                Err(flaw) => return Ok(Err(flaw)),
            };
        let project = self.project.clone();
        looked(cpu::run(move || check_object(&project, &name, &bytes).map(|()| page)).await)
    }

    /// Whether a chunk's object may be as a manifest says.
    pub(crate) fn sane(&self, object: &ObjectRef) -> std::result::Result<(), Flaw> {
        self.project.content().check_chunk_len(object).map_err(|e| Flaw::damaged(e.to_string()))
    }
}

/// Checks header, place and checksum of an object.
pub(crate) fn check_object(project: &Project, name: &ObjectName, object: &[u8]) -> Result<()> {
    let repo_id = match name {
        ObjectName::Repository => &[0; 16],
        _ => &project.repository().record.repo_id,
    };
    let header = scrub(object, repo_id, &name.to_string()).context(name)?;
    if header.object_type == name.object_type() {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "{name}: it is a {:?}, expected a {:?}",
        header.object_type,
        name.object_type()
    )))
}

pub(crate) fn wrong_size(found: u64, object: &ObjectRef) -> Flaw {
    Flaw::damaged(format!("it has {found} bytes, its manifest says {}", object.sealed_len_bytes))
}
