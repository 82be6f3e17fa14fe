//! What went wrong with one attempt, decided by types and status codes, never by text.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::{Error, ErrorKind};

use super::adaptive::Signal;

/// An HTTP answer that is an error, as a type. The HTTP layer puts it into the cause of object_store's
/// errors; a store of one's own may do the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusError {
    /// The HTTP status.
    pub status: u16,
    /// The provider's error code, such as `SlowDown` or `NoSuchBucket`.
    pub code: Option<String>,
    /// How long to wait before the next attempt, where the answer says so; kept to up to [`Limits::backoff_max`](super::Limits::backoff_max).
    pub retry_after: Option<Duration>,
    /// The region the bucket is in, when the answer says that it is another one.
    pub region: Option<String>,
    /// Where a redirect leads; it is never followed.
    pub location: Option<String>,
}

impl StatusError {
    /// A status, and nothing else known.
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        self.code.as_ref().map_or(Ok(()), |code| write!(f, " {code}"))?;
        self.location.as_ref().map_or(Ok(()), |to| write!(f, ", a redirect to {to:?}"))
    }
}

impl StdError for StatusError {}

/// What a failure means for the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    NotFound,
    /// The create found something there. True or not, only reading back tells whose it is.
    Exists,
    /// The store asks to slow down; the request was refused.
    Throttled,
    /// No connection: the request was never sent.
    Unreachable,
    /// May work next time; whether a write landed is unknown.
    InDoubt,
    /// The credentials are not accepted, or do not permit this.
    Denied,
    /// The two clocks differ too much for a signature to hold.
    ClockSkew,
    /// The bucket, container or directory itself is not there.
    NoBucket,
    /// The bucket is in another region.
    WrongRegion,
    /// The answer is elsewhere, and nobody is told credentials who was not named by the user.
    Redirected,
    /// The range asked for lies beyond the object's end.
    OutOfRange,
    NoSpace,
    Unsupported,
    /// Asking again would give the same answer.
    Final,
}

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) class: Class,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) status: Option<Box<StatusError>>,
    source: Box<dyn StdError + Send + Sync>,
}

/// An attempt that outlived its timeout.
#[derive(Debug)]
pub(crate) struct TimedOut(pub(crate) Duration);

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {} s", self.0.as_secs())
    }
}

impl StdError for TimedOut {}

/// A body that ended before its announced length.
#[derive(Debug)]
pub(crate) struct CutShort {
    pub(crate) expected_bytes: u64,
    pub(crate) found_bytes: u64,
}

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the body was cut short: expected {} bytes, found {}",
            self.expected_bytes, self.found_bytes
        )
    }
}

impl StdError for CutShort {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl StdError for Fault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.source()
    }
}

impl Fault {
    pub(crate) fn in_doubt(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { class: Class::InDoubt, retry_after: None, status: None, source: source.into() }
    }

    pub(crate) fn final_answer(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { class: Class::Final, retry_after: None, status: None, source: source.into() }
    }

    pub(crate) fn again(&self) -> bool {
        matches!(self.class, Class::Throttled | Class::Unreachable | Class::InDoubt | Class::Exists)
    }

    pub(crate) fn signal(&self) -> Signal {
        if self.class == Class::Throttled { Signal::SlowDown } else { Signal::Neutral }
    }

    /// The store answered, whatever it said.
    pub(crate) fn answered(&self) -> bool {
        self.status.is_some() || matches!(self.class, Class::NotFound | Class::Exists)
    }

    /// There was an answer, perhaps a good one, that object_store could not read.
    pub(crate) fn is_unread(&self) -> bool {
        self.class == Class::Final && self.status.is_none()
    }

    /// Our error, naming what was done to what.
    pub(crate) fn into_error(self, doing: &str, place: &str) -> Error {
        let what = match &self.status {
            Some(status) => format!("{doing} {place}: the store answered {status}"),
            None if matches!(self.class, Class::Final | Class::Unsupported) => {
                format!("{doing} {place}: {}", self.source)
            }
            // The layers in between would repeat the request; the cause says what happened.
            None => format!("{doing} {place}: {}", innermost(&*self.source)),
        };
        let (kind, help) = match self.class {
            Class::NotFound => (ErrorKind::NotFound, None),
            Class::Exists => (ErrorKind::Conflict, None),
            Class::Throttled => (ErrorKind::Unavailable, Some(HELP_THROTTLED.to_owned())),
            Class::Unreachable => (ErrorKind::Unavailable, Some(HELP_UNREACHABLE.to_owned())),
            Class::InDoubt => (ErrorKind::Unavailable, Some(HELP_IN_DOUBT.to_owned())),
            Class::Denied if self.status.is_none() && find::<io::Error>(&*self.source).is_some() => {
                (ErrorKind::Denied, Some(HELP_DENIED_LOCAL.to_owned()))
            }
            Class::Denied => (ErrorKind::Denied, Some(HELP_DENIED.to_owned())),
            Class::ClockSkew => (ErrorKind::Invalid, Some(HELP_CLOCK.to_owned())),
            Class::NoBucket => (ErrorKind::NoRepository, Some(HELP_NO_BUCKET.to_owned())),
            Class::WrongRegion => (ErrorKind::Invalid, Some(self.help_region())),
            Class::Redirected => (ErrorKind::Invalid, Some(HELP_REDIRECTED.to_owned())),
            Class::OutOfRange => (ErrorKind::Invalid, None),
            Class::NoSpace => (ErrorKind::NoSpace, Some(HELP_NO_SPACE.to_owned())),
            Class::Unsupported => (ErrorKind::Unsupported, None),
            Class::Final => (ErrorKind::Invalid, None),
        };
        let error = Error::new(kind, what).caused_by(self.source);
        match help {
            Some(help) => error.help(help),
            None => error,
        }
    }

    fn help_region(&self) -> String {
        match self.status.as_ref().and_then(|s| s.region.as_ref()) {
            Some(region) => format!("the bucket is in region {region}: set AWS_REGION={region}"),
            None => "set AWS_REGION to the region the bucket is in".to_owned(),
        }
    }
}

const HELP_THROTTLED: &str = "the store keeps asking to slow down: run again later, lower \
    --limit-upload or --limit-download, or ask the provider for a higher request rate";
const HELP_UNREACHABLE: &str = "check the address of the store, the network and any proxy";
const HELP_IN_DOUBT: &str = "the store did not answer properly for minutes: run the command again \
    later, it goes on where it was";
const HELP_DENIED: &str = "check that the credentials are those of this store, have not expired, and \
    may get, put and list under this prefix (S3: s3:GetObject, s3:PutObject, s3:ListBucket; without \
    the last a missing object, too, is answered with 403)";
const HELP_DENIED_LOCAL: &str =
    "check who owns the folder and what is in it, and that its file system is not mounted read-only";
const HELP_CLOCK: &str = "set this machine's clock, for instance by NTP";
const HELP_NO_BUCKET: &str = "check the name, or create the bucket with the provider's own tool first";
const HELP_NO_SPACE: &str = "the store is full, or a quota on it is: make room (`cuttle forget`, then `cuttle prune`), or raise \
    the quota, and run the command again; it goes on where it was";
const HELP_REDIRECTED: &str = "redirects are never followed, as requests carry credentials. If the store itself is there, set its \
    address (AWS_ENDPOINT_URL, GOOGLE_BASE_URL, AZURE_STORAGE_ENDPOINT) to that one, with https:// where it wants that; a \
    wrong AWS_REGION is answered so, too. If it leads to a page to log in, something on the way is not the store";

impl From<object_store::Error> for Fault {
    fn from(error: object_store::Error) -> Self {
        let status = find::<StatusError>(&error).cloned().map(Box::new);
        let class = match &status {
            Some(status) => class_of_status(status),
            None => class_of_error(&error),
        };
        let retry_after = status.as_ref().and_then(|s| s.retry_after);
        Self { class, retry_after, status, source: Box::new(error) }
    }
}

fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// The first `T` among an error and its causes.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Codes with which stores ask to slow down under a status that usually means something else.
const CODES_SLOW_DOWN: [&str; 10] = [
    "SlowDown",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "TooManyRequests",
    "ServerBusy",
    "OperationTimedOut",
];

/// Codes with which stores say that they are full, or that a quota is: Ceph's RGW, MinIO (its quota, its disks), Backblaze.
const CODES_NO_SPACE: [&str; 5] = [
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
    "StorageCapExceeded",
    "InsufficientStorage",
];

fn class_of_status(error: &StatusError) -> Class {
    let code = error.code.as_deref().unwrap_or("");
    if CODES_SLOW_DOWN.contains(&code) {
        return Class::Throttled;
    }
    if CODES_NO_SPACE.contains(&code) {
        return Class::NoSpace;
    }
    match (error.status, code) {
        (_, "NoSuchBucket" | "ContainerNotFound") => Class::NoBucket,
        (403, "RequestTimeTooSkewed") => Class::ClockSkew,
        // S3 answers 400 when it waited too long for the body of a request.
        (400, "RequestTimeout") | (408, _) => Class::InDoubt,
        (400, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => Class::WrongRegion,
        (400, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => Class::Denied,
        (300..=399, "PermanentRedirect" | "TemporaryRedirect") => Class::WrongRegion,
        (300..=399, _) if error.region.is_some() => Class::WrongRegion,
        (300..=399, _) => Class::Redirected,
        (401 | 403, _) => Class::Denied,
        (404, _) => Class::NotFound,
        (409, "BlobAlreadyExists") | (412, _) => Class::Exists,
        // S3: another write to the key was under way; whether any landed is unknown.
        (409, _) => Class::InDoubt,
        (416, _) => Class::OutOfRange,
        (429 | 503, _) => Class::Throttled,
        (501, _) => Class::Unsupported,
        (507, _) => Class::NoSpace,
        (500..=599, _) => Class::InDoubt,
        _ => Class::Final,
    }
}

fn class_of_error(error: &object_store::Error) -> Class {
    use object_store::Error as Store;
    match error {
        Store::NotFound { .. } => return Class::NotFound,
        Store::AlreadyExists { .. } | Store::Precondition { .. } => return Class::Exists,
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => return Class::Denied,
        Store::NotImplemented { .. } | Store::NotSupported { .. } => return Class::Unsupported,
        _ => {}
    }
    if let Some(http) = find::<HttpError>(error) {
        return match http.kind() {
            HttpErrorKind::Connect => Class::Unreachable,
            _ => Class::InDoubt,
        };
    }
    match find::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => Class::Denied,
        Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Class::NoSpace,
        Some(io::ErrorKind::Interrupted | io::ErrorKind::StaleNetworkFileHandle) => Class::InDoubt,
        _ => Class::Final,
    }
}

#[cfg(test)]
mod tests {
    use super::{Class, Fault, StatusError, class_of_status};
    use object_store::client::{HttpError, HttpErrorKind};

    #[test]
    fn status_and_code_decide() {
        for (status, code, expected) in [
            (500, None, Class::InDoubt),
            (503, None, Class::Throttled),
            (503, Some("SlowDown"), Class::Throttled),
            (429, None, Class::Throttled),
            (403, Some("SlowDown"), Class::Throttled),
            (403, Some("RequestLimitExceeded"), Class::Throttled),
            (403, Some("AccessDenied"), Class::Denied),
            (403, None, Class::Denied),
            (403, Some("RequestTimeTooSkewed"), Class::ClockSkew),
            (401, None, Class::Denied),
            (404, Some("NoSuchBucket"), Class::NoBucket),
            (404, None, Class::NotFound),
            (409, Some("ConditionalRequestConflict"), Class::InDoubt),
            (409, Some("BlobAlreadyExists"), Class::Exists),
            (400, Some("RequestTimeout"), Class::InDoubt),
            (400, Some("InvalidArgument"), Class::Final),
            (301, Some("PermanentRedirect"), Class::WrongRegion),
            (303, None, Class::Redirected),
            (308, None, Class::Redirected),
            (403, Some("QuotaExceeded"), Class::NoSpace),
            (400, Some("XMinioAdminBucketQuotaExceeded"), Class::NoSpace),
            (507, None, Class::NoSpace),
        ] {
            let error = StatusError { code: code.map(str::to_owned), ..StatusError::new(status) };
            assert_eq!(class_of_status(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_status_is_found_below_the_layers_of_object_store() {
        let http = HttpError::new(HttpErrorKind::Unknown, StatusError::new(503));
        let error = object_store::Error::Generic { store: "test", source: Box::new(http) };
        assert_eq!(Fault::from(error).class, Class::Throttled);
    }
}
