//! Pseudo-random numbers from a seed, the same each time: tests repeat exactly.

pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number of any type; 0 where there is none below.
    pub fn below<T: TryFrom<u64> + TryInto<u64>>(&mut self, end: T) -> T {
        let end: u64 = end.try_into().ok().expect("not negative");
        T::try_from(self.next() % end.max(1)).ok().expect("less than the end")
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8).collect()
    }

    /// Bytes that compress a little.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8 & 0x3f).collect()
    }

    /// What a night does to a volume: writes, zeros, copies, growing and shrinking, each of less than so many bytes.
    pub fn edit(&mut self, content: &mut Vec<u8>, most: usize) {
        for _ in 0..self.below(8) {
            match self.below(6) {
                0 => content.truncate(self.below(content.len() + 1)),
                1 => content.resize(content.len() + self.below(2 * most), 0),
                _ if content.is_empty() => {}
                kind => {
                    let at = self.below(content.len());
                    let len = self.below(most).min(content.len() - at);
                    match kind {
                        2 => content[at..at + len].fill(0),
                        3 => {
                            let from = self.below(content.len() - len + 1);
                            content.copy_within(from..from + len, at);
                        }
                        _ => content[at..at + len].copy_from_slice(&self.bytes(len)),
                    }
                }
            }
        }
    }
}

/// Many bytes of a seed at once.
pub fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}
