//! `cuttle serve --nbd`, and snapshots of a real repository whose store fails for a while.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use cuttle::serve::Shelf;
use cuttle::serve::nbd::Limits;
use serde_json::Value;

use super::client::{Client, ERR_UNKNOWN, info};
use super::shelf::{Server, disk};
use crate::support::fault_store::{Fault, FaultStore};
use crate::support::program::Cuttle;
use crate::support::repo::{CHUNK, MemoryVolume, back_up, default, init_on, options, store};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_program_serves_its_snapshots() {
    let cuttle = Cuttle::in_folder();
    for _ in 0..2 {
        cuttle.backup_of("vms/db", &disk());
    }
    let socket = cuttle.home().join("socket");
    let args = ["--json", "serve", "--listen", "127.0.0.1:0", "--nbd=127.0.0.1:0", "--nbd-socket"];
    let mut command = cuttle.command(&args);
    command.arg(&socket).stdout(Stdio::piped()).stdin(Stdio::null());
    let mut running = Running(command.spawn().expect("start cuttle"));
    let mut line = String::new();
    let stdout = running.0.stdout.take().expect("its output");
    BufReader::new(stdout).read_line(&mut line).expect("read its output");
    let said: Value = serde_json::from_str(&line).expect("JSON");
    let address = said["nbd"].as_str().and_then(|n| n.strip_prefix("nbd://")).expect("an address");
    let address = address.parse().expect("an address");
    for export in ["vms/db/1", "vms/db/2", "vms/db/latest"] {
        let mut client = Client::ready(address, export);
        assert!(client.read(0, 0, disk().len() as u32).expect("a read").0 == disk(), "{export}");
    }
    let mut client = Client::greeted(address, 3);
    let names: Vec<_> = client
        .option(3, &[])
        .iter()
        .filter(|(kind, _)| *kind == 2)
        .map(|(_, data)| String::from_utf8_lossy(&data[4..4 + data[3] as usize]).into_owned())
        .collect();
    assert_eq!(names, ["vms/db/latest", "vms/db/2", "vms/db/1"]);
    for unknown in ["", "vms/db", "vms/db/3", "vms/db/1.raw"] {
        assert_eq!(client.option(7, &info(unknown, &[]))[0].0, ERR_UNKNOWN, "{unknown:?}");
    }
    let uri = format!("nbd+unix:///vms/db/2?socket={}", socket.display());
    if let Ok(output) = Command::new("nbdinfo").args(["--size", &uri]).output() {
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), disk().len().to_string());
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&running.0), rustix::process::Signal::INT)
        .expect("interrupt");
    assert_eq!(running.0.wait().expect("wait").code(), Some(0));
    assert!(!socket.exists(), "the socket goes with its server");
}

#[test]
fn other_machines_are_let_in_only_on_request() {
    let cuttle = Cuttle::in_folder();
    let said = cuttle.fails(1, &["serve", "--nbd=0.0.0.0:0"]);
    assert!(said.contains("NBD asks for no token") && said.contains("--insecure-public"), "{said}");
}

#[test]
fn a_store_that_fails_for_a_while_is_an_error_for_a_while() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let faults = Arc::new(FaultStore::new(Arc::new(object_store::memory::InMemory::new())));
    let content = disk();
    let shelf = runtime.block_on(async {
        let project = default(&init_on(store(faults.clone()), CHUNK, true).await).await;
        let volume = MemoryVolume::new(content.clone());
        back_up(&project, &volume, &options("vm")).await.expect("a backup");
        Shelf::of_project(&project, 1 << 20).await.expect("a shelf")
    });
    let server = Server::with(Arc::new(shelf), Limits::default());
    // The only snapshot is the default export too.
    let mut client = Client::ready(server.address, "");
    let map = client.status(0, 0, content.len() as u32).expect("a map");
    assert!(map.len() > 3);
    assert!(client.read(0, 0, 100).expect("a read").0 == content[..100]);
    faults.fail_always(Some(Fault::Status(403)));
    assert_eq!(client.read(0, 2 << 20, 100), Err(5));
    assert!(client.read(0, 0, 100).is_ok(), "what is in memory is still read");
    assert!(client.read(0, 5 << 20, 100).is_ok(), "and zeros are");
    faults.fail_always(None);
    assert!(client.read(0, 0, content.len() as u32).expect("a read").0 == content);
}
