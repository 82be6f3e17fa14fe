//! The terminal that progress bars are drawn on, which may go away at any time.
//!
//! indicatif's own terminal gives its errors to code that panics at them. Here a terminal that does not answer any more (its
//! window was closed, its connection broke, and the command was told to go on without it) takes nothing with it.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressDrawTarget, TermLike};
use rustix::termios::tcgetwinsize;

/// How often the bars are drawn at most: what indicatif does by itself.
const DRAWS_PER_SECOND: u8 = 20;
const WIDTH_DEFAULT: u16 = 80;
const HEIGHT_DEFAULT: u16 = 24;

/// Standard error, for bars.
pub fn draw_target() -> ProgressDrawTarget {
    ProgressDrawTarget::term_like_with_hz(Box::new(Terminal::default()), DRAWS_PER_SECOND)
}

/// Gathers what is drawn until it is to be seen, so that nothing flickers.
#[derive(Debug, Default)]
struct Terminal {
    drawn: Mutex<String>,
}

impl Terminal {
    fn draw(&self, text: &str) -> io::Result<()> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }

    /// `ESC [ n letter` moves the cursor by n.
    fn step(&self, n: usize, letter: char) -> io::Result<()> {
        if n == 0 { Ok(()) } else { self.draw(&format!("\x1b[{n}{letter}")) }
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        tcgetwinsize(io::stderr()).ok().map(|size| size.ws_col).filter(|w| *w > 0).unwrap_or(WIDTH_DEFAULT)
    }

    fn height(&self) -> u16 {
        tcgetwinsize(io::stderr()).ok().map(|size| size.ws_row).filter(|h| *h > 0).unwrap_or(HEIGHT_DEFAULT)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.step(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.step(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.step(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.step(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.draw(text)?;
        self.draw("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let drawn = std::mem::take(&mut *self.drawn.lock().unwrap_or_else(PoisonError::into_inner));
        // Where nobody sees it, nothing is lost.
        let _ = io::stderr().lock().write_all(drawn.as_bytes());
        Ok(())
    }
}
