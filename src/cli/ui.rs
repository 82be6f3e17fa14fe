//! Everything that is shown: results on standard output, all else on standard error, above the progress bars.

use std::io::{self, ErrorKind as Io, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use cuttle::error::io_error;
use cuttle::{Error, Result};

use super::Exit;
use super::environment::{NO_COLOR, TERM};
use super::failure::Failure;
use super::global::OutputOptions;
use super::report::{self, Report};
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

/// Something that must be seen.
#[derive(Serialize)]
struct Warning<'a> {
    message: &'a str,
}

impl Report for Warning<'_> {
    const MESSAGE_TYPE: &'static str = "warning";

    fn summary(&self) -> String {
        printable(self.message)
    }
}

/// What went wrong, and with what of several things.
#[derive(Serialize)]
struct Mistake<'a> {
    during: Option<&'a str>,
    #[serde(flatten)]
    failure: &'a Failure,
}

impl Report for Mistake<'_> {
    const MESSAGE_TYPE: &'static str = "error";

    fn summary(&self) -> String {
        let message = &self.failure.message;
        let during = self.during.filter(|d| !message.contains(d)).map(|d| format!("{}: ", printable(d)));
        format!("{}{}", during.unwrap_or_default(), printable(message))
    }
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
        let no_color = NO_COLOR.path().is_some();
        let dumb = TERM.path().is_none_or(|t| t.as_os_str() == "dumb");
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

    /// Prints a report.
    pub fn report(&self, report: &impl Report) -> Result<()> {
        self.told(report)?.map_or(Ok(()), |text| self.print(&text))
    }

    /// Tells a report where standard output is a volume, and nothing else goes there.
    pub fn report_aside(&self, report: &impl Report) -> Result<()> {
        self.told(report)?.into_iter().for_each(|text| self.line(&text));
        Ok(())
    }

    fn told(&self, told: &impl Report) -> Result<Option<String>> {
        if self.inner.json {
            return report::line(told).map(Some);
        }
        let summary = if self.is_talkative() { told.summary() } else { String::new() };
        Ok(Some(report::lines([told.answer(), summary])).filter(|text| !text.is_empty()))
    }

    /// Prints a list that was asked for, as JSON.
    pub fn print_list(&self, listed: &impl Serialize) -> Result<()> {
        self.print(&report::list(listed)?)
    }

    /// Tells something in passing, unless only results are wanted.
    pub fn remark(&self, text: &str) {
        if self.is_talkative() {
            self.line(text);
        }
    }

    /// Tells something that must be seen.
    pub fn warn(&self, text: &str) {
        let warning = Warning { message: text };
        match self.inner.json {
            true => self.json_line(&warning),
            false => self.line(&format!("{} {}", self.paint(YELLOW, "warning:"), warning.summary())),
        }
    }

    /// Tells what went wrong; `during` names what it went wrong with, where that is one of several things.
    pub fn error(&self, failure: &Failure, during: Option<&str>) {
        let mistake = Mistake { during, failure };
        if self.inner.json {
            return self.json_line(&mistake);
        }
        let mut text = format!("{} {}", self.paint(RED, "error:"), mistake.summary());
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

    /// A bar above all that is printed; hidden where none is wanted.
    pub fn bar(&self) -> ProgressBar {
        match self.inner.progress {
            Shown::Bars => self.inner.bars.add(ProgressBar::no_length()),
            _ => ProgressBar::hidden(),
        }
    }

    pub fn shown(&self) -> Shown {
        self.inner.progress
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

    fn json_line(&self, told: &impl Report) {
        if let Ok(text) = report::line(told) {
            self.line(&text);
        }
    }

    fn paint(&self, color: &str, text: &str) -> String {
        if self.inner.colored { format!("{color}{text}{PLAIN}") } else { text.to_owned() }
    }
}
