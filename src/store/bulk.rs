//! Deleting many objects: so many names in a request as the provider takes, and singly what that leaves open.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::error::Result;

use super::Store;
use super::attempt::{Attempt, Bulk, Shared, key_path};
use super::delete::Deleted;
use super::driven::driven;
use super::fault::Fault;
use super::ledger::RequestKind;

/// Requests that delete one object, under way at once.
const DELETES_INFLIGHT_MAX: usize = 64;
/// Requests that delete many, under way at once. A gateway may go through the names of one request one by one.
const BATCHES_INFLIGHT_MAX: usize = 8;
/// What a store may take for each name, on top of the stall timeout.
const TIME_PER_NAME_MAX: Duration = Duration::from_millis(100);

/// Attempts that may end with an answer that object_store does not read. It hands out none that says `SlowDown` or
/// `InternalError` of any name: such a one is worth another attempt, nonsense is not worth many.
const UNREAD_MAX: u32 = 3;

/// The answer to a request that deletes many could not be used; object_store gave up.
#[derive(Debug, thiserror::Error)]
#[error("the answer names an object that was not asked for")]
struct Strange;

impl Store {
    /// Deletes objects unless the store refuses; says of each how it ended, in order.
    ///
    /// Whatever the answer to a bulk request leaves open is deleted singly: that answer alone tells a refusal from a
    /// failure. An error means that some may be gone.
    pub async fn delete_all_unless_refused(&self, keys: &[String]) -> Result<Vec<Deleted>> {
        let gone = match &self.shared.bulk {
            // One name is one request either way, and a request of its own says more.
            Some(bulk) if keys.len() > 1 => delete_in_batches(self, bulk, keys).await?,
            _ => HashSet::new(),
        };
        stream::iter(keys)
            .map(|key| {
                let gone = gone.contains(key.as_str());
                async move {
                    match gone {
                        true => Ok(Deleted::Gone),
                        false => self.delete_unless_refused(key).await,
                    }
                }
            })
            .buffered(DELETES_INFLIGHT_MAX)
            .try_collect()
            .await
    }
}

/// The names that are surely gone.
async fn delete_in_batches(store: &Store, bulk: &Bulk, keys: &[String]) -> Result<HashSet<String>> {
    stream::iter(keys.chunks(bulk.names_max.max(1)))
        .map(|batch| {
            let (store, bulk, batch) = (store.clone(), bulk.clone(), batch.to_vec());
            driven(async move { delete_batch(&store, &bulk, &batch).await })
        })
        .buffer_unordered(BATCHES_INFLIGHT_MAX)
        .try_concat()
        .await
}

async fn delete_batch(store: &Store, bulk: &Bulk, keys: &[String]) -> Result<HashSet<String>> {
    let paths: Vec<Path> = keys.iter().map(|key| key_path(key)).collect::<Result<_>>()?;
    let shared = &*store.shared;
    let tries = AtomicU32::new(0);
    let attempt = || async {
        let done = delete_batch_once(shared, bulk, paths.clone()).await;
        done.map_err(|fault| match fault.is_unread() {
            true if tries.fetch_add(1, Ordering::Relaxed) + 1 < UNREAD_MAX => Fault::in_doubt(fault),
            _ => fault,
        })
    };
    match shared.repeat(RequestKind::Delete, attempt).await {
        Ok(gone) => Ok(gone),
        // This store does not do it, or not for these credentials.
        Err(fault) if !fault.again() => Ok(HashSet::new()),
        Err(fault) => {
            let first = keys.first().map(String::as_str).unwrap_or_default();
            Err(fault.into_error(&format!("delete {} objects from", keys.len()), &shared.place(first)))
        }
    }
}

/// One request. Names that the answer does not tell to be gone are left out.
async fn delete_batch_once(shared: &Shared, bulk: &Bulk, paths: Vec<Path>) -> Attempt<HashSet<String>> {
    let names = paths.len();
    let timeout = shared.limits.stall_timeout
        + TIME_PER_NAME_MAX.saturating_mul(u32::try_from(names).unwrap_or(u32::MAX));
    let asked = stream::iter(paths).map(Ok).boxed();
    let delete = async { Ok(bulk.client.delete_stream(asked).collect::<Vec<_>>().await) };
    // object_store takes it for granted that an answer names only what was asked for.
    let delete = AssertUnwindSafe(shared.within(timeout, delete)).catch_unwind();
    let answers = delete.await.unwrap_or_else(|_| Err(Fault::final_answer(Strange)))?;
    // One error instead of an answer for each name: the request as a whole failed.
    let whole = answers.len() < names;
    let mut gone = HashSet::new();
    for answer in answers {
        match answer {
            Ok(path) => {
                gone.insert(path.to_string());
            }
            Err(error) if whole => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(gone)
}
