//! The `cuttle` program, run as an operator runs it: with variables and options, its output read.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::buckets::S3;

/// A run that takes longer hangs.
const RUN_TIMEOUT: Duration = Duration::from_secs(180);

/// An operator's environment: a home, a key file, and a repository that it names.
pub struct Cuttle {
    home: TempDir,
    variables: Vec<(String, String)>,
}

/// What a run said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// What a backup said with `--json`.
#[derive(Debug)]
pub struct Night {
    /// One for each volume.
    pub volumes: Vec<Value>,
    pub summary: Value,
    pub stderr: String,
}

impl Cuttle {
    /// A new, encrypted repository in a folder.
    pub fn in_folder() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let repository = home.path().join("repository").display().to_string();
        Self::init(home, repository, Vec::new())
    }

    /// A new, encrypted repository on the test RGW; absent, the test is skipped.
    pub fn on_rgw(name: &str) -> Option<Self> {
        Some(Self::on_s3(&S3::on_rgw()?, "nightly", name))
    }

    /// A new, encrypted repository in a bucket, which is made if need be.
    pub fn on_s3(s3: &S3, bucket: &str, name: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("an async runtime");
        runtime.block_on(s3.create_bucket(bucket));
        let repository = format!("s3://{bucket}/{name}-{}", std::process::id());
        let home = tempfile::tempdir().expect("a temporary folder");
        Self::init(home, repository, s3.environment())
    }

    fn init(home: TempDir, repository: String, mut variables: Vec<(String, String)>) -> Self {
        let key = home.path().join("key");
        std::fs::write(&key, [7; 32]).expect("write the key file");
        let mut set = |name: &str, value: String| variables.push((name.to_owned(), value));
        set("CUTTLE_REPOSITORY", repository);
        set("CUTTLE_KEY_FILE", key.display().to_string());
        // What is forgotten goes with the next prune, as most tests are about what else does.
        set("CUTTLE_KEEP_FORGOTTEN", "0".to_owned());
        set("HOME", home.path().display().to_string());
        set("PATH", std::env::var("PATH").unwrap_or_default());
        let this = Self { home, variables };
        this.ok(&["init"]);
        this
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A run that the test starts and ends itself.
    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cuttle"));
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (name, value))).args(args);
        command
    }

    /// The operator's environment, for a process that the test starts itself.
    pub fn variables(&self) -> impl Iterator<Item = (&String, &String)> {
        self.variables.iter().map(|(name, value)| (name, value))
    }

    pub fn run(&self, args: &[&str], input: &[u8]) -> Said {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_cuttle"));
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = command.args(args).write_stdin(input).timeout(RUN_TIMEOUT).output().expect("run cuttle");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Said { code: output.status.code(), stdout: output.stdout, stderr }
    }

    /// Runs a command that must succeed; its standard output.
    pub fn ok(&self, args: &[&str]) -> Vec<u8> {
        let said = self.run(args, &[]);
        assert_eq!(said.code, Some(0), "cuttle {}: {}", args.join(" "), said.stderr);
        said.stdout
    }

    /// Runs a command that must end with this code; what it said on standard error.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let said = self.run(args, &[]);
        assert_eq!(said.code, Some(code), "cuttle {}: {}", args.join(" "), said.stderr);
        said.stderr
    }

    /// Runs a command with `--json` that must succeed; its lines.
    pub fn json(&self, args: &[&str]) -> Vec<Value> {
        lines(&self.ok(&[&["--json"], args].concat()))
    }

    /// `cuttle backup`, which must succeed.
    pub fn backup(&self, args: &[&str]) -> Night {
        self.backup_stream(args, &[])
    }

    /// `cuttle backup` with something on standard input, which must succeed.
    pub fn backup_stream(&self, args: &[&str], input: &[u8]) -> Night {
        let args = [&["--json", "backup"], args].concat();
        let said = self.run(&args, input);
        assert_eq!(said.code, Some(0), "cuttle {}: {}", args.join(" "), said.stderr);
        let mut volumes = lines(&said.stdout);
        let summary = volumes.pop().expect("a summary");
        assert_eq!(summary["message_type"], "summary");
        Night { volumes, summary, stderr: said.stderr }
    }

    /// Backs a file up that holds this, however large it was before.
    pub fn backup_of(&self, volume: &str, content: &[u8]) -> Night {
        let disk = self.home().join("disk");
        std::fs::write(&disk, content).expect("write the disk");
        self.backup(&[&disk.display().to_string(), "--volume", volume, "--accept-smaller"])
    }

    /// The newest snapshot of a volume, as `cuttle snapshots --json` shows it.
    pub fn latest(&self, volume: &str) -> Value {
        let mut lines = self.json(&["snapshots", volume, "--latest", "1"]);
        lines.pop().and_then(|l| l.as_array().and_then(|l| l.last().cloned())).expect("a snapshot")
    }
}

impl Night {
    /// The only volume.
    pub fn volume(&self) -> &Value {
        let [volume] = self.volumes.as_slice() else { panic!("one volume expected: {self:?}") };
        volume
    }

    /// Why the only volume was read in another way than was to be expected.
    pub fn notes(&self) -> String {
        self.volume()["notes"].to_string()
    }

    /// Of all that was backed up, together.
    pub fn number(&self, name: &str) -> u64 {
        let of = |volume: &Value| volume[name].as_u64().unwrap_or_else(|| panic!("{name} in {self:?}"));
        self.volumes.iter().map(of).sum()
    }

    /// Requests to the store of the whole run.
    pub fn requests(&self) -> u64 {
        let kinds = ["put", "get", "head", "list", "delete"];
        let count = |kind| self.summary["ledger"][format!("{kind}_requests")].as_u64().expect("a number");
        kinds.iter().map(count).sum()
    }
}

fn lines(stdout: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}
