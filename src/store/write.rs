//! Writing: create-only puts whose outcome is always known, and the probe for stores that ignore them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions};

use crate::cpu;
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::random::random_array;
use crate::units::hex;

use super::attempt::{Attempt, Patience, Shared, key_path};
use super::driven::driven;
use super::fault::{Class, Fault};
use super::ledger::RequestKind;
use super::links::has_links;
use super::{Stamp, Store};

/// Bytes read back to tell whose object it is. Every object of a repository has a random salt or a
/// checksum within them, so equality means that it is the same write.
pub const HEAD_BYTES_MAX: usize = 128;

/// Creates that race for one name in the probe, and how often they do.
const PROBE_RACERS: usize = 8;
const PROBE_ROUNDS: usize = 4;

/// The credentials are good, but do not permit this.
pub(super) const FORBIDDEN: u16 = 403;

/// How a create ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The object is there, and it is ours.
    New,
    /// Another one is there.
    Exists {
        /// Its first bytes, at most [`HEAD_BYTES_MAX`].
        head: Bytes,
        /// Size of all of it.
        size_bytes: u64,
    },
}

/// Whose object a read-back found.
enum Settled {
    Ours,
    Absent,
    Other { head: Bytes, size_bytes: u64 },
}

impl Store {
    /// Creates an object, unless there is one: then says what is there.
    ///
    /// After any doubt (a timeout, a broken connection, a 409, a 5xx, an answer that no store gives to a create) and after a
    /// 403 or a full store the outcome is settled by reading back: ours is `New`, nothing there means to try again, anything
    /// else is `Exists`. An error means that the outcome is not known, or that nothing was written.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created> {
        self.create_stamped(key, bytes).await.map(|(created, _)| created)
    }

    /// As [`create`](Self::create), and what listings will show of the object, where its answer says it.
    pub(crate) async fn create_stamped(&self, key: &str, bytes: Bytes) -> Result<(Created, Option<Stamp>)> {
        let (store, key) = (self.clone(), key.to_owned());
        driven(async move {
            let mut stamp = None;
            Ok((store.create_now(&key, bytes, &mut stamp).await?, stamp))
        })
        .await
    }

    async fn create_now(&self, key: &str, bytes: Bytes, stamp: &mut Option<Stamp>) -> Result<Created> {
        let path = key_path(key)?;
        let shared = &*self.shared;
        let create_if_absent = shared.create_if_absent.load(Ordering::Relaxed);
        let mode = if create_if_absent { PutMode::Create } else { PutMode::Overwrite };
        if !create_if_absent && let Settled::Other { head, size_bytes } = self.settle(key, &bytes).await? {
            return Ok(Created::Exists { head, size_bytes });
        }
        let mut patience = Patience::default();
        let mut doubt = false;
        loop {
            let fault = match put(shared, &path, &bytes, mode.clone()).await {
                Ok(written) => {
                    *stamp = written;
                    return Ok(Created::New);
                }
                Err(fault) => fault,
            };
            let unsettled = match fault.class {
                Class::Exists | Class::InDoubt => true,
                // An answer that object_store could not read, such as one without an ETag.
                Class::Final => shared.counted_below && fault.status.is_none(),
                _ => false,
            };
            doubt |= unsettled;
            let forbidden =
                fault.class == Class::Denied && fault.status.as_ref().is_some_and(|s| s.status == FORBIDDEN);
            if forbidden || fault.class == Class::NoSpace {
                // Who may not replace objects may be told so, and nothing else, by a create that finds one; and what is there
                // needs no room.
                return match self.settle(key, &bytes).await {
                    Ok(Settled::Ours) => Ok(Created::New),
                    Ok(Settled::Other { head, size_bytes }) => Ok(Created::Exists { head, size_bytes }),
                    Ok(Settled::Absent) | Err(_) => Err(create_failed(fault, &shared.place(key))),
                };
            }
            if unsettled {
                match self.settle(key, &bytes).await? {
                    Settled::Ours => return Ok(Created::New),
                    Settled::Other { head, size_bytes } => return Ok(Created::Exists { head, size_bytes }),
                    Settled::Absent => {}
                }
            }
            let Err(fault) = patience.wait(shared, fault).await else { continue };
            return match self.settle_late(key, &bytes, doubt && !unsettled).await {
                Some(created) => Ok(created),
                None => Err(create_failed(fault, &shared.place(key))),
            };
        }
    }

    /// Writes an object, whatever is there. Only for repair: nothing else may change an object.
    pub async fn replace(&self, key: &str, bytes: Bytes) -> Result<()> {
        let (path, place, shared) = (key_path(key)?, self.shared.place(key), Arc::clone(&self.shared));
        let (store, key) = (self.clone(), key.to_owned());
        driven(async move {
            let mut patience = Patience::default();
            loop {
                match put(&shared, &path, &bytes, PutMode::Overwrite).await {
                    Ok(_) => return Ok(()),
                    Err(fault) => {
                        let doubt = fault.class == Class::InDoubt;
                        if doubt && let Ok(Settled::Ours) = store.settle(&key, &bytes).await {
                            return Ok(());
                        }
                        patience
                            .wait(&shared, fault)
                            .await
                            .map_err(|fault| fault.into_error("put", &place))?;
                    }
                }
            }
        })
        .await
    }

    /// Whether creates are atomic here: concurrent creates race for fresh random names below `prefix`, and
    /// each name must have exactly one winner.
    ///
    /// What it writes it deletes again; that the credentials do not permit deletes is no error.
    pub async fn probe_create_if_absent(&self, prefix: &str) -> Result<bool> {
        if let Some(dir) = self.shared.local_dir.clone() {
            let has = cpu::block(move || Ok(has_links(&dir))).await?;
            let doing = || format!("try the file system of {}", self.url());
            if !has.map_err(|e| io_error(doing(), e))? {
                return Ok(false);
            }
        }
        for _ in 0..PROBE_ROUNDS {
            let name = format!("probe-{}", hex(&random_array::<16>()?));
            let key = match prefix.trim_end_matches('/') {
                "" => name,
                prefix => format!("{prefix}/{name}"),
            };
            let mut bodies = Vec::new();
            for _ in 0..PROBE_RACERS {
                bodies.push(Bytes::copy_from_slice(&random_array::<64>()?));
            }
            let results = join_all(bodies.into_iter().map(|body| self.create(&key, body))).await;
            let cleaned = self.delete(&key).await;
            let mut winners = 0;
            for result in results {
                match result {
                    Ok(Created::New) => winners += 1,
                    Ok(Created::Exists { .. }) => {}
                    // The store knows the condition and says that it cannot keep it.
                    Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(false),
                    Err(e) => return Err(e),
                }
            }
            match cleaned {
                Err(e) if e.kind() != ErrorKind::Denied => return Err(e),
                _ if winners != 1 => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    }

    /// For a store that the probe found without create-if-absent: every create first looks whether the
    /// name is free. That is safe for one writer at a time only.
    pub fn without_create_if_absent(&self) {
        self.shared.create_if_absent.store(false, Ordering::Relaxed);
    }

    async fn settle(&self, key: &str, ours: &Bytes) -> Result<Settled> {
        let Some(part) = self.part(key, 0..HEAD_BYTES_MAX as u64).await? else {
            return Ok(Settled::Absent);
        };
        let head = &ours[..ours.len().min(HEAD_BYTES_MAX)];
        if part.object_size_bytes == ours.len() as u64 && part.bytes == head {
            return Ok(Settled::Ours);
        }
        Ok(Settled::Other { head: part.bytes, size_bytes: part.object_size_bytes })
    }

    /// After the last attempt was refused: an earlier one that was in doubt may have landed since.
    async fn settle_late(&self, key: &str, ours: &Bytes, doubt: bool) -> Option<Created> {
        if !doubt {
            return None;
        }
        match self.settle(key, ours).await {
            Ok(Settled::Ours) => Some(Created::New),
            Ok(Settled::Other { head, size_bytes }) => Some(Created::Exists { head, size_bytes }),
            // The reason of the failed create says more than that of a failed look.
            Ok(Settled::Absent) | Err(_) => None,
        }
    }
}

pub(super) async fn put(
    shared: &Shared,
    path: &Path,
    bytes: &Bytes,
    mode: PutMode,
) -> Attempt<Option<Stamp>> {
    let size_bytes = bytes.len() as u64;
    shared.upload.pass(size_bytes).await;
    let attempt = async {
        shared.counters.uploaded(size_bytes);
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = shared.object_store.put_opts(path, bytes.clone().into(), options);
        let put = shared.within(shared.limits.upload_timeout(size_bytes), put).await?;
        Ok(Stamp::of_written(size_bytes, put.e_tag.as_deref()))
    };
    shared.once(RequestKind::Put, attempt).await
}

fn create_failed(fault: Fault, place: &str) -> Error {
    if fault.class == Class::Exists {
        // Said to exist and read as absent, time after time.
        return Error::unavailable(format!(
            "create {place}: the store keeps answering that the object exists, and that there is none"
        ))
        .help(
            "run the command again later; should it persist, this store does not give the guarantees needed",
        );
    }
    fault.into_error("create", place)
}

#[cfg(test)]
mod tests {
    use super::Created;
    use crate::store::{Limits, Store};
    use bytes::Bytes;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_create_meets_its_own_and_anothers() {
        let store = Store::with_object_store(Arc::new(InMemory::new()), Limits::default());
        let ours = Bytes::from_static(b"ours");
        assert_eq!(store.create("a/b", ours.clone()).await.expect("create"), Created::New);
        assert_eq!(store.create("a/b", ours.clone()).await.expect("create"), Created::New);
        let other = store.create("a/b", Bytes::from_static(b"other")).await.expect("create");
        assert_eq!(other, Created::Exists { head: ours, size_bytes: 4 });
        assert!(store.probe_create_if_absent("").await.expect("probe"));
        assert!(store.probe_create_if_absent("p").await.expect("probe"));
    }
}
