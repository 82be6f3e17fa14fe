//! `cuttle restore --instant`: an image that can be used while it is copied.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use cuttle::instant::{Begun, HISTORY_MAX, InstantPlan, InstantReport, InstantRestore};
use cuttle::progress::Progress;
use cuttle::rbd::advice::quoted;
use cuttle::reading::snapshot::MEMORY_BYTES_DEFAULT;
use cuttle::repo::Project;
use cuttle::repo::history::SnapshotEntry;
use cuttle::{Error, Result};

use super::bar::{Bar, Words};
use super::place::Target;
use super::plan::{self, Plan};
use super::report::{Report, ledger_line, lines};
use super::restore::How;
use super::table::printable;
use super::{Context, Exit, Ui, connect, human};

const WORDS: Words = Words { unit: "chunk", new: "copied", known: "", zero: "" };
const HEADING: &str = "Instant restore";

/// What --instant takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Make an RBD image that can be used at once; its content is copied while it is used (Ceph's live migration)
    #[arg(long, help_heading = HEADING, conflicts_with_all = ["overwrite", "no_compare"])]
    pub instant: bool,
    /// The N snapshots before this one become RBD snapshots of the image
    #[arg(long, value_name = "N", requires = "instant", conflicts_with = "resume", help_heading = HEADING)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=HISTORY_MAX as i64))]
    history: Option<u32>,
    /// Go on with an instant restore that was interrupted; --listen names the address that it told
    #[arg(long, requires = "instant", help_heading = HEADING)]
    resume: bool,
    /// Address of this host that the image's users reach until it is copied; anything but this host itself needs another one
    #[arg(long, value_name = "ADDRESS:PORT", requires = "instant", default_value = "127.0.0.1:0", help_heading = HEADING)]
    listen: SocketAddr,
}

/// What would be done.
#[derive(Serialize)]
struct Planned<'a> {
    target: String,
    /// Whether an interrupted restore would be gone on with.
    resumes: bool,
    #[serde(flatten)]
    found: &'a InstantPlan,
}

#[derive(Serialize)]
struct Usable {
    target: String,
    address: SocketAddr,
    seconds: f64,
    /// The command that goes on with it, should this process die.
    resume: String,
}

#[derive(Serialize)]
struct Summary<'a> {
    target: String,
    #[serde(flatten)]
    report: &'a InstantReport,
}

pub async fn run(
    context: &Context<'_>,
    snapshot: &str,
    target: Target,
    how: &How,
    options: Options,
) -> Result<Exit> {
    let Target::Image(target) = target else {
        return Err(Error::invalid(format!("{target}: expected an RBD image as target of --instant")).help(
            "write rbd:[POOL/[NAMESPACE/]]IMAGE; for other targets see `cuttle serve` and `cuttle mount`",
        ));
    };
    let ceph = connect::ceph_config(context)?;
    let project = connect::data(context).await?;
    let entry = project.volumes().snapshot(snapshot).await?;
    // Which of them an interrupted restore took along, its image knows.
    let older_max = if options.resume { usize::MAX } else { options.history.unwrap_or(0) as usize };
    let snapshots = match older_max {
        0 => vec![entry.clone()],
        _ => with_history(&project, entry.clone(), older_max).await?,
    };
    let restore = InstantRestore {
        project,
        ceph,
        target,
        listen: options.listen,
        memory_bytes: MEMORY_BYTES_DEFAULT,
        data_pool: how.data_pool.clone(),
        image_config: how.image_config,
    };
    if context.global.dry_run {
        let cancel = context.cancel.clone();
        let found = match options.resume {
            true => restore.plan_resume(snapshots, cancel).await?,
            false => restore.plan(snapshots, cancel).await?,
        };
        let planned = Planned { target: restore.target.to_string(), resumes: options.resume, found: &found };
        plan::tell(context, &planned, &restore.project.repository().store().ledger())?;
        return Ok(Exit::Success);
    }
    let name = entry.name();
    let bar = Bar::new(context.ui, &name, WORDS, false);
    let (progress, cancel): (Arc<dyn Progress>, _) = (bar.clone(), context.cancel.clone());
    let (ui, target) = (context.ui.clone(), restore.target.to_string());
    let given = context.global.given();
    let usable = move |begun: &Begun| tell_usable(&ui, &given, &target, &name, begun);
    let report = match options.resume {
        true => restore.resume(snapshots, &usable, progress, cancel).await,
        false => restore.run(snapshots, &usable, progress, cancel).await,
    };
    bar.done();
    context.ui.report(&Summary { target: restore.target.to_string(), report: &report? })?;
    Ok(Exit::Success)
}

/// The snapshot and up to `count` before it, oldest first.
async fn with_history(project: &Project, entry: SnapshotEntry, count: usize) -> Result<Vec<SnapshotEntry>> {
    let catalog = project.volumes().confirmed().await?;
    let volume = catalog
        .by_number(entry.snapshot.volume)
        .ok_or_else(|| Error::internal("a snapshot without its volume"))?;
    let mut all = project.history(volume).snapshots().await?;
    all.retain(|other| other.snapshot.sequence < entry.snapshot.sequence);
    let mut found = all.split_off(all.len().saturating_sub(count));
    found.push(entry);
    Ok(found)
}

fn tell_usable(ui: &Ui, given: &str, target: &str, name: &str, begun: &Begun) {
    let Begun { address, seconds } = *begun;
    let name = quoted(&printable(name));
    let resume =
        format!("cuttle restore{given} --instant --resume --listen {address} {name} {}", quoted(target));
    if !ui.is_json() {
        ui.remark(&format!(
            "it is copied meanwhile, and reads from here until it is done. If this should die, go on with\n  {resume}"
        ));
    }
    // Where nobody reads it, nothing more can be said.
    let _ = ui.report(&Usable { target: target.to_owned(), address, seconds, resume });
}

impl Plan for Planned<'_> {
    fn told(&self) -> String {
        let Self { target, resumes, found } = self;
        let (size, from) = (human::size(found.size_bytes), format!("{}@{}", found.volume, found.sequence));
        let verb = if *resumes { "be gone on with" } else { "be made" };
        let names: Vec<&str> = found.history.iter().map(|h| h.name.as_str()).collect();
        let history = match names.is_empty() {
            true => String::new(),
            false => format!("; its snapshots: {}", names.join(", ")),
        };
        printable(&format!(
            "{target} ({size}) would {verb} from {from}, and read from {} until it is copied{history}",
            found.address
        ))
    }
}

impl Report for Usable {
    const MESSAGE_TYPE: &'static str = "usable";

    fn answer(&self) -> String {
        format!("{} can be used now, after {}", self.target, human::duration(self.seconds))
    }
}

impl Report for Summary<'_> {
    fn summary(&self) -> String {
        let Self { target, report } = self;
        let (size, time) = (human::size(report.size_bytes), human::duration(report.seconds));
        let from = printable(&format!("{}@{}", report.volume, report.sequence));
        let names: Vec<&str> = report.history.iter().map(|h| h.name.as_str()).collect();
        let history = match names.is_empty() {
            true => String::new(),
            false => format!("its snapshots: {}", printable(&names.join(", "))),
        };
        lines([
            format!("restored {from} ({size}) to {target} in {time}; it depends on nothing any more"),
            history,
            ledger_line(&report.ledger),
        ])
    }
}
