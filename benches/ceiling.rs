//! The ceiling: what hashing, compressing and sealing, and the way back, take over an image's bytes with nothing else to do.
//!
//! `cargo bench --bench ceiling -- IMAGE` prints one JSON line. `cargo xtask bench` holds backups and restores against it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Instant;

use cuttle::codec;
use cuttle::keys::{SealingKey, Secret};
use cuttle::units::ChunkId;
use rayon::prelude::*;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound};

const CHUNK: usize = 4 << 20;
/// Chunks held in memory at once, so that the image's size does not matter.
const BATCH: usize = 64;

struct Tools {
    compressor: CCtx<'static>,
    decompressor: DCtx<'static>,
    compressed: Vec<u8>,
    plain: Vec<u8>,
}

struct Sealed {
    id: ChunkId,
    plain_len: usize,
    body: Vec<u8>,
}

thread_local! {
    static TOOLS: RefCell<Tools> = RefCell::new(Tools {
        compressor: CCtx::create(),
        decompressor: DCtx::create(),
        compressed: vec![0; compress_bound(CHUNK)],
        plain: vec![0; CHUNK],
    });
}

fn main() {
    let image = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    // `cargo bench` runs every bench without arguments; there is nothing to measure then.
    let Some(image) = image else { return println!("ceiling: name an image") };
    let mut file = File::open(&image).expect("open the image");
    let len = file.seek(SeekFrom::End(0)).expect("its size");
    file.rewind().expect("its start");
    let key = SealingKey::new(Secret::random().expect("a key"));
    let (mut up, mut down, mut bytes, mut at) = (0.0, 0.0, 0u64, 0u64);
    let mut batch = vec![0; CHUNK * BATCH];
    while at < len {
        let want = batch.len().min((len - at) as usize);
        file.read_exact(&mut batch[..want]).expect("read the image");
        at += want as u64;
        // Zeros cost a backup next to nothing, so they are not in the ceiling either.
        let chunks: Vec<&[u8]> = batch[..want].chunks(CHUNK).filter(|c| !codec::is_zero(c)).collect();
        let start = Instant::now();
        let sealed: Vec<Sealed> = chunks.par_iter().map(|c| seal(&key, c)).collect();
        up += start.elapsed().as_secs_f64();
        let start = Instant::now();
        sealed.par_iter().for_each(|sealed| open(&key, sealed));
        down += start.elapsed().as_secs_f64();
        bytes += chunks.iter().map(|c| c.len() as u64).sum::<u64>();
    }
    println!("{{\"bytes\":{bytes},\"seal_seconds\":{up:.4},\"open_seconds\":{down:.4}}}");
}

/// Keyed BLAKE3, zstd 1, AES-256-GCM.
fn seal(key: &SealingKey, plain: &[u8]) -> Sealed {
    TOOLS.with_borrow_mut(|tools| {
        let id = codec::identify(&[1; 32], plain);
        tools.compressor.set_parameter(CParameter::CompressionLevel(1)).expect("a level");
        let len = tools.compressor.compress2(&mut tools.compressed[..], plain).expect("compressed");
        let mut sealed = vec![0; len + 16];
        let tag = key
            .of(&id.0)
            .expect("a key")
            .seal(b"", &tools.compressed[..len], &mut sealed[..len])
            .expect("sealed");
        sealed[len..].copy_from_slice(&tag);
        Sealed { id, plain_len: plain.len(), body: sealed }
    })
}

/// AES-256-GCM, unzstd, keyed BLAKE3.
fn open(key: &SealingKey, sealed: &Sealed) {
    TOOLS.with_borrow_mut(|tools| {
        let compressed = &mut tools.compressed[..sealed.body.len() - 16];
        key.of(&sealed.id.0).expect("a key").open(b"", &sealed.body, compressed).expect("opened");
        let plain = &mut tools.plain[..sealed.plain_len];
        let len = tools.decompressor.decompress(plain, compressed).expect("decompressed");
        assert!(len == sealed.plain_len && codec::identify(&[1; 32], plain) == sealed.id);
    });
}
