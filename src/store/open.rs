//! From a path or URL to a store.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use rustix::fs::Access;
use url::Url;

use crate::error::{Error, Result, io_error};

use super::Store;
use super::attempt::{Shared, key_path};
use super::bulk::Bulk;
use super::ledger::Counters;
use super::limits::StoreConfig;
use super::options::{Options, flag};
use super::place::place;
use super::providers::{self, Clients, HELP_AZURE, HELP_GOOGLE, HELP_S3};

/// Where a store is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Local(PathBuf),
    Bucket { provider: Provider, bucket: String, prefix: String },
}

/// Whose protocol a bucket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    S3,
    Google,
    Azure,
}

pub(crate) fn open(config: &StoreConfig) -> Result<Store> {
    match locate(&config.url)? {
        Location::Local(path) => open_local(&path, config),
        Location::Bucket { provider, bucket, prefix } => {
            let counters = Arc::new(Counters::default());
            let Clients { plain, bulk } = providers::build(provider, &bucket, config, &counters)?;
            let prefix = Some(prefix).filter(|p| !p.is_empty()).map(|p| key_path(&p)).transpose()?;
            let below = |inner: Arc<dyn ObjectStore>| -> Arc<dyn ObjectStore> {
                match &prefix {
                    None => inner,
                    Some(prefix) => Arc::new(PrefixStore::new(inner, prefix.clone())),
                }
            };
            let url = config.url.trim_end_matches('/').to_owned();
            let mut shared = Shared::new(below(plain), url, config.limits.clone(), counters, true);
            shared.bulk = bulk.map(|bulk| Bulk { client: below(bulk.client), ..bulk });
            shared.place = place(config)?;
            Ok(Store::from_shared(shared))
        }
    }
}

pub(crate) fn prepare(config: &StoreConfig) -> Result<()> {
    match locate(&config.url)? {
        Location::Local(path) => fs::create_dir_all(&path).map_err(|e| not_made(&path, e)),
        Location::Bucket { .. } => Ok(()),
    }
}

/// The folder that [`prepare`] would make, or why it could not.
pub(crate) fn to_prepare(config: &StoreConfig) -> Result<Option<PathBuf>> {
    let Location::Local(path) = locate(&config.url)? else { return Ok(None) };
    let there = path.ancestors().find_map(|at| Some((at, fs::metadata(at).ok()?)));
    match there {
        Some((at, metadata)) if at == path && metadata.is_dir() => Ok(None),
        Some((_, metadata)) if !metadata.is_dir() => {
            Err(not_made(&path, io::Error::from(io::ErrorKind::NotADirectory)))
        }
        Some((at, _)) => match rustix::fs::access(at, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Ok(Some(path)),
            Err(e) => Err(not_made(&path, e.into())),
        },
        None => Ok(Some(path)),
    }
}

fn not_made(path: &Path, e: io::Error) -> Error {
    io_error(format!("create directory {}", path.display()), e)
}

fn open_local(path: &Path, config: &StoreConfig) -> Result<Store> {
    let options = Options::local(config)?;
    let fsync = options.get("fsync").map_or(Ok(true), |value| flag("fsync", value))?;
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            return Err(Error::no_repository(format!("{}: expected a directory", path.display())));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::no_repository(format!("{}: there is no such directory", path.display()))
                .help("check the path, or make a repository there with `cuttle init`"));
        }
        Err(e) => return Err(io_error(format!("open {}", path.display()), e)),
    }
    let inner = LocalFileSystem::new_with_prefix(path)
        .map_err(|e| Error::invalid(format!("open {}", path.display())).caused_by(e))?
        .with_fsync(fsync);
    let url = path.display().to_string();
    let counters = Arc::new(Counters::default());
    let mut shared = Shared::new(Arc::new(inner), url, config.limits.clone(), counters, false);
    shared.local_dir = Some(path.to_owned());
    shared.place = place(config)?;
    Ok(Store::from_shared(shared))
}

/// Splits an address. Everything without `://` is a path.
pub(crate) fn locate(address: &str) -> Result<Location> {
    let Some((scheme, rest)) = address.split_once("://") else {
        return match address {
            "" => Err(Error::invalid("the store's address is empty").help(HELP_ADDRESS)),
            path if path.contains('\0') => Err(Error::invalid("the store's path holds a NUL byte")),
            path => Ok(Location::Local(PathBuf::from(path))),
        };
    };
    let provider = match scheme {
        "file" => return locate_file(address),
        "s3" | "s3a" => Provider::S3,
        "gs" => Provider::Google,
        "az" | "azure" => Provider::Azure,
        _ => {
            let what = "expected a path, file://, s3://, gs:// or az://";
            return Err(Error::invalid(format!("store {}: {what}", shown(address))).help(HELP_ADDRESS));
        }
    };
    if rest.contains('@') {
        // Whatever stands before it is most likely a secret: it is not repeated.
        return Err(Error::invalid(format!("store {}: an address holds no credentials", shown(address)))
            .help(match provider {
                Provider::S3 => HELP_S3,
                Provider::Google => HELP_GOOGLE,
                Provider::Azure => HELP_AZURE,
            }));
    }
    let url = parse(address)?;
    let plain = url.query().is_none() && url.fragment().is_none();
    let bucket = url.host_str().unwrap_or("");
    if !plain || url.port().is_some() || !is_bucket(bucket) {
        let message = format!("store {address:?}: expected {scheme}://BUCKET or {scheme}://BUCKET/PREFIX");
        return Err(Error::invalid(message).help(HELP_ADDRESS));
    }
    let prefix = url.path().trim_matches('/').to_owned();
    if !prefix.is_empty() {
        key_path(&prefix).map_err(|e| e.context(format!("store {address:?}")))?;
    }
    Ok(Location::Bucket { provider, bucket: bucket.to_owned(), prefix })
}

/// Whether it can be part of an address as it is. `$root` and its like are Azure's.
fn is_bucket(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._$".contains(&c))
}

/// An address as it may be told: what stands before an `@` may be a secret.
fn shown(address: &str) -> String {
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{:?}", format!("{scheme}://…@{rest}")),
        _ => format!("{address:?}"),
    }
}

const HELP_ADDRESS: &str = "examples: /srv/backup, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix; \
    the address of an S3 service other than Amazon's goes into AWS_ENDPOINT_URL";

fn locate_file(address: &str) -> Result<Location> {
    let path = parse(address)?.to_file_path().map_err(|()| {
        Error::invalid(format!("store {}: expected file:///ABSOLUTE/PATH", shown(address))).help(HELP_ADDRESS)
    })?;
    Ok(Location::Local(path))
}

fn parse(address: &str) -> Result<Url> {
    Url::parse(address)
        .map_err(|e| Error::invalid(format!("store {}: {e}", shown(address))).help(HELP_ADDRESS))
}

#[cfg(test)]
mod tests {
    use super::{Location, Provider, locate};
    use std::path::PathBuf;

    #[test]
    fn addresses() {
        let bucket = |provider, bucket: &str, prefix: &str| Location::Bucket {
            provider,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        for (address, expected) in [
            ("/srv/x", Location::Local(PathBuf::from("/srv/x"))),
            ("x", Location::Local(PathBuf::from("x"))),
            ("file:///srv/a%20b", Location::Local(PathBuf::from("/srv/a b"))),
            ("s3://b", bucket(Provider::S3, "b", "")),
            ("s3://b/", bucket(Provider::S3, "b", "")),
            ("s3://b/p/q/", bucket(Provider::S3, "b", "p/q")),
            ("gs://b/p", bucket(Provider::Google, "b", "p")),
            ("az://c/p", bucket(Provider::Azure, "c", "p")),
        ] {
            assert_eq!(locate(address).expect(address), expected, "{address}");
        }
        for address in
            ["", "ftp://x", "s3://", "s3:///x", "s3://b/a//c", "s3://b/a b", "s3://b?x=y", "file://host/x"]
        {
            assert!(locate(address).is_err(), "{address}");
        }
        for address in [
            "s3://AK:HUNTER2@b/p",
            "s3://HUNTER2@b",
            "s3://a:HUNTER2/x@b",
            "gs://x:HUNTER2@b",
            "x://HUNTER2@b",
            "az://a:HUNTER2@ b",
        ] {
            let error = locate(address).expect_err(address);
            assert!(!format!("{error:?}").contains("HUNTER2"), "{error:?}");
        }
    }
}
