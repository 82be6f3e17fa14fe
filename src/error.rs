//! The library's one error: a kind to match on, what happened, what to do next, and the cause.

use std::error::Error as StdError;
use std::fmt;

/// What all of the library returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error. Exit codes and retries are decided by this, never by text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The thing asked for does not exist.
    NotFound,
    /// There is no repository at the given place.
    NoRepository,
    /// Bytes are not what they must be. Never retried, never turned into zeros.
    Corrupt,
    /// Somebody else decided otherwise first: a lost race, an aborted session, a mixed-up volume.
    Conflict,
    /// Somebody else is at the very same work just now, and will have done it.
    Busy,
    /// A passphrase or key file that does not open the repository.
    WrongKey,
    /// The store or the cluster does not permit it with these credentials.
    Denied,
    /// The store is full, or a quota on it is.
    NoSpace,
    /// The other side does not answer or asks to slow down; the same request may work later.
    Unavailable,
    /// The input or the request cannot be right, whoever asks.
    Invalid,
    /// It is right, but this build or this machine cannot do it.
    Unsupported,
    /// The user or the system asked to stop.
    Interrupted,
    /// A defect of this program.
    Internal,
}

/// An error that says what was found, what was expected, and what to do next.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    help: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {
        $(#[doc = concat!("An error of kind [`ErrorKind::", stringify!($kind), "`].")]
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(ErrorKind::$kind, message)
        })*
    };
}

impl Error {
    /// For a kind that is only known at run time; the constructors below name theirs.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None, source: None }
    }

    constructors! {
        not_found => NotFound,
        no_repository => NoRepository,
        corrupt => Corrupt,
        conflict => Conflict,
        busy => Busy,
        wrong_key => WrongKey,
        denied => Denied,
        no_space => NoSpace,
        unavailable => Unavailable,
        invalid => Invalid,
        unsupported => Unsupported,
        interrupted => Interrupted,
        internal => Internal,
    }

    /// Adds what the reader should do next.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts what was being done before the message: `context: message`. Kind, help and cause stay.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What happened, with what was being done in front; causes and help are not in it.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do next, where something can be done.
    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

/// Adds what was being done to an error on its way up.
pub trait Context<T> {
    /// Puts the context and a colon before the message; the kind stays.
    fn context(self, context: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.map_err(|e| e.context(context))
    }
}

/// Turns an operating system error into ours, naming what was done to what. One of ours that went through [`std::io`] comes
/// out as it was.
pub fn io_error(doing: impl fmt::Display, error: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let error = match error.downcast::<Error>() {
        Ok(ours) => return ours.context(doing),
        Err(error) => error,
    };
    let kind = match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::AlreadyExists => ErrorKind::Conflict,
        Io::InvalidInput | Io::PermissionDenied | Io::UnexpectedEof => ErrorKind::Invalid,
        Io::Interrupted => ErrorKind::Interrupted,
        Io::Unsupported => ErrorKind::Unsupported,
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{doing}: {error}")).caused_by(error)
}
