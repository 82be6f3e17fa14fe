//! Reading: whole objects within a limit, ranges, and what is known about an object.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore};

use crate::cpu;
use crate::error::{Error, Result};

use super::attempt::{Attempt, Shared, key_path};
use super::driven::driven;
use super::fault::{Class, CutShort, Fault};
use super::ledger::RequestKind;
use super::{ObjectInfo, Reader};

/// Pieces of a body are gathered up to this before they are held up by the bandwidth limit: it lets what is small
/// pass, and pieces are as small as the network makes them.
const PASS_BYTES_MIN: u64 = 64 << 10;

/// A part of an object, and how large the whole is.
pub(crate) struct Part {
    pub(crate) bytes: Bytes,
    pub(crate) object_size_bytes: u64,
}

impl Reader {
    /// The whole object, or `None` when there is none.
    ///
    /// An object larger than `size_bytes_max` is a `Corrupt` error, and its body is not downloaded. A body
    /// cut short is fetched again, and in the end an error: never a short result.
    pub async fn get(&self, key: &str, size_bytes_max: u64) -> Result<Option<Bytes>> {
        let (path, place, shared) = (key_path(key)?, self.shared.place(key), Arc::clone(&self.shared));
        driven(async move {
            let attempt = || async {
                let result = start(&shared, &path, GetOptions::default()).await?;
                let size_bytes = result.meta.size;
                if size_bytes > size_bytes_max {
                    return Ok(Err(size_bytes));
                }
                body(&shared, result, 0..size_bytes).await.map(Ok)
            };
            match absent_is_none(shared.repeat(RequestKind::Get, attempt).await) {
                Ok(None) => Ok(None),
                Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
                Ok(Some(Err(size_bytes))) => Err(Error::corrupt(format!(
                    "{place}: expected at most {size_bytes_max} bytes, found an object of {size_bytes}"
                ))),
                Err(fault) => Err(fault.into_error("get", &place)),
            }
        })
        .await
    }

    /// The bytes of a range that the object has: fewer than asked for where it ends before the range does.
    /// `None` when there is no such object.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        if range.is_empty() {
            return Err(Error::invalid(format!("range {range:?} of {key}: expected at least one byte")));
        }
        Ok(self.part(key, range).await?.map(|part| part.bytes))
    }

    /// Size and time of an object without its bytes, or `None`.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>> {
        let (path, key, shared) = (key_path(key)?, key.to_owned(), Arc::clone(&self.shared));
        driven(async move {
            let found = absent_is_none(shared.repeat(RequestKind::Head, || head(&shared, &path)).await);
            match found {
                Ok(meta) => Ok(meta.map(|meta| ObjectInfo::from_meta(key, &meta))),
                Err(fault) => Err(fault.into_error("head", &shared.place(&key))),
            }
        })
        .await
    }

    /// As [`get_range`](Self::get_range), with the size of the whole object.
    pub(crate) async fn part(&self, key: &str, range: Range<u64>) -> Result<Option<Part>> {
        let (store, key) = (self.clone(), key.to_owned());
        driven(async move { store.part_now(&key, range).await }).await
    }

    async fn part_now(&self, key: &str, range: Range<u64>) -> Result<Option<Part>> {
        let path = key_path(key)?;
        let shared = &*self.shared;
        let attempt = || async {
            let options =
                GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
            let result = start(shared, &path, options).await?;
            let object_size_bytes = result.meta.size;
            let expected = range.start..range.end.min(object_size_bytes);
            let bytes = body(shared, result, expected).await?;
            Ok(Part { bytes, object_size_bytes })
        };
        let fault = match absent_is_none(shared.repeat(RequestKind::Get, attempt).await) {
            Ok(part) => return Ok(part),
            Err(fault) => fault,
        };
        // Stores differ in how they refuse a range that begins at or beyond the end; the size tells.
        if matches!(fault.class, Class::OutOfRange | Class::Final) {
            match self.head(key).await? {
                None => return Ok(None),
                Some(info) if info.size_bytes <= range.start => {
                    return Ok(Some(Part { bytes: Bytes::new(), object_size_bytes: info.size_bytes }));
                }
                Some(_) => {}
            }
        }
        Err(fault.into_error("get", &shared.place(key)))
    }
}

async fn head(shared: &Shared, path: &Path) -> Attempt<ObjectMeta> {
    let options = GetOptions { head: true, ..GetOptions::default() };
    Ok(start(shared, path, options).await?.meta)
}

async fn start(shared: &Shared, path: &Path, options: GetOptions) -> Attempt<GetResult> {
    let request = shared.object_store.get_opts(path, options);
    let result = shared.within(shared.limits.stall_timeout, request).await?;
    shared.heard();
    Ok(result)
}

/// The body of an answer, which must be exactly `expected`.
async fn body(shared: &Shared, result: GetResult, expected: Range<u64>) -> Attempt<Bytes> {
    let expected_bytes = expected.end.saturating_sub(expected.start);
    if result.range != expected {
        let found_bytes = result.range.end.saturating_sub(result.range.start);
        return Err(Fault::in_doubt(CutShort { expected_bytes, found_bytes }));
    }
    let result = match result.payload {
        GetResultPayload::File(file, _) => {
            shared.download.pass(expected_bytes).await;
            let bytes = file_body(shared, file, expected).await?;
            shared.counters.downloaded(bytes.len() as u64);
            return whole(bytes, expected_bytes);
        }
        payload => GetResult { payload, ..result },
    };
    let mut stream = result.into_stream();
    let mut gathered = Gathered::default();
    let mut unpassed_bytes = 0;
    loop {
        let next = async { stream.next().await.transpose() };
        let Some(piece) = shared.within(shared.limits.stall_timeout, next).await? else { break };
        shared.counters.downloaded(piece.len() as u64);
        unpassed_bytes += piece.len() as u64;
        if unpassed_bytes >= PASS_BYTES_MIN {
            shared.download.pass(std::mem::take(&mut unpassed_bytes)).await;
        }
        if gathered.len() as u64 + piece.len() as u64 > expected_bytes {
            let found_bytes = gathered.len() as u64 + piece.len() as u64;
            return Err(Fault::in_doubt(CutShort { expected_bytes, found_bytes }));
        }
        gathered.push(piece, expected_bytes as usize);
    }
    shared.download.pass(unpassed_bytes).await;
    whole(gathered.freeze(), expected_bytes)
}

/// The body of an object of a local directory.
async fn file_body(shared: &Shared, mut file: File, range: Range<u64>) -> Attempt<Bytes> {
    let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
    let mut body = shared.bodies.take(len);
    let read = move || -> std::io::Result<Bytes> {
        file.seek(SeekFrom::Start(range.start))?;
        let mut filled = 0;
        while filled < len {
            match file.read(&mut body.as_mut_slice()[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(body.freeze(filled))
    };
    let local = |source: Box<dyn std::error::Error + Send + Sync>| {
        Fault::from(object_store::Error::Generic { store: "LocalFileSystem", source })
    };
    cpu::block(move || Ok(read())).await.map_err(|e| local(Box::new(e)))?.map_err(|e| local(Box::new(e)))
}

/// Pieces of a body; one that comes as a single piece is never copied.
#[derive(Default)]
struct Gathered {
    single: Bytes,
    many: BytesMut,
}

impl Gathered {
    fn len(&self) -> usize {
        self.single.len() + self.many.len()
    }

    /// `capacity` is the whole body's length, which the caller has checked against its limit.
    fn push(&mut self, piece: Bytes, capacity: usize) {
        if self.len() == 0 {
            self.single = piece;
            return;
        }
        if self.many.is_empty() {
            self.many.reserve(capacity);
            self.many.extend_from_slice(&std::mem::take(&mut self.single));
        }
        self.many.extend_from_slice(&piece);
    }

    fn freeze(self) -> Bytes {
        if self.many.is_empty() { self.single } else { self.many.freeze() }
    }
}

fn whole(bytes: Bytes, expected_bytes: u64) -> Attempt<Bytes> {
    let found_bytes = bytes.len() as u64;
    if found_bytes == expected_bytes {
        Ok(bytes)
    } else {
        Err(Fault::in_doubt(CutShort { expected_bytes, found_bytes }))
    }
}

fn absent_is_none<T>(result: Attempt<T>) -> Attempt<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(fault) if fault.class == Class::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}
