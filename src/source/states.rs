//! A stream of several states, taken apart: a full export with snapshots holds the volume as it was at each of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{StreamEvent, StreamHeader, StreamSource};
use crate::error::{Error, Result};

/// The states of a stream, oldest first, each a stream of its own: the first is what the whole stream is, and each other one
/// is relative to the one before. Cheap to clone: a clone goes on where the others are.
#[derive(Clone)]
pub struct States(Arc<Mutex<Shared>>);

struct Shared {
    source: Box<dyn StreamSource>,
    at: At,
}

/// Where in the stream one is.
enum At {
    Start,
    /// In a state that leads to this snapshot.
    Within {
        to: Option<String>,
    },
    /// A state is read to its end, and another begins.
    Between {
        from: Option<String>,
        to: Option<String>,
        size_bytes: u64,
    },
    End,
}

impl States {
    /// Of a stream of which no event was read yet.
    pub fn of(source: Box<dyn StreamSource>) -> Self {
        Self(Arc::new(Mutex::new(Shared { source, at: At::Start })))
    }

    /// The next state, once the one before was read to its end; `None` after the last.
    pub fn next_state(&self) -> Result<Option<Box<dyn StreamSource>>> {
        let mut shared = lock(&self.0);
        let header = shared.source.header().clone();
        let (header, begin) = match std::mem::replace(&mut shared.at, At::End) {
            At::End => return Ok(None),
            At::Within { .. } => return Err(Error::internal("a state of a stream was not read to its end")),
            // Raw bytes are one state, and begin with no word.
            At::Start if !header.has_end => (header, None),
            At::Start => match shared.source.next_event()? {
                Some(StreamEvent::Diff { size_bytes, to }) => {
                    state(header.from.clone(), to, size_bytes, header)
                }
                _ => return Err(Error::internal("a stream that does not begin with a diff")),
            },
            At::Between { from, to, size_bytes } => state(from, to, size_bytes, header),
        };
        shared.at = At::Within { to: header.to.clone() };
        let size_bytes = header.size_bytes.unwrap_or(0);
        Ok(Some(Box::new(State { shared: Arc::clone(&self.0), header, begin, size_bytes })))
    }
}

fn state(
    from: Option<String>,
    to: Option<String>,
    size_bytes: u64,
    whole: StreamHeader,
) -> (StreamHeader, Option<StreamEvent>) {
    let begin = StreamEvent::Diff { size_bytes, to: to.clone() };
    (StreamHeader { from, to, size_bytes: Some(size_bytes), states: 1, ..whole }, Some(begin))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One state of a stream.
struct State {
    shared: Arc<Mutex<Shared>>,
    header: StreamHeader,
    /// The event that it begins with, until that is taken.
    begin: Option<StreamEvent>,
    size_bytes: u64,
}

impl StreamSource for State {
    fn header(&self) -> &StreamHeader {
        &self.header
    }

    fn next_event(&mut self) -> Result<Option<StreamEvent>> {
        if let Some(begin) = self.begin.take() {
            return Ok(Some(begin));
        }
        let mut shared = lock(&self.shared);
        let At::Within { to: from } = &shared.at else { return Ok(None) };
        let from = from.clone();
        let event = shared.source.next_event()?;
        self.size_bytes = match &event {
            // Raw bytes: their number is known when they are over.
            _ if !self.header.has_end => shared.source.final_size_bytes(),
            _ => self.size_bytes,
        };
        shared.at = match &event {
            Some(StreamEvent::Extent(_)) => return Ok(event),
            Some(StreamEvent::Diff { size_bytes, to }) => {
                At::Between { from, to: to.clone(), size_bytes: *size_bytes }
            }
            None => At::End,
        };
        Ok(None)
    }

    fn read_data(&mut self, buf: &mut [u8]) -> Result<usize> {
        lock(&self.shared).source.read_data(buf)
    }

    fn final_size_bytes(&self) -> u64 {
        self.size_bytes
    }
}
