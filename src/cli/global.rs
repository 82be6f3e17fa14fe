//! Options that every command takes, before or after its name.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use cuttle::rbd::advice::quoted;
use cuttle::units::ProjectName;

use super::human::parse_size_nonzero;

const REPOSITORY: &str = "Repository options";
const CEPH: &str = "Ceph options";
const OUTPUT: &str = "Output options";

#[derive(Debug, Clone, Args)]
pub struct Global {
    #[command(flatten)]
    pub repository: RepositoryOptions,
    #[command(flatten)]
    pub secret: SecretOptions,
    #[command(flatten)]
    pub ceph: CephOptions,
    #[command(flatten)]
    pub output: OutputOptions,
    /// Show what would be done, and do nothing: nothing is written to the repository, the cluster, the target or what this host
    /// remembers. What only reads does what it does without; serve and mount, which do not end, refuse it
    #[arg(short = 'n', long, global = true, help_heading = OUTPUT)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, Args)]
pub struct RepositoryOptions {
    /// The repository: a path, file://, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
    #[arg(short, long, value_name = "PLACE", global = true, help_heading = REPOSITORY)]
    pub repo: Option<String>,
    /// Project within the repository [default: default]
    #[arg(long, value_name = "NAME", global = true, help_heading = REPOSITORY)]
    pub project: Option<ProjectName>,
    /// Option of the store, may be repeated, all on the same side of the command's name; an unknown one is an error that
    /// lists those there are
    #[arg(short = 'o', long = "option", value_name = "KEY=VALUE", value_parser = key_value)]
    #[arg(global = true, help_heading = REPOSITORY)]
    pub options: Vec<(String, String)>,
    /// Most that is sent per second, such as 50MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size_nonzero, global = true, help_heading = REPOSITORY)]
    pub limit_upload: Option<u64>,
    /// Most that is received per second, such as 50MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size_nonzero, global = true, help_heading = REPOSITORY)]
    pub limit_download: Option<u64>,
    /// Where copies of metadata are kept [default: ~/.cache/cuttle]
    #[arg(long, value_name = "DIR", global = true, help_heading = REPOSITORY)]
    pub cache_dir: Option<PathBuf>,
    /// Believe the store as it is, whatever this host remembers of the repository: after you rolled it back, brought an
    /// older copy back or made it anew. Say it once; from then on this host remembers what it sees
    #[arg(long, global = true, help_heading = REPOSITORY, hide_short_help = true)]
    pub trust_store: bool,
    /// Keep no copies of metadata on this machine
    #[arg(long, global = true, help_heading = REPOSITORY)]
    pub no_cache: bool,
}

/// At most one of them; they go before the environment.
#[derive(Debug, Clone, Args)]
pub struct SecretOptions {
    /// Read the password from a file
    #[arg(long, value_name = "FILE", global = true, help_heading = REPOSITORY)]
    pub password_file: Option<PathBuf>,
    /// Read the password from what a command prints; a shell runs it
    #[arg(long, value_name = "COMMAND", global = true, help_heading = REPOSITORY)]
    pub password_command: Option<String>,
    /// Open the repository with a key file instead of a password
    #[arg(long, value_name = "FILE", global = true, help_heading = REPOSITORY)]
    pub key_file: Option<PathBuf>,
    /// Make, or open for the first time from this host, a repository in which nothing is encrypted: whoever reads the store
    /// reads the volumes
    #[arg(long, global = true, help_heading = REPOSITORY, hide_short_help = true)]
    pub insecure_no_encryption: bool,
}

#[derive(Debug, Clone, Args)]
pub struct CephOptions {
    /// Ceph's configuration file
    #[arg(short = 'c', long, value_name = "FILE", global = true, help_heading = CEPH)]
    pub conf: Option<PathBuf>,
    /// Ceph user without "client."
    #[arg(id = "ceph_id", long = "id", value_name = "ID", global = true, help_heading = CEPH)]
    pub id: Option<String>,
    /// Ceph user with its type, such as client.backup
    #[arg(id = "ceph_name", long = "name", value_name = "TYPE.ID", global = true, help_heading = CEPH)]
    pub name: Option<String>,
    /// Keyring that holds the user's key
    #[arg(long, value_name = "FILE", global = true, help_heading = CEPH)]
    pub keyring: Option<PathBuf>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", global = true, help_heading = CEPH)]
    pub cluster: Option<String>,
    /// Addresses of the monitors
    #[arg(short = 'm', long, value_name = "HOSTS", global = true, help_heading = CEPH)]
    pub mon_host: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct OutputOptions {
    /// Print JSON
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub json: bool,
    /// Print nothing but what was asked for, warnings and errors
    #[arg(short, long, global = true, help_heading = OUTPUT)]
    pub quiet: bool,
    /// Tell more; up to three times
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = OUTPUT)]
    pub verbose: u8,
    /// Show no progress
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub no_progress: bool,
}

impl Global {
    /// The options that say which repository and which cluster, as they were given here, for a command to be run later: each with
    /// a blank before it, as a shell takes them. What the environment says is not among them, and no secret can be.
    pub fn given(&self) -> String {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let (repository, secret, ceph) = (&self.repository, &self.secret, &self.ceph);
        let mut given = vec![
            ("--repo", repository.repo.clone()),
            ("--project", repository.project.as_ref().map(ToString::to_string)),
            ("--cache-dir", path(&repository.cache_dir)),
            ("--password-file", path(&secret.password_file)),
            ("--password-command", secret.password_command.clone()),
            ("--key-file", path(&secret.key_file)),
            ("--conf", path(&ceph.conf)),
            ("--id", ceph.id.clone()),
            ("--name", ceph.name.clone()),
            ("--keyring", path(&ceph.keyring)),
            ("--cluster", ceph.cluster.clone()),
            ("--mon-host", ceph.mon_host.clone()),
        ];
        given.extend(
            repository.options.iter().map(|(key, value)| ("--option", Some(format!("{key}={value}")))),
        );
        let said = given.into_iter().filter_map(|(name, value)| Some(format!(" {name} {}", quoted(&value?))));
        said.collect()
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}
