//! Progress: two lines at the bottom of a terminal for each thing that goes on, or now and then a line in a log.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use cuttle::progress::{Outcome, Progress, Step};

use super::human;
use super::table::printable;
use super::ui::{Shown, Ui};

/// How often a log gets a line.
const LINE_EVERY: Duration = Duration::from_secs(300);
/// With the numbers beside it, it fits into 80 columns. It is not as wide as the terminal: where the last line is full, a
/// `^C` that the terminal echoes there moves everything by a line.
const BAR_WIDTH: usize = 20;
const REDRAW_EVERY: Duration = Duration::from_millis(150);

/// What is counted, and what the outcomes of a step are called; an empty word is left out.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    pub unit: &'static str,
    pub new: &'static str,
    pub known: &'static str,
    pub zero: &'static str,
}

/// Chunks so far.
#[derive(Debug, Default)]
struct Counts {
    new: AtomicU64,
    known: AtomicU64,
    zero: AtomicU64,
}

/// The progress of one backup, restore or verification.
pub struct Bar {
    ui: Ui,
    bar: ProgressBar,
    shown: Shown,
    label: String,
    words: Words,
    several: bool,
    counts: Arc<Counts>,
    phase: Mutex<Phase>,
}

struct Phase {
    name: String,
    total_bytes: Option<u64>,
    line_due: Instant,
}

impl Bar {
    /// Shows the progress of one thing; `several` when others go on beside it.
    pub fn new(ui: &Ui, label: &str, words: Words, several: bool) -> Arc<Self> {
        let (ui, bar, shown, label) = (ui.clone(), ui.bar(), ui.shown(), printable(label));
        bar.set_prefix(label.clone());
        let phase = Phase { name: String::new(), total_bytes: None, line_due: Instant::now() + LINE_EVERY };
        let (counts, phase) = (Arc::new(Counts::default()), Mutex::new(phase));
        Arc::new(Self { ui, bar, shown, label, words, several, counts, phase })
    }

    /// Takes it off the screen.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }

    fn style(&self, total_bytes: Option<u64>) -> ProgressStyle {
        let (counts, words) = (Arc::clone(&self.counts), self.words);
        let colors = if self.ui.is_colored() { ".green/dim" } else { "" };
        let template = match total_bytes {
            Some(_) => {
                format!("{{prefix}}: {{msg}}{{chunks}}\n  {{bar:{BAR_WIDTH}{}}}  {{numbers}}", colors)
            }
            None => "{prefix}: {msg} {spinner}{chunks}{done}".to_owned(),
        };
        // A template is checked by every test that shows a bar; a plain one is no reason to fail.
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        style
            .progress_chars("━╸─")
            .with_key("chunks", move |_: &ProgressState, w: &mut dyn Write| {
                let _ = w.write_str(&counts.text(words));
            })
            .with_key("numbers", |state: &ProgressState, w: &mut dyn Write| {
                let _ = w.write_str(&numbers(state));
            })
            .with_key("done", |state: &ProgressState, w: &mut dyn Write| {
                let _ = match state.pos() {
                    0 => Ok(()),
                    bytes => write!(w, "  {}, {}/s", human::size(bytes), human::size(state.per_sec() as u64)),
                };
            })
    }

    /// A line in the log, when one is due.
    fn log(&self) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now < phase.line_due {
            return;
        }
        phase.line_due = now + LINE_EVERY;
        let done = human::size(self.bar.position());
        let done = match phase.total_bytes {
            Some(total) if total > 0 => {
                let percent = self.bar.position() as f64 / total as f64 * 100.0;
                format!("{done} of {} ({percent:.0} %)", human::size(total))
            }
            _ => done,
        };
        self.ui.line(&format!("{}: {}, {done}{}", self.label, phase.name, self.counts.text(self.words)));
    }
}

impl Progress for Bar {
    fn phase(&self, name: &str, total_bytes: Option<u64>) {
        {
            let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
            name.clone_into(&mut phase.name);
            phase.total_bytes = total_bytes;
        }
        if self.shown != Shown::Bars {
            self.bar.reset();
            return;
        }
        self.bar.set_message(name.to_owned());
        if let Some(total) = total_bytes {
            self.bar.reset();
            self.bar.set_length(total);
        }
        self.bar.set_style(self.style(total_bytes));
        self.bar.enable_steady_tick(REDRAW_EVERY);
    }

    fn step(&self, step: Step) {
        let count = match step.outcome {
            Outcome::New => &self.counts.new,
            Outcome::Known => &self.counts.known,
            Outcome::Zero => &self.counts.zero,
        };
        count.fetch_add(step.chunks, Ordering::Relaxed);
        self.bar.inc(step.bytes);
        if self.shown == Shown::Lines {
            self.log();
        }
    }

    fn warn(&self, message: &str) {
        match self.several && !message.starts_with(&self.label) {
            true => self.ui.warn(&format!("{}: {message}", self.label)),
            false => self.ui.warn(message),
        }
    }
}

impl Counts {
    /// `, 12 chunks: 4 new, 8 known, 0 zero` or `, 12 chunks read`; nothing before the first.
    fn text(&self, words: Words) -> String {
        let [new, known, zero] = [&self.new, &self.known, &self.zero].map(|c| c.load(Ordering::Relaxed));
        let all = new + known + zero;
        if all == 0 {
            return String::new();
        }
        let outcomes = [(new, words.new), (known, words.known), (zero, words.zero)];
        let told: Vec<_> = outcomes.into_iter().filter(|(_, word)| !word.is_empty()).collect();
        let all = human::counted(all, words.unit);
        match told[..] {
            [(_, word)] => format!(", {all} {word}"),
            _ => {
                let each: Vec<String> =
                    told.iter().map(|(n, w)| format!("{} {w}", human::count(*n))).collect();
                format!(", {all}: {}", each.join(", "))
            }
        }
    }
}

/// Bytes, rate and time left.
fn numbers(state: &ProgressState) -> String {
    let (at, total) = (state.pos(), state.len().unwrap_or(0));
    let percent = if total == 0 { 100.0 } else { (at as f64 / total as f64 * 100.0).min(100.0) };
    let left = match state.eta().as_secs() {
        _ if at == 0 || at >= total => String::new(),
        s => format!("  eta {}", human::duration(s.max(10) as f64)),
    };
    format!(
        "{:>9} of {} {percent:>3.0}% {:>9}/s{left}",
        human::size(at),
        human::size(total),
        human::size(state.per_sec() as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::{Counts, Words};
    use std::sync::atomic::Ordering;

    #[test]
    fn counts_in_words() {
        let counts = Counts::default();
        let words = Words { unit: "chunk", new: "fetched", known: "kept", zero: "zero" };
        let one = Words { unit: "object", new: "read", known: "", zero: "" };
        assert_eq!(counts.text(words), "");
        counts.new.store(1, Ordering::Relaxed);
        assert_eq!(counts.text(one), ", 1 object read");
        counts.zero.store(1234, Ordering::Relaxed);
        assert_eq!(counts.text(words), ", 1,235 chunks: 1 fetched, 0 kept, 1,234 zero");
    }
}
