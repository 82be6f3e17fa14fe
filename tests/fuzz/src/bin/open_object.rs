//! Any bytes as an object that is opened: an error, or a plaintext of the length that its header says.
//!
//! The object's name follows from the header's type. What the fuzzer cannot guess is put right for it: the checksum,
//! the seal (see `keys`), and the base that a delta names.
#![no_main]

use cuttle::codec::{self, Base, Place};
use cuttle::format::envelope::{HEADER_BOUND_LEN_BYTES, HEADER_LEN_BYTES, Header, checksum};
use cuttle::format::names::ContentName;
use cuttle::format::{ObjectName, ObjectType, Sealing};
use cuttle::keys::SealingKey;
use cuttle::units::{ChunkId, Generation, ProjectName, Sequence, VolumeNumber};

const REPO_ID: [u8; 16] = [3; 16];
/// As a small repository allows.
const PLAIN_LEN_BYTES_MAX: usize = 1 << 20;

fn name(object_type: ObjectType) -> ObjectName {
    let p: ProjectName = "default".parse().expect("valid");
    let (n, s, g) = (VolumeNumber(1), Sequence(1), Generation(1));
    let content = ContentName::plain(g, ChunkId([9; 32]));
    match object_type {
        ObjectType::Repository => ObjectName::Repository,
        ObjectType::Key => ObjectName::Key { slot: 1 },
        ObjectType::Project => ObjectName::Project(p),
        ObjectType::Volume => ObjectName::Volume(p, n),
        ObjectType::Open => ObjectName::Open(p, n, s),
        ObjectType::End => ObjectName::End(p, n, s),
        ObjectType::Forget => ObjectName::Forget(p, n, s),
        ObjectType::Note => ObjectName::Note(p, n, s, 1),
        ObjectType::Alive => ObjectName::Alive(p, n, s, 1),
        ObjectType::Chunk => ObjectName::Chunk(p, content),
        ObjectType::Page => ObjectName::Page(p, content),
        ObjectType::GcBegin => ObjectName::GcBegin(p, g),
        ObjectType::GcSeal => ObjectName::GcSeal(p, g),
        ObjectType::GcDone => ObjectName::GcDone(p, g),
        ObjectType::GcPart => ObjectName::GcPart(p, g, content.id),
        ObjectType::Lost => ObjectName::Lost(p, 1),
        ObjectType::Bundle => ObjectName::Bundle(p, content),
        ObjectType::RoleKey => ObjectName::RoleKey { project: p, slot: 1 },
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(header) = Header::decode(data, data.len() as u64) else { return };
    let name = name(header.object_type);
    let (head, body) = data.split_at(HEADER_LEN_BYTES);
    let bound = &head[..HEADER_BOUND_LEN_BYTES];
    let sum = checksum(bound, &REPO_ID, &name.to_string(), body);
    let object = [bound, &sum, body].concat();
    let key = (header.sealing != Sealing::None).then_some(SealingKey(header.sealing));
    let place = Place { repo_id: &REPO_ID, name: &name, key: key.as_ref() };
    let base_plain: Vec<u8> = (0..4096u32).map(|i| (i * i / 7) as u8).collect();
    let base = (header.depth > 0).then_some(Base { depth: header.depth, plain: &base_plain });
    let mut out = vec![1; 10];
    if codec::open(place, &object, base, PLAIN_LEN_BYTES_MAX, &mut out).is_ok() {
        assert_eq!(out.len(), header.plain_len_bytes as usize);
        assert!(out.len() <= PLAIN_LEN_BYTES_MAX);
        // The same object does not open as anything else.
        let other = ObjectName::Key { slot: 2 };
        let elsewhere = Place { name: &other, ..place };
        assert!(
            key.is_some() || codec::open(elsewhere, &object, None, PLAIN_LEN_BYTES_MAX, &mut out).is_err()
        );
        if header.depth > 0 {
            assert!(codec::open(place, &object, None, PLAIN_LEN_BYTES_MAX, &mut out).is_err());
        }
    }
});
