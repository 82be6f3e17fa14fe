//! The library's log, on standard error.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::Ui;

/// Shows the log: warnings; with `-v` what is going on, with `-vv` each request, with `-vvv` everything.
/// `CUTTLE_LOG` says it in the words of tracing-subscriber's `EnvFilter` instead.
pub fn start(ui: &Ui) {
    let filter = match ui.verbose() {
        // What verify finds is in its report.
        0 => "warn,cuttle::verify=error",
        1 => "warn,cuttle=info",
        2 => "info,cuttle=debug",
        _ => "debug,cuttle=trace",
    };
    let filter = EnvFilter::try_from_env("CUTTLE_LOG").unwrap_or_else(|_| EnvFilter::new(filter));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ui.is_colored())
        .with_target(ui.verbose() > 1)
        .with_writer(Above(ui.clone()));
    // It is the only one that is ever set.
    let _ = if ui.verbose() > 1 { log.try_init() } else { log.without_time().try_init() };
}

/// Writes above the progress bars.
struct Above(Ui);

impl<'a> MakeWriter<'a> for Above {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

struct Line<'a>(&'a Ui);

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        // Where nobody reads it, nothing more can be said: an error here would be told on standard error, and that panics.
        let _ = self.0.above_bars(|| io::stderr().lock().write_all(text));
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
