//! From a path or URL to a store.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use rustix::fs::Access;

use crate::error::{Error, Result, io_error};

use super::Store;
use super::attempt::{Bulk, Shared, key_path};
use super::ledger::Counters;
use super::limits::StoreConfig;
use super::location::{Location, locate};
use super::options::{Options, flag};
use super::place::place;
use super::providers::{self, Clients};

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
