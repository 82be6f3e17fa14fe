//! Who has the repository's own secret: makes projects and keys, and gets every project as its keeper.

use std::ops::Deref;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::keys::{MasterKey, Unlock};
use crate::repo::{Keeper, Project, Repository, Writer, keys, remains};
use crate::units::ProjectName;

/// An open repository, and the right to everything in it. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    repository: Arc<Repository>,
}

impl Deref for Admin {
    type Target = Arc<Repository>;

    fn deref(&self) -> &Arc<Repository> {
        &self.repository
    }
}

impl Admin {
    pub(super) fn of(repository: Repository) -> Self {
        Self { repository: Arc::new(repository) }
    }

    /// Makes a project.
    ///
    /// # Errors
    /// `Conflict` where there is one of this name, or anything of one.
    pub async fn create_project(&self, name: &ProjectName) -> Result<Keeper> {
        Project::create(&self.repository, name).await.map(Keeper::of)
    }

    /// Refuses what [`create_project`](Self::create_project) would; changes nothing.
    pub async fn check_new_project(&self, name: &ProjectName) -> Result<()> {
        remains::refuse_project(&self.repository, name).await
    }

    /// Opens a project for whoever makes something new in it.
    pub async fn writer(&self, name: &ProjectName) -> Result<Writer> {
        Project::open(&self.repository, name).await.map(Writer::of)
    }

    /// Opens a project for whoever may do all in it.
    pub async fn keeper(&self, name: &ProjectName) -> Result<Keeper> {
        Project::open(&self.repository, name).await.map(Keeper::of)
    }

    /// Adds a way to open the repository; returns the slot's name.
    ///
    /// # Errors
    /// `Conflict` where the secret opens the repository already.
    pub async fn add_key(&self, unlock: &Unlock, label: &str) -> Result<u64> {
        let master = self.master_key()?;
        let around = self.around_keys();
        keys::refuse_known(around, master, unlock).await?;
        keys::put_slot(around, master, unlock, &self.environment, label).await
    }

    /// Removes a slot, but never the last one that counts.
    pub async fn remove_key(&self, slot: u64) -> Result<()> {
        keys::remove(self.around_keys(), self.master_key()?, slot).await
    }

    /// Refuses what [`add_key`](Self::add_key) would; changes nothing.
    pub async fn check_new_key(&self, unlock: &Unlock) -> Result<()> {
        keys::refuse_known(self.around_keys(), self.master_key()?, unlock).await
    }

    /// Refuses what [`remove_key`](Self::remove_key) would; changes nothing.
    pub async fn check_key_removal(&self, slot: u64) -> Result<()> {
        keys::check_removal(self.around_keys(), self.master_key()?, slot).await
    }

    fn master_key(&self) -> Result<&MasterKey> {
        self.repository.master().ok_or_else(|| {
            Error::unsupported("this repository is not encrypted: it has no keys")
                .help("make an encrypted one with `cuttle init` and back up into it")
        })
    }
}
