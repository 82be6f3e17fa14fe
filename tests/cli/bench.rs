//! A folder with a repository, a key, sources, and everything that the command would otherwise take from the user.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{self, Output};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

pub use crate::support::numbers::random;

const MIB: u64 = 1 << 20;
/// Size of the file that [`Bench::sparse`] makes.
pub const SPARSE_BYTES: u64 = 33 * MIB + 511;

/// A folder of one test.
pub struct Bench {
    dir: TempDir,
}

impl Bench {
    /// One with a key file only.
    pub fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().expect("a folder") };
        bench.write("key", &random(7, 64));
        bench
    }

    /// One with a repository that the key file opens.
    pub fn with_repository() -> Self {
        let bench = Self::new();
        bench.ok(&["init"]);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("write a file");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("read a file")
    }

    /// A sparse file with data in two places: three of its nine chunks hold something.
    pub fn sparse(&self, name: &str) {
        let file = File::create(self.path(name)).expect("make a file");
        file.set_len(SPARSE_BYTES).expect("set its size");
        file.write_all_at(&random(1, 4 << 20), 5 * MIB + 77).expect("write");
        file.write_all_at(&random(2, 300), 33 * MIB).expect("write");
    }

    /// Nothing of the user's own environment, and folders of the test's.
    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dir = |name| self.path(name).into_os_string();
        vec![
            ("PATH", path),
            ("TZ", "UTC".into()),
            ("HOME", dir("home")),
            ("XDG_CACHE_HOME", dir("cache")),
            ("XDG_STATE_HOME", dir("state")),
            // What is forgotten goes with the next prune, as most tests are about what else does.
            ("CUTTLE_KEEP_FORGOTTEN", "0".into()),
        ]
    }

    /// The repository and its key, as variables.
    fn repository_variables(&self) -> [(&'static str, PathBuf); 2] {
        [("CUTTLE_REPOSITORY", self.path("repo")), ("CUTTLE_KEY_FILE", self.path("key"))]
    }

    /// The command without repository and key.
    pub fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cuttle"));
        command.args(args).current_dir(self.dir.path()).env_clear().envs(self.environment());
        command
    }

    /// The command with the repository and its key in the environment.
    pub fn cuttle(&self, args: &[&str]) -> Command {
        let mut command = self.bare(args);
        command.envs(self.repository_variables());
        command
    }

    /// The same, to be started and left running.
    pub fn process(&self, args: &[&str]) -> process::Command {
        let mut command = process::Command::new(env!("CARGO_BIN_EXE_cuttle"));
        command.args(args).current_dir(self.dir.path()).env_clear().envs(self.environment());
        command.envs(self.repository_variables());
        command
    }

    /// Runs it, which must succeed; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        ok(&mut self.cuttle(args))
    }

    /// Runs it with `--json`, which must succeed; its standard output, line by line.
    pub fn json(&self, args: &[&str]) -> Vec<Value> {
        lines(&self.ok(&[args, &["--json"]].concat()))
    }

    /// Runs it, which must end with this code; its standard error.
    pub fn fails(&self, expected: i32, args: &[&str]) -> String {
        fails(expected, &mut self.cuttle(args))
    }

    /// Every file of the repository with its content.
    pub fn repository(&self) -> Vec<(String, Vec<u8>)> {
        let mut out = Vec::new();
        files(&self.path("repo"), &mut |path| {
            out.push((path.display().to_string(), fs::read(path).expect("read an object")));
        });
        out.sort();
        out
    }

    /// Names of the objects that hold chunks.
    pub fn chunks(&self) -> Vec<String> {
        let mut out = Vec::new();
        files(&self.path("repo"), &mut |path| out.push(path.display().to_string()));
        // A name with '#' is that of a file being written.
        out.retain(|name| name.contains("/chunks/") && !name.contains('#'));
        out
    }
}

/// A command by another key than the repository's own.
pub fn by(bench: &Bench, key: &str, args: &[&str]) -> Command {
    let mut command = bench.cuttle(args);
    command.env("CUTTLE_KEY_FILE", bench.path(key));
    command
}

/// Runs a command that must succeed; its standard output.
pub fn ok(command: &mut Command) -> String {
    let output = command.output().expect("run cuttle");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs a command that must end with this code; its standard error.
pub fn fails(expected: i32, command: &mut Command) -> String {
    let output = command.output().expect("run cuttle");
    assert_eq!(output.status.code(), Some(expected), "{}", stderr(&output));
    stderr(&output)
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Lines of JSON.
pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// Calls `each` with every file below a folder.
fn files(dir: &Path, each: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files(&path, each) } else { each(&path) }
    }
}
