//! Clients that mean harm: each loses its connection, and nobody else notices.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cuttle::serve::nbd::Limits;

use super::client::{Client, info};
use super::shelf::{Memory, Server, disk};

const MIB: u32 = 1 << 20;

/// Little patience, so that the tests need little.
fn impatient() -> Limits {
    Limits {
        handshake_timeout: Duration::from_millis(600),
        message_timeout: Duration::from_millis(200),
        stall_timeout: Duration::from_millis(300),
        ..Limits::default()
    }
}

fn check_good(server: &Server) {
    let mut good = Client::ready(server.address, "vm/1");
    assert!(good.read(0, 0, 9 * MIB).expect("a read").0 == disk()[..9 << 20]);
    assert_eq!(good.error_of((0, 3), 0, 0), 0);
}

#[test]
fn broken_handshakes_end_the_connection() {
    let image = Memory::new(disk());
    // One with patience, which the test has not: what cannot be right is not waited for.
    let patient = Limits { message_timeout: Duration::from_secs(60), ..Limits::default() };
    let patient = Server::start(&[("vm/1", &image)], patient);
    let brief = Limits { message_timeout: Duration::from_millis(200), ..Limits::default() };
    let brief =
        Server::start(&[("vm/1", &image)], Limits { stall_timeout: Duration::from_millis(300), ..brief });
    let flags = [0, 0, 0, 3];
    let option = |head: &[u8], len: u32| [&flags[..], head, &len.to_be_bytes()].concat();
    let go = [&option(b"IHAVEOPT\0\0\0\x07", 10), &info("vm/1", &[])[..]].concat();
    let request = |magic: u32, kind: u16, len: u32| {
        let mut out = [&go[..], &magic.to_be_bytes(), &[0, 0], &kind.to_be_bytes(), &[0; 16]].concat();
        out.extend(len.to_be_bytes());
        out
    };
    let cases: Vec<(&str, &Server, Vec<u8>)> = vec![
        ("flags that were not offered", &patient, vec![0xff; 4]),
        ("another protocol", &patient, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("TLS", &patient, [&[0x16, 3, 1, 2][..], &[0; 512]].concat()),
        ("half of the flags", &brief, vec![0, 0]),
        ("a wrong magic number", &patient, option(b"IHAVEOPS\0\0\0\x07", 0)),
        ("half of an option's head", &brief, [&flags[..], b"IHAVEOPT\0\0"].concat()),
        ("an option without its data", &brief, option(b"IHAVEOPT\0\0\0\x07", 100)),
        ("an option of 4 GiB", &patient, option(b"IHAVEOPT\0\0\0\x07", u32::MAX)),
        ("an unknown option of 4 GiB", &patient, option(b"IHAVEOPT\0\0\0\x63", u32::MAX)),
        ("a wrong magic number of a request", &patient, request(0x2560_9514, 0, 512)),
        ("half of a request", &brief, go[..].iter().copied().chain([0x25, 0x60]).collect()),
        ("a write of 4 GiB", &patient, request(0x2560_9513, 1, u32::MAX)),
        ("a write without its data", &brief, request(0x2560_9513, 1, MIB)),
    ];
    for (what, server, bytes) in cases {
        let mut client = Client::silent(server.address);
        // It may be thrown out before all is said.
        let _ = client.0.write_all(&bytes);
        assert!(client.is_closed(), "{what}");
        check_good(server);
    }
}

#[test]
fn who_says_nothing_does_not_stay() {
    let image = Memory::new(disk());
    let limits = Limits { handshakes_max: 4, ..impatient() };
    let server = Server::start(&[("vm/1", &image)], limits);
    let mut silent: Vec<Client> = (0..12).map(|_| Client::silent(server.address)).collect();
    // Waits its turn, and has it.
    check_good(&server);
    assert!(silent.iter_mut().all(Client::is_closed));
    // One who has chosen may be silent for as long as it likes.
    let mut patient = Client::ready(server.address, "vm/1");
    let mut slow = Client::silent(server.address);
    assert!(slow.is_closed(), "this takes longer than any timeout");
    assert!(patient.read(0, 0, 512).is_ok());
}

#[test]
fn a_handshake_does_not_go_on_for_ever() {
    let image = Memory::new(disk());
    let limits = Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(&[("vm/1", &image)], limits);
    let mut thinking = Client::greeted(server.address, 3);
    let mut haggling = Client::greeted(server.address, 3);
    // As often as takes many times as long.
    for _ in 0..100_000 {
        let mut some = [0; 4096];
        if haggling.0.write_all(b"IHAVEOPT\0\0\0\x03\0\0\0\0").is_err() {
            break;
        }
        if haggling.0.read(&mut some).is_ok_and(|n| n == 0) {
            break;
        }
    }
    assert!(thinking.is_closed() && haggling.is_closed());
    check_good(&server);
}

#[test]
fn who_does_not_take_what_it_asked_for_loses_it() {
    let image = Memory::new(crate::support::Numbers::new(3).bytes(64 << 20));
    let good = Memory::new(disk());
    let server = Server::start(&[("vm/1", &good), ("large/1", &image)], impatient());
    for mut greedy in [Client::ready(server.address, "large/1"), Client::simple(server.address, "large/1")] {
        let before = image.read_bytes.load(Ordering::SeqCst);
        for number in 0..200_u64 {
            greedy.request((0, 0), number, number % 60 * u64::from(MIB), 4 * MIB);
        }
        check_good(&server);
        // Until it is closed on the other side, which shows in what is written to it.
        let error = loop {
            match greedy.0.write_all(&[0; 1]) {
                Ok(()) => std::thread::yield_now(),
                Err(e) => break e,
            }
        };
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
        let read = image.read_bytes.load(Ordering::SeqCst) - before;
        // Of 800 MiB that were asked for. The kernel takes what its buffers hold, which grow as it sees fit.
        assert!(read <= 128 << 20, "{read} bytes were read for who takes none");
    }
    check_good(&server);
}

#[test]
fn thousands_of_connections_in_turn_leave_nothing_behind() {
    let image = Memory::new(disk());
    let server = Server::start(&[("vm/1", &image)], Limits::default());
    let go = [b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x0a", &info("vm/1", &[])[..]].concat();
    for number in 0..10_000 {
        let mut stream = TcpStream::connect(server.address).expect("connect");
        match number % 4 {
            0 => {}
            1 => drop(stream.write_all(&go[..number % go.len()])),
            2 => drop(stream.write_all(&go)),
            _ => drop(stream.write_all(b"garbage, and some more of it")),
        }
        if number % 1000 == 999 {
            check_good(&server);
        }
    }
    check_good(&server);
}
