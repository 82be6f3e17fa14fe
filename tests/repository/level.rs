//! How hard new chunks are compressed: as hard as what a backup waits for makes worth it.

use std::sync::Arc;

use crate::support::Numbers;
use crate::support::repo::{MemoryVolume, back_up, default, init_with, latest, options, read_back};
use cuttle::backup::{BackupOptions, Level};
use cuttle::repo::InitOptions;
use cuttle::store::{Limits, Store};
use object_store::memory::InMemory;

const CHUNK: u32 = 64 << 10;
const CHUNKS: usize = 200;

/// The levels that a first backup comes to over a link of such speed.
async fn levels(
    upload_bytes_per_second: Option<u64>,
    content: Vec<u8>,
    with: impl FnOnce(&mut BackupOptions),
) -> [i32; 2] {
    let limits = Limits { upload_bytes_per_second, ..Limits::default() };
    let store = Store::with_object_store(Arc::new(InMemory::new()), limits);
    let init = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 7 };
    let project = default(&init_with(store, init, true).await).await;
    let volume = MemoryVolume::new(content);
    let mut nightly = BackupOptions { inflight_bytes: 16 * u64::from(CHUNK), ..options("v") };
    with(&mut nightly);
    let report = back_up(&project, &volume, &nightly).await.expect("backed up");
    assert!(read_back(&project, &latest(&project, "v").await).await.expect("read") == volume.content());
    report.levels.expect("something is new")
}

#[tokio::test]
async fn a_slow_link_makes_it_harder_where_that_helps() {
    const SLOW: Option<u64> = Some(4 << 20);
    let random = || Numbers::new(4).bytes(CHUNKS * CHUNK as usize);
    let half = || random().into_iter().enumerate().map(|(at, b)| if at % 64 < 32 { b } else { 7 }).collect();
    let [least, greatest] = levels(SLOW, half(), |_| {}).await;
    assert!(least == 1 && greatest > 1, "from {least} to {greatest}");
    assert_eq!(levels(SLOW, random()[..CHUNKS * CHUNK as usize / 4].to_vec(), |_| {}).await, [1, 1]);
    // On a machine that is busy with other things anything may wait for a moment.
    assert_eq!(levels(None, half(), |_| {}).await[0], 1);
    assert_eq!(levels(SLOW, half(), |options| options.level = Level::Fixed(3)).await, [3, 3]);
}
