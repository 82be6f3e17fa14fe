//! What a terminal that goes away, or a service manager, tells the program.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::support::program::Cuttle;
use rustix::process::{Pid, Signal, kill_process};

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a number")).expect("a process");
    kill_process(pid, signal).expect("send a signal");
}

/// Starts something that lasts, and waits until it is under way.
fn serving(cuttle: &Cuttle, shell: &str) -> (Child, BufReader<impl Read + use<>>) {
    let mut command = Command::new("sh");
    command.env_clear().envs(cuttle.variables());
    command.args([
        "-c",
        &format!("{shell} exec \"$0\" serve --listen 127.0.0.1:0 2>&1"),
        env!("CARGO_BIN_EXE_cuttle"),
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("start");
    let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("http://") {
        line.clear();
        assert_ne!(said.read_line(&mut line).expect("a line"), 0, "it ended");
    }
    (child, said)
}

#[test]
fn a_hangup_ends_cleanly_unless_it_is_ignored() {
    let cuttle = Cuttle::in_folder();
    cuttle.backup_of("v", b"something");
    let (mut interrupted, _said) = serving(&cuttle, "");
    signal(&interrupted, Signal::INT);
    let as_told = interrupted.wait().expect("it ends").code();
    assert!(as_told.is_some(), "not by the signal itself");
    let (mut hung_up, _said) = serving(&cuttle, "");
    signal(&hung_up, Signal::HUP);
    assert_eq!(hung_up.wait().expect("it ends").code(), as_told);
    // As under nohup.
    let (mut outlives, mut said) = serving(&cuttle, "trap '' HUP;");
    signal(&outlives, Signal::HUP);
    signal(&outlives, Signal::TERM);
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("read");
    assert_eq!(outlives.wait().expect("it ends").code(), as_told);
    assert_eq!(rest.matches("stopping").count(), 1, "of two signals one was heard: {rest}");
}
