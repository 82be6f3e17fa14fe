//! What every sink must do, whatever it writes to.

use cuttle::sink::{Existing, Order, Sink};

use super::Numbers;

/// One target that a sink can be opened on, and looked at afterwards.
pub trait Target {
    /// Opens it for a volume of a size.
    fn open(&self, size_bytes: u64) -> Box<dyn Sink>;
    /// What it holds of the volume after [`Sink::finish`].
    fn content(&self, size_bytes: u64) -> Vec<u8>;
}

/// Runs the suite; each case gets a target of its own.
pub fn check<T: Target>(make: impl Fn() -> T) {
    // Sizes that are no multiple of any block.
    for size_bytes in [0, 1, 511, 70_001, 3_000_017] {
        restores(&make(), size_bytes);
        any_order_agrees_with_memory(&make(), size_bytes);
    }
    refuses_what_is_beyond(&make());
    restores_in_threads(&make());
}

/// Blocks of a volume, some of them zero.
fn volume(size_bytes: u64, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut volume = Vec::new();
    while (volume.len() as u64) < size_bytes {
        let len = (size_bytes - volume.len() as u64).min(1 + numbers.below(40_000)) as usize;
        if numbers.below(3) == 0 {
            volume.resize(volume.len() + len, 0);
        } else {
            volume.extend(numbers.bytes(len));
        }
    }
    volume
}

fn existing(sink: &dyn Sink, size_bytes: u64) -> Option<Vec<u8>> {
    match sink.existing() {
        Existing::Nothing | Existing::Backup(_) => None,
        Existing::Blank => Some(vec![0; size_bytes as usize]),
        Existing::Content(reader) => {
            assert_eq!(reader.size_bytes(), size_bytes);
            let mut content = vec![0; size_bytes as usize];
            reader.read_at(0, &mut content).expect("read the target");
            assert!(reader.read_at(size_bytes, &mut [0]).is_err(), "nothing can be read beyond the size");
            Some(content)
        }
    }
}

/// What a restore does: writes only what differs, where that can be seen.
fn restores(target: &dyn Target, size_bytes: u64) {
    let sink = target.open(size_bytes);
    let wanted = volume(size_bytes, 5);
    let before = existing(&*sink, size_bytes);
    for (i, piece) in wanted.chunks(4096).enumerate() {
        let at = i * 4096;
        let kept = before.as_ref().is_some_and(|b| &b[at..at + piece.len()] == piece);
        match piece.iter().all(|&b| b == 0) {
            _ if kept => {}
            true => sink.zero_at(at as u64, piece.len() as u64).expect("zero"),
            false => sink.write_at(at as u64, piece).expect("write"),
        }
    }
    sink.finish().expect("finish");
    drop(sink);
    assert!(target.content(size_bytes) == wanted, "a volume of {size_bytes} bytes is as it was");
}

/// Writes and zeroes at any place, over each other.
fn any_order_agrees_with_memory(target: &dyn Target, size_bytes: u64) {
    let sink = target.open(size_bytes);
    if sink.order() != Order::Any || size_bytes == 0 {
        return;
    }
    let mut model = existing(&*sink, size_bytes).expect("a target with any order shows what it holds");
    let mut numbers = Numbers::new(9);
    for _ in 0..150 {
        let offset = numbers.below(size_bytes);
        let len = 1 + numbers.below((size_bytes - offset).min(200_000));
        let range = offset as usize..(offset + len) as usize;
        if numbers.below(2) == 0 {
            sink.zero_at(offset, len).expect("zero");
            model[range].fill(0);
        } else {
            let data = numbers.bytes(len as usize);
            sink.write_at(offset, &data).expect("write");
            model[range].copy_from_slice(&data);
        }
    }
    sink.finish().expect("finish");
    drop(sink);
    assert!(target.content(size_bytes) == model, "a target of {size_bytes} bytes is as it was in memory");
}

fn refuses_what_is_beyond(target: &dyn Target) {
    let sink = target.open(1000);
    sink.write_at(0, &[1; 990]).expect("within the size");
    assert!(sink.write_at(990, &[1; 11]).is_err(), "a write over the end");
    assert!(sink.zero_at(990, 11).is_err(), "zeros over the end");
    assert!(sink.zero_at(u64::MAX, 2).is_err(), "an end that overflows");
    sink.zero_at(990, 10).expect("up to the end");
    sink.finish().expect("finish");
    drop(sink);
    assert_eq!(target.content(1000), [vec![1; 990], vec![0; 10]].concat());
}

fn restores_in_threads(target: &dyn Target) {
    let size_bytes = 1_000_003;
    let sink = target.open(size_bytes);
    if sink.order() != Order::Any {
        return;
    }
    let wanted = volume(size_bytes, 11);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (sink, wanted) = (&sink, &wanted);
            scope.spawn(move || {
                for (i, piece) in wanted.chunks(10_000).enumerate().skip(thread).step_by(4) {
                    sink.write_at(i as u64 * 10_000, piece).expect("write");
                }
            });
        }
    });
    sink.finish().expect("finish");
    drop(sink);
    assert!(target.content(size_bytes) == wanted, "what threads wrote is whole");
}
