//! A repository on a real store, and the program run against it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cuttle::store::{Store, StoreConfig};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::buckets::S3;

/// A run that takes longer hangs. A prune among many, on a machine of a few processors, may take several minutes: it
/// waits for slow backups, and finishes what others began.
const RUN_TIMEOUT: Duration = Duration::from_secs(1800);
const BUCKET: &str = "soak";

/// A folder with a key and sources, and a repository. After a failure all of it stays.
pub struct Place {
    folder: Option<TempDir>,
    root: PathBuf,
    store: StoreConfig,
    runtime: tokio::runtime::Runtime,
}

/// What a run said.
pub struct Said {
    pub code: Option<i32>,
    pub lines: Vec<Value>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Place {
    /// A new repository in a folder.
    pub fn local() -> Self {
        Self::new(|root| StoreConfig {
            url: root.join("repository").display().to_string(),
            ..StoreConfig::default()
        })
    }

    /// A new repository on the test RGW; absent, the test is skipped.
    pub fn rgw(name: &str) -> Option<Self> {
        let s3 = S3::on_rgw()?;
        let place = Self::new(|_| s3.config(BUCKET, &format!("{name}-{}", std::process::id())));
        place.runtime.block_on(s3.create_bucket(BUCKET));
        Some(place)
    }

    fn new(store: impl FnOnce(&Path) -> StoreConfig) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_owned();
        std::fs::write(root.join("key"), [7; 32]).expect("write the key file");
        let runtime = tokio::runtime::Runtime::new().expect("an async runtime");
        Self { folder: Some(folder), store: store(&root), root, runtime }
    }

    pub fn init(&self) {
        self.ok("init", &["init", "--chunk-size", "64KiB"]);
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The program as a host runs it: each host has its own memory of what is stored.
    fn variables(&self, host: &str) -> Vec<(String, String)> {
        let dir = |name: &str| self.root.join(name).display().to_string();
        let mut variables = self.store.environment.clone();
        for (name, value) in [
            ("PATH", std::env::var("PATH").unwrap_or_default()),
            ("TZ", "UTC".into()),
            ("HOME", dir(host)),
            ("XDG_CACHE_HOME", dir(&format!("{host}/cache"))),
            ("XDG_STATE_HOME", dir(&format!("{host}/state"))),
            ("CUTTLE_KEEP_FORGOTTEN", "0".to_owned()),
            ("CUTTLE_REPOSITORY", self.store.url.clone()),
            ("CUTTLE_KEY_FILE", dir("key")),
        ] {
            variables.push((name.to_owned(), value));
        }
        variables
    }

    /// Runs the program to its end.
    pub fn run(&self, host: &str, args: &[&str]) -> Said {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_cuttle"));
        command.args(args).current_dir(&self.root).env_clear().envs(self.variables(host));
        let output = command.timeout(RUN_TIMEOUT).output().expect("run cuttle");
        Said::from(output)
    }

    /// Starts it.
    pub fn start(&self, host: &str, args: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cuttle"));
        command.args(args).current_dir(&self.root).env_clear().envs(self.variables(host));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("start cuttle")
    }

    /// Runs a command with `--json` that must succeed.
    pub fn ok(&self, host: &str, args: &[&str]) -> Vec<Value> {
        let said = self.run(host, &[args, &["--json"]].concat());
        assert_eq!(said.code, Some(0), "cuttle {}: {}", args.join(" "), said.stderr);
        said.lines
    }

    /// The last line of a command with `--json` that must succeed.
    pub fn summary(&self, host: &str, args: &[&str]) -> Value {
        self.ok(host, args).pop().expect("a summary")
    }

    /// Names of all objects of the project below this.
    pub fn objects(&self, below: &str) -> Vec<String> {
        let store = Store::open(&self.store).expect("open the store");
        let list = self.runtime.block_on(store.list(&format!("projects/default/{below}"), None));
        list.expect("list the store").into_iter().map(|object| object.key).collect()
    }
}

impl From<std::process::Output> for Said {
    fn from(output: std::process::Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        // Of a process that was killed the last line may be cut off; of a restore nothing is a line.
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code(), lines, stdout: output.stdout, stderr }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let folder = self.folder.take().map(TempDir::keep);
            eprintln!("{} stays for whoever looks; sources and key are in {folder:?}", self.store.url);
        }
    }
}
