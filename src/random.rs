//! Random numbers: the system's, always. A test build may take them from a seed instead.

use crate::error::{Error, Result};

/// Fills a buffer from the system's random generator.
pub fn random(out: &mut [u8]) -> Result<()> {
    #[cfg(feature = "simulation")]
    if seeded::fill(out) {
        return Ok(());
    }
    aws_lc_rs::rand::fill(out)
        .map_err(|_| Error::internal("the system's random generator failed").help("check /dev/urandom"))
}

/// A fresh random array.
pub fn random_array<const N: usize>() -> Result<[u8; N]> {
    let mut out = [0; N];
    random(&mut out)?;
    Ok(out)
}

#[cfg(feature = "simulation")]
pub use seeded::{Seeded, from_seed};

/// Not compiled into a program that is released: keys made from a seed protect nothing.
#[cfg(feature = "simulation")]
mod seeded {
    use std::cell::Cell;
    use std::marker::PhantomData;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// While it lives, this thread's random numbers follow from a seed.
    #[derive(Debug)]
    pub struct Seeded {
        before: Option<u64>,
        // Of use on its own thread only.
        _thread: PhantomData<*const ()>,
    }

    /// Makes all that is random on this thread, keys too, follow from a seed: for simulations that must replay exactly.
    pub fn from_seed(seed: u64) -> Seeded {
        Seeded { before: STATE.replace(Some(seed)), _thread: PhantomData }
    }

    impl Drop for Seeded {
        fn drop(&mut self) {
            STATE.set(self.before);
        }
    }

    /// SplitMix64; false where no seed is set.
    pub(super) fn fill(out: &mut [u8]) -> bool {
        let Some(mut state) = STATE.get() else { return false };
        for piece in out.chunks_mut(8) {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            piece.copy_from_slice(&z.to_le_bytes()[..piece.len()]);
        }
        STATE.set(Some(state));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::random_array;

    fn drawn() -> [u8; 32] {
        random_array().expect("random")
    }

    #[test]
    fn no_two_draws_are_equal() {
        assert_ne!(drawn(), drawn());
    }

    #[cfg(feature = "simulation")]
    #[test]
    fn a_seed_counts_on_its_own_thread_and_while_it_is_held() {
        let first = {
            let _seeded = super::from_seed(7);
            assert_ne!(std::thread::spawn(drawn).join().expect("drawn"), drawn());
            let _again = super::from_seed(7);
            drawn()
        };
        let _seeded = super::from_seed(7);
        assert_eq!(first, drawn());
        drop(_seeded);
        assert_ne!(first, drawn());
    }
}
