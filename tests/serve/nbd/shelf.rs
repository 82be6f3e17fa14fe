//! Images in memory, and a server for them on loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cuttle::cancel::{self, Canceller};
use cuttle::serve::nbd::exports::{Exports, Image, Listed, Opened};
use cuttle::serve::nbd::{self, Limits, Listener};
use cuttle::units::{Content, Extent};
use cuttle::{Error, Result};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// Zeros are told in blocks of this.
const BLOCK: usize = 4096;

/// Bytes in memory that can be made to fail and to wait.
pub struct Memory {
    content: Mutex<Bytes>,
    /// Reads of it fail.
    pub is_hurt: AtomicBool,
    /// Reads that begin at this offset wait for a permit; `u64::MAX` for none.
    pub held_at: AtomicU64,
    pub gate: Semaphore,
    pub read_bytes: AtomicU64,
}

impl Memory {
    pub fn new(content: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            content: Mutex::new(content.into()),
            is_hurt: AtomicBool::new(false),
            held_at: AtomicU64::new(u64::MAX),
            gate: Semaphore::new(0),
            read_bytes: AtomicU64::new(0),
        })
    }

    pub fn content(&self) -> Bytes {
        self.content.lock().expect("lock").clone()
    }

    fn check(&self) -> Result<()> {
        match self.is_hurt.load(Ordering::SeqCst) {
            true => Err(Error::unavailable("the store is away")),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Image for Memory {
    fn size_bytes(&self) -> u64 {
        self.content().len() as u64
    }

    async fn read(&self, offset_bytes: u64, len_bytes: usize) -> Result<Bytes> {
        if self.held_at.load(Ordering::SeqCst) == offset_bytes {
            let _ = self.gate.acquire().await.expect("a gate");
        }
        self.check()?;
        self.read_bytes.fetch_add(len_bytes as u64, Ordering::SeqCst);
        let at = offset_bytes as usize;
        Ok(self.content().slice(at..at + len_bytes))
    }

    async fn extents(&self, offset_bytes: u64, len_bytes: u64, extents_max: usize) -> Result<Vec<Extent>> {
        self.check()?;
        let content = self.content();
        let end = (offset_bytes + len_bytes) as usize;
        let mut at = offset_bytes as usize;
        let mut out: Vec<Extent> = Vec::new();
        while at < end {
            let start = at / BLOCK * BLOCK;
            let next = (start + BLOCK).min(end);
            let block = &content[start..(start + BLOCK).min(content.len())];
            let is_zero = block.iter().all(|b| *b == 0);
            let content = if is_zero { Content::Zero } else { Content::Data };
            let count = out.len();
            match out.last_mut() {
                Some(last) if last.content == content => last.length_bytes += (next - at) as u64,
                _ if count == extents_max => return Ok(out),
                _ => out.push(Extent { offset_bytes: at as u64, length_bytes: (next - at) as u64, content }),
            }
            at = next;
        }
        Ok(out)
    }
}

/// Images by name.
pub struct Shelf(pub BTreeMap<String, Arc<Memory>>);

#[async_trait]
impl Exports for Shelf {
    async fn list(&self) -> Result<Vec<Listed>> {
        let listed = |name: &String| Listed { name: name.clone(), description: format!("about {name}") };
        Ok(self.0.keys().map(listed).collect())
    }

    async fn open(&self, name: &str) -> Result<Opened> {
        let image = self.0.get(name).ok_or_else(|| Error::not_found(format!("there is no {name:?}")))?;
        Ok(Opened { name: name.to_owned(), description: format!("about {name}"), image: image.clone() })
    }
}

/// A server that ends with the test.
pub struct Server {
    pub runtime: Runtime,
    pub address: SocketAddr,
    pub canceller: Canceller,
    pub task: Option<tokio::task::JoinHandle<()>>,
}

impl Server {
    pub fn start(images: &[(&str, &Arc<Memory>)], limits: Limits) -> Self {
        let shelf = images.iter().map(|(name, image)| ((*name).to_owned(), (*image).clone())).collect();
        Self::with(Arc::new(Shelf(shelf)), limits)
    }

    pub fn with(exports: Arc<dyn Exports>, limits: Limits) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let address = "127.0.0.1:0".parse().expect("an address");
        let listener = runtime.block_on(Listener::tcp(address, false)).expect("a port");
        let address = listener.address().expect("an address");
        let (canceller, cancel) = cancel::pair();
        let task = runtime.spawn(nbd::serve(listener, exports, limits, cancel));
        Self { runtime, address, canceller, task: Some(task) }
    }

    pub fn uri(&self, export: &str) -> String {
        format!("nbd://{}/{export}", self.address)
    }
}

/// A disk of 9 MiB and a bit: data, zeros, a stretch that is not a whole block.
pub fn disk() -> Vec<u8> {
    let mut content = vec![0; (9 << 20) + 700];
    let mut numbers = crate::support::Numbers::new(7);
    for (start, len) in [(0, 5000), (1 << 20, 3 << 20), (8 << 20, 100), ((9 << 20) + 512, 188)] {
        content[start..start + len].copy_from_slice(&numbers.bytes(len));
    }
    content
}
