//! Sources whose every state is known by its hash. Their contents come and go: what one volume drops another takes up.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::numbers::{Numbers, random};

pub type Hash = [u8; 32];

/// Size of a chunk, which is what an image changes by.
pub const CHUNK_BYTES: usize = 64 << 10;
/// A little more than a whole number of chunks.
const CHUNKS: usize = 128;
const TAIL_BYTES: usize = 777;

/// An image and the file it lies in; the file's name is the volume's.
pub struct Image {
    pub volume: String,
    folder: PathBuf,
    bytes: Vec<u8>,
    numbers: Numbers,
    /// Contents that all images share.
    pool: u64,
}

impl Image {
    /// `pool` is best such that any one content is sometimes in no image at all.
    pub fn new(folder: &Path, volume: &str, seed: u64, pool: u64) -> Self {
        let bytes = random(seed, CHUNKS * CHUNK_BYTES + TAIL_BYTES);
        let numbers = Numbers::new(seed);
        Self { volume: volume.to_owned(), folder: folder.to_owned(), bytes, numbers, pool }
    }

    /// Shared contents of so many images, of which a third or so is in none of them.
    pub fn pool_for(images: usize) -> u64 {
        (images * CHUNKS / 2) as u64
    }

    /// Changes a part of it and writes the file; the hash of what it holds now.
    pub fn change(&mut self) -> Hash {
        for chunk in self.bytes.chunks_mut(CHUNK_BYTES) {
            match self.numbers.below(12) {
                0 => chunk.copy_from_slice(&random(self.numbers.next(), chunk.len())),
                1 | 2 => {
                    let shared = self.numbers.below(self.pool);
                    chunk.copy_from_slice(&random(u64::MAX - shared, chunk.len()));
                }
                3 => {
                    let at = self.numbers.below(chunk.len() as u64 - 100) as usize;
                    chunk[at..at + 100].copy_from_slice(&random(self.numbers.next(), 100));
                }
                4 => chunk.fill(0),
                _ => {}
            }
        }
        fs::write(self.folder.join(&self.volume), &self.bytes).expect("write the image");
        hash(&self.bytes)
    }
}

pub fn hash(bytes: &[u8]) -> Hash {
    blake3::hash(bytes).into()
}
