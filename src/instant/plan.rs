//! What an instant restore would do: found by the same checks, and nothing is made.

use std::net::SocketAddr;

use serde::Serialize;

use super::spec::Format;
use super::{HistoryEntry, InstantRestore, Interrupted, Migration, format, history, image_options, last};
use crate::cancel::Cancel;
use crate::cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::rbd::Cluster;
use crate::repo::history::SnapshotEntry;
use crate::serve::http::Token;

/// What would be done.
#[derive(Debug, Clone, Serialize)]
pub struct InstantPlan {
    /// The volume's name.
    pub volume: String,
    /// Of the snapshot that the image would hold.
    pub sequence: u32,
    /// 32 hexadecimal digits.
    pub snapshot_id: String,
    /// The volume's size.
    pub size_bytes: u64,
    /// Snapshots of the new image, oldest first.
    pub history: Vec<HistoryEntry>,
    /// Where it would be served; with port 0 on a free one.
    pub address: SocketAddr,
    /// As what it would be served.
    pub format: Format,
    /// Options of `rbd migration prepare`, which makes the image; none where it is there.
    pub image_options: Vec<String>,
}

impl InstantRestore {
    /// What [`run`](Self::run) would do, or why it would refuse.
    pub async fn plan(&self, snapshots: Vec<SnapshotEntry>, cancel: Cancel) -> Result<InstantPlan> {
        let (snapshot, older) = last(&snapshots)?;
        let format = format(snapshot, older)?;
        // Bound as it would be, and nobody is told of it.
        drop(self.bind(snapshots.clone(), Token::new(&self.token(snapshot)?)).await?);
        self.refuse_taken(cancel).await?;
        let options = image_options(&snapshot.snapshot.layout, self.data_pool.as_deref());
        Ok(self.planned(snapshot, older, format, options))
    }

    /// What [`resume`](Self::resume) would go on with, or why it would refuse.
    pub async fn plan_resume(&self, snapshots: Vec<SnapshotEntry>, cancel: Cancel) -> Result<InstantPlan> {
        let (snapshot, _) = last(&snapshots)?;
        let Interrupted { served, older, .. } = self.interrupted(&snapshots, cancel).await?;
        served.stop().await;
        Ok(self.planned(snapshot, &older, format(snapshot, &older)?, Vec::new()))
    }

    /// The pools are there and the image is not.
    async fn refuse_taken(&self, cancel: Cancel) -> Result<()> {
        let (ceph, target, data_pool) = (self.ceph.clone(), self.target.clone(), self.data_pool.clone());
        let look = move || {
            let cluster = Cluster::connect(&ceph)?;
            cluster.pool(&target.pool, &target.namespace)?;
            data_pool.map_or(Ok(()), |pool| cluster.pool(&pool, "").map(drop))
        };
        cpu::block(look).await?;
        let migration = Migration { ceph: &self.ceph, target: &self.target, cancel };
        match migration.status().await {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() != ErrorKind::Conflict => Err(e),
            Ok(_) | Err(_) => Err(self.not_begun(Error::conflict(format!("{} exists", self.target)))),
        }
    }

    fn planned(
        &self,
        snapshot: &SnapshotEntry,
        older: &[SnapshotEntry],
        format: Format,
        image_options: Vec<String>,
    ) -> InstantPlan {
        InstantPlan {
            volume: snapshot.volume_name.clone(),
            sequence: snapshot.snapshot.sequence.0,
            snapshot_id: snapshot.snapshot_id.to_string(),
            size_bytes: snapshot.snapshot.size_bytes,
            history: history(older),
            address: self.listen,
            format,
            image_options,
        }
    }
}
