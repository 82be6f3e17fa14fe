//! What these credentials permit, found out without leaving anything.
//!
//! A create is tried where something is already, with the very bytes that are there: who may create is told that it exists, who may not is refused, and
//! nothing is made. A delete is tried of a name that nothing has. Stores look at permissions before they look at objects.

use std::path::Path as FilePath;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::PutMode;
use rustix::fs::Access;
use rustix::io::Errno;

use crate::cpu;
use crate::error::{ErrorKind, Result, io_error};

use super::attempt::{Patience, key_path};
use super::delete::Deleted;
use super::driven::driven;
use super::fault::Class;
use super::location::{Location, Provider, locate};
use super::write::{FORBIDDEN, put};
use super::{ObjectInfo, Store};

/// What is deleted below a prefix to learn whether that is permitted. Nothing ever has this name, and it is always the same: a bucket that keeps versions
/// puts a mark there for each try, and then has them in one place.
const NOTHINGS_NAME: &str = "whoami";
/// Objects of a listing among which the smallest is looked for.
const LISTED_MAX: usize = 100;
/// Objects that are tried to be read.
const READ_MAX: usize = 8;
/// Nothing larger is sent for a question.
const SENT_LEN_BYTES_MAX: u64 = 32 << 20;
/// Azure's code for who may create and not replace.
const MAY_NOT_REPLACE: &str = "UnauthorizedBlobOverwrite";

/// Whether something is permitted, as far as asking tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permitted {
    /// The store would do it.
    Yes,
    /// The store refused it for want of a permission.
    No,
    /// It could not be asked without harm, or the answer says nothing; why.
    Unknown(String),
}

/// Whether objects may be created below a prefix, which ends with a slash.
///
/// On a store that honours the condition of a create nothing changes, and where that was found not to be so nothing is tried. A store may have ceased
/// to since, so only names are used of which `is_timeless` says that nothing goes by the time of the object; its bytes stay what they are.
pub async fn may_create(
    store: &Store,
    prefix: &str,
    is_timeless: impl Fn(&str) -> bool,
) -> Result<Permitted> {
    if let Some(permitted) = local_permission(store, prefix).await? {
        return Ok(permitted);
    }
    if !store.shared.create_if_absent.load(Ordering::Relaxed) {
        let why = "this store keeps no create from replacing what is there, so none is tried";
        return Ok(Permitted::Unknown(why.to_owned()));
    }
    let mut there = match some_below(store, prefix).await {
        Err(e) if e.kind() == ErrorKind::Denied => {
            return Ok(Permitted::Unknown("what is there may not be listed".to_owned()));
        }
        there => there?,
    };
    there.retain(|info| info.size_bytes <= SENT_LEN_BYTES_MAX && is_timeless(&info.key));
    there.sort_unstable_by_key(|info| info.size_bytes);
    let mut why = "nothing is there yet that it could be tried with";
    for info in there.iter().take(READ_MAX) {
        match store.get(&info.key, info.size_bytes).await {
            // It was deleted since.
            Ok(None) => {}
            Ok(Some(bytes)) => return may_create_again(store, prefix, &info.key, bytes).await,
            // As others made it: another may be readable.
            Err(e) if e.kind() == ErrorKind::Denied => why = "what is there may not be read",
            Err(e) => return Err(e),
        }
    }
    Ok(Permitted::Unknown(why.to_owned()))
}

/// Whether objects may be deleted below a prefix, which ends with a slash. A bucket that keeps versions gets a mark that says that nothing is there.
pub async fn may_delete(store: &Store, prefix: &str) -> Result<Permitted> {
    if let Some(permitted) = local_permission(store, prefix).await? {
        return Ok(permitted);
    }
    Ok(match store.delete_unless_refused(&format!("{prefix}{NOTHINGS_NAME}")).await? {
        Deleted::Gone => Permitted::Yes,
        Deleted::Refused => Permitted::No,
    })
}

/// Creates what is there. Where it was deleted in between it is there again, as from a create that came twice.
async fn may_create_again(store: &Store, prefix: &str, key: &str, bytes: Bytes) -> Result<Permitted> {
    let (path, asked, key) = (key_path(key)?, store.clone(), key.to_owned());
    let fault = driven(async move {
        let (shared, mut patience) = (&*asked.shared, Patience::default());
        loop {
            let Err(fault) = put(shared, &path, &bytes, PutMode::Create).await else {
                tracing::warn!(
                    "{key} was there, and a create of the same bytes was taken all the same: it was deleted in this moment, or this store no \
                     longer keeps a create from replacing what is there. Do it again; should it persist, make no backups here"
                );
                // Nothing more is tried on such a store.
                asked.without_create_if_absent();
                return Ok(None);
            };
            if matches!(fault.class, Class::Exists | Class::Denied | Class::NoSpace) {
                return Ok(Some(fault));
            }
            patience
                .wait(shared, fault)
                .await
                .map_err(|fault| fault.into_error("create", &shared.place(&key)))?;
        }
    })
    .await?;
    let fault = match fault {
        None => return Ok(Permitted::Yes),
        Some(fault) if fault.class == Class::Exists => return Ok(Permitted::Yes),
        Some(fault) if fault.class == Class::NoSpace => {
            return Ok(Permitted::Unknown("the store is full, or a quota on it is".to_owned()));
        }
        Some(fault) => fault,
    };
    let status = fault.status.as_deref();
    if status.is_some_and(|status| status.code.as_deref() == Some(MAY_NOT_REPLACE)) {
        return Ok(Permitted::Yes);
    }
    if status.is_none_or(|status| status.status != FORBIDDEN) {
        return Err(fault.into_error("create", &store.shared.place(prefix.trim_end_matches('/'))));
    }
    // Elsewhere who may not replace what is there may be told so, before it is seen that nothing would be replaced.
    match locate(&store.shared.url) {
        Ok(Location::Bucket { provider: Provider::Google | Provider::Azure, .. }) => {
            let why =
                "this store refuses a create of what is there also to those who may create and not replace";
            Ok(Permitted::Unknown(why.to_owned()))
        }
        _ => Ok(Permitted::No),
    }
}

async fn some_below(store: &Store, prefix: &str) -> Result<Vec<ObjectInfo>> {
    store.list_stream(prefix, None).take(LISTED_MAX).try_collect().await
}

/// Of a local directory its own rights tell both, and nothing has to be tried: whoever may write to a folder creates and deletes in it.
async fn local_permission(store: &Store, prefix: &str) -> Result<Option<Permitted>> {
    let Some(dir) = store.shared.local_dir.clone() else { return Ok(None) };
    let folder = dir.join(prefix.trim_end_matches('/'));
    cpu::block(move || Ok(Some(may_write(&dir, &folder)?))).await
}

/// Whether this process may write to a folder; where it is not there yet, to that in which it would be made.
fn may_write(root: &FilePath, folder: &FilePath) -> Result<Permitted> {
    for at in folder.ancestors().take_while(|at| at.starts_with(root)) {
        match rustix::fs::access(at, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => return Ok(Permitted::Yes),
            Err(Errno::NOENT) => {}
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => return Ok(Permitted::No),
            Err(e) => return Err(io_error(format!("look at {}", at.display()), e.into())),
        }
    }
    Ok(Permitted::Unknown(format!("{} is not there", root.display())))
}

#[cfg(test)]
mod tests {
    use super::{Permitted, may_create, may_delete};
    use crate::store::{Limits, Store};
    use bytes::Bytes;
    use futures::TryStreamExt;
    use object_store::ObjectStore;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test]
    async fn asking_leaves_everything_as_it_is() {
        let memory = Arc::new(InMemory::new());
        let store = Store::with_object_store(memory.clone(), Limits::default());
        assert!(matches!(
            may_create(&store, "p/log/", |key| key != "p/log/b").await.expect("asked"),
            Permitted::Unknown(_)
        ));
        for (key, bytes) in [("p/log/a", "larger"), ("p/log/b", "small"), ("p/gc/c", "c")] {
            store.create(key, Bytes::from(bytes)).await.expect("created");
        }
        let all = || async { memory.list(None).try_collect::<Vec<_>>().await.expect("listed") };
        let before = all().await;
        for prefix in ["p/log/", "p/gc/"] {
            assert_eq!(may_create(&store, prefix, |_| true).await.expect("asked"), Permitted::Yes);
            assert_eq!(may_delete(&store, prefix).await.expect("asked"), Permitted::Yes);
        }
        assert_eq!(all().await, before, "times are as they were, too");
        store.without_create_if_absent();
        assert!(matches!(
            may_create(&store, "p/log/", |key| key != "p/log/b").await.expect("asked"),
            Permitted::Unknown(_)
        ));
        assert_eq!(all().await, before);
    }
}
