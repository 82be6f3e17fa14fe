//! What the protocol document asks of a server, one sentence after the other.

use std::sync::atomic::Ordering;

use cuttle::serve::nbd::Limits;

use super::client::{ACK, Client, ERR_INVALID, ERR_POLICY, ERR_UNKNOWN, ERR_UNSUPPORTED, contexts, info};
use super::shelf::{Memory, Server, disk};

const MIB: u32 = 1 << 20;
const PERM: u32 = 1;
const IO: u32 = 5;
const INVAL: u32 = 22;
const OVERFLOW: u32 = 75;

fn server() -> (Server, std::sync::Arc<Memory>) {
    let image = Memory::new(disk());
    (Server::start(&[("vm/1", &image), ("vm/2", &image)], Limits::default()), image)
}

#[test]
fn options_are_answered_or_refused() {
    let (server, _) = server();
    let mut client = Client::greeted(server.address, 3);
    let kinds = |replies: Vec<(u32, Vec<u8>)>| replies.iter().map(|r| r.0).collect::<Vec<_>>();
    for (code, data, expected) in [
        (3, vec![], vec![2, 2, ACK]),
        (3, vec![0], vec![ERR_INVALID]),
        (5, vec![], vec![ERR_UNSUPPORTED]),
        (99, b"what".to_vec(), vec![ERR_UNSUPPORTED]),
        (6, info("nothing", &[]), vec![ERR_UNKNOWN]),
        (6, info("", &[]), vec![ERR_UNKNOWN]),
        (6, info("vm/1", &[])[1..].to_vec(), vec![ERR_INVALID]),
        (6, info("vm/1", &[]), vec![3, ACK]),
        (6, info("vm/1", &[0, 1, 2, 3, 77]), vec![3, 3, 3, 3, ACK]),
        // Before structured replies.
        (10, contexts("vm/1", &["base:allocation"]), vec![ERR_INVALID]),
        (8, vec![1], vec![ERR_INVALID]),
        (8, vec![], vec![ACK]),
        (10, contexts("vm/1", &["base:allocation", "qemu:dirty"]), vec![4, ACK]),
        (10, contexts("vm/1", &["base:"]), vec![ACK]),
        (10, contexts("vm/1", &[]), vec![ACK]),
        (10, contexts("nothing", &["base:allocation"]), vec![ERR_UNKNOWN]),
        (10, contexts("vm/1", &["allocation"]), vec![ERR_INVALID]),
        (9, contexts("vm/1", &[]), vec![4, ACK]),
        (9, contexts("vm/1", &["base:"]), vec![4, ACK]),
        (9, contexts("vm/1", &["qemu:"]), vec![ACK]),
        (2, b"bye".to_vec(), vec![ACK]),
    ] {
        assert_eq!(kinds(client.option(code, &data)), expected, "option {code} {data:?}");
    }
    assert!(client.is_closed());
}

#[test]
fn a_context_counts_for_the_export_it_was_chosen_for() {
    let (server, _) = server();
    for (chosen, used, counts) in
        [(&["vm/1"][..], "vm/1", true), (&["vm/2"], "vm/1", false), (&["vm/2", "vm/1"], "vm/1", true)]
    {
        let mut client = Client::greeted(server.address, 3);
        client.option(8, &[]);
        for export in chosen {
            client.option(10, &contexts(export, &["base:allocation"]));
        }
        client.go(used);
        assert_eq!(client.status(0, 0, 512).is_ok(), counts, "{chosen:?} {used}");
    }
    let mut client = Client::ready(server.address, "vm/1");
    assert_eq!(client.status(0, 0, 0), Err(INVAL));
    let mut client = Client::simple(server.address, "vm/1");
    assert_eq!(client.error_of((0, 7), 0, 512), INVAL);
}

#[test]
fn the_old_way_in_still_leads_in() {
    let (server, _) = server();
    for (flags, zeros) in [(0, 124), (1, 124), (2, 0), (3, 0)] {
        let mut client = Client::greeted(server.address, flags);
        client.send(b"IHAVEOPT\0\0\0\x01\0\0\0\x04vm/1");
        let head = client.take(10 + zeros);
        assert_eq!(head[..8], (disk().len() as u64).to_be_bytes());
        assert_eq!(u16::from_be_bytes([head[8], head[9]]), 1 | 2 | 4 | 1 << 8);
        client.request((0, 0), 8, 0, 10);
        assert_eq!(client.simple_reply(), (8, 0));
        assert_eq!(client.take(10), disk()[..10]);
    }
    let mut client = Client::greeted(server.address, 3);
    client.send(b"IHAVEOPT\0\0\0\x01\0\0\0\x04vm/9");
    assert!(client.is_closed(), "there is no other way to say no");
    let mut client = Client::greeted(server.address, 0);
    client.send(b"IHAVEOPT\0\0\0\x03\0\0\0\0");
    assert!(client.is_closed(), "only fixed newstyle has other options");
}

#[test]
fn reads_bring_each_byte_once() {
    let (server, _) = server();
    let content = disk();
    let mut client = Client::ready(server.address, "vm/1");
    let size = content.len() as u64;
    for (offset, len) in [
        (0, 1),
        (0, size as u32),
        (4095, 2),
        (5000, 100_000),
        (MIB as u64 - 5, 3 * MIB + 10),
        (size - 1, 1),
        (2 * MIB as u64 + 7, MIB),
    ] {
        let (found, ..) = client.read(0, offset, len).expect("a read");
        assert!(found == content[offset as usize..][..len as usize], "{len} bytes at {offset}");
    }
    let (_, data, holes) = client.read(0, 0, size as u32).expect("a read");
    assert_eq!((data, holes), (6, 3), "3 MiB in pieces of 1 MiB, three others, and the holes as holes");
    assert_eq!(client.read(0, 4 * MIB as u64, 4 * MIB).expect("a hole").1, 0);
    assert_eq!(client.read(0, 7, 0), Ok((vec![], 0, 0)));

    let (found, data, holes) = client.read(4, 512 * 1024, MIB).expect("unfragmented");
    assert!(found == content[512 * 1024..][..MIB as usize] && (data, holes) == (1, 0));
    assert_eq!(client.read(4, 0, MIB + 1), Err(OVERFLOW));
    assert_eq!(client.read(0, 0, 32 * MIB + 1), Err(INVAL), "first of all it is too far");
}

#[test]
fn long_reads_are_refused_in_words_that_are_understood() {
    let image = Memory::new(vec![0; 40 << 20]);
    let server = Server::start(&[("vm/1", &image)], Limits::default());
    let mut client = Client::ready(server.address, "vm/1");
    assert_eq!(client.read(0, 0, 32 * MIB + 1), Err(OVERFLOW));
    assert!(client.read(0, 0, 32 * MIB).is_ok());
    let mut client = Client::simple(server.address, "vm/1");
    assert_eq!(client.error_of((0, 0), 0, 32 * MIB + 1), INVAL);
}

#[test]
fn what_a_snapshot_cannot_do_is_refused() {
    let (server, _) = server();
    let size = disk().len() as u64;
    for mut client in [Client::ready(server.address, "vm/1"), Client::simple(server.address, "vm/1")] {
        for (kind, offset, len, expected) in [
            ((0, 4), 0, 512, PERM),
            ((0, 6), 0, 512, PERM),
            ((0, 6), size, u32::MAX, PERM),
            ((0, 99), 0, 0, INVAL),
            ((1, 0), 0, 512, INVAL),
            ((8, 0), 0, 512, INVAL),
            ((0, 0), size, 1, INVAL),
            ((0, 0), u64::MAX, 2, INVAL),
            ((0, 3), 0, 0, 0),
            ((1, 3), 0, 0, INVAL),
            ((0, 5), 0, 4096, 0),
            ((0, 5), size, 1, INVAL),
        ] {
            assert_eq!(client.error_of(kind, offset, len), expected, "{kind:?} {offset} {len}");
        }
        // What was to be written is read past.
        client.request((0, 1), 9, 0, 5000);
        client.send(&[0x25; 5000]);
        assert_eq!(client.error(), PERM);
        assert_eq!(client.error_of((0, 3), 0, 0), 0);
    }
}

#[test]
fn a_status_says_what_is_zero() {
    let (server, _) = server();
    let mut client = Client::ready(server.address, "vm/1");
    assert_eq!(client.status(0, 0, 2 * MIB), Ok(vec![(8192, 0), (MIB - 8192, 3), (MIB, 0)]));
    assert_eq!(client.status(8, 0, 2 * MIB), Ok(vec![(8192, 0)]));
    assert_eq!(client.status(8, 100, 50), Ok(vec![(50, 0)]));
    assert_eq!(client.status(0, 5 * MIB as u64, 100), Ok(vec![(100, 3)]));
    assert_eq!(client.status(4, 0, 512), Err(INVAL));
    assert_eq!(client.status(0, 0, u32::MAX), Err(INVAL));
}

#[test]
fn a_fast_answer_does_not_wait_for_a_slow_one() {
    let (server, image) = server();
    image.held_at.store(0, Ordering::SeqCst);
    let mut client = Client::ready(server.address, "vm/1");
    client.request((0, 0), 1, 0, 512);
    client.request((0, 0), 2, u64::from(MIB), 512);
    assert_eq!(client.chunk().cookie, 2);
    image.gate.add_permits(1);
    assert_eq!(client.chunk().cookie, 1);
}

#[test]
fn what_cannot_be_read_is_an_error_and_never_zeros() {
    let (server, image) = server();
    let mut structured = Client::ready(server.address, "vm/1");
    let mut simple = Client::simple(server.address, "vm/1");
    image.is_hurt.store(true, Ordering::SeqCst);
    assert_eq!(structured.read(0, 0, 512), Err(IO));
    assert_eq!(structured.read(4, 0, 512), Err(IO));
    assert_eq!(structured.status(0, 0, 512), Err(IO));
    assert_eq!(simple.error_of((0, 0), 0, 512), IO);
    image.is_hurt.store(false, Ordering::SeqCst);
    assert!(structured.read(0, 0, 512).is_ok());

    // Behind a header that says all is well, only silence says otherwise.
    image.held_at.store(u64::from(2 * MIB), Ordering::SeqCst);
    simple.request((0, 0), 8, u64::from(MIB), 3 * MIB);
    assert_eq!(simple.simple_reply(), (8, 0));
    assert!(simple.take(MIB as usize) == disk()[MIB as usize..][..MIB as usize]);
    image.is_hurt.store(true, Ordering::SeqCst);
    image.gate.add_permits(1);
    assert!(simple.is_closed());
}

#[test]
fn a_large_simple_read_comes_whole() {
    let (server, _) = server();
    let mut client = Client::simple(server.address, "vm/1");
    let len = disk().len();
    client.request((0, 0), 8, 0, len as u32);
    assert_eq!(client.simple_reply(), (8, 0));
    assert!(client.take(len) == disk());
}

#[test]
fn goodbye_waits_for_what_is_under_way() {
    let (mut server, image) = server();
    image.held_at.store(0, Ordering::SeqCst);
    let (mut leaving, mut staying) =
        (Client::ready(server.address, "vm/1"), Client::ready(server.address, "vm/1"));
    for (client, cookie) in [(&mut leaving, 1), (&mut staying, 3)] {
        client.request((0, 0), cookie, 0, 512);
        // Once this is answered, the one before is under way.
        client.request((0, 0), cookie + 1, u64::from(MIB), 512);
        assert_eq!(client.chunk().cookie, cookie + 1);
    }
    leaving.request((0, 2), 5, 0, 0);
    // The server ends, and answers what it was asked.
    server.canceller.cancel();
    image.gate.add_permits(2);
    assert_eq!(leaving.chunk().cookie, 1);
    assert_eq!(staying.chunk().cookie, 3);
    assert!(leaving.is_closed() && staying.is_closed());
    let task = server.task.take().expect("a task");
    server.runtime.block_on(task).expect("the server ends");
}

#[test]
fn one_too_many_is_told_so() {
    let image = Memory::new(disk());
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let server = Server::start(&[("vm/1", &image)], limits);
    let mut first = Client::ready(server.address, "vm/1");
    let mut second = Client::greeted(server.address, 3);
    assert_eq!(second.option(7, &info("vm/1", &[]))[0].0, ERR_POLICY);
    assert_eq!(second.option(6, &info("vm/1", &[])).last(), Some(&(ACK, vec![])));
    first.request((0, 2), 1, 0, 0);
    assert!(first.is_closed());
    // The place is free a moment after the connection is closed.
    while second.option(7, &info("vm/1", &[]))[0].0 == ERR_POLICY {}
    second.request((0, 0), 8, 0, 1);
    assert_eq!(second.simple_reply(), (8, 0));
}
