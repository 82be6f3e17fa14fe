//! A command whose output is the volume, and whose exit code says whether that is all of it.

use std::io::{self, ErrorKind as Io, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use cuttle::error::io_error;
use cuttle::{Error, Result};

/// How long a command that is no longer wanted may clean up after itself.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const STOP_LOOK_EVERY: Duration = Duration::from_millis(20);

/// A command that runs. Dropped, it is stopped.
pub struct Producer(Arc<Running>);

struct Running {
    words: Vec<String>,
    pid: Pid,
    /// Whether it and what it starts are a process group of their own.
    own_group: bool,
    child: Mutex<Child>,
}

/// What a command prints. It ends only if the command then ends well; else its end is an error.
pub struct Output {
    running: Arc<Running>,
    stdout: ChildStdout,
}

impl Producer {
    /// Starts a command, without a shell. It has the standard input and error of this process.
    pub fn start(words: &[String]) -> Result<(Self, Output)> {
        let doing = || format!("start the command {}", words.join(" "));
        let (program, args) = words.split_first().ok_or_else(|| Error::invalid("there is no command"))?;
        // With a terminal, Ctrl-C reaches it as it does us, and it may ask for a password. Without one, nothing would reach
        // what it starts.
        let own_group = std::fs::File::open("/dev/tty").is_err();
        let mut command = Command::new(program);
        command.args(args).stdout(Stdio::piped());
        if own_group {
            command.process_group(0);
        }
        let mut child = command.spawn().map_err(|e| io_error(doing(), e))?;
        let stdout = child.stdout.take().ok_or_else(|| Error::internal("a command without its output"))?;
        let pid = Pid::from_child(&child);
        let running = Arc::new(Running { words: words.to_vec(), pid, own_group, child: Mutex::new(child) });
        Ok((Self(Arc::clone(&running)), Output { running, stdout }))
    }

    /// Stops the command where it still runs, and waits until it has. Blocks.
    pub fn stop(&self) {
        let Running { pid, own_group, .. } = *self.0;
        // While it is locked nobody waits for the process, so its number is not another's.
        let mut child = self.0.child();
        let began = Instant::now();
        let mut signal = Signal::TERM;
        while matches!(child.try_wait(), Ok(None)) {
            if signal == Signal::TERM || began.elapsed() > STOP_PATIENCE {
                // It may end by itself in this very moment.
                let _ = if own_group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
                signal = Signal::KILL;
            }
            std::thread::sleep(STOP_LOOK_EVERY);
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Running {
    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end, in a way that lets others stop it meanwhile.
    fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            match waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Err(rustix::io::Errno::INTR) => {}
                // Whoever stopped it has waited for it.
                Ok(_) | Err(_) => return self.child().wait(),
            }
        }
    }

    fn failed(&self, status: ExitStatus) -> Error {
        Error::unavailable(format!("the command {} failed: {status}", self.words.join(" ")))
            .help("what it says of that is above; what it printed until then is not taken for the volume")
    }
}

impl Read for Output {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.stdout.read(buf) {
            Ok(0) if !buf.is_empty() => match self.running.wait()? {
                status if status.success() => Ok(0),
                status => Err(io::Error::other(self.running.failed(status))),
            },
            Err(e) if e.kind() == Io::Interrupted => self.read(buf),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::{Output, Producer};

    fn start(script: &str) -> (Producer, Output) {
        Producer::start(&["/bin/sh", "-c", script].map(str::to_owned)).expect("starts")
    }

    fn read(script: &str) -> std::io::Result<String> {
        let (_producer, mut output) = start(script);
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn only_the_exit_code_makes_an_end() {
        assert_eq!(read("echo a; echo b").expect("all well"), "a\nb\n");
        for (script, why) in
            [("echo a; exit 3", "exit status: 3"), ("false", "exit status: 1"), ("kill -9 $$", "signal: 9")]
        {
            let error = read(script).expect_err(script).to_string();
            assert!(error.contains(why), "{script}: {error}");
        }
        // Its output is closed long before it fails.
        assert!(read("echo a; exec >&-; sleep 0.1; exit 1").is_err());
        let error = Producer::start(&["/nonexistent/program".to_owned()]).err().expect("no such program");
        assert!(error.to_string().contains("/nonexistent/program"), "{error}");
        assert!(Producer::start(&[]).is_err());
    }

    #[test]
    fn what_is_no_longer_wanted_is_stopped() {
        let (producer, mut output) = start("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done");
        output.read_exact(&mut [0; 6]).expect("it runs");
        producer.stop();
        let (producer, mut output) = start("echo ready; sleep 1000");
        output.read_exact(&mut [0; 6]).expect("it runs");
        let reader = std::thread::spawn(move || output.read(&mut [0; 9]));
        drop(producer);
        assert!(reader.join().expect("no panic").is_err(), "the end of a killed command is no end");
    }
}
