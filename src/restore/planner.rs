//! Plans one window after the other, ahead of who carries the plans out.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::budget::Budget;
use crate::cancel::{Cancel, interrupted};
use crate::error::Result;
use crate::plan::restore::{Plan, Target, Totals, plan as plan_window};
use crate::progress::Progress;
use crate::reading::changes::Changes;
use crate::reading::check_chunk_size;
use crate::reading::local::LocalReader;
use crate::reading::windows::Windows;
use crate::repo::Project;
use crate::repo::log::SnapshotEntry;
use crate::repo::manifest::Manifest;
use crate::restore::{RestoreOptions, rewind};
use crate::sink::Existing;
use crate::source::ReadAt;

pub(crate) struct Planner {
    windows: Windows,
    target: Found,
    pub(crate) budget: Budget,
    cancel: Cancel,
    rewound_from: Option<u32>,
}

/// What was planned, all in all.
pub(crate) struct Planned {
    pub(crate) totals: Totals,
    /// Bytes of the target that were read to find out what it holds.
    pub(crate) target_read_bytes: u64,
    /// The backup that told what else it holds.
    pub(crate) rewound_from: Option<u32>,
}

/// What the target is.
enum Found {
    Blank,
    Nothing,
    /// What another snapshot says, page by page, but for what was written since.
    Since(Changes),
    Content(LocalReader),
}

impl Planner {
    pub(crate) async fn new(
        project: &Project,
        snapshot: &SnapshotEntry,
        existing: Existing,
        options: &RestoreOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Self> {
        check_chunk_size(project, &snapshot.snapshot)?;
        let budget = Budget::new(options.inflight_bytes);
        let reader = |reader: Arc<dyn ReadAt>| LocalReader::new(project.clone(), reader, budget.clone());
        let mut rewound_from = None;
        let target = match existing {
            _ if options.since.is_some() => {
                let since = options.since.as_ref().map(|since| &since.snapshot);
                Found::Since(Changes::between(project, since, &snapshot.snapshot)?)
            }
            Existing::Blank if options.trust_blank => Found::Blank,
            Existing::Content(content) if options.compare => {
                let content = reader(content);
                let rewind = options.rewind.as_ref();
                match rewind::plan(&content, snapshot, rewind, progress).await? {
                    Some((base, spans)) => {
                        rewound_from = Some(base.sequence.0);
                        let changes = Changes::between(project, Some(base), &snapshot.snapshot)?;
                        Found::Since(changes.written_since(content, spans))
                    }
                    None => Found::Content(content),
                }
            }
            Existing::Blank | Existing::Nothing | Existing::Content(_) => Found::Nothing,
        };
        let compared = matches!(target, Found::Content(_));
        let windows = Windows::new(Manifest::of(project, &snapshot.snapshot)?, compared);
        Ok(Self { windows, target, budget, cancel: cancel.clone(), rewound_from })
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
        let Some(window) = self.windows.next().await? else { return Ok(None) };
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
        Planned { totals, target_read_bytes, rewound_from: self.rewound_from }
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
