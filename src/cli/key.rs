//! `cuttle key`: the passwords and key files that open a repository.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;

use cuttle::format::record::{Kdf, KeySlotRecord};
use cuttle::keys::Unlock;
use cuttle::repo::KeySlot;
use cuttle::{Error, Result};

use super::connect::repository;
use super::plan::{self, Plan};
use super::report::Report;
use super::secret::{self, SecretSource};
use super::table::{Column, table};
use super::{Context, Exit, human};

/// Kinds of keys, for scripts and for people.
const PASSWORD: (&str, &str) = ("password", "password");
const KEY_FILE: (&str, &str) = ("key_file", "key file");

const EXAMPLES: &str = "\
Each password or key file opens the whole repository, in all its projects. To change a password, add the new one, try
it, and remove the old one. A key that was copied by someone still opens a copy of the repository made before.

Examples:
  cuttle key add                                  asks for the new password twice
  cuttle key add --new-key-file /etc/cuttle/key --label nightly
  cuttle key list
  cuttle key remove 3f2a91c04b5d6e7f -n           whether it can be removed
  cuttle key remove 3f2a91c04b5d6e7f

A key that was planted, damaged, or left by an `init` that came to nothing opens nothing and does not count: it is listed
as foreign, and removed when its whole id is given.";

/// List, add and remove passwords and key files
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the keys
    List,
    /// Add a password or key file
    Add(AddArgs),
    /// Remove a key, but never the last one
    Remove {
        /// The key's id, as `cuttle key list` shows it, or its first digits
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Read the new password from a file
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// Add a key file: 32 bytes to 1 MiB of anything secret
    #[arg(long, value_name = "FILE", conflicts_with = "new_password_file")]
    new_key_file: Option<PathBuf>,
    /// What the key is for, to be shown by `cuttle key list` [default: the host's name]
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    key_id: String,
    kind: &'static str,
    label: String,
    created_at: Option<String>,
    /// Why it does not count.
    problem: Option<String>,
}

/// A key that is to be added.
#[derive(Serialize)]
struct New {
    kind: &'static str,
    label: String,
}

#[derive(Serialize)]
struct Added {
    key_id: String,
    #[serde(flatten)]
    new: New,
}

/// A key that is removed, or to be.
#[derive(Serialize)]
struct Removed {
    key_id: String,
    kind: &'static str,
    label: String,
    /// Those that open the repository then.
    keys_left: usize,
}

impl Plan for New {
    fn told(&self) -> String {
        let what = if self.kind == KEY_FILE.0 { KEY_FILE.1 } else { PASSWORD.1 };
        format!("a {what} labeled {:?} would be added", self.label)
    }
}

impl Plan for Removed {
    fn told(&self) -> String {
        format!(
            "key {} would be removed, and {} left",
            self.key_id,
            human::counted(self.keys_left as u64, "key")
        )
    }
}

impl Report for Added {
    const MESSAGE_TYPE: &'static str = "key_added";

    fn summary(&self) -> String {
        format!("added key {}", self.key_id)
    }
}

impl Report for Removed {
    const MESSAGE_TYPE: &'static str = "key_removed";

    fn summary(&self) -> String {
        format!("removed key {}", self.key_id)
    }
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    match args.command {
        Command::List => list(context).await,
        Command::Add(args) => add(context, args).await,
        Command::Remove { id } => remove(context, &id).await,
    }
}

async fn list(context: &Context<'_>) -> Result<Exit> {
    let repository = repository(context, false).await?;
    let keys = repository.keys().await?;
    let ui = context.ui;
    if ui.is_json() {
        let listed = |key: &KeySlot| {
            let record = key.record.as_ref().ok();
            Listed {
                key_id: id(key.slot),
                kind: kind_of(key),
                label: label_of(key),
                created_at: record.and_then(|record| human::utc_time(record.created_unix_ms)),
                problem: key.record.as_ref().err().cloned(),
            }
        };
        ui.print_list(&keys.iter().map(listed).collect::<Vec<_>>())?;
        return Ok(Exit::Success);
    }
    if !repository.record().encrypted {
        ui.remark("the repository is not encrypted: it has no keys");
        return Ok(Exit::Success);
    }
    let columns = [Column::Text("ID"), Column::Text("KIND"), Column::Text("LABEL"), Column::Text("CREATED")];
    let row = |key: &KeySlot| match &key.record {
        Ok(record) => vec![
            id(key.slot),
            kind(record).1.to_owned(),
            record.label.clone(),
            human::local_time(record.created_unix_ms),
        ],
        Err(_) => vec![id(key.slot), "foreign".to_owned(), String::new(), String::new()],
    };
    ui.print(&table(&columns, keys.iter().map(row)))?;
    for (key, why) in keys.iter().filter_map(|key| Some((key, key.record.as_ref().err()?))) {
        ui.warn(&format!(
            "key {0} does not count: {why}. Remove it with `cuttle key remove {0}`",
            id(key.slot)
        ));
    }
    Ok(Exit::Success)
}

async fn add(context: &Context<'_>, args: AddArgs) -> Result<Exit> {
    let source = match (args.new_password_file, args.new_key_file) {
        (Some(path), _) => SecretSource::PasswordFile(path),
        (None, Some(path)) => SecretSource::KeyFile(path),
        (None, None) => SecretSource::Prompt,
    };
    if source.is_prompt() && secret::source(&context.global.secret)?.is_prompt() {
        context.ui.remark("first the password that opens the repository now, then the new one");
    }
    let repository = repository(context, false).await?;
    if !repository.record().encrypted {
        return Err(Error::unsupported("this repository is not encrypted: it has no keys")
            .help("make an encrypted one with `cuttle init` and back up into it"));
    }
    let unlock = tokio::task::block_in_place(|| source.get_new())?;
    let label =
        args.label.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let kind = match unlock {
        Unlock::Passphrase(_) => PASSWORD.0,
        Unlock::KeyFile(_) => KEY_FILE.0,
    };
    let new = New { kind, label };
    if context.global.dry_run {
        repository.check_new_key(&unlock).await?;
        plan::tell(context, &new, &repository.store().ledger())?;
        return Ok(Exit::Success);
    }
    let slot = repository.add_key(&unlock, &new.label).await?;
    context.ui.report(&Added { key_id: id(slot), new })?;
    Ok(Exit::Success)
}

async fn remove(context: &Context<'_>, given: &str) -> Result<Exit> {
    let repository = repository(context, false).await?;
    let keys = repository.keys().await?;
    // What does not count is named in full, or not meant.
    let is_meant = |key: &&KeySlot| {
        let id = id(key.slot);
        if key.record.is_ok() { id.starts_with(given) } else { id == given }
    };
    let mut found = keys.iter().filter(is_meant);
    let key = match (found.next(), found.next()) {
        (Some(key), None) if !given.is_empty() => key,
        (Some(_), _) => {
            return Err(Error::invalid(format!("several keys begin with {given:?}"))
                .help("give more digits, as `cuttle key list` shows them"));
        }
        (None, _) => {
            return Err(Error::not_found(format!("there is no key {given:?}")).help("see `cuttle key list`"));
        }
    };
    let others = keys.iter().filter(|other| other.record.is_ok() && other.slot != key.slot);
    let removed =
        Removed { key_id: id(key.slot), kind: kind_of(key), label: label_of(key), keys_left: others.count() };
    if context.global.dry_run {
        repository.check_key_removal(key.slot).await?;
        plan::tell(context, &removed, &repository.store().ledger())?;
        return Ok(Exit::Success);
    }
    repository.remove_key(key.slot).await?;
    context.ui.report(&removed)?;
    Ok(Exit::Success)
}

fn id(slot: u64) -> String {
    format!("{slot:016x}")
}

/// What a key is, for scripts and for people.
fn kind(record: &KeySlotRecord) -> (&'static str, &'static str) {
    match record.kdf {
        Kdf::Argon2id { .. } => PASSWORD,
        Kdf::KeyFile => KEY_FILE,
    }
}

fn kind_of(key: &KeySlot) -> &'static str {
    key.record.as_ref().map_or("foreign", |record| kind(record).0)
}

fn label_of(key: &KeySlot) -> String {
    key.record.as_ref().map_or_else(|_| String::new(), |record| record.label.clone())
}
