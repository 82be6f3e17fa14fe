//! A world to run commands in, and one run.

use std::fmt;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::rows::Row;
use crate::bench::{Bench, random};
use crate::support;
use crate::support::repo::diff_v1;

/// Longest wait for what must come at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// What disturbs a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Whoever read standard output went away.
    StdoutGone,
    /// Whoever read standard output and error went away, and there is much to tell.
    BothGone,
    /// Neither was open when the command was started, nor is standard input.
    Closed,
    /// Standard output takes nothing more: a full disk.
    Full,
    /// No HOME, as in a service.
    NoHome,
    /// Neither state nor cache can be written.
    NoState,
}

impl Trouble {
    pub const ALL: [Self; 6] =
        [Self::StdoutGone, Self::BothGone, Self::Closed, Self::Full, Self::NoHome, Self::NoState];
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// Files that should not be there.
    pub leftovers: Vec<String>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "code {code}")?,
            (_, signal) => write!(f, "signal {}", signal.unwrap_or_default())?,
        }
        write!(f, " ({})", self.stderr.trim())
    }
}

/// What all runs begin from; each gets a copy.
pub struct World(Bench);

impl World {
    /// A repository with two backups of a volume, a copy of it that lost a page, and sources.
    pub fn new() -> Self {
        let bench = Bench::new();
        bench.ok(&["init", "--chunk-size", "32KiB"]);
        let volume = random(1, 200_001);
        bench.write("v", &volume);
        bench.ok(&["backup", "v"]);
        bench.write("v", &[&random(3, 40_000)[..], &volume[40_000..]].concat());
        bench.ok(&["backup", "v", "--tag", "second"]);
        copy(&bench.path("repo"), &bench.path("hurt"));
        let mut pages = Vec::new();
        files(&bench.path("hurt/projects/default/pages"), &mut |page| pages.push(page.to_owned()));
        fs::remove_file(pages.iter().min().expect("a page")).expect("lose a page");
        // A file is known by its path, and each copy of this world is elsewhere: backed up are those that never were before.
        bench.write("x", &random(2, 100_000));
        bench.write("y", &random(5, 50_000));
        bench.write("key2", &random(4, 64));
        let diff = diff_v1(None, "s", 1 << 20, &[(0, vec![1; 5000]), (9000, vec![0; 5000])]);
        bench.write("whole.diff", &diff);
        bench.write("cut.diff", &diff[..diff.len() - 1]);
        fs::create_dir(bench.path("mnt")).expect("a folder");
        Self(bench)
    }

    /// A copy, with nobody else in it.
    pub fn place(&self) -> Place {
        let dir = tempfile::tempdir().expect("a folder");
        copy(&self.0.path(""), dir.path());
        Place { dir }
    }

    /// Runs a command in a new copy.
    pub fn run(&self, row: &Row, trouble: Trouble) -> Ended {
        let place = self.place();
        if !place.can(row) {
            return place.ended(row.code);
        }
        let mut running = place.start(row, trouble);
        if row.serves {
            running.serving();
            running.signal(Signal::TERM);
        }
        running.end()
    }
}

/// A world of one run's own.
pub struct Place {
    pub dir: TempDir,
}

impl Place {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Whether this machine can do it.
    pub fn can(&self, row: &Row) -> bool {
        let fuse = File::options().read(true).write(true).open("/dev/fuse").is_ok();
        if row.serves && row.command == "mount" && !fuse {
            support::skip("a mount needs /dev/fuse");
            return false;
        }
        true
    }

    fn ended(&self, code: i32) -> Ended {
        let (stdout, stderr, leftovers) = (Vec::new(), String::new(), Vec::new());
        Ended { code: Some(code), signal: None, stdout, stderr, leftovers }
    }

    fn command(&self, row: &Row, trouble: Trouble) -> (Command, u16) {
        // Free now; whoever takes it meanwhile makes the test fail, and not pass.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let listen = format!("127.0.0.1:{port}");
        let args = row.args.iter().map(|arg| if *arg == "127.0.0.1:0" { listen.as_str() } else { arg });
        let program = env!("CARGO_BIN_EXE_cuttle");
        let mut command = match trouble {
            Trouble::Closed => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh", program]);
                shell
            }
            _ => Command::new(program),
        };
        command.args(args).current_dir(self.dir.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("CUTTLE_REPOSITORY", "repo").env("CUTTLE_KEY_FILE", "key");
        match trouble {
            Trouble::NoHome => {}
            Trouble::NoState => {
                // Root may write where modes forbid it, and nobody below a file.
                command.env("HOME", "/nonexistent").env("CUTTLE_CACHE_DIR", self.path("key/cache"));
                command.env("XDG_STATE_HOME", self.path("key/state"));
            }
            _ => {
                command.env("HOME", self.path("home"));
            }
        }
        if matches!(trouble, Trouble::BothGone | Trouble::Closed) {
            command.env("CUTTLE_LOG", "trace");
        }
        (command, port)
    }

    pub fn start<'a>(&'a self, row: &'a Row, trouble: Trouble) -> Running<'a> {
        let (mut command, port) = self.command(row, trouble);
        let gone = |no: bool| if no { broken_pipe() } else { Stdio::piped() };
        let both = trouble == Trouble::BothGone;
        command.stdin(Stdio::null());
        command.stdout(match trouble {
            Trouble::Full => File::options().write(true).open("/dev/full").expect("/dev/full").into(),
            _ => gone(both || trouble == Trouble::StdoutGone),
        });
        command.stderr(gone(both));
        let child = command.spawn().expect("start cuttle");
        Running { place: self, row, child, port }
    }
}

/// A command under way.
pub struct Running<'a> {
    place: &'a Place,
    row: &'a Row,
    child: Child,
    port: u16,
}

impl Running<'_> {
    /// Waits until it serves.
    pub fn serving(&mut self) {
        let began = Instant::now();
        loop {
            let ready = match self.row.command {
                "mount" => fs::read_dir(self.place.path("mnt")).is_ok_and(|mut d| d.next().is_some()),
                _ => TcpStream::connect(("127.0.0.1", self.port)).is_ok(),
            };
            // One that ended will be asked for its exit code.
            if ready || self.child.try_wait().expect("look at the process").is_some() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{} does not serve", self.row);
            std::thread::yield_now();
        }
    }

    pub fn signal(&mut self, signal: Signal) {
        // Once it was waited for its number may be another's.
        if self.child.try_wait().expect("look at the process").is_none() {
            kill_process(Pid::from_child(&self.child), signal).expect("send a signal");
        }
    }

    pub fn end(self) -> Ended {
        use std::os::unix::process::ExitStatusExt;
        let output = self.child.wait_with_output().expect("wait");
        let mut leftovers = Vec::new();
        files(self.place.dir.path(), &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // A name with '#' is that of an object being written.
            if name.contains('#') || name.contains("cuttle-partial") {
                leftovers.push(path.display().to_string());
            }
        });
        Ended {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            leftovers,
        }
    }
}

/// A pipe that nobody reads.
fn broken_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// Calls `each` with every file below a folder.
pub fn files(dir: &Path, each: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() { files(&path, each) } else { each(&path) }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            // Objects are never written to again, and so may be the same file.
            let copied =
                if is_object(&path) { fs::hard_link(&path, &to) } else { fs::copy(&path, &to).map(drop) };
            copied.expect("copy a file");
        }
    }
}

fn is_object(path: &Path) -> bool {
    path.components().any(|c| c.as_os_str() == "projects")
}
