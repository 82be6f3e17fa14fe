//! What many readers at once take of a server's memory: what it was told, and a little for each, however much they read.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::Arc;

use crate::support::Numbers;
use crate::support::program::Cuttle;

const MIB: usize = 1 << 20;
const SIZE: usize = 320 * MIB;
const MEMORY_MIB: u64 = 64;
const READERS: u64 = 32;
/// Of each connection, as `Limits` says.
const OF_A_READER_KIB: u64 = 512;
/// What an allocator with an arena for each thread does not give back at once: about 60 was seen.
const SLACK_MIB: u64 = 112;

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A line of the process's `status`, in KiB.
fn memory_kib(process: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn get(place: &str, path: &str, start: usize, len: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(place).expect("connect");
    let range = format!("Range: bytes={start}-{}", start + len - 1);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n{range}\r\n\r\n")
        .expect("ask");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    answer.split_off(end)
}

#[test]
fn many_readers_stay_within_its_memory() {
    let cuttle = Cuttle::in_folder();
    let content = Arc::new(Numbers::new(1).bytes(SIZE));
    cuttle.backup_of("vm", &content);
    let memory = format!("{MEMORY_MIB}MiB");
    let mut command = cuttle.command(&["--json", "serve", "--listen", "127.0.0.1:0", "--memory", &memory]);
    let mut server = Ended(command.stdout(Stdio::piped()).spawn().expect("start it"));
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let place =
        line.split("http://").nth(1).and_then(|rest| rest.split(['/', '"']).next()).expect("its place");
    let at_first_kib = memory_kib(server.0.id(), "VmRSS");

    // Where the content begins in the qcow2 file: behind the tables.
    let clusters = get(place, "/vm/1.qcow2", 0, MIB);
    let first = clusters.windows(64).position(|w| w == &content[..64]).expect("the content");
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let content = Arc::clone(&content);
            scope.spawn(move || {
                let mut numbers = Numbers::new(reader + 2);
                for round in 0..12 {
                    let len = 1 + numbers.below(9 * MIB as u64) as usize;
                    let start = numbers.below((SIZE - len) as u64) as usize;
                    let found = match round % 2 {
                        0 => get(place, "/vm/1.raw", start, len),
                        _ => get(place, "/vm/1.qcow2", first + start, len),
                    };
                    assert!(found == content[start..start + len], "{len} bytes at {start}");
                }
            });
        }
    });
    let taken_mib = (memory_kib(server.0.id(), "VmHWM") - at_first_kib) >> 10;
    let most_mib = MEMORY_MIB + ((READERS * OF_A_READER_KIB) >> 10) + SLACK_MIB;
    assert!(taken_mib <= most_mib, "{taken_mib} MiB, {most_mib} at most");
    assert!(most_mib < SIZE as u64 >> 20, "less than all of the volume");
}
