//! The library's log, on standard error.

use std::io::{self, Write};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{MakeWriter, layer};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

use super::Ui;
use super::environment::LOG;

/// Shows the log: warnings; with `-v` what is going on, with `-vv` each request, with `-vvv` everything.
/// `CUTTLE_LOG` says it instead, as `LEVEL` and `MODULE=LEVEL` with commas between them: `warn,cuttle::store=debug`.
pub fn start(ui: &Ui) {
    let level = match ui.verbose() {
        // What verify finds is in its report.
        0 => "warn,cuttle::verify=error",
        1 => "warn,cuttle=info",
        2 => "info,cuttle=debug",
        _ => "debug,cuttle=trace",
    };
    let said = LOG.text().unwrap_or_else(|e| {
        ui.warn(&e.to_string());
        None
    });
    let said = said.and_then(|said| {
        let parsed = said.parse::<Targets>();
        parsed.inspect_err(|e| ui.warn(&format!("{} {said:?} is left out of account: {e}", LOG.name))).ok()
    });
    let Some(filter) = said.or_else(|| level.parse().ok()) else { return };
    let lines =
        layer().with_ansi(ui.is_colored()).with_target(ui.verbose() > 1).with_writer(Above(ui.clone()));
    // It is the only one that is ever set.
    let _ = match ui.verbose() > 1 {
        true => registry().with(lines.with_filter(filter)).try_init(),
        false => registry().with(lines.without_time().with_filter(filter)).try_init(),
    };
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
