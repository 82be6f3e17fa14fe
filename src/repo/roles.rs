//! Who may do what in a project: a [`Project`] reads, a [`Writer`] makes new objects too, a [`Keeper`] forgets, mends and deletes.
//!
//! Each is had from opening the repository only, never from a lesser one: what a function is handed says what it may do, and
//! no more is handed on than is needed.

use std::ops::Deref;

use crate::error::Result;
use crate::format::{ObjectName, Record};
use crate::repo::Project;
use crate::repo::catalog::Volumes;
use crate::repo::content::Content;
use crate::repo::lost::LostRecords;
use crate::repo::notes::Notes;
use crate::repo::parts::Parts;
use crate::repo::reserve::Reserve;
use crate::repo::rounds::Rounds;
use crate::repo::slot::Slot;
use crate::store::{Created, Store};
use crate::units::{Generation, Sequence, VolumeNumber};

/// A project in which new objects may be made: whoever backs up.
#[derive(Clone)]
pub struct Writer {
    project: Project,
}

/// A project in which objects may be deleted and replaced, too: whoever forgets, prunes and repairs.
#[derive(Clone)]
pub struct Keeper {
    writer: Writer,
}

/// A view of a project through which new objects are made.
#[derive(Clone, Copy)]
pub struct Creating<V>(V);

/// A view of a project through which is decided what goes.
#[derive(Clone, Copy)]
pub struct Keeping<V>(Creating<V>);

impl Writer {
    pub(super) fn of(project: Project) -> Self {
        Self { project }
    }

    /// Seals a record, and uploads it unless something is there already.
    pub(crate) async fn create_record<R: Record + PartialEq>(
        &self,
        name: &ObjectName,
        record: &R,
    ) -> Result<Created> {
        self.project.create_record(name, record).await
    }

    pub(crate) fn volumes(&self) -> Creating<Volumes<'_>> {
        Creating(self.project.volumes())
    }

    pub(crate) fn slot(&self, volume: VolumeNumber, sequence: Sequence) -> Creating<Slot<'_>> {
        Creating(self.project.slot(volume, sequence))
    }

    pub(crate) fn content(&self) -> Creating<Content<'_>> {
        Creating(self.project.content())
    }

    pub(crate) fn lost_records(&self) -> Creating<LostRecords<'_>> {
        Creating(self.project.lost_records())
    }

    /// Room that is kept for when the store is full.
    pub fn reserve(&self) -> Creating<Reserve<'_>> {
        Creating(Reserve { project: &self.project })
    }
}

impl Keeper {
    pub(super) fn of(project: Project) -> Self {
        Self { writer: Writer::of(project) }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.repository().store
    }

    /// What is said of snapshots after they were committed.
    pub fn notes(&self) -> Keeping<Notes<'_>> {
        Keeping(Creating(Notes { project: &self.writer.project }))
    }

    pub(crate) fn rounds(&self) -> Keeping<Rounds<'_>> {
        Keeping(Creating(self.writer.project.rounds()))
    }

    pub(crate) fn parts(&self, generation: Generation) -> Keeping<Parts<'_>> {
        Keeping(Creating(self.writer.project.parts(generation)))
    }

    pub(crate) fn lost_records(&self) -> Keeping<LostRecords<'_>> {
        Keeping(self.writer.lost_records())
    }

    pub(crate) fn reserve(&self) -> Keeping<Reserve<'_>> {
        Keeping(self.writer.reserve())
    }
}

impl Deref for Writer {
    type Target = Project;

    fn deref(&self) -> &Project {
        &self.project
    }
}

impl Deref for Keeper {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.writer
    }
}

impl<V> Deref for Creating<V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.0
    }
}

impl<V> Deref for Keeping<V> {
    type Target = Creating<V>;

    fn deref(&self) -> &Creating<V> {
        &self.0
    }
}
