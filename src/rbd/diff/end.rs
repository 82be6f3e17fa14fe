//! What is compared.

use std::sync::Arc;

use super::judge;
use crate::error::Result;
use crate::rbd::{Image, Snapshot};

/// One end of a comparison, open.
#[derive(Clone)]
pub struct End {
    /// Open at that snapshot, or at the head.
    pub image: Arc<Image>,
    /// The snapshot that it is open at; `None`: the image as it is now.
    pub snapshot: Option<Snapshot>,
}

impl End {
    /// The image as it is now. The handle must be open at the head.
    pub fn now(image: Arc<Image>) -> Self {
        Self { image, snapshot: None }
    }

    /// A snapshot. The handle must be open at it.
    pub fn at(image: Arc<Image>, snapshot: Snapshot) -> Self {
        Self { image, snapshot: Some(snapshot) }
    }

    pub(super) fn judged(&self) -> Result<judge::End<'_>> {
        let snapshot = self.snapshot.as_ref().map(|s| (s.id, s.name.as_str()));
        Ok(judge::End { snapshot, flags: self.image.flags()? })
    }
}
