//! Counts of what was asked of a store: requests are what a provider bills.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// What kind of request, as providers price them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Put,
    Get,
    Head,
    List,
    Delete,
    /// To obtain credentials; not to the store itself.
    Credentials,
}

const KINDS: usize = 6;

/// Requests made and object bytes moved since the store was opened. Every attempt counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Creates and replaces.
    pub put_requests: u64,
    /// Whole objects, parts of them, and read-backs of creates.
    pub get_requests: u64,
    /// Looks at whether an object is there.
    pub head_requests: u64,
    /// Pages of listings, of up to 1,000 names each with most providers.
    pub list_requests: u64,
    /// Deletes; one that names many objects is one.
    pub delete_requests: u64,
    /// Requests to obtain credentials, to other addresses than the store's.
    pub credentials_requests: u64,
    /// Bytes of object bodies sent, attempts that failed included.
    pub uploaded_bytes: u64,
    /// Bytes of object bodies received, attempts that failed included.
    pub downloaded_bytes: u64,
    /// Attempts that followed a failed one.
    pub retries: u64,
    /// Answers that asked to slow down.
    pub throttled: u64,
}

impl Ledger {
    /// Requests of all kinds to the store.
    pub fn requests(&self) -> u64 {
        self.put_requests + self.get_requests + self.head_requests + self.list_requests + self.delete_requests
    }
}

impl Sub for Ledger {
    type Output = Self;

    /// What came to pass between `earlier` and `self`.
    fn sub(self, earlier: Self) -> Self {
        Self {
            put_requests: self.put_requests.saturating_sub(earlier.put_requests),
            get_requests: self.get_requests.saturating_sub(earlier.get_requests),
            head_requests: self.head_requests.saturating_sub(earlier.head_requests),
            list_requests: self.list_requests.saturating_sub(earlier.list_requests),
            delete_requests: self.delete_requests.saturating_sub(earlier.delete_requests),
            credentials_requests: self.credentials_requests.saturating_sub(earlier.credentials_requests),
            uploaded_bytes: self.uploaded_bytes.saturating_sub(earlier.uploaded_bytes),
            downloaded_bytes: self.downloaded_bytes.saturating_sub(earlier.downloaded_bytes),
            retries: self.retries.saturating_sub(earlier.retries),
            throttled: self.throttled.saturating_sub(earlier.throttled),
        }
    }
}

/// The running counts behind a [`Ledger`]. Statistics only: no order between them is implied.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: [AtomicU64; KINDS],
    uploaded_bytes: AtomicU64,
    downloaded_bytes: AtomicU64,
    retries: AtomicU64,
    throttled: AtomicU64,
}

impl Counters {
    pub(crate) fn request(&self, kind: RequestKind) {
        self.requests[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn uploaded(&self, bytes: u64) {
        self.uploaded_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn downloaded(&self, bytes: u64) {
        self.downloaded_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn throttled(&self) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ledger(&self) -> Ledger {
        let requests = |kind: RequestKind| self.requests[kind as usize].load(Ordering::Relaxed);
        Ledger {
            put_requests: requests(RequestKind::Put),
            get_requests: requests(RequestKind::Get),
            head_requests: requests(RequestKind::Head),
            list_requests: requests(RequestKind::List),
            delete_requests: requests(RequestKind::Delete),
            credentials_requests: requests(RequestKind::Credentials),
            uploaded_bytes: self.uploaded_bytes.load(Ordering::Relaxed),
            downloaded_bytes: self.downloaded_bytes.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            throttled: self.throttled.load(Ordering::Relaxed),
        }
    }
}
