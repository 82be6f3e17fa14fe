//! A simulated world: its template, its hosts, and the schedule that a seed decides.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cuttle::backup::Fleet;
use cuttle::cancel::Canceller;
use cuttle::plan::lease::LEASE_DEFAULT;
use cuttle::prune::PruneReport;
use cuttle::repo::{InitOptions, Repository};
use cuttle::store::{Limits, Store};
use cuttle::{Error, ErrorKind, Result, cpu, random};
use tokio::task::{JoinHandle, LocalSet};

use crate::actors::{self, Done, Process, Said, Task};
use crate::dice::Dice;
use crate::lies::Lie;
use crate::log::Log;
use crate::objects::Objects;
use crate::oracle::{Oracle, PLANTED_MAX};
use crate::plants::{self, Plants};
use crate::store::{Actor, Fate, Op, Sim};
use crate::support::by_hand::ByHand;
use crate::support::repo::{CHUNK, environment, secret};
use crate::volume::SimVolume;

/// The longest that a client's clock is wrong.
const SKEW_DAYS_MAX: i64 = 30;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Steps after which somebody waits for what never comes.
const STEPS_MAX: u64 = 100_000;

/// What a run came to.
pub struct Outcome {
    pub digest: u64,
    pub requests: u64,
    pub lines: Vec<String>,
    /// What must not happen and did.
    pub violation: Option<String>,
}

/// Runs one world to its end, on this thread alone.
pub fn run(seed: u64, lie: Option<Lie>, keep_log: bool) -> Outcome {
    let _inline = cpu::inline();
    let template = template(seed % 4);
    let _seeded = random::from_seed(seed);
    actors::nobody_is_alive();
    let runtime = runtime();
    LocalSet::new().block_on(&runtime, async {
        let mut world = World::new(seed, &template, lie, Log::new(keep_log));
        let ended = world.live().await;
        let mut state = world.sim.lock();
        if let Err(what) = ended {
            state.oracle.violated(what);
        }
        Outcome {
            digest: state.log.digest(),
            requests: state.requests(),
            lines: state.log.lines.take().unwrap_or_default(),
            violation: state.oracle.violation.take(),
        }
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

/// A new repository, and its keys.
#[derive(Clone)]
struct Template {
    objects: Objects,
    hand: Arc<ByHand>,
}

/// Made once on each thread: making one costs as much as a whole world.
fn template(number: u64) -> Template {
    thread_local! {
        static MADE: RefCell<BTreeMap<u64, Template>> = const { RefCell::new(BTreeMap::new()) };
    }
    if let Some(found) = MADE.with_borrow(|made| made.get(&number).cloned()) {
        return found;
    }
    let _seeded = random::from_seed(number);
    let made = runtime().block_on(async {
        let objects = Arc::new(object_store::memory::InMemory::new());
        let limits = Limits { jitter_seed: Some(1), ..Limits::default() };
        let store = Store::with_object_store(objects.clone(), limits);
        let (secret, options) = (secret(), InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 2 });
        let unlock = number.is_multiple_of(2).then_some(&secret);
        Repository::init(store, environment(), &options, unlock).await.expect("a new repository");
        let hand = ByHand::open(objects.clone(), &secret, "default").await;
        let mut all = Objects::default();
        for name in crate::support::by_hand::names(&*objects, "").await {
            let bytes = crate::support::by_hand::get(&*objects, &name).await;
            all.put(&name, crate::objects::Object { bytes, modified_unix_ms: 0 });
        }
        all.settle();
        Template { objects: all, hand: Arc::new(hand) }
    });
    MADE.with_borrow_mut(|all| all.insert(number, made.clone()));
    made
}

/// How rough a world is: some are calm and long, some fail all the time.
struct Weather {
    faults_one_in: usize,
    odd_lists_one_in: usize,
    kills: usize,
    sleeps: usize,
    jumps: usize,
    late: usize,
    /// Processes that are started in all, and at once.
    processes: usize,
    at_once: usize,
    order: Order,
    plants: Plants,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    First,
    Any,
    Last,
}

impl Weather {
    fn draw(dice: &mut Dice) -> Self {
        Self {
            faults_one_in: dice.pick(&[0, 60, 25, 8]),
            odd_lists_one_in: dice.pick(&[0, 8, 3]),
            kills: dice.pick(&[0, 1, 4]),
            sleeps: dice.pick(&[0, 2, 6]),
            jumps: dice.pick(&[0, 1, 3]),
            late: dice.pick(&[2, 10, 30]),
            processes: dice.pick(&[5, 9, 14, 20]),
            at_once: dice.pick(&[2, 3, 5]),
            order: dice.pick(&[Order::First, Order::Any, Order::Any, Order::Last]),
            plants: dice.pick(&[
                Plants::Nothing,
                Plants::Nothing,
                Plants::Nothing,
                Plants::Rounds,
                Plants::Anything,
            ]),
        }
    }
}

struct Running {
    actor: Actor,
    task: JoinHandle<Result<Done>>,
    said: Arc<Said>,
    canceller: Canceller,
    cancelled: bool,
    asleep_until: Option<tokio::time::Instant>,
}

struct World {
    sim: Sim,
    dice: Dice,
    weather: Weather,
    volumes: Vec<Arc<SimVolume>>,
    /// By how much the clock of each host is wrong.
    skews_ms: Vec<i64>,
    /// What the backups of each host share, where they do.
    fleets: Vec<Option<Arc<Fleet>>>,
    running: Vec<Running>,
    started: usize,
    /// Processes that were killed, and those that cannot know whether they committed.
    in_doubt: Vec<Actor>,
    acknowledged: Vec<Actor>,
    /// The last prune that ended well.
    pruned: Option<Box<PruneReport>>,
    /// Objects that somebody planted.
    planted: u32,
}

impl World {
    fn new(seed: u64, template: &Template, lie: Option<Lie>, log: Log) -> Self {
        let mut dice = Dice::new(seed);
        let count = 1 + dice.below(3);
        let volumes: Vec<_> =
            (1..=count).map(|n| SimVolume::new(&format!("volume-{n}"), &mut dice)).collect();
        let hosts = 2 + dice.below(3);
        let day_ms = DAY.as_millis() as i64;
        let skews_ms = (0..hosts)
            .map(|_| (dice.below(2 * SKEW_DAYS_MAX as usize + 1) as i64 - SKEW_DAYS_MAX) * day_ms)
            .collect();
        let mut weather = Weather::draw(&mut dice);
        if lie.is_some() {
            weather.plants = Plants::Nothing;
        }
        let oracle = Oracle::new(Arc::clone(&template.hand), volumes.clone());
        // By the seed and no dice: worlds with and without them are alike otherwise.
        let shares = |host: usize| lie.is_none() && (seed >> (host % 2)) & 1 == 1;
        let fleets = (0..hosts).map(|host| shares(host).then(Arc::default)).collect();
        let sim = Sim::new(template.objects.clone(), oracle, log, lie);
        Self {
            sim,
            dice,
            weather,
            volumes,
            skews_ms,
            fleets,
            running: Vec::new(),
            started: 0,
            in_doubt: Vec::new(),
            acknowledged: Vec::new(),
            pruned: None,
            planted: 0,
        }
    }

    async fn live(&mut self) -> std::result::Result<(), String> {
        while self.started < self.weather.processes || !self.running.is_empty() {
            self.settle().await?;
            self.storm().await;
        }
        self.calm().await?;
        self.aftermath().await
    }

    fn event(&self, event: std::fmt::Arguments<'_>) {
        self.sim.lock().log.event(event);
    }

    /// Lets everybody go on until all wait, and judges those that ended.
    async fn settle(&mut self) -> std::result::Result<(), String> {
        // The paused clock moves only when nobody has anything left to do.
        tokio::time::sleep(Duration::from_millis(1)).await;
        {
            let mut state = self.sim.lock();
            state.log.step += 1;
            if state.log.step > STEPS_MAX {
                return Err("nobody goes on, and nobody ends".to_owned());
            }
        }
        while let Some(at) = self.running.iter().position(|r| r.task.is_finished()) {
            let Running { actor, task, said, cancelled, .. } = self.running.remove(at);
            actors::set_alive(actor, false);
            let ended = task.await.map_err(|e| format!("actor {actor} panicked: {e}"))?;
            self.judge(actor, ended, &said, cancelled)?;
        }
        match self.sim.lock().oracle.violation.take() {
            Some(what) => Err(what),
            None => Ok(()),
        }
    }

    /// Whether what a process said is true.
    fn judge(
        &mut self,
        actor: Actor,
        ended: Result<Done>,
        said: &Said,
        cancelled: bool,
    ) -> std::result::Result<(), String> {
        let mut state = self.sim.lock();
        let state = &mut *state;
        // Of a store that lies only the state counts, not what is made of its answers.
        let lies = state.lie.is_some();
        match ended {
            Ok(Done::Committed(session)) => {
                state.log.event(format_args!("{actor} committed {session:?}"));
                self.acknowledged.push(actor);
                if !state.oracle.is_live(&session) && !state.oracle.is_forgotten(&session) {
                    return Err(format!("{session:?} was acknowledged and is not live"));
                }
            }
            Ok(Done::Forgot(Some(session))) => {
                state.log.event(format_args!("{actor} forgot {session:?}"));
                if state.oracle.is_live(&session) {
                    return Err(format!("{session:?} was forgotten and is live"));
                }
            }
            // What was planted is damage.
            Ok(Done::Verified { damage: Some(damage) }) if !lies && self.planted == 0 => {
                return Err(format!("verify (actor {actor}) found damage: {damage}"));
            }
            Ok(Done::Pruned(report)) => {
                state.log.event(format_args!("{actor} pruned {} rounds", report.rounds_finished));
                self.pruned = Some(report);
            }
            Ok(_) => state.log.event(format_args!("{actor} ended well")),
            Err(error) => {
                state.log.event(format_args!("{actor} failed: {error}"));
                let honest = match error.kind() {
                    ErrorKind::Unavailable | ErrorKind::Conflict => true,
                    ErrorKind::Corrupt => self.planted > 0 && self.weather.plants == Plants::Anything,
                    ErrorKind::Interrupted => cancelled,
                    _ => false,
                };
                if !honest && !lies {
                    return Err(format!("actor {actor} failed with {:?}: {error}", error.kind()));
                }
                if told_of_doubt(&error, said) {
                    self.in_doubt.push(actor);
                }
            }
        }
        Ok(())
    }

    fn is_asleep(&self, actor: Actor) -> bool {
        self.running.iter().any(|r| r.actor == actor && r.asleep_until.is_some())
    }

    /// One thing that happens while things go wrong.
    async fn storm(&mut self) {
        let now = tokio::time::Instant::now();
        for running in &mut self.running {
            running.asleep_until = running.asleep_until.filter(|until| *until > now);
        }
        let (awake, late) = {
            let state = self.sim.lock();
            let awake: Vec<usize> = (0..state.waiting.len())
                .filter(|at| !self.is_asleep(state.waiting[*at].request.actor))
                .collect();
            (awake, state.late.len())
        };
        let may_start = self.started < self.weather.processes && self.running.len() < self.weather.at_once;
        let any = !self.running.is_empty();
        let weights = [
            if awake.is_empty() { 0 } else { 200 },
            if may_start { if any { 8 } else { 200 } } else { 0 },
            if late > 0 { self.weather.late } else { 0 },
            if any { self.weather.kills } else { 0 },
            if any { self.weather.sleeps } else { 0 },
            // Where all are asleep, time passes.
            if awake.is_empty() { 20 } else { self.weather.jumps },
            if any { self.weather.kills } else { 0 },
            if any && self.weather.plants != Plants::Nothing && self.planted < PLANTED_MAX { 6 } else { 0 },
        ];
        match self.dice.weighted(&weights) {
            0 => self.serve(&awake).await,
            1 => self.start(),
            2 => {
                let (at, keep) = (self.dice.below(late), self.dice.one_in(4));
                self.sim.lock().land(at, keep);
            }
            3 => self.kill(),
            4 => self.put_to_sleep(),
            5 => self.jump().await,
            6 => self.interrupt(),
            _ => self.plant(),
        }
    }

    fn plant(&mut self) {
        let mut state = self.sim.lock();
        let now = state.now_unix_ms();
        let planted = plants::plant(&mut state.objects, self.weather.plants, now, &mut self.dice);
        let Some(name) = planted else { return };
        state.log.event(format_args!("somebody plants {name}"));
        self.planted += 1;
    }

    async fn serve(&mut self, awake: &[usize]) {
        let at = match self.weather.order {
            Order::First => awake[0],
            Order::Last if !self.dice.one_in(8) => awake[awake.len() - 1],
            _ => self.dice.pick(awake),
        };
        let (op, moment) = {
            let state = self.sim.lock();
            (state.waiting[at].request.op.clone(), state.objects.moment())
        };
        if let Op::Nap(at_least) = op {
            // Who sleeps may oversleep.
            let more = self.dice.pick(&[Duration::ZERO, Duration::ZERO, DAY / 24, DAY / 4, DAY, 3 * DAY]);
            tokio::time::advance(at_least + more).await;
        }
        let fate = self.fate(&op, moment);
        self.sim.lock().serve(at, fate);
    }

    fn fate(&mut self, op: &Op, moment: usize) -> Fate {
        if matches!(op, Op::List(_)) && self.dice.one_in(self.weather.odd_lists_one_in) {
            return match self.dice.below(2) {
                0 => Fate::Short(self.dice.below(1 << 30) as u64, self.dice.pick(&[2, 3, 8])),
                _ => Fate::Stale(moment - self.dice.below(moment.min(60) + 1)),
            };
        }
        if matches!(op, Op::Nap(_)) || !self.dice.one_in(self.weather.faults_one_in) {
            return Fate::Good;
        }
        match self.dice.below(7) {
            0 => Fate::Refused(500),
            1 => Fate::Refused(503),
            2 | 3 => Fate::Lost,
            4 => Fate::Unheard,
            5 if op.is_write() => Fate::Twice,
            _ if matches!(op, Op::Get(_)) => Fate::Cut,
            _ => Fate::Lost,
        }
    }

    fn start(&mut self) {
        let volume = Arc::clone(&self.volumes[self.dice.below(self.volumes.len())]);
        let task = match self.dice.weighted(&[6, 4, 1, 5, 3]) {
            0 => {
                for _ in 0..self.dice.below(3) {
                    volume.edit(&mut self.dice);
                }
                Task::Backup { volume, full: self.dice.one_in(8) }
            }
            1 => Task::Forget { which: self.dice.below(64) },
            3 => {
                let keep = self.dice.pick(&[Duration::ZERO, Duration::ZERO, DAY, 14 * DAY]);
                Task::Prune { wait: !self.dice.one_in(4), keep }
            }
            4 => Task::Recall { volume, sequence: 1 + self.dice.below(8) as u32 },
            _ => Task::Verify { read_data: self.dice.one_in(2) },
        };
        let host = self.dice.below(self.skews_ms.len());
        self.begin(task, host, true);
    }

    fn begin(&mut self, task: Task, host: usize, gated: bool) {
        let actor = self.started;
        self.started += 1;
        self.event(format_args!("{actor} begins on host {host}: {}", task.word()));
        let (canceller, cancel) = Process::cancel_pair();
        let said = Arc::new(Said::default());
        let process = Process {
            sim: self.sim.clone(),
            actor,
            host,
            skew_ms: self.skews_ms[host],
            inflight_max: self.dice.pick(&[1, 2, 4, 32]),
            gated,
            said: Arc::clone(&said),
            cancel,
            fleet: self.fleets[host].clone(),
        };
        actors::set_alive(actor, true);
        if matches!(task, Task::Prune { .. }) {
            self.sim.lock().pruners.insert(actor);
        }
        let task = tokio::task::spawn_local(process.run(task));
        self.running.push(Running { actor, task, said, canceller, cancelled: false, asleep_until: None });
    }

    fn kill(&mut self) {
        let Running { actor, task, .. } = self.running.swap_remove(self.dice.below(self.running.len()));
        self.event(format_args!("{actor} is killed"));
        task.abort();
        actors::set_alive(actor, false);
        self.in_doubt.push(actor);
    }

    fn put_to_sleep(&mut self) {
        let at = self.dice.below(self.running.len());
        let long = self.dice.pick(&[DAY / 24, DAY, 3 * DAY, 3 * DAY]);
        self.event(format_args!("{} sleeps {} h", self.running[at].actor, long.as_secs() / 3600));
        self.running[at].asleep_until = Some(tokio::time::Instant::now() + long);
    }

    async fn jump(&mut self) {
        let by = self.dice.pick(&[DAY / 1440, DAY / 24, DAY / 2, DAY + DAY / 24, 3 * DAY]);
        self.event(format_args!("{} min pass", by.as_secs() / 60));
        tokio::time::advance(by).await;
    }

    fn interrupt(&mut self) {
        let at = self.dice.below(self.running.len());
        let running = &mut self.running[at];
        running.cancelled = true;
        running.canceller.cancel();
        let actor = running.actor;
        self.event(format_args!("{actor} is interrupted"));
    }

    /// Faults stop: what is late lands or never does.
    async fn calm(&mut self) -> std::result::Result<(), String> {
        self.event(format_args!("calm"));
        loop {
            self.settle().await?;
            let late = self.sim.lock().late.len();
            if late == 0 {
                return Ok(());
            }
            let (at, lands) = (self.dice.below(late), self.dice.one_in(2));
            let mut state = self.sim.lock();
            match lands {
                true => state.land(at, false),
                false => drop(state.late.swap_remove(at)),
            }
        }
    }

    /// When all is over: prunes find an end and leave nothing that nobody needs, what is live was acknowledged, and every
    /// volume can be backed up again.
    async fn aftermath(&mut self) -> std::result::Result<(), String> {
        tokio::time::advance(LEASE_DEFAULT + DAY / 24).await;
        if self.planted > 0 && self.weather.plants == Plants::Anything {
            // Prunes may stop at what was planted, and backups of a volume whose number was taken go on under another.
            self.alone(Task::Prune { wait: true, keep: Duration::ZERO }).await?;
            return self.alone(Task::Verify { read_data: true }).await;
        }
        for _ in 0..2 {
            self.alone(Task::Prune { wait: true, keep: Duration::ZERO }).await?;
            let report = self.pruned.take().ok_or("a prune failed though nothing went wrong")?;
            if report.rounds_finished > u64::from(2 + self.planted) || report.round_open {
                return Err(format!("a prune did not come to an end in two rounds: {report:?}"));
            }
        }
        self.tidy()?;
        for volume in self.volumes.clone() {
            self.alone(Task::Backup { volume, full: false }).await?;
        }
        self.alone(Task::Verify { read_data: true }).await?;
        self.tidy()
    }

    fn tidy(&self) -> std::result::Result<(), String> {
        let state = self.sim.lock();
        if let Some(name) = state.oracle.unreferenced(&state.objects).next() {
            return Err(format!("{name} is still there, and nobody needs it"));
        }
        for session in state.oracle.live() {
            let actor = state.oracle.opened.get(&session);
            if !actor.is_some_and(|a| self.acknowledged.contains(a) || self.in_doubt.contains(a)) {
                return Err(format!("{session:?} is live, and actor {actor:?} was told that it failed"));
            }
        }
        Ok(())
    }

    /// Runs a process to its end, with nobody beside it and nothing going wrong.
    async fn alone(&mut self, task: Task) -> std::result::Result<(), String> {
        let word = task.word();
        let before = self.acknowledged.len();
        let is_backup = matches!(task, Task::Backup { .. });
        self.begin(task, 0, false);
        while !self.running.is_empty() {
            self.settle().await?;
        }
        match is_backup && self.acknowledged.len() == before {
            true => Err(format!("{word} failed though nothing went wrong")),
            false => Ok(()),
        }
    }
}

/// A backup that failed, but said that it may have committed.
fn told_of_doubt(error: &Error, said: &Said) -> bool {
    error.help_text().is_some_and(|help| help.contains("was committed all the same"))
        || said.contains("could not be marked as aborted")
}
