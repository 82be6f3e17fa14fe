//! Plans one window after the other, ahead of who carries the plans out.

use tokio::sync::mpsc;

use crate::budget::Budget;
use crate::cancel::{Cancel, interrupted};
use crate::error::Result;
use crate::plan::restore::{Plan, Target, Totals, plan as plan_window};
use crate::reading::check_chunk_size;
use crate::reading::difference::Difference;
use crate::reading::local::LocalReader;
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::repo::walk::{Reading, Tree, Walk};
use crate::repo::windows::{Part, Windows};

pub(crate) struct Planner {
    pub(crate) project: Project,
    pub(crate) budget: Budget,
    windows: Windows<Reading>,
    target: Found,
    cancel: Cancel,
}

/// What was planned, all in all.
pub(crate) struct Planned {
    pub(crate) totals: Totals,
    /// Bytes of the target that were read to find out what it holds.
    pub(crate) target_read_bytes: u64,
}

/// What the target is.
pub(crate) enum Found {
    Blank,
    Nothing,
    /// What another snapshot says, page by page, but for what was written since.
    Since(Box<Difference>),
    Content(LocalReader),
}

impl Planner {
    pub(crate) fn new(
        project: &Project,
        snapshot: &SnapshotEntry,
        target: Found,
        budget: Budget,
        cancel: &Cancel,
    ) -> Result<Self> {
        check_chunk_size(project, &snapshot.snapshot)?;
        let walk = Walk::over(Reading(project.clone()), Tree::of(&snapshot.snapshot)?);
        let windows = match target {
            Found::Content(_) => Windows::compared(walk),
            _ => Windows::new(walk),
        };
        Ok(Self { project: project.clone(), budget, windows, target, cancel: cancel.clone() })
    }

    /// Whether the target's own account of what it holds is not relied upon.
    pub(crate) fn distrusts_target(&self) -> bool {
        matches!(self.target, Found::Content(_) | Found::Nothing)
    }

    pub(crate) fn target_is_blank(&self) -> bool {
        matches!(self.target, Found::Blank)
    }

    /// The next window's plan, or `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Plan>> {
        let mut cancel = self.cancel.clone();
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(interrupted()),
            plan = self.plan() => plan,
        }
    }

    async fn plan(&mut self) -> Result<Option<Plan>> {
        match &mut self.target {
            Found::Since(changes) => changes.next().await,
            _ => self.plan_window().await,
        }
    }

    async fn plan_window(&mut self) -> Result<Option<Plan>> {
        let Some(Part { window, .. }) = self.windows.next().await? else { return Ok(None) };
        let locals;
        let target = match &self.target {
            Found::Blank => Target::Blank,
            Found::Nothing | Found::Since(_) => Target::Nothing,
            Found::Content(reader) => {
                locals = reader.look(&window).await?;
                Target::Content(&locals)
            }
        };
        plan_window(&window, target).map(Some)
    }

    pub(crate) fn planned(self, totals: Totals) -> Planned {
        let target_read_bytes = match &self.target {
            Found::Blank | Found::Nothing => 0,
            Found::Since(changes) => changes.read_bytes(),
            Found::Content(reader) => reader.read_bytes(),
        };
        Planned { totals, target_read_bytes }
    }

    /// Plans ahead of who carries the plans out, and ends when nobody does any more.
    pub(crate) async fn send(mut self, plans: mpsc::Sender<Result<Plan>>) -> Planned {
        let mut totals = Totals::default();
        loop {
            let plan = match self.next().await {
                Ok(None) => break,
                Ok(Some(plan)) => {
                    totals += plan.totals;
                    Ok(plan)
                }
                Err(e) => Err(e),
            };
            let last = plan.is_err();
            if plans.send(plan).await.is_err() || last {
                break;
            }
        }
        self.planned(totals)
    }
}
