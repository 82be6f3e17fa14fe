//! The processes of a simulated world: each is the real code of one command, on its own host, with its own clock.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cuttle::backup::{self, BackupOptions, Fleet, Input};
use cuttle::cancel::{Cancel, Canceller};
use cuttle::clock::Clock;
use cuttle::forget::{self, Fate, Judged};
use cuttle::progress::{Progress, Step};
use cuttle::prune::{self, Pause, PruneOptions, PruneReport};
use cuttle::repo::{Environment, Keeper, Repository, default_project};
use cuttle::store::{Limits, Store};
use cuttle::verify::{self, Problem, VerifyOptions};
use cuttle::{Error, ErrorKind, Result};
use futures::future::BoxFuture;

use crate::oracle::Session;
use crate::store::{Actor, Client, Sim};
use crate::support::repo::secret;
use crate::volume::SimVolume;

/// Attempts of one operation of the store.
const ATTEMPTS_MAX: u32 = 4;

thread_local! {
    /// Processes that run, whatever host they are on.
    static ALIVE: RefCell<BTreeSet<u32>> = const { RefCell::new(BTreeSet::new()) };
}

pub fn set_alive(actor: Actor, alive: bool) {
    ALIVE.with_borrow_mut(|all| if alive { all.insert(process(actor)) } else { all.remove(&process(actor)) });
}

pub fn nobody_is_alive() {
    ALIVE.with_borrow_mut(BTreeSet::clear);
}

fn process(actor: Actor) -> u32 {
    1000 + actor as u32
}

/// What a process is to do.
#[derive(Clone)]
pub enum Task {
    Backup {
        volume: Arc<SimVolume>,
        full: bool,
    },
    /// Forgets the live snapshot of this place among all, modulo their number.
    Forget {
        which: usize,
    },
    Verify {
        read_data: bool,
    },
    Prune {
        wait: bool,
        /// How long what is forgotten is kept.
        keep: Duration,
    },
    /// Recalls a snapshot, forgotten or not, there or not.
    Recall {
        volume: Arc<SimVolume>,
        sequence: u32,
    },
}

impl Task {
    pub fn word(&self) -> String {
        match self {
            Self::Backup { volume, full } => {
                format!("backup {}{}", volume.name(), if *full { " full" } else { "" })
            }
            Self::Forget { which } => format!("forget {which}"),
            Self::Prune { wait, keep } => {
                format!(
                    "prune, keeps {} h{}",
                    keep.as_secs() / 3600,
                    if *wait { "" } else { ", not waiting" }
                )
            }
            Self::Recall { volume, sequence } => format!("recall {}@{sequence}", volume.name()),
            Self::Verify { read_data } => format!("verify{}", if *read_data { " data" } else { "" }),
        }
    }
}

/// What a process came to.
pub enum Done {
    Committed(Session),
    Forgot(Option<Session>),
    Verified { damage: Option<String> },
    Pruned(Box<PruneReport>),
}

/// One process.
pub struct Process {
    pub sim: Sim,
    pub actor: Actor,
    pub host: usize,
    /// By how much the host's clock is wrong.
    pub skew_ms: i64,
    /// Requests that it may have under way at once.
    pub inflight_max: usize,
    /// Whether its requests wait for the schedule.
    pub gated: bool,
    pub said: Arc<Said>,
    pub cancel: Cancel,
    /// As one process that backs up many volumes, whatever happens meanwhile, knows what it knew for its first.
    pub fleet: Option<Arc<Fleet>>,
}

/// What a process told its user while it ran.
#[derive(Default)]
pub struct Said(Mutex<Vec<String>>);

impl Said {
    pub fn contains(&self, text: &str) -> bool {
        self.0.lock().expect("not poisoned").iter().any(|line| line.contains(text))
    }
}

impl Progress for Said {
    fn phase(&self, _name: &str, _total_bytes: Option<u64>) {}
    fn step(&self, _step: Step) {}
    fn warn(&self, message: &str) {
        self.0.lock().expect("not poisoned").push(message.to_owned());
    }
}

struct Skewed {
    sim: Sim,
    skew_ms: i64,
}

impl Clock for Skewed {
    fn now_unix_ms(&self) -> u64 {
        self.sim.lock().now_unix_ms().saturating_add_signed(self.skew_ms)
    }
}

/// A prune's wait, whose end the schedule decides.
struct Nap(Client);

impl Pause for Nap {
    fn pause(&self, duration: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.0.nap(duration))
    }
}

impl Process {
    pub fn cancel_pair() -> (Canceller, Cancel) {
        cuttle::cancel::pair()
    }

    fn environment(&self) -> Environment {
        Environment {
            host: format!("host-{}", self.host),
            machine: format!("machine-{}", self.host),
            process: process(self.actor),
            is_process_alive: |pid| ALIVE.with_borrow(|all| all.contains(&pid)),
            clock: Arc::new(Skewed { sim: self.sim.clone(), skew_ms: self.skew_ms }),
            cache_dir: None,
            memory_dir: None,
            remembers: true,
            trust_store: false,
        }
    }

    /// Opens the project; nothing goes wrong there.
    async fn open(&self) -> (Client, Keeper) {
        let client = Client::new(&self.sim, self.actor, false);
        let limits = Limits {
            requests_inflight_max: self.inflight_max,
            attempts_max: ATTEMPTS_MAX,
            attempts_first_contact_max: ATTEMPTS_MAX,
            backoff_first: Duration::ZERO,
            backoff_max: Duration::ZERO,
            stall_timeout: Duration::from_secs(1 << 30),
            jitter_seed: Some(1),
            ..Limits::default()
        };
        let store = Store::with_object_store(Arc::new(client.clone()), limits);
        let repository =
            Repository::open(store, self.environment(), &mut || Ok(secret())).await.expect("opens");
        let project = repository.keeper(&default_project()).await.expect("opens");
        client.gate(self.gated);
        (client, project)
    }

    pub async fn run(self, task: Task) -> Result<Done> {
        let (client, project) = self.open().await;
        let progress = Arc::clone(&self.said);
        match task {
            Task::Backup { volume, full } => {
                let mut options = BackupOptions::new(volume.name().parse()?);
                // What backups of one volume do beside each other is what is looked at here.
                options.yields = false;
                options.fleet = self.fleet.clone();
                options.full = full;
                let name = options.volume.clone();
                let report =
                    backup::run(&project, Input::Volume(volume), &options, progress, self.cancel.clone())
                        .await?;
                let number = self.sim.lock().number_of(name.as_str());
                let sequence = report.sequence.ok_or_else(|| Error::internal("no sequence"))?;
                Ok(Done::Committed((number, sequence)))
            }
            Task::Forget { which } => self.forget(&project, which).await,
            Task::Verify { read_data } => {
                let options = VerifyOptions { read_data, ..VerifyOptions::default() };
                let report = verify::run(&project, options, progress, self.cancel.clone()).await?;
                // A store that fails all the time is no damage.
                let damage = report.damage.iter().find(|d| d.problem != Problem::Unreadable);
                Ok(Done::Verified { damage: damage.map(|d| format!("{d:?}")) })
            }
            Task::Recall { volume, sequence } => {
                let spec = format!("{}@{sequence}", volume.name());
                match forget::recall(&project, &spec, false, self.cancel.clone()).await {
                    Ok(recalled) => {
                        let number = self.sim.lock().number_of(volume.name());
                        let sequence = recalled.sequence.ok_or_else(|| Error::internal("no sequence"))?;
                        Ok(Done::Committed((number, sequence.0)))
                    }
                    Err(e) if e.kind() == ErrorKind::NotFound => Ok(Done::Forgot(None)),
                    Err(e) => Err(e),
                }
            }
            Task::Prune { wait, keep } => {
                let pause = Arc::new(Nap(client));
                let options = PruneOptions { wait, pause, keep_forgotten: keep, ..PruneOptions::default() };
                let report = prune::run(&project, options, progress, self.cancel.clone()).await?;
                Ok(Done::Pruned(Box::new(report)))
            }
        }
    }

    async fn forget(&self, project: &Keeper, which: usize) -> Result<Done> {
        let mut all = Vec::new();
        for volume in project.volumes().confirmed().await?.entries() {
            all.extend(project.history(volume).snapshots().await?);
        }
        if all.is_empty() {
            return Ok(Done::Forgot(None));
        }
        let chosen = all.swap_remove(which % all.len());
        let (n, s) = (chosen.snapshot.volume, chosen.snapshot.sequence);
        let spec = format!("{}@{}", chosen.volume_name, s.0);
        let mut report = forget::by_name(project, &[spec], false, self.cancel.clone()).await?;
        match report.failures.pop() {
            // Somebody else forgot it.
            Some((_, error)) if error.kind() == ErrorKind::NotFound => return Ok(Done::Forgot(None)),
            Some((_, error)) => return Err(error),
            None => {}
        }
        if let Some(Judged { fate: Fate::Failed(error), .. }) = report.snapshots.pop() {
            return Err(error);
        }
        Ok(Done::Forgot(Some((n.0, s.0))))
    }
}
