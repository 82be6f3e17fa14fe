//! Deleting, also of what may be refused: object lock and retention policies are answers, not failures.

use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStoreExt;

use crate::error::{Error, Result};
use crate::random::random_array;
use crate::units::hex;

use super::attempt::key_path;
use super::driven::driven;
use super::fault::{Class, Fault};
use super::ledger::RequestKind;
use super::{Created, Store};

/// How a delete ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone, or there was none.
    Gone,
    /// The store keeps it: it is locked, or these credentials may not delete it.
    Refused,
}

impl Store {
    /// Deletes an object. That there is none is success.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let (path, place, shared) = (key_path(key)?, self.shared.place(key), Arc::clone(&self.shared));
        driven(async move {
            let attempt = || {
                let delete = ObjectStoreExt::delete(&shared.object_store, &path);
                shared.within(shared.limits.stall_timeout, delete)
            };
            match shared.repeat(RequestKind::Delete, attempt).await {
                Ok(()) => Ok(()),
                Err(fault) if fault.class == Class::NotFound => Ok(()),
                Err(fault) => Err(fault.into_error("delete", &place)),
            }
        })
        .await
    }

    /// Deletes an object unless the store refuses. A refusal is not asked again.
    pub async fn delete_unless_refused(&self, key: &str) -> Result<Deleted> {
        let (path, place, shared) = (key_path(key)?, self.shared.place(key), Arc::clone(&self.shared));
        driven(async move {
            let attempt = || async {
                let delete = ObjectStoreExt::delete(&shared.object_store, &path);
                match shared.within(shared.limits.stall_timeout, delete).await {
                    Ok(()) => Ok(Deleted::Gone),
                    Err(fault) if fault.class == Class::NotFound => Ok(Deleted::Gone),
                    Err(fault) if is_refusal(&fault) => Ok(Deleted::Refused),
                    Err(fault) => Err(fault),
                }
            };
            let done = shared.repeat(RequestKind::Delete, attempt).await;
            done.map_err(|fault| fault.into_error("delete", &place))
        })
        .await
    }

    /// The time by the store's own clock: the modification time of an object made for this below `prefix`, and
    /// deleted again.
    pub async fn now_unix_ms(&self, prefix: &str) -> Result<u64> {
        let key = format!("{prefix}/now-{}", hex(&random_array::<16>()?));
        if let Created::Exists { .. } =
            self.create(&key, Bytes::copy_from_slice(&random_array::<64>()?)).await?
        {
            return Err(Error::internal(format!("a random name exists: {key}")));
        }
        let info = self.head(&key).await?;
        self.delete_unless_refused(&key).await?;
        info.map(|info| info.modified_unix_ms).ok_or_else(|| {
            Error::unavailable(format!("{key} was created and is not there"))
                .help("this store does not give the guarantees that a repository needs")
        })
    }
}

/// S3 and GCS answer 403 for what is locked; Azure 409, and 412 for what is leased, as no delete here has a condition; a
/// local directory says that it is not permitted.
fn is_refusal(fault: &Fault) -> bool {
    match &fault.status {
        Some(status) => match status.status {
            403 => fault.class == Class::Denied,
            409 => fault.class == Class::InDoubt,
            412 => true,
            _ => false,
        },
        None => fault.class == Class::Denied,
    }
}
