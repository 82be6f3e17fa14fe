//! What stands under a name. A name counts only once its object opens (repo-format.md §2.1): what a listing or a HEAD shows
//! is a hint where to look, and proves nothing.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::format::ObjectName;

/// Foreign names that are told of one by one.
const TOLD_MAX: usize = 1_000;

/// What a look at a name shows.
#[derive(Debug, PartialEq)]
pub(crate) enum Found<R> {
    Absent,
    /// Something that does not open as what its name says, or is of something else, and what was found. It is rot or was
    /// planted, and nobody can tell: it is not obeyed, not built upon, not remembered.
    Foreign(String),
    Opens(R),
}

impl<R> Found<R> {
    pub(crate) fn opened(self) -> Option<R> {
        match self {
            Self::Opens(record) => Some(record),
            Self::Absent | Self::Foreign(_) => None,
        }
    }

    pub(crate) fn opens(&self) -> bool {
        matches!(self, Self::Opens(_))
    }

    pub(crate) fn map<T>(self, with: impl FnOnce(R) -> T) -> Found<T> {
        match self {
            Self::Absent => Found::Absent,
            Self::Foreign(why) => Found::Foreign(why),
            Self::Opens(record) => Found::Opens(with(record)),
        }
    }

    /// What opens counts only where it says that it belongs here.
    pub(crate) fn bound(self, belongs: impl FnOnce(&R) -> std::result::Result<(), String>) -> Self {
        match self {
            Self::Opens(record) => match belongs(&record) {
                Ok(()) => Self::Opens(record),
                Err(why) => Self::Foreign(why),
            },
            other => other,
        }
    }
}

/// Names that turned out foreign: each is told of once.
#[derive(Debug, Default)]
pub(crate) struct Foreign(Mutex<BTreeSet<String>>);

impl Foreign {
    pub(crate) fn tell(&self, name: &ObjectName, why: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD_MAX && told.insert(name.to_string()) {
            tracing::warn!("{name} does not count, as it does not open: {why}");
        }
    }
}
