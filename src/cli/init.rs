//! `cuttle init`: makes a repository.

use std::path::Path;

use serde::Serialize;

use cuttle::format::CLOSURE_LEN_MAX;
use cuttle::repo::{
    AtPlace, DELTA_DEPTH_MAX_DEFAULT, Environment, InitOptions, Repository, default_project, read_repository,
};
use cuttle::store::{Ledger, Reader, Store, StoreConfig};
use cuttle::units::{CHUNK_SIZE_BYTES_DEFAULT, hex};
use cuttle::{Error, ErrorKind, Result};

use super::connect::{keep_room, store_config};
use super::plan::{self, Plan};
use super::report::{Report, lines};
use super::secret::{self, SecretSource};
use super::{Context, Exit, human, machine};

const EXAMPLES: &str = "\
Examples:
  cuttle init -r /srv/backup -n                          whether one can be made there
  cuttle init -r /srv/backup                             asks for a password twice
  cuttle init -r s3://my-bucket/ceph --password-file /etc/cuttle/password
  head -c 32 /dev/urandom > /etc/cuttle/key && cuttle init -r gs://my-bucket/ceph --key-file /etc/cuttle/key

Without the password or key nothing in the repository can ever be read again: keep a copy elsewhere.";

/// Make a new repository
///
/// Makes a repository in an empty place, with one project named "default". It is encrypted with a password or a key
/// file, unless --insecure-no-encryption says otherwise. The store is tested first: whether it can refuse to overwrite what is there.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Size of a chunk, a power of two from 4KiB to 16MiB; Ceph's objects have 4MiB
    #[arg(long, value_name = "SIZE", value_parser = human::parse_size_nonzero, hide_short_help = true)]
    chunk_size: Option<u64>,
    /// Never store a chunk as the difference from another
    #[arg(long, hide_short_help = true, conflicts_with = "delta_depth")]
    no_delta: bool,
    /// Most differences that reading a chunk may lead through before a whole one
    #[arg(long, value_name = "N", default_value_t = DELTA_DEPTH_MAX_DEFAULT, hide_short_help = true)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=CLOSURE_LEN_MAX as i64))]
    delta_depth: u8,
}

/// What is made, or would be.
#[derive(Serialize)]
struct New<'a> {
    repository: &'a str,
    /// Whether its folder was not there.
    new_folder: bool,
    encrypted: bool,
    chunk_size_bytes: u32,
    delta_depth_max: u8,
}

#[derive(Serialize)]
struct Initialized<'a> {
    #[serde(flatten)]
    new: New<'a>,
    repository_id: String,
    create_if_absent: bool,
    ledger: Ledger,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let source = secret::source(&context.global.secret)?;
    let chunk_size = args.chunk_size.unwrap_or(u64::from(CHUNK_SIZE_BYTES_DEFAULT));
    let options = InitOptions {
        chunk_size_bytes: u32::try_from(chunk_size)
            .map_err(|_| Error::invalid(format!("chunk size {chunk_size} bytes: expected at most 16 MiB")))?,
        delta_depth_max: if args.no_delta { 0 } else { args.delta_depth },
    };
    cuttle::units::check_chunk_size(options.chunk_size_bytes)?;
    let config = store_config(context)?;
    let environment = machine::environment(context.global);
    let encrypted = match (&source, context.global.secret.insecure_no_encryption) {
        (SecretSource::Prompt, insecure) => !insecure,
        (_, false) => true,
        (_, true) => return Err(secret::unencrypted_with_secret()),
    };
    // Before a folder is made where a disk should be mounted, and before anybody has to think of a password.
    if Store::open(&config).is_err_and(|e| e.kind() == ErrorKind::NoRepository) {
        AtPlace::read(&environment, &Store::place_of(&config)?)?.refuse_new()?;
    }
    let new_folder = Store::to_prepare(&config)?;
    if context.global.dry_run {
        if encrypted {
            source.check_new()?;
        }
        let (repository, ledger) = look(&config, &environment, &options, new_folder.as_deref()).await?;
        let new = New {
            repository: &repository,
            new_folder: new_folder.is_some(),
            encrypted,
            chunk_size_bytes: options.chunk_size_bytes,
            delta_depth_max: options.delta_depth_max,
        };
        plan::tell(context, &new, &ledger)?;
        return Ok(Exit::Success);
    }
    Store::prepare(&config)?;
    let store = Store::open(&config)?;
    if source.is_prompt() && encrypted {
        // Before anybody has to think of a password.
        refuse_another(&store, &AtPlace::read(&environment, store.place())?).await?;
    }
    let unlock = encrypted.then(|| tokio::task::block_in_place(|| source.get_new())).transpose()?;
    let repository = Repository::init(store, environment, &options, unlock.as_ref()).await?;
    keep_room(context, &repository.writer(&default_project()).await?).await;
    tell(context, &repository, new_folder.is_some())?;
    Ok(Exit::Success)
}

/// What would be made, and what was asked of the store to know that it can be.
async fn look(
    config: &StoreConfig,
    environment: &Environment,
    options: &InitOptions,
    new_folder: Option<&Path>,
) -> Result<(String, Ledger)> {
    if let Some(folder) = new_folder {
        return Ok((folder.display().to_string(), Ledger::default()));
    }
    let store = Store::open(config)?;
    Repository::check_init(&store, environment, options).await?;
    Ok((store.url().to_owned(), store.ledger()))
}

async fn refuse_another(store: &Reader, at: &AtPlace) -> Result<()> {
    match read_repository(store).await {
        Err(e) if e.kind() == ErrorKind::NoRepository => at.refuse_new(),
        Err(e) => Err(e),
        Ok(_) => Err(Error::conflict(format!("there already is a repository at {}", store.url()))
            .help("use it as it is, or choose another place")),
    }
}

fn tell(context: &Context<'_>, repository: &Repository, new_folder: bool) -> Result<()> {
    let (ui, record) = (context.ui, repository.record());
    if !record.create_if_absent && repository.store().is_local() {
        ui.warn(
            "this file system has no hard links (exFAT, FAT and many FUSE mounts have none), so nobody can tell who made a file \
             first. Let one program use the repository at a time: a backup beside another one or beside a prune may damage \
             it. Better, use a file system such as ext4 or XFS",
        );
    } else if !record.create_if_absent {
        ui.warn(
            "THIS STORE OVERWRITES WHAT IS THERE even when asked not to (no create-if-absent). Two backups at the same \
             time, or a backup beside a prune, may then damage each other. Never run two at once here; better, use a \
             store that honours If-None-Match, as those of Amazon, Google and Microsoft do",
        );
    }
    if !record.encrypted {
        ui.warn("the repository is not encrypted: whoever reads the store reads the volumes");
    }
    let new = New {
        repository: repository.store().url(),
        new_folder,
        encrypted: record.encrypted,
        chunk_size_bytes: record.chunk_size_bytes,
        delta_depth_max: record.delta_depth_max,
    };
    ui.report(&Initialized {
        new,
        repository_id: hex(&record.repo_id),
        create_if_absent: record.create_if_absent,
        ledger: repository.store().ledger(),
    })
}

impl Plan for New<'_> {
    fn told(&self) -> String {
        let folder = if self.new_folder { ", in a new folder" } else { "" };
        let encrypted = if self.encrypted { "encrypted" } else { "not encrypted" };
        let chunks = human::size(u64::from(self.chunk_size_bytes));
        format!(
            "a repository, {encrypted}, with chunks of {chunks}, would be made at {}{folder}",
            self.repository
        )
    }
}

impl Report for Initialized<'_> {
    const MESSAGE_TYPE: &'static str = "initialized";

    fn summary(&self) -> String {
        let made = format!("made repository {} at {}", &self.repository_id[..8], self.new.repository);
        let refuses = match self.create_if_absent {
            true => {
                "the store refuses to overwrite what is there (create-if-absent): many hosts may use it at once"
            }
            false => "",
        };
        let keep = match self.new.encrypted {
            true => {
                "keep a copy of the password or key file elsewhere: without it nothing here can be read again"
            }
            false => "",
        };
        lines([made, refuses.to_owned(), keep.to_owned()])
    }
}
