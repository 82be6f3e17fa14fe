//! `cuttle backup`: backs up volumes, several at once, each on its own.

mod families;
mod report;
mod sources;

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use futures::{StreamExt, stream};

use cuttle::backup::{
    self, Backed, BackupOptions, BackupReport, DeltaMode, FULL_EVERY_DEFAULT, Fleet, INFLIGHT_BYTES_DEFAULT,
    Input,
};
use cuttle::diff::Limits;
use cuttle::plan::level::Level;
use cuttle::plan::shard::Shard;
use cuttle::progress::Progress;
use cuttle::repo::Writer;
use cuttle::source::diff_stream;
use cuttle::source::raw_file::RawFile;
use cuttle::source::rbd::{RbdOptions, RbdVolume};
use cuttle::units::{VOLUME_SIZE_BYTES_MAX, VolumeName};
use cuttle::{Result, cpu};

use super::bar::{Bar, Words};
use super::connect::{self, blocking};
use super::place::{Source, hint_at_rbd, standard_input};
use super::producer::Producer;
use super::several::Fate;
use super::tag::parse_tag;
use super::{Context, Exit, human};
use report::Gathered;
use sources::{Job, Reached, Sources};

const WORDS: Words = Words { unit: "chunk", new: "new", known: "known", zero: "zero" };
/// Volumes at once unless told otherwise: while one waits for its snapshot or its last upload, the other reads.
const JOBS_DEFAULT: u32 = 2;
const JOBS_MAX: i64 = 64;
/// Volumes share this, so that memory does not grow with `--jobs`.
const INFLIGHT_BYTES_ALL: u64 = INFLIGHT_BYTES_DEFAULT;

const EXAMPLES: &str = "\
SOURCE is one of
  rbd:[POOL/[NAMESPACE/]]IMAGE    an image: cuttle makes a snapshot, backs it up, and keeps it as the base of the next
  rbd:[POOL/[NAMESPACE/]]IMAGE@SNAP    this snapshot of it
  rbd:POOL/*                      all images of a pool (quote it)
  PATH                            a file or block device that nothing writes to meanwhile
  -                               standard input: `rbd export-diff`, `rbd export --export-format 2`, or raw bytes

The volume of rbd:vms/db is named vms/db, that of a file by its file name. What a name may not hold (control characters,
'@', '/' within an image's name, '%' itself) is written as % and two hexadecimal digits, here and in the volume's name: rbd:vms/a%40b
is the image a@b, rbd:vms/%2A the one whose name is *. A source that fails does not stop the others; a volume that another host is
backing up just now is skipped.

Better than a pipe is --from-command: then cuttle runs the command, and what it prints counts only if it ends with exit code 0.
A pipe does not tell whether its writer died. Diffs and exports of format 2 show their end, and one that was cut is refused. Raw
bytes do not: refused are those that are fewer than the last backup has (or than --size says), and a volume that grew since may
still be cut. An export of format 2 with snapshots becomes a backup for each snapshot and one for the image. Where it is cut,
those that are whole stay.

A diff names the snapshot that it is relative to, and is refused unless the volume was last backed up from one of that name. It
does not say which snapshot that was: one that was removed and made anew under the same name is taken for the other. Never use
a name twice, or back up rbd:IMAGE@SNAP, of which cuttle knows the id.

Each backup looks whether a thirtieth of what it builds on is there. What is lost is recorded, and read from the source
and stored again. The exit code is 3 when something was found lost, or a stream does not have what is lost: \"hurt\".

Examples:
  cuttle backup rbd:vms/web rbd:vms/db --tag nightly
  cuttle backup 'rbd:vms/*' --jobs 4
  cuttle backup 'rbd:vms/*' --skip-unchanged    no new snapshot of images that did not change
  cuttle backup 'rbd:vms/*' --shard 1/3    a third of them; two other hosts run it with 2/3 and 3/3
  cuttle backup /dev/vg0/snap --volume web-root
  cuttle backup --volume vms/db --from-command -- rbd export-diff --from-snap mon vms/db@tue -
  ssh host rbd export-diff vms/db@mon - | cuttle backup - --volume vms/db
  cuttle backup -n rbd:vms/db     what would be read and why, and what would be new; nothing is uploaded";

/// Back up volumes
///
/// The first backup of a volume reads all of it, the following ones what changed. Chunks that the project has already
/// are not stored again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// What to back up
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<String>,
    /// Back up what a command prints: SOURCE is then the command and its arguments, after --. No shell is involved
    #[arg(long)]
    from_command: bool,
    /// Name of the volume, where the source's own is not wanted
    #[arg(long, value_name = "NAME")]
    volume: Option<VolumeName>,
    /// Mark the snapshot; may be repeated
    #[arg(long = "tag", value_name = "TAG[,TAG…]", value_delimiter = ',', value_parser = parse_tag)]
    tags: Vec<String>,
    /// Read all of the volume, not only what is reported as changed
    #[arg(long)]
    full: bool,
    /// Read all of the volume when N backups did not; 0 for never
    #[arg(long, value_name = "N", default_value_t = FULL_EVERY_DEFAULT)]
    full_every: u32,
    /// Make no snapshot of an image of which Ceph says that nothing changed since the last, and a sample of it agrees
    #[arg(long, conflicts_with = "full")]
    skip_unchanged: bool,
    /// Go on under the volume's name although it is another image than before: it was moved or restored
    #[arg(long)]
    accept_new_identity: bool,
    /// Go on although there are fewer raw bytes than in the last backup: the volume was made smaller
    #[arg(long)]
    accept_smaller: bool,
    /// How large the volume on standard input or from a command is; raw bytes of another number are refused
    #[arg(long, value_name = "SIZE", value_parser = human::parse_exact_size, conflicts_with = "accept_smaller")]
    size: Option<u64>,
    /// Only volumes in the I-th of N shares, by their names alone: several hosts share the work without talking to each other
    #[arg(long, value_name = "I/N", conflicts_with = "volume")]
    shard: Option<Shard>,
    /// Back up so many volumes at once
    #[arg(short, long, value_name = "N", default_value_t = JOBS_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=JOBS_MAX))]
    jobs: u32,
    /// Compression level of zstd, from -7 to 19; auto: 1, and up to 9 while the store is what the backup waits for
    #[arg(long, value_name = "LEVEL", default_value_t = Level::Auto, allow_negative_numbers = true)]
    #[arg(hide_short_help = true)]
    level: Level,
    /// Decode every new chunk before it is uploaded, against memory that forgets
    #[arg(long, hide_short_help = true)]
    check_encoding: bool,
    /// When new chunks are stored as the difference from what was there before [default: auto]
    ///
    /// That is read from the image's base snapshot. A file or block device has none: then it is fetched from the repository, with `auto` from a
    /// local one, and from others while it comes fast and no --limit-download is set. Where a provider charges for what leaves it,
    /// `never` may be cheaper.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Delta::Auto, hide_default_value = true)]
    delta: Delta,
    /// Fail rather than have librbd take an image's lock from a client that does not answer, and cut that off from the cluster
    #[arg(long)]
    no_break_lock: bool,
    /// Back up clones with a LUKS key of their own, which can be restored only over a clone of their restored parent
    #[arg(long, hide_short_help = true)]
    luks_clones: bool,
    /// Largest volume taken from standard input
    #[arg(long, value_name = "SIZE", value_parser = human::parse_size_nonzero, hide_short_help = true)]
    max_size: Option<u64>,
}

/// When deltas are made.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Delta {
    /// Against the image's base snapshot, or what the repository has where fetching that is cheap
    Auto,
    /// Whatever it costs to fetch what the repository has
    Always,
    /// Not at all
    Never,
}

impl From<Delta> for DeltaMode {
    fn from(delta: Delta) -> Self {
        match delta {
            Delta::Auto => Self::Auto,
            Delta::Always => Self::Always,
            Delta::Never => Self::Never,
        }
    }
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let started = Instant::now();
    let places = match args.from_command {
        true => vec![Source::Command(args.sources.clone())],
        false => args.sources.iter().map(|source| source.parse()).collect::<Result<Vec<_>>>()?,
    };
    sources::check(&places, args.volume.as_ref())?;
    sources::check_size(&places, args.size)?;
    let streamed = places.contains(&Source::Stdin);
    let project = connect::writer(context, streamed).await?;
    let Sources { mut jobs, failed } =
        sources::resolve(context, &places, args.volume.as_ref()).await?.in_shard(args.shard);
    if jobs.len() > 1 {
        families::order(context, &project, &mut jobs).await?;
    }
    let mut report = Gathered::new(context, jobs.len() + failed.len());
    for (source, failure) in failed {
        report.add(&source, &source, &[], &Fate::Failed(failure))?;
    }
    let several = jobs.len() > 1;
    let fleet = several.then(|| Arc::new(Fleet::default()));
    let night = &Night { context, project: &project, args: &args, several, fleet };
    for level in 0..=jobs.iter().map(|job| job.level).max().unwrap_or(0) {
        let mut running = stream::iter(jobs.iter().filter(|job| job.level == level))
            .map(|job| async move {
                let mut done = Vec::new();
                let fate = Fate::of(&night.context.cancel, night.back_up(job, &mut done)).await;
                (job, done, fate)
            })
            .buffer_unordered(args.jobs as usize);
        while let Some((job, done, fate)) = running.next().await {
            report.add(&job.source, job.volume.as_str(), &done, &fate)?;
        }
    }
    report.finish(project.repository().store().ledger(), started.elapsed())
}

/// What all volumes of one run share.
struct Night<'a> {
    context: &'a Context<'a>,
    project: &'a Writer,
    args: &'a Args,
    several: bool,
    fleet: Option<Arc<Fleet>>,
}

impl Night<'_> {
    /// Backs up a volume, and first those of its snapshots that clones in this run hang on.
    async fn back_up(&self, job: &Job, done: &mut Vec<BackupReport>) -> Result<()> {
        let mut failed = None;
        for origin in families::due(self.context, self.project, job).await? {
            if let Err(error) = self.one(&origin, done).await {
                self.context.cancel.check()?;
                failed.get_or_insert(error.context(origin.source));
            }
        }
        let before = done.len();
        self.one(job, done).await?;
        let foresees = |report: &BackupReport| report.origin.is_some() || report.parent.is_some();
        if let (true, Some(parent)) = (self.context.global.dry_run, &job.parent)
            && !done.iter().skip(before).all(foresees)
        {
            self.context.ui.remark(&format!(
                "{}: once {parent} is backed up, which comes before it, only what it has of its own is read",
                job.volume
            ));
        }
        failed.map_or(Ok(()), Err)
    }

    /// Backs up all that a source holds; what is committed is in `done`, also where the rest fails.
    async fn one(&self, job: &Job, done: &mut Vec<BackupReport>) -> Result<()> {
        let bar = Bar::new(self.context.ui, job.volume.as_str(), WORDS, self.several);
        let mut producer = None;
        let backed = match self.input(job, &mut producer).await {
            Ok(input) => {
                let progress: Arc<dyn Progress> = bar.clone();
                let cancel = self.context.cancel.clone();
                backup::run_all(self.project, input, &self.options(job), progress, cancel).await
            }
            Err(error) => Backed { done: Vec::new(), error: Some(error) },
        };
        if let Some(producer) = producer {
            let stop = move || {
                producer.stop();
                Ok(())
            };
            cpu::block(stop).await?;
        }
        bar.done();
        done.extend(backed.done);
        backed.error.map_or(Ok(()), Err)
    }

    fn options(&self, job: &Job) -> BackupOptions {
        let args = self.args;
        let at_once = if self.several { u64::from(args.jobs.max(1)) } else { 1 };
        BackupOptions {
            tags: args.tags.clone(),
            full: args.full,
            full_every: args.full_every,
            skip_unchanged: args.skip_unchanged,
            accept_new_identity: args.accept_new_identity,
            accept_smaller: args.accept_smaller,
            size_bytes: args.size,
            inflight_bytes: (INFLIGHT_BYTES_ALL / at_once).min(INFLIGHT_BYTES_DEFAULT),
            level: args.level,
            check_encoding: args.check_encoding,
            delta: args.delta.into(),
            dry_run: self.context.global.dry_run,
            fleet: self.fleet.clone(),
            ..BackupOptions::new(job.volume.clone())
        }
    }

    async fn input(&self, job: &Job, producer: &mut Option<Producer>) -> Result<Input> {
        match &job.reached {
            Reached::Image(cluster, spec) => {
                let (cluster, spec) = (cluster.clone(), spec.clone());
                let (keep_locks, luks_clones) = (self.args.no_break_lock, self.args.luks_clones);
                let options = RbdOptions { keep_locks, luks_clones };
                let volume =
                    blocking(self.context, move || RbdVolume::open_with(&cluster, &spec, options)).await?;
                Ok(Input::Volume(Arc::new(volume)))
            }
            Reached::File(path) => {
                let at = path.clone();
                let found = blocking(self.context, move || RawFile::find(&at)).await;
                Ok(Input::Volume(Arc::new(found.map_err(|e| hint_at_rbd(e, path))?)))
            }
            Reached::Stdin => self.stream(standard_input()?).await,
            Reached::Command(words) => {
                let (started, output) = Producer::start(words)?;
                *producer = Some(started);
                self.stream(output).await
            }
        }
    }

    async fn stream(&self, read: impl Read + Send + 'static) -> Result<Input> {
        let limits = Limits { size_bytes_max: self.args.max_size.unwrap_or(VOLUME_SIZE_BYTES_MAX) };
        blocking(self.context, move || diff_stream::open(read, limits)).await.map(Input::Stream)
    }
}
