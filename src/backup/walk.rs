//! One backup, step by step: register, look at what there is, freeze, plan, read and encode and store, commit.
//!
//! A dry run takes the same steps, but for the first and the last, with a draft that only counts.

use std::sync::Arc;

use crate::backup::alive::SignsOfLife;
use crate::backup::carry;
use crate::backup::commit::{Made, commit, give_up, report, unless_forgotten};
use crate::backup::context::Context;
use crate::backup::fetched::Fetched;
use crate::backup::freeze::Held;
use crate::backup::ground::Ground;
use crate::backup::manifest::{Counted, Draft, Stored};
use crate::backup::patch::{self, Patching};
use crate::backup::plan::{self, Answer, Asked, BackupPlan, DeltaBase, Pieces};
use crate::backup::presence::LostReport;
use crate::backup::read::{self, Content, Deltas, Reading};
use crate::backup::store::Storer;
use crate::backup::unchanged::{self, Shown};
use crate::backup::who::{Past, Who, check_size};
use crate::backup::why::Distrust;
use crate::backup::{BackupReport, Input, learn};
use crate::chunker;
use crate::error::{Error, ErrorKind, Result};
use crate::keys::random_array;
use crate::reading::sample;
use crate::repo::Project;
use crate::repo::manifest::Manifest;
use crate::repo::session::Session;
use crate::source::{Changes, StreamHeader, StreamSource, Volume};
use crate::units::{ChunkIndex, Geometry, SnapshotId};
use crate::volume::{ImageLayout, SnapshotPoint};

/// Backs up, from the registration to the outcome.
pub(super) async fn back_up(cx: &Context<'_>, input: Input) -> Result<BackupReport> {
    let who = Who::of(&input).await?;
    let doubted = match unless_unchanged(cx, &who, &input).await? {
        Shown::Unchanged(report) => return Ok(*report),
        Shown::Changed(doubted) => doubted,
    };
    let volume = cx.project.volumes().ensure(&cx.options.volume, &who.identity).await?;
    let session = Session::register_among(cx.project, &volume, &cx.among.fleet.kept).await?;
    let _alive = SignsOfLife::of(&session, cx.options.alive_every);
    match registered(cx, &session, &who, doubted, input).await {
        Err(error) => Err(give_up(cx, &session, error).await),
        done => done,
    }
}

/// Whether there is anything to do, where that is asked for and can be told.
async fn unless_unchanged(cx: &Context<'_>, who: &Who, input: &Input) -> Result<Shown> {
    match input {
        Input::Volume(volume) if cx.options.skip_unchanged => unchanged::look(cx, who, volume).await,
        _ => Ok(Shown::Changed(Vec::new())),
    }
}

async fn registered(
    cx: &Context<'_>,
    session: &Session,
    who: &Who,
    doubted: Vec<ChunkIndex>,
    input: Input,
) -> Result<BackupReport> {
    let ground = Ground::registered(cx, session, who, header(&input)).await?;
    let walk = Walk { cx, who, ground: &ground, doubted };
    let done = match input {
        Input::Volume(volume) => walk.volume(session, volume).await,
        Input::Stream(source) => match walk.stream::<Stored>(source).await {
            Ok(made) => commit(cx, session, who, &ground, made).await,
            Err(error) => Err(error),
        },
    };
    match done {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            Err(unless_forgotten(error, session, &ground).await)
        }
        done => done,
    }
}

/// Reads and counts what a backup would store. Registers nothing and uploads nothing.
pub(super) async fn rehearse(cx: &Context<'_>, input: Input) -> Result<BackupReport> {
    let who = Who::of(&input).await?;
    let doubted = match unless_unchanged(cx, &who, &input).await? {
        Shown::Unchanged(report) => return Ok(*report),
        Shown::Changed(doubted) => doubted,
    };
    let ground = Ground::listed(cx, &who, header(&input)).await?;
    let walk = Walk { cx, who: &who, ground: &ground, doubted };
    let made = match input {
        Input::Volume(volume) => walk.rehearsed(volume).await?,
        Input::Stream(source) => {
            let states = source.header().states;
            if states > 1 {
                cx.remark(format!(
                    "the stream holds {states} states of the volume, each of which becomes a snapshot: here they are read as one"
                ));
            }
            walk.stream::<Counted>(source).await?
        }
    };
    Ok(report(cx, &made))
}

fn header(input: &Input) -> Option<&StreamHeader> {
    match input {
        Input::Volume(_) => None,
        Input::Stream(source) => Some(source.header()),
    }
}

struct Walk<'a> {
    cx: &'a Context<'a>,
    who: &'a Who,
    ground: &'a Ground,
    /// Chunks that are looked at beside those that are drawn.
    doubted: Vec<ChunkIndex>,
}

impl Walk<'_> {
    fn past(&self) -> Past<'_> {
        self.ground.past(self.cx, self.who)
    }

    /// Freezes a volume, backs it up, and lets go of what held it still.
    async fn volume(&self, session: &Session, volume: Arc<dyn Volume>) -> Result<BackupReport> {
        let asked = self.ask()?;
        let held = Held::freeze(self.cx, volume, &asked, &format!("{:010}", session.sequence)).await?;
        let committed = match held.check(self.held(&held, &asked).await).await {
            Ok(made) => commit(self.cx, session, self.who, self.ground, made).await,
            Err(error) => Err(error),
        };
        let (ended, what) = match &committed {
            // The backup stands. A snapshot too many costs space, not safety.
            Ok(_) => (held.keep().await, "older snapshots of the source"),
            Err(_) => (held.discard().await, "the snapshot made for this backup"),
        };
        if let Err(e) = ended {
            self.cx.remark(format!("{what} could not be removed: {e}"));
        }
        committed
    }

    /// Reads what changed; all, when the source was found to have missed a change.
    async fn held(&self, held: &Held, asked: &Asked) -> Result<Made<Stored>> {
        let answer = self.answer(held).await?;
        let plan = self.plan(asked, &answer, None).await?;
        let distrust = match self.execute(held, plan).await? {
            Ok(made) => return Ok(made),
            Err(distrust) => distrust,
        };
        let plan = self.plan(asked, &answer, Some(distrust)).await?;
        let made = self.execute(held, plan).await?;
        made.map_err(|_| Error::internal("a full read was found to miss changes"))
    }

    async fn rehearsed(&self, volume: Arc<dyn Volume>) -> Result<Made<Counted>> {
        let asked = self.ask()?;
        let name = format!("dry-run-{}", SnapshotId(random_array()?));
        let held = Held::freeze(self.cx, volume, &asked, &name).await?;
        let counted = self.counted(&held, &asked).await;
        if let Err(e) = held.discard().await {
            self.cx.remark(format!("the snapshot made for this dry run stays: {e}"));
        }
        counted
    }

    async fn counted(&self, held: &Held, asked: &Asked) -> Result<Made<Counted>> {
        let answer = self.answer(held).await?;
        let plan = self.plan(asked, &answer, None).await?;
        match self.execute(held, plan).await? {
            Ok(made) => Ok(made),
            Err(distrust) => {
                self.plan(asked, &answer, Some(distrust)).await?;
                Err(Error::corrupt("the source cannot be relied on; a backup would read all of it"))
            }
        }
    }

    fn ask(&self) -> Result<Asked> {
        let asked = plan::ask(&self.past())?;
        self.cx.remarks(&asked.remarks);
        Ok(asked)
    }

    async fn answer(&self, held: &Held) -> Result<Answer> {
        let mut answer = held.answer(self.cx).await?;
        if let Changes::Since(_) = answer.changes {
            answer.forbidden = self.ground.forbidden_chunks().await?;
        }
        Ok(answer)
    }

    /// Decides, and tells what must be told of it.
    async fn plan(&self, asked: &Asked, answer: &Answer, distrust: Option<Distrust>) -> Result<BackupPlan> {
        let mut plan = plan::plan(&self.past(), asked, answer, distrust)?;
        let upon = self.past().compared_with();
        if let (Pieces::Chunks(chunks), Some(upon), false) = (&plan.pieces, upon, plan.is_full_read()) {
            let (before, cursor) = (&self.ground.before, plan.sample_cursor);
            let sample = sample::choose(before, &chunks.spans, cursor, upon.snapshot_id).await?;
            let doubted = self.doubted.iter().filter(|index| !chunker::contains(&chunks.spans, **index));
            let looked_at = sample.chunks.into_iter().chain(doubted.copied()).collect();
            plan = plan.with_sample(looked_at, sample.next_cursor);
        }
        self.cx.remarks(&plan.remarks);
        Ok(plan)
    }

    /// Does what the plan says: no more decisions. Ends early where the source is found to have been wrong.
    async fn execute<D: Draft>(&self, held: &Held, plan: BackupPlan) -> Result<Result<Made<D>, Distrust>> {
        let Self { cx, ground, .. } = self;
        let Pieces::Chunks(chunks) = &plan.pieces else {
            return Err(Error::internal("a volume that can be read anywhere is no stream"));
        };
        let encoder = learn::encoder(cx, ground, Some(chunks.total_bytes())).await?;
        cx.progress.phase("backing up", Some(chunks.total_bytes()));
        let (frozen, geometry) = (held.frozen(), chunks.geometry);
        let deltas = plan.deltas.and_then(|deltas| {
            let base = match deltas.base {
                DeltaBase::Source => Content::Source(frozen.base_reader()?),
                DeltaBase::Repository => {
                    Content::Repository(Fetched::new(cx.project, &ground.before, cx.options.delta))
                }
            };
            Some(Deltas { base, depth_max: deltas.depth_max })
        });
        let reading = Reading {
            plan: Arc::clone(chunks),
            source: frozen.reader(),
            before: Arc::clone(&ground.before),
            forbidden: Arc::clone(&ground.forbidden),
            deltas,
            budget: cx.budget.clone(),
        };
        let draft = D::new(cx, ground, Arc::clone(&ground.before), geometry);
        let mut storer = Storer::new(cx, encoder, draft);
        read::run(reading, &mut storer, &mut cx.cancel.clone()).await?;
        if let Some(distrust) = storer.distrust {
            return Ok(Err(distrust));
        }
        carry::run(&mut storer, &ground.sparse, &ground.forbidden, &cx.budget).await?;
        storer.stats.read_bytes = chunks.read_bytes();
        let (point, layout) = (frozen.point(), frozen.layout());
        let (done, size_bytes, lost) = (storer.finish()?, geometry.size_bytes, ground.lost);
        Ok(Ok(Made { plan, done, point, layout, size_bytes, lost }))
    }

    async fn stream<D: Draft>(&self, source: Box<dyn StreamSource>) -> Result<Made<D>> {
        let Self { cx, ground, .. } = self;
        let header = source.header().clone();
        let plan = plan::plan_stream(&self.past(), &header)?;
        cx.remarks(&plan.remarks);
        let encoder = learn::encoder(cx, ground, header.size_bytes).await?;
        // What a full stream does not mention is zero, whatever was there.
        let base = match plan.is_full_read() {
            false => Arc::clone(&ground.before),
            true => Arc::new(Manifest::zero(cx.project, Geometry::new(0, cx.project.chunk_size_bytes())?)),
        };
        cx.progress.phase("backing up", header.size_bytes.filter(|_| plan.is_full_read()));
        let geometry = base.geometry();
        let mut storer = Storer::new(cx, encoder, D::new(cx, ground, base, geometry));
        let patching = Patching {
            project: Project::clone(cx.project),
            before: Arc::clone(&ground.before),
            forbidden: Arc::clone(&ground.forbidden),
            delta_depth_max: plan.deltas.map(|deltas| deltas.depth_max),
            budget: cx.budget.clone(),
        };
        let size_bytes = patch::run(&patching, source, &mut storer, &mut cx.cancel.clone()).await?;
        carry::run(&mut storer, &ground.sparse, &ground.forbidden, &cx.budget).await?;
        cx.remarks(&check_size(&self.past(), size_bytes, !header.has_end)?);
        let done = storer.finish()?;
        if done.kept_lost > 0 {
            cx.remark(format!(
                "THIS BACKUP IS HURT: it goes on naming {} chunks that are lost, as the stream does not have them. Repair them \
                 with `cuttle verify --read-data --repair --repair-from IMAGE`, or back up a full stream",
                done.kept_lost
            ));
        }
        let point = header.to.map(SnapshotPoint::named);
        // A diff carries no layout; what the last backup knew of the image still holds.
        let layout = match (&ground.parent, header.layout == ImageLayout::default()) {
            (Some(parent), true) => parent.snapshot.layout.clone(),
            _ => header.layout,
        };
        let lost = LostReport { kept_hurt_chunks: done.kept_lost, ..ground.lost };
        Ok(Made { plan, done, point, layout, size_bytes, lost })
    }
}
