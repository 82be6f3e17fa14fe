//! Everything that is shown: results on standard output, all else on standard error, above the progress bars.

use std::io::{self, ErrorKind as Io, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;

use cuttle::error::io_error;
use cuttle::{Error, Result};

use super::Exit;
use super::bar::{Bar, Words};
use super::failure::Failure;
use super::global::OutputOptions;
use super::table::printable;
use super::terminal;

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const CYAN: &str = "\x1b[1;36m";
const PLAIN: &str = "\x1b[0m";

/// How and where things are shown. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ui {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    json: bool,
    quiet: bool,
    verbose: u8,
    colored: bool,
    bars: MultiProgress,
    progress: Shown,
    output: Mutex<Output>,
}

/// What became of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Open,
    /// Whoever read it went away: there is nothing more to say, and that is no failure.
    Gone,
    /// It takes no more, and somebody has half of it: a full disk, say.
    Broken,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Bars,
    /// A line every few minutes, for a log.
    Lines,
    Not,
}

/// A line of JSON that tells of something on the way.
#[derive(Serialize)]
struct Message<'a> {
    message_type: &'a str,
    message: &'a str,
}

/// An error as a line of JSON.
#[derive(Serialize)]
struct ErrorMessage<'a> {
    message_type: &'static str,
    during: Option<&'a str>,
    #[serde(flatten)]
    failure: &'a Failure,
}

impl Ui {
    pub fn new(options: &OutputOptions) -> Self {
        let terminal = io::stderr().is_terminal();
        let progress = match terminal {
            _ if options.quiet || options.json || options.no_progress => Shown::Not,
            true => Shown::Bars,
            false if options.verbose > 0 => Shown::Lines,
            false => Shown::Not,
        };
        let target = match progress {
            Shown::Bars => terminal::draw_target(),
            _ => ProgressDrawTarget::hidden(),
        };
        // https://no-color.org
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|t| t == "dumb");
        let inner = Inner {
            json: options.json,
            quiet: options.quiet,
            verbose: options.verbose,
            colored: terminal && !no_color && !dumb && !options.json,
            bars: MultiProgress::with_draw_target(target),
            progress,
            output: Mutex::new(Output::Open),
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn is_json(&self) -> bool {
        self.inner.json
    }

    /// Whether summaries for people are wanted.
    pub fn is_talkative(&self) -> bool {
        !self.inner.quiet && !self.inner.json
    }

    pub fn verbose(&self) -> u8 {
        self.inner.verbose
    }

    pub fn is_colored(&self) -> bool {
        self.inner.colored
    }

    /// The exit code of a command that ended so: its own, whatever became of its output, unless all went well but what
    /// was printed is not whole.
    pub fn outcome(&self, exit: Exit) -> Exit {
        match (exit, *self.output()) {
            (Exit::Success, Output::Broken) => Exit::Failure,
            _ => exit,
        }
    }

    /// Prints a result. Never an error: what a command does goes on and comes to its own end, whether anybody reads of it
    /// or not. See [`Ui::outcome`].
    pub fn print(&self, text: &str) -> Result<()> {
        let mut output = self.output();
        if *output != Output::Open {
            return Ok(());
        }
        let written = self.above_bars(|| {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.write_all(b"\n")?;
            out.flush()
        });
        *output = match written {
            Ok(()) => Output::Open,
            Err(e) if e.kind() == Io::BrokenPipe => Output::Gone,
            Err(e) => {
                let error = io_error("write to standard output", e)
                    .help("what the command did is done, or goes on; only what it prints is not whole");
                self.error(&Failure::from(&error), None);
                Output::Broken
            }
        };
        Ok(())
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.inner.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints a result as one line of JSON.
    pub fn print_json(&self, value: &impl Serialize) -> Result<()> {
        self.print(&json_text(value)?)
    }

    /// Tells something in passing, unless only results are wanted.
    pub fn note(&self, text: &str) {
        if self.is_talkative() {
            self.line(text);
        }
    }

    /// Tells something that must be seen.
    pub fn warn(&self, text: &str) {
        if self.inner.json {
            self.json_line(&Message { message_type: "warning", message: text });
        } else {
            self.line(&format!("{} {}", self.paint(YELLOW, "warning:"), printable(text)));
        }
    }

    /// Tells what went wrong; `during` names what it went wrong with, where that is one of several things.
    pub fn error(&self, failure: &Failure, during: Option<&str>) {
        if self.inner.json {
            return self.json_line(&ErrorMessage { message_type: "error", during, failure });
        }
        let during = during.filter(|d| !failure.message.contains(d));
        let during = during.map(|d| format!("{}: ", printable(d))).unwrap_or_default();
        let mut text = format!("{} {during}{}", self.paint(RED, "error:"), printable(&failure.message));
        for cause in &failure.causes {
            text += &format!("\n  {} {}", self.paint(BOLD, "caused by:"), printable(cause));
        }
        if let Some(help) = &failure.help {
            text += &format!("\n  {} {}", self.paint(CYAN, "help:"), printable(help));
        }
        self.line(&text);
    }

    /// Tells the error that ends the command.
    pub fn failed(&self, error: &Error) -> Exit {
        self.error(&Failure::from(error), None);
        Exit::from(error)
    }

    /// Shows the progress of one thing; `several` when others go on beside it.
    pub fn progress(&self, label: &str, words: Words, several: bool) -> Arc<Bar> {
        let bar = match self.inner.progress {
            Shown::Bars => self.inner.bars.add(indicatif::ProgressBar::no_length()),
            _ => indicatif::ProgressBar::hidden(),
        };
        Arc::new(Bar::new(self.clone(), bar, self.inner.progress, (printable(label), words, several)))
    }

    /// Does something to the terminal while no bar is in the way.
    pub fn above_bars<T>(&self, work: impl FnOnce() -> T) -> T {
        match self.inner.progress {
            Shown::Bars => self.inner.bars.suspend(work),
            _ => work(),
        }
    }

    /// A line on standard error. Where nobody reads it, nothing more can be said.
    pub fn line(&self, text: &str) {
        let _ = self.above_bars(|| io::stderr().lock().write_all(format!("{text}\n").as_bytes()));
    }

    fn json_line(&self, value: &impl Serialize) {
        if let Ok(text) = json_text(value) {
            self.line(&text);
        }
    }

    fn paint(&self, color: &str, text: &str) -> String {
        if self.inner.colored { format!("{color}{text}{PLAIN}") } else { text.to_owned() }
    }
}

/// JSON on one line.
pub fn json_text(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal("a result is no JSON").caused_by(e))
}
