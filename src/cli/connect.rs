//! From options to an open store, repository, project or cluster.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cuttle::error::io_error;
use cuttle::format::role::Role;
use cuttle::rbd::{CephConfig, Cluster};
use cuttle::repo::{Admin, AtPlace, Expected, Keeper, Project, Repository, Writer, default_project};
use cuttle::store::{Limits, Store, StoreConfig};
use cuttle::units::ProjectName;
use cuttle::{Error, ErrorKind, Result};

use super::environment::{CEPH_ARGS, CONF, KEYRING, PROJECT, REPOSITORY, REPOSITORY_FILE};
use super::{Context, machine, secret};

/// How often a mistyped password may be typed again.
const PROMPTS_MAX: u32 = 3;
/// Longest address that a file may hold.
const ADDRESS_LEN_BYTES_MAX: u64 = 4096;

/// What the store is opened with.
pub fn store_config(context: &Context<'_>) -> Result<StoreConfig> {
    let options = &context.global.repository;
    Ok(StoreConfig {
        url: address(context)?,
        options: options.options.clone(),
        environment: machine::store_variables(),
        limits: Limits {
            upload_bytes_per_second: options.limit_upload,
            download_bytes_per_second: options.limit_download,
            ..Limits::default()
        },
    })
}

fn address(context: &Context<'_>) -> Result<String> {
    let given = match &context.global.repository.repo {
        Some(repo) => Some(repo.clone()),
        None => match (REPOSITORY.text()?, REPOSITORY_FILE.path()) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("CUTTLE_REPOSITORY and CUTTLE_REPOSITORY_FILE are both set")
                    .help("unset one of them, or say which with -r/--repo"));
            }
            (None, Some(path)) => Some(address_in(&path)?),
            (given, None) => given,
        },
    };
    let given = given.filter(|g| !g.is_empty()).ok_or_else(|| {
        Error::invalid("no repository is given")
            .help("name it with -r/--repo or CUTTLE_REPOSITORY: a path, s3://…, gs://… or az://…")
    })?;
    absolute(given)
}

fn absolute(given: String) -> Result<String> {
    if given.contains("://") {
        return Ok(given.trim().to_owned());
    }
    let given = given.trim_end_matches(['\r', '\n']);
    if given.contains(char::is_control) {
        return Err(Error::invalid(format!("the repository's path {given:?} holds a control character")));
    }
    // What is remembered of a repository goes by its address, which must not depend on the folder one is in.
    let absolute = std::path::absolute(given).map_err(|e| io_error(format!("find {given}"), e))?;
    let clean: PathBuf = absolute.components().collect();
    Ok(clean.display().to_string())
}

fn address_in(path: &Path) -> Result<String> {
    let doing = || format!("read CUTTLE_REPOSITORY_FILE {}", path.display());
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(ADDRESS_LEN_BYTES_MAX).read_to_string(&mut text))
        .map_err(|e| io_error(doing(), e))?;
    match text.trim() {
        "" => Err(Error::invalid(format!("{}: it is empty", doing()))),
        address if address.lines().count() == 1 => Ok(address.to_owned()),
        _ => Err(Error::invalid(format!("{}: expected one line", doing()))),
    }
}

/// Opens the repository. `stdin_is_data` keeps from asking for a password.
pub async fn repository(context: &Context<'_>, stdin_is_data: bool) -> Result<Admin> {
    let store = open_store(context, &store_config(context)?)?;
    repository_in(context, store, stdin_is_data).await
}

/// Opens another repository's project of the same name, with the same secret.
pub async fn other_project(context: &Context<'_>, address: &str) -> Result<Project> {
    let config = StoreConfig { url: absolute(address.to_owned())?, ..store_config(context)? };
    let name = project_name(context)?;
    let project = repository_in(context, open_store(context, &config)?, false).await?.project(&name).await?;
    project.demand(&[Role::Restore])?;
    Ok(project)
}

/// Opens a store. Where even its folder is not there, it is said what this host saw in it.
fn open_store(context: &Context<'_>, config: &StoreConfig) -> Result<Store> {
    match Store::open(config) {
        Err(e) if e.kind() == ErrorKind::NoRepository => {
            let environment = machine::environment(context.global);
            Err(AtPlace::read(&environment, &Store::place_of(config)?)?.explain(e))
        }
        opened => opened,
    }
}

/// Sees to it that a prune can make room in a store that is full one day. That this cannot be is nobody's failure now.
pub async fn keep_room(context: &Context<'_>, writer: &Writer) {
    if let Err(e) = writer.reserve().fill().await {
        context.ui.warn(&format!(
            "nothing could be put aside for the day on which the store is full, so that a prune has room to begin: {e}"
        ));
    }
}

async fn repository_in(context: &Context<'_>, store: Store, stdin_is_data: bool) -> Result<Admin> {
    let source = secret::source(&context.global.secret)?;
    let expected = match (source.is_prompt(), context.global.secret.insecure_no_encryption) {
        (false, true) => return Err(secret::unencrypted_with_secret()),
        (false, false) => Expected::Encrypted,
        (true, false) => Expected::EncryptedOrRemembered,
        (true, true) => Expected::Either,
    };
    let environment = machine::environment(context.global);
    let project = project_name(context)?;
    let question = format!("Password for {}: ", store.url());
    for attempt in 1.. {
        // Asking waits for a person: the other threads go on meanwhile.
        let mut ask = || tokio::task::block_in_place(|| source.get(&question, stdin_is_data));
        let (store, environment) = (store.clone(), environment.clone());
        match Repository::open_expected(store, environment, expected, &project, &mut ask).await {
            Err(e) if e.kind() == ErrorKind::WrongKey && source.is_prompt() && attempt < PROMPTS_MAX => {
                context.ui.line("That password opens no key of the repository. Try again.");
            }
            other => return other,
        }
    }
    Err(Error::internal("no attempt was the last one"))
}

/// Opens the project that is meant, to make something new in it.
pub async fn writer(context: &Context<'_>, stdin_is_data: bool) -> Result<Writer> {
    let name = project_name(context)?;
    repository(context, stdin_is_data).await?.writer(&name).await
}

/// Opens the project that is meant, to forget, mend or delete something in it.
pub async fn keeper(context: &Context<'_>) -> Result<Keeper> {
    let name = project_name(context)?;
    repository(context, false).await?.keeper(&name).await
}

/// Opens the project that is meant, to read it.
pub async fn project(context: &Context<'_>, stdin_is_data: bool) -> Result<Project> {
    let name = project_name(context)?;
    repository(context, stdin_is_data).await?.project(&name).await
}

/// As [`project`], for whoever needs what chunks hold: said before anything is begun.
pub async fn data(context: &Context<'_>) -> Result<Project> {
    let project = project(context, false).await?;
    project.demand(&[Role::Restore])?;
    Ok(project)
}

/// Opens the project that is meant, to look for damage in it.
pub async fn verifier(context: &Context<'_>) -> Result<Keeper> {
    let name = project_name(context)?;
    repository(context, false).await?.verifier(&name).await
}

/// The project that is meant.
pub fn project_name(context: &Context<'_>) -> Result<ProjectName> {
    match (&context.global.repository.project, PROJECT.text()?) {
        (Some(name), _) => Ok(name.clone()),
        (None, Some(name)) => name.parse().map_err(|e: Error| e.context("CUTTLE_PROJECT")),
        (None, None) => Ok(default_project()),
    }
}

/// How Ceph is reached, by the options and then by its own environment variables.
pub fn ceph_config(context: &Context<'_>) -> Result<CephConfig> {
    let options = &context.global.ceph;
    let user = match (&options.id, &options.name) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("--id and --name are given: expected one of them"));
        }
        (Some(id), None) => Some(format!("client.{id}")),
        (None, name) => name.clone(),
    };
    let config = CephConfig {
        conf: options.conf.clone(),
        cluster_name: options.cluster.clone(),
        user,
        keyring: options.keyring.clone(),
        mon_host: options.mon_host.clone(),
        ..CephConfig::default()
    };
    let words = CEPH_ARGS.text()?.unwrap_or_default();
    let mut config = config.with_args(words.split_whitespace().map(str::to_owned))?;
    config.conf = config.conf.or_else(|| CONF.path());
    config.keyring = config.keyring.or_else(|| KEYRING.path());
    Ok(config)
}

/// Connects to the cluster.
pub async fn cluster(context: &Context<'_>) -> Result<Cluster> {
    let config = ceph_config(context)?;
    blocking(context, move || Cluster::connect(&config)).await
}

/// Runs what blocks away from the async threads; gives it up, but cannot end it, when the user wants to stop.
pub async fn blocking<T: Send + 'static>(
    context: &Context<'_>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut cancel = context.cancel.clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(cuttle::cancel::interrupted()),
        done = tokio::task::spawn_blocking(work) => {
            done.map_err(|e| Error::internal("a blocking call ended without an answer").caused_by(e))?
        }
    }
}

/// Refuses `--dry-run` where there is nothing to show before it is done.
pub fn refuse_dry_run(context: &Context<'_>, command: &str, why: &str) -> Result<()> {
    match context.global.dry_run {
        true => {
            Err(Error::invalid(format!("{command} knows no --dry-run"))
                .help(format!("{why}; leave it out here")))
        }
        false => Ok(()),
    }
}
