//! What every step of a backup is handed: the project, what was asked for, the bound of its memory, and whom to tell.

use std::sync::{Arc, Mutex, PoisonError};

use crate::backup::BackupOptions;
use crate::backup::fleet::Among;
use crate::budget::Budget;
use crate::cancel::Cancel;
use crate::progress::Progress;
use crate::repo::Writer;

/// Chunks in flight, at least and at most, however small they are.
const CHUNKS_INFLIGHT_MIN: u64 = 4;
const CHUNKS_INFLIGHT_MAX: u64 = 256;

pub(super) struct Context<'a> {
    pub project: &'a Writer,
    pub options: &'a BackupOptions,
    pub progress: Arc<dyn Progress>,
    pub cancel: Cancel,
    /// A chunk takes its size from before it is read until it is durable.
    pub budget: Budget,
    /// Those that it is one of.
    pub among: Among,
    remarks: Mutex<Vec<String>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        project: &'a Writer,
        options: &'a BackupOptions,
        progress: Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Self {
        let chunk = u64::from(project.chunk_size_bytes());
        let chunks = (options.inflight_bytes / chunk).clamp(CHUNKS_INFLIGHT_MIN, CHUNKS_INFLIGHT_MAX);
        Self {
            project,
            options,
            progress,
            cancel,
            budget: Budget::new(chunks * chunk),
            among: Among::of(options.fleet.as_ref()),
            remarks: Mutex::default(),
        }
    }

    /// Tells the operator now, and once more in the report.
    pub(super) fn remark(&self, remark: String) {
        self.progress.warn(&remark);
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).push(remark);
    }

    pub(super) fn remarks<'n>(&self, remarks: impl IntoIterator<Item = &'n String>) {
        remarks.into_iter().for_each(|remark| self.remark(remark.clone()));
    }

    /// What was told since the last call.
    pub(super) fn take_remarks(&self) -> Vec<String> {
        std::mem::take(&mut self.remarks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
