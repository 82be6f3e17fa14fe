//! `cuttle key`: the passwords and key files that open a repository, or one project as one of its roles.

mod known;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use zeroize::Zeroizing;

use cuttle::error::io_error;
use cuttle::format::role::Role;
use cuttle::keys::{KEY_FILE_LEN_BYTES_MIN, Unlock, random};
use cuttle::{Error, Result};

use super::confirm::confirmed;
use super::connect::{project_name, repository};
use super::plan::{self, Plan};
use super::report::Report;
use super::role::RoleName;
use super::secret::{self, SecretSource};
use super::{Context, Exit, human};
use known::{KEY_FILE, Known, PASSWORD, known};

pub use known::{WHOLE, id};

const EXAMPLES: &str = "\
A key without a role opens the whole repository, in all its projects. A key of a role opens one project:
  backup   makes backups; opens no chunk, forgets and deletes nothing: for hosts that may be stolen
  restore  reads everything of the project
  keeper   forgets, prunes, tags, protects; opens no chunk
  admin    all of these, and the project's keys
To change a password, add the new one, try it, and remove the old one. Who had a key may have kept what it opened: removing
it does not take that away.

Examples:
  cuttle key add                                  asks for the new password twice
  cuttle key add --new-key-file /etc/cuttle/key --label nightly
  cuttle key add --role backup --out host-7.key   makes a key file that makes backups, and can do nothing else
  cuttle --project tenant-a key add --role admin --out tenant-a.key
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
    /// Remove a key, but never the last one of the repository
    Remove {
        /// The key's id, as `cuttle key list` shows it, or its first digits
        #[arg(value_name = "ID")]
        id: String,
        /// Remove the last key of a role, or the key in use, without asking
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Open the project as this role only; without it, the whole repository
    #[arg(long, value_name = "ROLE", value_enum)]
    role: Option<RoleName>,
    /// Read the new password from a file
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// Add a key file: 32 bytes to 1 MiB of anything secret
    #[arg(long, value_name = "FILE", conflicts_with = "new_password_file")]
    new_key_file: Option<PathBuf>,
    /// Make a new key file here, which only its owner can read, and add it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_password_file", "new_key_file"])]
    out: Option<PathBuf>,
    /// What the key is for, to be shown by `cuttle key list` [default: the host's name]
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
}

/// A key that is to be added.
#[derive(Serialize)]
struct New {
    role: &'static str,
    project: Option<String>,
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
    role: Option<&'static str>,
    project: Option<String>,
    kind: &'static str,
    label: String,
    /// Those that open the repository then, or the project in this role.
    keys_left: usize,
}

impl Plan for New {
    fn told(&self) -> String {
        let what = if self.kind == KEY_FILE.0 { KEY_FILE.1 } else { PASSWORD.1 };
        let opens = match &self.project {
            Some(project) => format!("project {project} as {}", self.role),
            None => "the repository".to_owned(),
        };
        format!("a {what} labeled {:?} would be added that opens {opens}", self.label)
    }
}

impl Plan for Removed {
    fn told(&self) -> String {
        let left = human::counted(self.keys_left as u64, "key");
        match (&self.project, self.role) {
            (Some(project), Some(role)) => {
                format!(
                    "key {} would be removed, and {left} of the role {role} left in project {project}",
                    self.key_id
                )
            }
            _ => format!("key {} would be removed, and {left} left", self.key_id),
        }
    }
}

impl Report for Added {
    const MESSAGE_TYPE: &'static str = "key_added";

    fn summary(&self) -> String {
        match &self.new.project {
            Some(project) => {
                format!("added key {} of the role {} of project {project}", self.key_id, self.new.role)
            }
            None => format!("added key {}", self.key_id),
        }
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
        Command::List => known::list(context).await,
        Command::Add(args) => add(context, args).await,
        Command::Remove { id, yes } => remove(context, &id, yes).await,
    }
}

async fn add(context: &Context<'_>, args: AddArgs) -> Result<Exit> {
    let source = match (args.new_password_file, args.new_key_file, &args.out) {
        (Some(path), ..) => Some(SecretSource::PasswordFile(path)),
        (None, Some(path), _) => Some(SecretSource::KeyFile(path)),
        (None, None, Some(_)) => None,
        (None, None, None) => Some(SecretSource::Prompt),
    };
    let asks = source.as_ref().is_some_and(SecretSource::is_prompt);
    if asks && secret::source(&context.global.secret)?.is_prompt() {
        context.ui.remark("first the password that opens the repository now, then the new one");
    }
    let repository = repository(context, false).await?;
    if !repository.record().encrypted {
        return Err(Error::unsupported("this repository is not encrypted: it has no keys")
            .help("make an encrypted one with `cuttle init` and back up into it"));
    }
    let role = args.role.map(Role::from);
    let project = match role {
        Some(_) => Some(repository.project(&project_name(context)?).await?),
        None => None,
    };
    let unlock = match &source {
        Some(source) => tokio::task::block_in_place(|| source.get_new())?,
        None => new_key_file()?,
    };
    let label =
        args.label.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let kind = match unlock {
        Unlock::Passphrase(_) => PASSWORD.0,
        Unlock::KeyFile(_) => KEY_FILE.0,
    };
    let new = New {
        role: role.map_or(WHOLE, Role::name),
        project: project.as_ref().map(|project| project.name().to_string()),
        kind,
        label,
    };
    match (&project, role) {
        (Some(project), Some(role)) => repository.check_new_role_key(project, role, &unlock).await?,
        _ => repository.check_new_key(&unlock).await?,
    }
    if context.global.dry_run {
        plan::tell(context, &new, &repository.store().ledger())?;
        return Ok(Exit::Success);
    }
    // The file first: a key that nobody has would be listed for ever.
    if let (Some(out), Unlock::KeyFile(content)) = (&args.out, &unlock) {
        write_new(out, content)?;
    }
    let slot = match (&project, role) {
        (Some(project), Some(role)) => repository.add_role_key(project, role, &unlock, &new.label).await,
        _ => repository.add_key(&unlock, &new.label).await,
    };
    let slot = slot.map_err(|e| match &args.out {
        Some(out) => {
            e.help(format!("{} opens nothing yet: remove it, and run the command again", out.display()))
        }
        None => e,
    })?;
    context.ui.report(&Added { key_id: id(slot), new })?;
    Ok(Exit::Success)
}

/// The content of a new key file: nothing that a person could remember, so nothing that has to be stretched.
fn new_key_file() -> Result<Unlock> {
    let mut content = Zeroizing::new(vec![0; KEY_FILE_LEN_BYTES_MIN]);
    random(&mut content)?;
    Ok(Unlock::KeyFile(content))
}

fn write_new(path: &Path, content: &[u8]) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .map_err(|e| io_error(format!("write the key file {}", path.display()), e))
}

async fn remove(context: &Context<'_>, given: &str, yes: bool) -> Result<Exit> {
    let repository = repository(context, false).await?;
    let keys = known(&repository).await?;
    // What does not count is named in full, or not meant.
    let is_meant = |key: &&Known| {
        let id = id(key.slot);
        if key.told.is_some() { id.starts_with(given) } else { id == given }
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
    let same = |other: &&Known| other.project() == key.project() && other.role() == key.role();
    let others = keys.iter().filter(|other| other.told.is_some() && other.slot != key.slot).filter(same);
    let removed = Removed {
        key_id: id(key.slot),
        role: key.role(),
        project: key.project(),
        kind: key.kind(),
        label: key.label(),
        keys_left: others.count(),
    };
    match &key.of {
        Some(project) => repository.check_role_key_removal(project, key.slot).await?,
        None => repository.check_key_removal(key.slot).await?,
    }
    if context.global.dry_run {
        plan::tell(context, &removed, &repository.store().ledger())?;
        return Ok(Exit::Success);
    }
    if key.of.is_some() && key.told.is_some() && (key.in_use || removed.keys_left == 0) {
        let why = if key.in_use { "it is the key in use" } else { "it is the last of its role" };
        confirmed(context, yes, &format!("Remove key {}: {why}", removed.key_id))?;
    }
    match &key.of {
        Some(project) => repository.remove_role_key(project, key.slot).await?,
        None => repository.remove_key(key.slot).await?,
    }
    context.ui.report(&removed)?;
    Ok(Exit::Success)
}
