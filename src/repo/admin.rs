//! Who has the repository's own secret: makes projects and keys, and gets every project as its keeper.

use std::ops::Deref;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::role::Role;
use crate::keys::{MasterKey, Unlock};
use crate::repo::role_keys::RoleKeys;
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
        if self.repository.member().is_some() {
            self.master_key()?;
        }
        Project::create(&self.repository, name).await.map(Keeper::of)
    }

    /// Refuses what [`create_project`](Self::create_project) would; changes nothing.
    pub async fn check_new_project(&self, name: &ProjectName) -> Result<()> {
        remains::refuse_project(&self.repository, name).await
    }

    /// Opens a project for whoever makes something new in it.
    pub async fn writer(&self, name: &ProjectName) -> Result<Writer> {
        let project = Project::open(&self.repository, name).await?;
        project.demand(&[Role::Backup])?;
        Ok(Writer::of(project))
    }

    /// Opens a project for whoever may do all in it.
    pub async fn keeper(&self, name: &ProjectName) -> Result<Keeper> {
        let project = Project::open(&self.repository, name).await?;
        project.demand(&[Role::Keeper])?;
        Ok(Keeper::of(project))
    }

    /// Opens a project for whoever verifies it, with any key. What that is not for, fails where it is tried.
    pub async fn verifier(&self, name: &ProjectName) -> Result<Keeper> {
        Project::open(&self.repository, name).await.map(Keeper::of)
    }

    /// Adds a way to open one project, as one of its roles; returns the slot's name.
    ///
    /// # Errors
    /// `Conflict` where the secret opens the repository or the project already; `WrongKey` for who is not its admin.
    pub async fn add_role_key(
        &self,
        project: &Project,
        role: Role,
        unlock: &Unlock,
        label: &str,
    ) -> Result<u64> {
        self.check_new_role_key(project, role, unlock).await?;
        self.role_slots(project).put(role, unlock, label).await
    }

    /// Refuses what [`add_role_key`](Self::add_role_key) would; changes nothing.
    pub async fn check_new_role_key(&self, project: &Project, role: Role, unlock: &Unlock) -> Result<()> {
        project.demand(&[])?;
        if let Some(master) = self.repository.master() {
            keys::refuse_known(self.around_keys(), master, unlock).await?;
        }
        self.role_slots(project).check_new(role, unlock).await
    }

    /// Removes the slot of a role.
    pub async fn remove_role_key(&self, project: &Project, slot: u64) -> Result<()> {
        project.demand(&[])?;
        self.role_slots(project).remove(slot).await
    }

    /// Refuses what [`remove_role_key`](Self::remove_role_key) would; changes nothing.
    pub async fn check_role_key_removal(&self, project: &Project, slot: u64) -> Result<()> {
        project.demand(&[])?;
        self.role_slots(project).check_removal(slot).await
    }

    fn role_slots<'a>(&'a self, project: &'a Project) -> RoleKeys<'a> {
        RoleKeys { around: self.around_keys(), project }
    }

    /// Whether the key at hand opens every project.
    pub fn has_master(&self) -> bool {
        self.repository.master().is_some()
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
        self.repository.master().ok_or_else(|| match self.repository.member() {
            Some((project, ..)) => Error::wrong_key(format!("this key opens project {project} alone"))
                .help("use a key of the repository itself"),
            None => Error::unsupported("this repository is not encrypted: it has no keys")
                .help("make an encrypted one with `cuttle init` and back up into it"),
        })
    }
}
