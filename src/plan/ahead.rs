//! Which chunks a reader that goes straight on will want next.

use std::collections::VecDeque;
use std::ops::Range;

/// Readers followed at once; the one that was quiet longest is forgotten.
const TRAILS_MAX: usize = 16;
/// Most chunks ahead of a reader: 64 MiB at 4 MiB a chunk.
pub const AHEAD_CHUNKS_MAX: u64 = 16;

/// Follows the readers of one volume, each by where it left off: nobody says who asks.
#[derive(Debug, Default)]
pub struct Ahead {
    /// The one that read last is the last.
    trails: VecDeque<Trail>,
}

/// One reader, in chunks.
#[derive(Debug, Clone, Copy)]
struct Trail {
    /// Behind what was read.
    next: u64,
    /// Behind what was announced.
    announced: u64,
    /// How far ahead it is followed; 0 until it has gone on once.
    depth: u64,
}

impl Ahead {
    /// Takes note of a read of these chunks, and tells which to fetch before anybody asks for them; often none.
    ///
    /// A reader that goes on has its depth doubled with each new chunk, up to [`AHEAD_CHUNKS_MAX`]. One may come a little
    /// early, as readers with several requests in flight do.
    pub fn saw(&mut self, chunks: Range<u64>) -> Range<u64> {
        if chunks.is_empty() {
            return 0..0;
        }
        let follows = |t: &Trail| (t.next.saturating_sub(1)..=t.next + t.depth).contains(&chunks.start);
        let found = self.trails.iter().rposition(follows).and_then(|at| self.trails.remove(at));
        let Some(mut trail) = found else {
            if self.trails.len() >= TRAILS_MAX {
                self.trails.pop_front();
            }
            self.trails.push_back(Trail { next: chunks.end, announced: chunks.end, depth: 0 });
            return 0..0;
        };
        let mut wanted = 0..0;
        if chunks.end > trail.next {
            trail.next = chunks.end;
            trail.depth = (trail.depth * 2).clamp(1, AHEAD_CHUNKS_MAX);
            wanted = trail.announced.max(trail.next)..trail.next + trail.depth;
            trail.announced = trail.announced.max(wanted.end);
        }
        self.trails.push_back(trail);
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_goes_on_is_announced_more_and_more_and_everything_once() {
        let mut ahead = Ahead::default();
        let mut announced = Vec::new();
        for chunk in 10..100 {
            // Twice into each chunk, as small reads do.
            for _ in 0..2 {
                let wanted = ahead.saw(chunk..chunk + 1);
                assert!(wanted.is_empty() || wanted.start > chunk, "{wanted:?} is ahead of {chunk}");
                assert!(wanted.end <= chunk + 1 + AHEAD_CHUNKS_MAX, "{wanted:?} is bounded");
                announced.extend(wanted);
            }
        }
        assert_eq!(announced, (12..100 + AHEAD_CHUNKS_MAX).collect::<Vec<_>>());
    }

    #[test]
    fn one_that_jumps_is_not_followed() {
        let mut ahead = Ahead::default();
        for n in 0..200_u64 {
            let chunk = (n * 7919) % 100_000 * 20;
            assert!(ahead.saw(chunk..chunk + 1).is_empty(), "read {n}");
        }
        assert!(ahead.trails.len() <= TRAILS_MAX);
    }

    #[test]
    fn several_are_followed_beside_each_other_and_out_of_order() {
        let mut ahead = Ahead::default();
        for n in 0..20 {
            for start in [0, 1000, 2000] {
                let wanted = ahead.saw(start + n..start + n + 1);
                assert_eq!(wanted.is_empty(), n == 0, "reader at {start}, step {n}: {wanted:?}");
            }
        }
        // Two requests in flight, the later comes first.
        assert!(!ahead.saw(21..22).is_empty());
        assert!(ahead.saw(20..21).is_empty());
        assert!(!ahead.saw(22..23).is_empty());
    }

    #[test]
    fn the_end_of_numbers_is_no_end_of_the_program() {
        let mut ahead = Ahead::default();
        for chunks in [0..0, 5..5, 0..1 << 40, (1 << 40)..(1 << 40) + 1] {
            ahead.saw(chunks);
        }
    }
}
