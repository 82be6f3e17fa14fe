//! Snapshots as a qcow2 file that is nowhere: what QEMU finds in it, and that it is one file however it is read.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::support::Numbers;
use crate::support::qemu::QemuImg;
use crate::support::repo::{CHUNK, MemoryVolume, back_up, default, init_on, options};
use cuttle::cancel;
use cuttle::serve::Shelf;
use cuttle::serve::http::{Access, HttpOptions, HttpServer};
use cuttle::store::{Limits, Store};
use object_store::memory::InMemory;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const C: usize = CHUNK as usize;
const NIGHTS: usize = 6;

/// The head in small letters, and the body.
async fn ask(address: std::net::SocketAddr, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("ask");
    let mut head = Vec::new();
    stream.read_to_end(&mut head).await.expect("an answer");
    let end = head.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let body = head.split_off(end);
    (String::from_utf8(head).expect("text").to_lowercase(), body)
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).expect("a header")
}

/// Nights of a volume that is written to, gets holes and changes its size, by whole sectors.
fn nights() -> Vec<Vec<u8>> {
    let mut numbers = Numbers::new(5);
    let mut content = vec![0; 700 * C];
    let mut all = Vec::new();
    for _ in 0..NIGHTS {
        for _ in 0..12 {
            let at = numbers.below(content.len() as u64 - 1) as usize;
            let end = content.len().min(at + numbers.below(9 * C as u64) as usize);
            let hole = numbers.below(3) == 0;
            match content.get_mut(at..end) {
                Some(part) if hole => part.fill(0),
                Some(part) => part.copy_from_slice(&numbers.bytes(part.len())),
                None => {}
            }
        }
        all.push(content.clone());
        content.resize((400 + numbers.below(600) as usize) * C + 512 * numbers.below(9) as usize, 0);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_reads_every_night_of_it() {
    let Some(qemu) = QemuImg::find() else { return };
    let store = Store::with_object_store(Arc::new(InMemory::new()), Limits::default());
    let repository = init_on(store, CHUNK, true).await;
    let project = default(&repository).await;
    let nights = nights();
    let volume = MemoryVolume::new(Vec::new());
    for night in &nights {
        volume.edit(|content| content.clone_from(night));
        back_up(&project, &volume, &options("vms/db")).await.expect("backed up");
    }
    let odd = MemoryVolume::new(vec![1; 1001]);
    back_up(&project, &odd, &options("odd")).await.expect("backed up");
    let shelf = Shelf::of_project(&project, 4 << 20).await.expect("a shelf");
    let server = HttpServer::bind(Arc::new(shelf), HttpOptions::on_loopback(Access::ThisMachine))
        .await
        .expect("bound");
    let (address, (canceller, cancel)) = (server.address(), cancel::pair());
    let served = tokio::spawn(server.run(cancel));

    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("all.qcow2");
    let (head, whole) = ask(address, "GET", "/vms/db/1,2,3,4,5,6.qcow2", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    fs::write(&file, &whole).expect("written");
    compare(&qemu, &file, &nights, dir.path());
    check_tables(&whole, &nights);

    // However it is read.
    let mut numbers = Numbers::new(6);
    for _ in 0..300 {
        let start = numbers.below(whole.len() as u64) as usize;
        let end = whole.len().min(start + 1 + numbers.below(30_000) as usize);
        let range = format!("Range: bytes={start}-{}\r\n", end - 1);
        let (head, part) = ask(address, "GET", "/vms/db/1,2,3,4,5,6.qcow2", &range).await;
        assert!(head.starts_with("http/1.1 206") && part == whole[start..end], "{start}..{end} {head}");
    }

    // One alone, and which one it is.
    let (head, one) = ask(address, "GET", "/vms/db/latest.qcow2", "").await;
    let (same, _) = ask(address, "HEAD", "/vms/db/6.qcow2", "").await;
    assert_eq!(header(&head, "etag"), header(&same, "etag"));
    assert_eq!(header(&same, "content-length"), one.len().to_string());
    fs::write(&file, &one).expect("written");
    assert!(qemu.bytes(&file) == nights[NIGHTS - 1]);
    let (raw, _) = ask(address, "HEAD", "/vms/db/6.raw", "").await;
    let (two, _) = ask(address, "HEAD", "/vms/db/5,6.qcow2", "").await;
    assert!(header(&raw, "etag") != header(&head, "etag") && header(&two, "etag") != header(&head, "etag"));

    for (path, status) in [
        ("/vms/db/7.qcow2", "404"),
        ("/vms/db/5,7.qcow2", "404"),
        ("/vms/db/7,6.qcow2", "404"),
        ("/vms/db/6,5.qcow2", "404"),
        ("/vms/db/6,6.qcow2", "404"),
        ("/none/1.qcow2", "404"),
        ("/none/latest.qcow2", "404"),
        ("/odd/1.qcow2", "501"),
    ] {
        let (head, _) = ask(address, "GET", path, "").await;
        assert_eq!(head.split(' ').nth(1), Some(status), "{path}");
    }
    canceller.cancel();
    served.await.expect("it ends").expect("no error");
}

/// Each night by its name, the last as the image, with the holes where the volume has whole chunks of zeros.
fn compare(qemu: &QemuImg, file: &Path, nights: &[Vec<u8>], dir: &Path) {
    let name = file.to_str().expect("UTF-8");
    assert!(qemu.bytes(file) == nights[NIGHTS - 1]);
    for (night, content) in nights.iter().enumerate().take(NIGHTS - 1) {
        let raw = dir.join("night.raw");
        let snapshot = format!("backup-{}", night + 1);
        qemu.run(&["convert", "-l", &snapshot, "-O", "raw", name, raw.to_str().expect("UTF-8")]);
        // qemu-img gives a snapshot the size of the image.
        let mut found = fs::read(&raw).expect("converted");
        let len = found.len().max(content.len());
        found.resize(len, 0);
        let mut content = content.clone();
        content.resize(len, 0);
        let size = nights[NIGHTS - 1].len().min(len);
        assert!(found[..size] == content[..size], "night {night}");
    }
    let map = qemu.json(&["map", "--output", "json", name]);
    let mut data = vec![false; nights[NIGHTS - 1].len().div_ceil(C)];
    for part in map.as_array().expect("a list").iter().filter(|part| part["data"] == true) {
        let number = |key: &str| part[key].as_u64().expect("a number") as usize;
        let (start, end) = (number("start") / C, (number("start") + number("length")).div_ceil(C));
        data[start..end].fill(true);
    }
    let expected: Vec<bool> = nights[NIGHTS - 1].chunks(C).map(|c| c.iter().any(|b| *b != 0)).collect();
    assert_eq!(data, expected, "holes are holes");
}

/// What librbd relies on: content that a night shares with one before is at the same place, what went is said to be zero, and
/// what never was is not there.
fn check_tables(file: &[u8], nights: &[Vec<u8>]) {
    let number = |at: u64| u64::from_be_bytes(file[at as usize..][..8].try_into().expect("8 bytes"));
    let snapshots = number(64);
    let l1 = |night: usize| match night {
        // No entry is longer than 40 + 24 + 1 + 8 bytes, padded.
        _ if night < nights.len() - 1 => number(snapshots + 80 * night as u64),
        _ => number(40),
    };
    let entry = |night: usize, chunk: usize| {
        let table = number(l1(night) + 8 * (chunk / (C / 8)) as u64);
        number(table + 8 * (chunk % (C / 8)) as u64)
    };
    let held = |night: usize, chunk: usize| {
        let content = &nights[night];
        let held = content.get(chunk * C..content.len().min((chunk + 1) * C)).unwrap_or_default();
        Some(held).filter(|held| held.iter().any(|b| *b != 0))
    };
    for (night, content) in nights.iter().enumerate() {
        for chunk in 0..content.len().div_ceil(C) {
            let found = entry(night, chunk);
            match (held(night, chunk), (0..night).find(|n| held(*n, chunk) == held(night, chunk))) {
                (None, _) => {
                    let was_there = (0..night).any(|n| held(n, chunk).is_some());
                    assert_eq!(found, u64::from(was_there), "night {night}, chunk {chunk}");
                }
                (Some(_), Some(same)) => {
                    assert_eq!(found, entry(same, chunk), "night {night}, chunk {chunk}")
                }
                (Some(held), None) => assert!(file[found as usize..].starts_with(held), "night {night}"),
            }
        }
    }
}
