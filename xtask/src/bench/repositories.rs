//! The tools whose repositories are watched growing: how each backs up a night, forgets and prunes.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::nights::kept;
use crate::disk::diff_v1;

pub trait Tool {
    fn name(&self) -> &str;
    /// The folder that holds all of it.
    fn home(&self) -> PathBuf;
    fn init(&self) -> Result<()>;
    /// Backs up, forgets, prunes.
    fn night(&self, image: &Path, before: &[u8], now: &[u8], night: usize) -> Result<()>;
    /// What of the repository is tables of bundles, and pieces that no snapshot needs: objects of their own would not have them.
    fn dead_bytes(&self) -> Result<u64> {
        Ok(0)
    }
    /// To `back.img`.
    fn restore(&self, night: usize, dir: &Path) -> Result<()>;
}

pub struct Cuttle {
    name: &'static str,
    home: PathBuf,
    program: PathBuf,
    init: Vec<String>,
}

impl Cuttle {
    pub fn new(dir: &Path, name: &'static str, init: &[&str]) -> Result<Self> {
        let init = init.iter().map(|arg| (*arg).to_owned()).collect();
        Ok(Self { name, home: dir.join("cuttle"), program: fs::canonicalize("target/release/cuttle")?, init })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("CUTTLE_REPOSITORY", self.home.join("repo"))
            .env("CUTTLE_KEY_FILE", self.home.join("key"));
        for variable in ["HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"] {
            command.env(variable, self.home.join("state"));
        }
        command
    }
}

impl Tool for Cuttle {
    fn dead_bytes(&self) -> Result<u64> {
        let out = self.command().args(["stats", "--json"]).output()?;
        let text = String::from_utf8(out.stdout)?;
        let after =
            text.split_once("\"dead_bytes\":").context("no dead_bytes in what `stats --json` says")?.1;
        let digits: String = after.trim_start().chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse()?)
    }

    fn name(&self) -> &str {
        self.name
    }

    fn home(&self) -> PathBuf {
        self.home.clone()
    }

    fn init(&self) -> Result<()> {
        fs::create_dir_all(&self.home)?;
        fs::write(self.home.join("key"), [7; 32])?;
        run(self.command().args(&self.init))
    }

    fn night(&self, _: &Path, before: &[u8], now: &[u8], night: usize) -> Result<()> {
        let stream = self.home.with_extension("diff");
        let mut named = b"rbd diff v1\n".to_vec();
        let name = |named: &mut Vec<u8>, tag: u8, night: usize| {
            let text = format!("night-{night}");
            named.push(tag);
            named.extend((text.len() as u32).to_le_bytes());
            named.extend(text.as_bytes());
        };
        if night > 1 {
            name(&mut named, b'f', night - 1);
        }
        name(&mut named, b't', night);
        let mut file = File::create(&stream)?;
        file.write_all(&named)?;
        file.write_all(&diff_v1(before, now)[named_len()..])?;
        run(self.command().args(["backup", "-", "--volume", "disk"]).stdin(File::open(&stream)?))?;
        fs::remove_file(&stream)?;
        let (old, new) = (kept(night - 1), kept(night));
        let gone = old.iter().filter(|n| !new.contains(n)).map(|n| format!("disk@night-{n}"));
        let gone: Vec<String> = gone.collect();
        if !gone.is_empty() {
            run(self.command().arg("forget").args(&gone))?;
        }
        run(self.command().arg("prune"))
    }

    fn restore(&self, night: usize, dir: &Path) -> Result<()> {
        let back = dir.join("back.img");
        let _ = fs::remove_file(&back);
        run(self.command().args(["restore", &format!("disk@night-{night}")]).arg(back))
    }
}

/// Length of what every stream begins with.
fn named_len() -> usize {
    b"rbd diff v1\n".len()
}

/// The date of a night; the first is a Monday.
fn date(night: usize) -> String {
    format!("2026-{:02}-{:02}", 1 + (night + 3) / 31, 1 + (night + 3) % 31)
}

/// Another tool. `{image}`, `{night}` and `{date}` are replaced.
pub struct Other {
    program: &'static str,
    home: PathBuf,
    init: &'static [&'static str],
    night: &'static [&'static [&'static str]],
}

impl Other {
    pub fn all(dir: &Path) -> [Self; 3] {
        let other = |program, init, night| Self { program, home: dir.join(program), init, night };
        [
            other(
                "restic",
                &["init"],
                &[
                    &["backup", "--force", "--time", "{date} 03:00:00", "{image}"],
                    &["forget", "--keep-daily", "7", "--keep-weekly", "4", "--prune", "--max-unused", "0"],
                ],
            ),
            other(
                "rustic",
                &[
                    "init",
                    "--set-chunker",
                    "fixed_size",
                    "--set-chunk-size",
                    "4MiB",
                    "--set-compression",
                    "1",
                ],
                &[
                    &["backup", "--force", "--time", "{date} 03:00:00", "{image}"],
                    &[
                        "forget",
                        "--keep-daily",
                        "7",
                        "--keep-weekly",
                        "4",
                        "--prune",
                        "--max-unused",
                        "0B",
                        "--keep-delete",
                        "0s",
                        "--instant-delete",
                    ],
                ],
            ),
            other(
                "borg",
                &["init", "--encryption", "repokey-blake2"],
                &[
                    &[
                        "create",
                        "--chunker-params",
                        "fixed,4194304",
                        "--compression",
                        "zstd,1",
                        "--timestamp",
                        "{date}T03:00:00",
                        "::night-{night}",
                        "{image}",
                    ],
                    &["prune", "--keep-daily", "7", "--keep-weekly", "4"],
                    &["compact", "--threshold", "0"],
                ],
            ),
        ]
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        for password in ["RESTIC_PASSWORD", "RUSTIC_PASSWORD", "BORG_PASSPHRASE"] {
            command.env(password, "a passphrase for a benchmark");
        }
        for repository in ["RESTIC_REPOSITORY", "RUSTIC_REPOSITORY", "BORG_REPO"] {
            command.env(repository, self.home.join("repo"));
        }
        for variable in ["HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "BORG_BASE_DIR"] {
            command.env(variable, self.home.join("cache"));
        }
        command
    }
}

impl Tool for Other {
    fn name(&self) -> &str {
        self.program
    }

    fn home(&self) -> PathBuf {
        self.home.clone()
    }

    fn init(&self) -> Result<()> {
        fs::create_dir_all(self.home.join("cache"))?;
        run(self.command().args(self.init))
    }

    fn night(&self, image: &Path, _: &[u8], _: &[u8], night: usize) -> Result<()> {
        let image = image.to_string_lossy();
        self.night.iter().try_for_each(|args| {
            let fill = |arg: &&str| {
                arg.replace("{image}", &image)
                    .replace("{night}", &night.to_string())
                    .replace("{date}", &date(night))
            };
            run(self.command().args(args.iter().map(fill)))
        })
    }

    fn restore(&self, _: usize, _: &Path) -> Result<()> {
        bail!("not measured here")
    }
}

fn run(command: &mut Command) -> Result<()> {
    if command.get_args().all(|arg| arg != "-") {
        command.stdin(Stdio::null());
    }
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {said}");
    Ok(())
}
