//! A terminal that goes away while progress is shown on it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::bench::{Bench, random};

/// A new terminal: the side that shows it, and the side that programs have.
fn terminal() -> (OwnedFd, File) {
    let shows = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&shows).expect("mine");
    unlockpt(&shows).expect("open to use");
    let name = ptsname(&shows, Vec::new()).expect("its name").into_string().expect("UTF-8");
    let has = File::options().read(true).write(true).open(name).expect("the other side");
    (shows, has)
}

/// Where SIGHUP is ignored (nohup, a detached session) the command outlives its terminal. Drawing on it fails then, which once
/// was a panic in the drawing library.
#[test]
fn a_backup_outlives_the_terminal_that_shows_its_progress() {
    let bench = Bench::with_repository();
    let bytes = random(40, 9 << 20);
    let (shows, has) = terminal();
    let mut command = bench.process(&["backup", "-", "--volume", "v"]);
    command.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::from(has));
    let mut child = command.spawn().expect("start cuttle");
    drop(command);
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(&bytes[..5 << 20]).expect("write to the backup");
    let mut shown = Vec::new();
    let mut window = File::from(shows);
    while !String::from_utf8_lossy(&shown).contains("backing up") {
        let mut buf = [0; 4096];
        let n = window.read(&mut buf).expect("progress is shown");
        shown.extend(&buf[..n]);
    }
    drop(window);
    input.write_all(&bytes[5 << 20..]).expect("write to the backup");
    drop(input);
    let status = child.wait().expect("wait");
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(
        bench.cuttle(&["restore", "v", "-"]).timeout(Duration::from_secs(60)).output().expect("run").stdout
            == bytes
    );
}
