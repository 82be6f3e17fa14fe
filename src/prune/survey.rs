//! The catalog and all logs, confirmed: which sequences there are, and that nothing is missing among them.

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};
use crate::format::record::VolumeRecord;
use crate::prune::Prune;
use crate::repo::log::VolumeLog;

/// Logs read at once.
const LOGS_INFLIGHT_MAX: usize = 8;

/// A project's volumes, by number.
pub(super) struct Survey {
    pub(super) volumes: Vec<Surveyed>,
}

/// One volume and its log.
pub(super) struct Surveyed {
    pub(super) record: VolumeRecord,
    pub(super) log: VolumeLog,
}

impl Prune {
    /// Reads the catalog and all logs, confirmed by requests that must find nothing.
    pub(super) async fn survey(&mut self) -> Result<Survey> {
        self.cancel.check()?;
        self.progress.phase("logs", None);
        let catalog = self.project.confirmed_catalog().await?;
        let project = &self.project;
        let volumes: Vec<Surveyed> = stream::iter(catalog.entries().to_vec())
            .map(|record| async move {
                let log = project.confirmed_log(record.number).await?;
                match log.gaps().first() {
                    None => Ok(Surveyed { record, log }),
                    Some(gap) => Err(stopped(format!(
                        "sequence {gap} of volume {} is missing, though its log goes on to {}",
                        record.name,
                        log.last()
                    ))),
                }
            })
            .buffered(LOGS_INFLIGHT_MAX)
            .try_collect()
            .await?;
        self.report.volumes = volumes.len() as u64;
        Ok(Survey { volumes })
    }
}

/// Something is missing or hurt: nothing is deleted until a person looked at it.
pub(super) fn stopped(what: String) -> Error {
    Error::corrupt(format!("nothing is deleted: {what}")).help(
        "run `cuttle verify` to see what is hurt; bring it back from the bucket's older versions, or forget the \
         snapshots that need it, then prune again",
    )
}
