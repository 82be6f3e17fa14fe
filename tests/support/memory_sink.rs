//! A target in memory, and a reader of what is in memory.

use std::sync::{Arc, Mutex};

use cuttle::sink::{Existing, Order, Sink};
use cuttle::source::ReadAt;
use cuttle::{Error, Result};

/// What was done to a sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    pub writes: usize,
    pub zeroed_bytes: u64,
    pub finished: usize,
}

/// A target in memory.
pub struct MemorySink {
    pub data: Arc<Mutex<Vec<u8>>>,
    pub calls: Mutex<Calls>,
    order: Order,
    existing: Existing,
    /// Called before each write with the number of writes so far.
    pub on_write: Box<dyn Fn(usize) -> Result<()> + Send + Sync>,
}

impl MemorySink {
    pub fn blank(size: usize) -> Self {
        Self::new(vec![0; size], Order::Any, Existing::Blank)
    }

    /// Ascending and of unknown content, as a pipe is.
    pub fn pipe(size: usize) -> Self {
        Self::new(vec![0xaa; size], Order::Ascending, Existing::Nothing)
    }

    pub fn holding(data: Vec<u8>) -> Self {
        let mut sink = Self::new(data, Order::Any, Existing::Blank);
        sink.existing = Existing::Content(Arc::new(MemoryReader(Arc::clone(&sink.data))));
        sink
    }

    pub fn new(data: Vec<u8>, order: Order, existing: Existing) -> Self {
        let data = Arc::new(Mutex::new(data));
        let (calls, on_write) = (Mutex::default(), Box::new(|_| Ok(())));
        Self { data, calls, order, existing, on_write }
    }

    pub fn content(&self) -> Vec<u8> {
        self.data.lock().expect("not poisoned").clone()
    }

    pub fn calls(&self) -> Calls {
        *self.calls.lock().expect("not poisoned")
    }
}

impl Sink for MemorySink {
    fn order(&self) -> Order {
        self.order
    }

    fn existing(&self) -> Existing {
        self.existing.clone()
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let writes = self.calls().writes;
        (self.on_write)(writes)?;
        self.calls.lock().expect("not poisoned").writes += 1;
        let at = offset_bytes as usize;
        self.data.lock().expect("not poisoned")[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.calls.lock().expect("not poisoned").zeroed_bytes += length_bytes;
        let at = offset_bytes as usize;
        self.data.lock().expect("not poisoned")[at..at + length_bytes as usize].fill(0);
        Ok(())
    }

    fn read_back(&self) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(MemoryReader(Arc::clone(&self.data))))
    }

    fn finish(&self) -> Result<()> {
        self.calls.lock().expect("not poisoned").finished += 1;
        Ok(())
    }
}

/// Reads what a [`MemorySink`] holds.
pub struct MemoryReader(pub Arc<Mutex<Vec<u8>>>);

impl MemoryReader {
    pub fn of(data: Vec<u8>) -> Arc<dyn ReadAt> {
        Arc::new(Self(Arc::new(Mutex::new(data))))
    }
}

impl ReadAt for MemoryReader {
    fn size_bytes(&self) -> u64 {
        self.0.lock().expect("not poisoned").len() as u64
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<()> {
        let data = self.0.lock().expect("not poisoned");
        let at = offset_bytes as usize;
        let found = data.get(at..at + buf.len()).ok_or_else(|| Error::invalid("beyond the end"))?;
        buf.copy_from_slice(found);
        Ok(())
    }
}
