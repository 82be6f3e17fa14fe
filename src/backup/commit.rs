//! What makes a snapshot exist.

use crate::backup::BackupReport;
use crate::backup::context::Context;
use crate::backup::ground::Ground;
use crate::backup::manifest::Stored;
use crate::backup::plan::BackupPlan;
use crate::backup::presence::LostReport;
use crate::backup::store::Done;
use crate::backup::who::Who;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::format::record::Snapshot;
use crate::repo::PROGRAM;
use crate::repo::session::{Committed, Session};
use crate::volume::{ImageLayout, SnapshotPoint};

/// What was made of a source.
pub(super) struct Made<D> {
    pub plan: BackupPlan,
    pub done: Done<D>,
    /// The source's snapshot that was read.
    pub point: Option<SnapshotPoint>,
    pub layout: ImageLayout,
    pub size_bytes: u64,
    pub lost: LostReport,
}

/// Writes the manifest's pages, then the outcome. Everything else that it references is durable by now.
pub(super) async fn commit(
    cx: &Context<'_>,
    session: &Session,
    who: &Who,
    ground: &Ground,
    made: Made<Stored>,
) -> Result<BackupReport> {
    let mut report = report(cx, &made);
    cx.progress.phase("writing the manifest", None);
    let Made { plan, done, point, layout, size_bytes, .. } = made;
    let root = done.draft.finish().await?;
    let environment = &cx.project.repository().environment;
    let snapshot = Snapshot {
        volume: session.volume.number,
        sequence: session.sequence,
        generation: session.generation,
        size_bytes,
        chunk_size_bytes: cx.project.chunk_size_bytes(),
        identity: who.identity.clone(),
        point: point.clone(),
        layout,
        host: environment.host.clone(),
        program: PROGRAM.to_owned(),
        started_unix_ms: environment.clock.now_unix_ms(),
        tags: cx.options.tags.clone(),
        parent: plan.parent,
        origin: ground.origin_of(who),
        full_read: plan.is_full_read(),
        recalled_from: None,
        nights_since_full: plan.nights_since_full,
        sample_cursor: plan.sample_cursor,
        stats: done.stats,
        root: root.encode(),
    };
    cx.cancel.check()?;
    match session.commit(snapshot).await.context("commit the backup")? {
        Committed::Done | Committed::Already => {
            report.volume.clone_from(&session.volume.name);
            report.sequence = Some(session.sequence.0);
            report.snapshot_id = Some(session.snapshot_id.to_string());
            report.point = point;
            Ok(report)
        }
        Committed::Lost { by, reason } => Err(lost(session, &by, &reason)),
    }
}

/// What a backup came to, but for the snapshot that it became.
pub(super) fn report<D>(cx: &Context<'_>, made: &Made<D>) -> BackupReport {
    let plan = &made.plan;
    BackupReport {
        volume: cx.options.volume.to_string(),
        sequence: None,
        snapshot_id: None,
        unchanged: false,
        point: None,
        size_bytes: made.size_bytes,
        full_read: plan.is_full_read(),
        // Of a stream only what it gave was read.
        changed_bytes: plan.changed_bytes.unwrap_or(made.done.stats.read_bytes),
        parent: plan.parent.map(|p| p.0),
        origin: plan.origin.clone(),
        parent_known_by: plan.known_by(),
        stats: made.done.stats,
        levels: made.done.levels,
        lost: made.lost,
        remarks: Vec::new(),
        plan: plan.clone(),
        seconds: 0.0,
    }
}

/// Ends a backup that failed. Its outcome is settled in any case: if not here, then by the next backup of this host, or by prune.
pub(super) async fn give_up(cx: &Context<'_>, session: &Session, error: Error) -> Error {
    match session.give_up(&error.to_string()).await {
        // What it needed was then deleted, rightly: that is no damage.
        Ok(Committed::Lost { by, reason }) if error.kind() == ErrorKind::Corrupt => {
            lost(session, &by, &reason).caused_by(error)
        }
        Ok(Committed::Done | Committed::Lost { .. }) => error,
        Ok(Committed::Already) => error.help(format!(
            "backup {} was committed all the same and can be restored; the next one goes on from it",
            session.sequence
        )),
        Err(e) => {
            cx.remark(format!("backup {} could not be marked as aborted: {e}", session.sequence));
            error
        }
    }
}

/// What only a forgotten parent needed is deleted, rightly, also while a backup goes on from it: that is no damage.
pub(super) async fn unless_forgotten(error: Error, session: &Session, ground: &Ground) -> Error {
    let Some((volume, upon)) = ground.built_upon(&session.volume) else { return error };
    let sequence = upon.snapshot.sequence;
    match session.project.slot(volume.number, sequence).is_gone().await {
        Ok(true) => Error::conflict(format!(
            "backup {sequence} of {}, which this one went on from, was forgotten and pruned meanwhile",
            volume.name
        ))
        .help("run the backup again; what it uploaded is found and not uploaded twice")
        .caused_by(error),
        _ => error,
    }
}

/// Somebody ended this backup as aborted.
fn lost(session: &Session, by: &str, reason: &str) -> Error {
    Error::conflict(format!(
        "backup {} of {} was aborted by {by}: {reason}",
        session.sequence, session.volume.name
    ))
    .help("run the backup again; what it uploaded is found and not uploaded twice")
}
