//! The keys there are, and the list of them.

use serde::Serialize;

use cuttle::format::record::Kdf;
use cuttle::format::role::Role;
use cuttle::repo::{Admin, KeySlot, Project, RoleKey};
use cuttle::units::ProjectName;
use cuttle::{ErrorKind, Result};

use crate::cli::connect::repository;
use crate::cli::table::{Column, table};
use crate::cli::{Context, Exit, human};

/// Kinds of keys, for scripts and for people.
pub const PASSWORD: (&str, &str) = ("password", "password");
pub const KEY_FILE: (&str, &str) = ("key_file", "key file");
/// What the keys of the repository itself are listed as.
pub const WHOLE: &str = "repository";

/// A key as it is listed, of the repository or of a project.
pub struct Known {
    pub slot: u64,
    /// `None`: of the repository itself.
    pub of: Option<Project>,
    /// `None` where it does not count.
    pub told: Option<Told>,
    problem: Option<String>,
    pub in_use: bool,
}

pub struct Told {
    role: Option<Role>,
    kind: (&'static str, &'static str),
    label: String,
    created_unix_ms: u64,
}

#[derive(Serialize)]
struct Listed {
    key_id: String,
    role: Option<&'static str>,
    project: Option<String>,
    kind: &'static str,
    label: String,
    created_at: Option<String>,
    /// Why it does not count.
    problem: Option<String>,
}

/// All keys that the one at hand can tell of: those of the repository and of every project, or those of its own project.
pub async fn known(repository: &Admin) -> Result<Vec<Known>> {
    let mut known = Vec::new();
    let projects = match repository.member() {
        Some((project, ..)) => vec![project.clone()],
        None => {
            known.extend(repository.keys().await?.into_iter().map(of_repository));
            let mut projects: Vec<ProjectName> = repository.projects().await?;
            projects.sort();
            projects
        }
    };
    let slot_in_use = repository.member().map(|(_, _, slot)| slot);
    for name in projects {
        let project = match repository.project(&name).await {
            // A folder is not yet a project.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            project => project?,
        };
        let keys = repository.role_keys(&project).await?;
        known.extend(keys.into_iter().map(|key| of_project(&project, key, slot_in_use)));
    }
    Ok(known)
}

fn of_repository(key: KeySlot) -> Known {
    let (told, problem) = match key.record {
        Ok(record) => {
            let (kind, label, created_unix_ms) = (kind(record.kdf), record.label, record.created_unix_ms);
            (Some(Told { role: None, kind, label, created_unix_ms }), None)
        }
        Err(problem) => (None, Some(problem)),
    };
    Known { slot: key.slot, of: None, told, problem, in_use: false }
}

fn of_project(project: &Project, key: RoleKey, slot_in_use: Option<u64>) -> Known {
    let (told, problem) = match key.record {
        Ok(record) => {
            let (kind, label, created_unix_ms) = (kind(record.kdf), record.label, record.created_unix_ms);
            (Some(Told { role: Some(record.role), kind, label, created_unix_ms }), None)
        }
        Err(problem) => (None, Some(problem)),
    };
    Known { slot: key.slot, of: Some(project.clone()), told, problem, in_use: slot_in_use == Some(key.slot) }
}

impl Known {
    pub fn role(&self) -> Option<&'static str> {
        self.told.as_ref().map(|told| told.role.map_or(WHOLE, Role::name))
    }

    pub fn project(&self) -> Option<String> {
        self.of.as_ref().map(|project| project.name().to_string())
    }

    pub fn kind(&self) -> &'static str {
        self.told.as_ref().map_or("foreign", |told| told.kind.0)
    }

    pub fn label(&self) -> String {
        self.told.as_ref().map(|told| told.label.clone()).unwrap_or_default()
    }

    fn listed(&self) -> Listed {
        Listed {
            key_id: id(self.slot),
            role: self.role(),
            project: self.project(),
            kind: self.kind(),
            label: self.label(),
            created_at: self.told.as_ref().and_then(|told| human::utc_time(told.created_unix_ms)),
            problem: self.problem.clone(),
        }
    }

    fn row(&self) -> Vec<String> {
        let project = self.project().unwrap_or_else(|| "-".to_owned());
        match &self.told {
            Some(told) => vec![
                id(self.slot),
                self.role().unwrap_or_default().to_owned(),
                project,
                told.kind.1.to_owned(),
                told.label.clone(),
                human::local_time(told.created_unix_ms),
            ],
            None => vec![
                id(self.slot),
                String::new(),
                project,
                "foreign".to_owned(),
                String::new(),
                String::new(),
            ],
        }
    }
}

pub async fn list(context: &Context<'_>) -> Result<Exit> {
    let repository = repository(context, false).await?;
    let keys = known(&repository).await?;
    let ui = context.ui;
    if ui.is_json() {
        ui.print_list(&keys.iter().map(Known::listed).collect::<Vec<_>>())?;
        return Ok(Exit::Success);
    }
    if !repository.record().encrypted {
        ui.remark("the repository is not encrypted: it has no keys");
        return Ok(Exit::Success);
    }
    let columns = ["ID", "ROLE", "PROJECT", "KIND", "LABEL", "CREATED"].map(Column::Text);
    ui.print(&table(&columns, keys.iter().map(Known::row)))?;
    for (key, why) in keys.iter().filter_map(|key| Some((key, key.problem.as_ref()?))) {
        let id = id(key.slot);
        ui.warn(&format!("key {id} does not count: {why}. Remove it with `cuttle key remove {id}`"));
    }
    Ok(Exit::Success)
}

pub fn id(slot: u64) -> String {
    format!("{slot:016x}")
}

/// What a key is, for scripts and for people.
fn kind(kdf: Kdf) -> (&'static str, &'static str) {
    match kdf {
        Kdf::Argon2id { .. } => PASSWORD,
        Kdf::KeyFile => KEY_FILE,
    }
}
