//! Secrets wrapped by a passphrase or key file (repo-format.md §5).

use aws_lc_rs::aead::Aad;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use super::{Unlock, aead, random_array, zero_nonce};
use crate::error::{Error, Result};
use crate::format::context;
use crate::format::record::Kdf;

/// `N` secret bytes as a slot has them.
pub(super) struct Wrapped<const N: usize> {
    pub(super) kdf: Kdf,
    /// New, so the wrapping key is.
    pub(super) salt: [u8; 32],
    pub(super) commitment: [u8; 32],
    pub(super) ciphertext: [u8; N],
    pub(super) tag: [u8; 16],
}

impl<const N: usize> Wrapped<N> {
    pub(super) fn of(plain: &[u8; N], unlock: &Unlock, bound: &[u8]) -> Result<Self> {
        unlock.check()?;
        let (kdf, salt) = (unlock.kdf(), random_array()?);
        let okm = unlock
            .stretch(kdf, &salt)?
            .ok_or_else(|| Error::internal("a secret does not fit its own kind of slot"))?;
        let mut ciphertext = *plain;
        let tag = aead(&okm.derive(context::SLOT_WRAP))?
            .seal_in_place_separate_tag(zero_nonce(), Aad::from(bound), &mut ciphertext)
            .map_err(|_| Error::internal("a key could not be wrapped"))?;
        let tag = tag.as_ref().try_into().map_err(|_| Error::internal("a tag of another length"))?;
        let commitment = *okm.derive(context::SLOT_COMMITMENT).expose();
        Ok(Self { kdf, salt, commitment, ciphertext, tag })
    }

    /// `None` when the secret is not the slot's; an error when it is, but what it is bound to was tampered with.
    pub(super) fn open(&self, unlock: &Unlock, bound: &[u8]) -> Result<Option<Zeroizing<[u8; N]>>> {
        unlock.check()?;
        let Some(okm) = unlock.stretch(self.kdf, &self.salt)? else { return Ok(None) };
        let commitment = okm.derive(context::SLOT_COMMITMENT);
        if verify_slices_are_equal(commitment.expose(), &self.commitment).is_err() {
            return Ok(None);
        }
        let mut plain = Zeroizing::new([0; N]);
        aead(&okm.derive(context::SLOT_WRAP))?
            .open_separate_gather(
                zero_nonce(),
                Aad::from(bound),
                &self.ciphertext,
                &self.tag,
                plain.as_mut_slice(),
            )
            .map_err(|_| {
                Error::corrupt("the secret fits a key slot, but not this repository object").help(
                    "the repository object or the slot was changed or swapped; restore it from a copy or a bucket version",
                )
            })?;
        Ok(Some(plain))
    }
}
