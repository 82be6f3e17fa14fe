//! Ceph's `rbd migration`, run as a program.
//!
//! The program and not librbd: its three steps are long calls that nothing but the end of their process stops, and a step
//! that was stopped is simply run again. `rbd_migration_prepare_import` would have to be looked up by `dlopen`, called on a
//! thread that cannot be ended, and its progress callbacks kept from unwinding, to say the same thing.

use std::process::Stdio;
use std::time::Instant;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::cancel::{Cancel, interrupted};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::rbd::{CephConfig, RbdSpec, advice};
use crate::sink::rbd::{DEAD_CLIENT_POLL, DEAD_CLIENT_TIMEOUT};

const PROGRAM: &str = "rbd";
/// What is kept of what the program says.
const SAID_LEN_BYTES_MAX: usize = 64 << 10;

/// The migration of one image.
pub(super) struct Migration<'a> {
    pub(super) ceph: &'a CephConfig,
    pub(super) target: &'a RbdSpec,
    pub(super) cancel: Cancel,
}

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Prepared,
    Executed,
}

#[derive(Deserialize)]
struct Status {
    migration: Option<Described>,
}

#[derive(Deserialize)]
struct Described {
    source_spec: Option<String>,
    state: String,
}

impl Migration<'_> {
    /// Makes the image, so that it can be used. The source is handed over on standard input: it holds a secret.
    pub(super) async fn prepare(&self, source: &str, options: &[String]) -> Result<()> {
        let mut args = vec!["migration", "prepare", "--import-only", "--source-spec-path", "-"];
        args.extend(options.iter().map(String::as_str));
        self.run(&args, &[], source, &mut |_| {}).await.map(drop)
    }

    /// Copies what was not copied yet. `percent` is told how far it is.
    pub(super) async fn execute(&self, percent: &mut (dyn FnMut(u8) + Send)) -> Result<()> {
        self.run(&["migration", "execute"], &[], "", percent).await.map(drop)
    }

    /// Cuts the image loose from its source. Who copied before and was killed still counts as one who has the image open, until
    /// the cluster forgets it: that is waited for.
    pub(super) async fn commit(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.run(&["migration", "commit"], &[], "", &mut |_| {}).await {
                Err(busy) if busy.kind() == ErrorKind::Conflict && began.elapsed() < DEAD_CLIENT_TIMEOUT => {
                    tokio::time::sleep(DEAD_CLIENT_POLL).await;
                }
                done => return done.map(drop),
            }
        }
    }

    pub(super) async fn set_metadata(&self, key: &str, value: &str) -> Result<()> {
        self.run(&["image-meta", "set"], &[key, value], "", &mut |_| {}).await.map(drop)
    }

    /// Where the image comes from, and how far its migration is.
    pub(super) async fn status(&self) -> Result<(String, State)> {
        let path = self.target.path();
        let said = self.run(&["status", "--format", "json"], &[], "", &mut |_| {}).await?;
        let status: Status = serde_json::from_slice(&said)
            .map_err(|e| Error::unsupported("`rbd status` said something unexpected").caused_by(e))?;
        let none = || {
            Error::conflict(format!("{} is not being restored: there is nothing to resume", self.target))
                .help("its restore was finished or given up; begin a new one without --resume")
        };
        let described = status.migration.ok_or_else(none)?;
        let state = match described.state.as_str() {
            "prepared" | "executing" => State::Prepared,
            "executed" => State::Executed,
            other => {
                return Err(Error::conflict(format!("the migration of {} is {other:?}", self.target))
                    .help(format!("give it up with `{}`, and begin anew", advice::abort_migration(&path))));
            }
        };
        Ok((described.source_spec.ok_or_else(none)?, state))
    }

    /// Runs it to its end, with the image between the arguments; its standard output.
    async fn run(
        &self,
        args: &[&str],
        after: &[&str],
        input: &str,
        percent: &mut (dyn FnMut(u8) + Send),
    ) -> Result<Vec<u8>> {
        let words: Vec<&str> = args.iter().copied().take_while(|arg| !arg.starts_with('-')).take(2).collect();
        let doing = format!("{PROGRAM} {}", words.join(" "));
        let mut command = Command::new(PROGRAM);
        command.args(self.ceph.program_args()).args(args).arg(self.target.ceph_path()?).args(after);
        command.env_remove("CEPH_ARGS").kill_on_drop(true);
        // A Ctrl-C at the terminal is ours to deal with.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::unsupported(format!("there is no program `{PROGRAM}` here"))
                    .help("install ceph-common; a restore without --instant needs librbd1 only")
            }
            _ => io_error(format!("start {doing}"), e),
        })?;
        let failed = |e| io_error(format!("run {doing}"), e);
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await.map_err(failed)?;
        }
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            return Err(Error::internal("a program without its pipes"));
        };
        let mut cancel = self.cancel.clone();
        let mut out = Vec::new();
        let all = async {
            let mut stdout = stdout.take(SAID_LEN_BYTES_MAX as u64);
            let (read, said) = tokio::join!(stdout.read_to_end(&mut out), listen(stderr, percent));
            read?;
            Ok((child.wait().await?, said?))
        };
        let (status, said) = tokio::select! {
            biased;
            // Dropping the child ends it.
            () = cancel.cancelled() => return Err(interrupted()),
            ended = all => ended.map_err(failed)?,
        };
        if status.success() {
            return Ok(out);
        }
        // Ceph's programs end with the error number.
        let kind = match status.code() {
            Some(2) => ErrorKind::NotFound,
            Some(16 | 17) => ErrorKind::Conflict,
            Some(1 | 13) => ErrorKind::Denied,
            Some(22) => ErrorKind::Invalid,
            Some(95) => ErrorKind::Unsupported,
            _ => ErrorKind::Unavailable,
        };
        Err(Error::new(kind, format!("{doing} {}: {status}: {}", self.target.path(), last_words(&said))))
    }
}

/// Reads what the program says about its progress, `\rImage migration: 12% complete...`; the end of what it said.
async fn listen(
    mut stderr: impl tokio::io::AsyncRead + Unpin,
    percent: &mut (dyn FnMut(u8) + Send),
) -> std::io::Result<String> {
    let (mut said, mut buf) = (Vec::new(), [0; 4096]);
    loop {
        let n = stderr.read(&mut buf).await?;
        let Some(piece) = buf.get(..n).filter(|piece| !piece.is_empty()) else { break };
        said.extend_from_slice(piece);
        if let Some(found) = percent_in(&String::from_utf8_lossy(piece)) {
            percent(found);
        }
        let surplus = said.len().saturating_sub(SAID_LEN_BYTES_MAX);
        said.drain(..surplus);
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The last percentage in a text.
fn percent_in(text: &str) -> Option<u8> {
    let (before, _) = text.rsplit_once("% complete")?;
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|percent| *percent <= 100)
}

/// The last lines that are no progress; those of the program itself, where it has something to say beside its libraries.
fn last_words(said: &str) -> String {
    const LINES: usize = 3;
    let lines = said.split(['\r', '\n']).map(str::trim);
    let mut lines: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.contains("% complete")).collect();
    if lines.iter().any(|line| line.starts_with("rbd: ")) {
        lines.retain(|line| line.starts_with("rbd: "));
    }
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("; ")
}

#[cfg(test)]
mod tests {
    use super::{last_words, percent_in};

    #[test]
    fn progress_and_last_words() {
        for (text, expected) in [
            ("\rImage migration: 0% complete...", Some(0)),
            ("\rImage migration: 7% complete...\rImage migration: 42% complete...", Some(42)),
            ("Image migration: 100% complete...done.\n", Some(100)),
            ("Image migration: 300% complete...", None),
            ("% complete", None),
            ("nothing", None),
        ] {
            assert_eq!(percent_in(text), expected, "{text:?}");
        }
        let said = "\rImage migration: 1% complete...failed.\nrbd: a\n\nrbd: b\nrbd: c\nrbd: d\n";
        assert_eq!(last_words(said), "rbd: b; rbd: c; rbd: d");
    }
}
