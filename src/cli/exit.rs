//! Exit codes, as scripts know them from restic.

use cuttle::{Error, ErrorKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Success,
    Failure,
    /// Some of several volumes failed.
    Partial,
    NoRepository,
    WrongKey,
    Interrupted,
}

impl Exit {
    pub fn code(self) -> i32 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Partial => 3,
            Self::NoRepository => 10,
            Self::WrongKey => 12,
            Self::Interrupted => 130,
        }
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::NoRepository => Self::NoRepository,
            ErrorKind::WrongKey => Self::WrongKey,
            ErrorKind::Interrupted => Self::Interrupted,
            _ => Self::Failure,
        }
    }
}
