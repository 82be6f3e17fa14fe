//! Any bytes as a record of any type: an error, or exactly what encodes to these bytes. The first byte is the type.
#![no_main]

use cuttle::format::Record;
use cuttle::format::bundle::BundleRecord;
use cuttle::format::gc::{BeginRecord, DoneRecord, SealRecord};
use cuttle::format::lost::LostRecord;
use cuttle::format::record::{
    AliveRecord, EndRecord, ForgetRecord, KeySlotRecord, NoteRecord, OpenRecord, Outcome, ProjectRecord,
    RepositoryRecord, VolumeRecord,
};
use cuttle::format::roster;
use cuttle::units::VolumeNumber;

fn check<R: Record>(data: &[u8]) -> Option<R> {
    let record = R::decode(data).ok()?;
    assert_eq!(record.encode().expect("it was decoded"), data);
    Some(record)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind {
        1 => drop(check::<RepositoryRecord>(data)),
        2 => drop(check::<KeySlotRecord>(data)),
        3 => drop(check::<ProjectRecord>(data)),
        4 => {
            if let Some(volume) = check::<VolumeRecord>(data) {
                let _ = volume.volume_name();
            }
        }
        5 => drop(check::<OpenRecord>(data)),
        6 => {
            let Some(EndRecord { outcome: Outcome::Committed(snapshot), .. }) = check(data) else { return };
            let Ok(root) = snapshot.root_page() else { return };
            assert_eq!(root.encode(), snapshot.root);
            let geometry = snapshot.geometry().expect("the root fits it");
            assert!(root.refs.len() as u64 <= geometry.chunk_count());
        }
        7 => drop(check::<ForgetRecord>(data)),
        8 => drop(check::<NoteRecord>(data)),
        11 => drop(check::<BeginRecord>(data)),
        12 => drop(check::<SealRecord>(data)),
        13 => drop(check::<DoneRecord>(data)),
        14 => {
            let (after, last) =
                (VolumeNumber(0), VolumeNumber(data.first().copied().unwrap_or_default().into()));
            let Ok(part) = roster::decode(data, 1, after, last) else { return };
            assert_eq!(roster::encode(&part).expect("it was decoded"), data);
        }
        15 => drop(check::<AliveRecord>(data)),
        16 => drop(check::<LostRecord>(data)),
        17 => {
            let Some(table) = check::<BundleRecord>(data) else { return };
            let mut next = 100;
            for (offset_bytes, piece) in table.pieces(100) {
                assert_eq!(offset_bytes, next);
                next += piece.len_bytes;
                if let Ok(Some(runs)) = piece.runs(1 << 22) {
                    assert!(runs.iter().all(|run| !run.is_empty() && run.end <= 1 << 22));
                }
            }
        }
        _ => {}
    }
});
