//! Fills a sink with a snapshot: what it lacks is planned ahead, fetched, checked and written. Restores and exports end here.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::cancel::Cancel;
use crate::cpu;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::reading::need::neighbours_bytes;
use crate::repo::Project;
use crate::repo::neighbours::Neighbours;
use crate::restore::planner::{Planned, Planner};
use crate::restore::work::Work;
use crate::restore::{any, ascending};
use crate::sink::{Order, Sink};

/// Chunks of a local store that are read and decoded at once, for each thread that decodes. It answers at once, so more of them
/// would only wait for their turn, and be gone from the CPU's cache when it comes: a restore takes 7 % longer.
const LOCAL_CHUNKS_PER_THREAD: usize = 3;

/// Carries out all that is planned. What was written is right when this fails, and nothing is being written any more to a sink that takes any order.
pub(crate) async fn fill(
    planner: Planner,
    sink: Arc<dyn Sink>,
    progress: Arc<dyn Progress>,
    cancel: &mut Cancel,
) -> Result<Planned> {
    if planner.distrusts_target() {
        let sink = Arc::clone(&sink);
        cpu::block(move || sink.distrust()).await?;
    }
    let order = sink.order();
    let work = Arc::new(Work {
        project: planner.project.clone(),
        sink,
        budget: planner.budget.clone(),
        neighbours: Neighbours::new(&planner.project, neighbours_bytes(&planner.budget)),
        progress,
        blank: planner.target_is_blank(),
        luks: AtomicBool::new(false),
        ahead: Semaphore::new(chunks_ahead_max(&planner.project)),
    });
    let (sender, mut plans) = mpsc::channel(1);
    // Dropped with this function, whatever ends it.
    let mut planning = JoinSet::new();
    planning.spawn(planner.send(sender));
    match order {
        Order::Any => any::carry_out(&work, &mut plans, cancel).await?,
        Order::Ascending => ascending::carry_out(&work, &mut plans, cancel).await?,
    }
    let planned = match planning.join_next().await {
        Some(Ok(planned)) => planned,
        _ => return Err(Error::internal("the planning task failed")),
    };
    cancel.check()?;
    Ok(planned)
}

fn chunks_ahead_max(project: &Project) -> usize {
    match project.repository().store().is_local() {
        true => LOCAL_CHUNKS_PER_THREAD * cpu::threads(),
        false => Semaphore::MAX_PERMITS,
    }
}
