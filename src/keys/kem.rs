//! A secret for one object, that whoever has the private key finds again: DHKEM(X25519, HKDF-SHA256) of RFC 9180, section 4.1, in base mode.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroize;

use super::Secret;
use crate::error::{Error, Result};
use crate::format::envelope::damaged;

/// "HPKE-v1", then "KEM" and the number of this KEM.
const SUITE: [&[u8]; 2] = [b"HPKE-v1", b"KEM\x00\x20"];

struct Len32;

impl KeyType for Len32 {
    fn len(&self) -> usize {
        32
    }
}

/// An X25519 private key of 32 secret bytes.
pub(super) fn private_key(secret: &Secret) -> Result<PrivateKey> {
    PrivateKey::from_private_key(&X25519, secret.expose())
        .map_err(|_| Error::internal("X25519 refused its private key"))
}

pub(super) fn public_key(private: &PrivateKey) -> Result<[u8; 32]> {
    let public = private.compute_public_key().map_err(|_| Error::internal("X25519 has no public key"))?;
    public.as_ref().try_into().map_err(|_| Error::internal("a public key of another length"))
}

/// What is sent along, and the shared secret.
pub(super) fn encapsulate(public: &[u8; 32]) -> Result<([u8; 32], Secret)> {
    // Any 32 bytes are a key (RFC 7748, section 5).
    encapsulate_with(&private_key(&Secret::random()?)?, public)
}

fn encapsulate_with(own: &PrivateKey, public: &[u8; 32]) -> Result<([u8; 32], Secret)> {
    let sent = public_key(own)?;
    // Of the project's own key, which opened with the slot.
    let shared = shared(own, public, &sent, public).ok_or_else(|| Error::internal("X25519 failed"))?;
    Ok((sent, shared))
}

/// The shared secret of what was sent; of anything that was not made for this key, another.
pub(super) fn decapsulate(private: &PrivateKey, public: &[u8; 32], sent: &[u8; 32]) -> Result<Secret> {
    shared(private, sent, sent, public)
        .ok_or_else(|| damaged("it is not authentic: its header holds no key that anything was sealed with"))
}

/// `None` where the other's key is one of the few with which nothing is secret.
fn shared(own: &PrivateKey, other: &[u8; 32], sent: &[u8; 32], receiver: &[u8; 32]) -> Option<Secret> {
    agree(own, UnparsedPublicKey::new(&X25519, other), (), |dh| {
        let extracted = Salt::new(HKDF_SHA256, b"").extract(&[SUITE[0], SUITE[1], b"eae_prk", dh].concat());
        let length = 32u16.to_be_bytes();
        let info = [&length[..], SUITE[0], SUITE[1], b"shared_secret", sent, receiver];
        let mut out = [0; 32];
        let filled = extracted.expand(&info, Len32).and_then(|okm| okm.fill(&mut out));
        let secret = Secret::from_bytes(out);
        out.zeroize();
        filled.map_err(drop).map(|()| secret)
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> [u8; 32] {
        std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"))
    }

    /// RFC 9180, A.1.1.
    #[test]
    fn the_vectors_of_the_rfc_hold() {
        let own = bytes("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736");
        let receiver = bytes("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8");
        let [own, receiver] =
            [own, receiver].map(|key| private_key(&Secret::from_bytes(key)).expect("a key"));
        let public = public_key(&receiver).expect("a key");
        assert_eq!(public, bytes("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"));
        let (sent, secret) = encapsulate_with(&own, &public).expect("encapsulated");
        assert_eq!(sent, bytes("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"));
        assert_eq!(
            secret.expose(),
            &bytes("fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc")
        );
        assert_eq!(decapsulate(&receiver, &public, &sent).expect("found").expose(), secret.expose());
    }

    #[test]
    fn another_receiver_finds_another_secret_and_a_bad_key_none() {
        let [one, two] = [1, 2].map(|n| private_key(&Secret::from_bytes([n; 32])).expect("a key"));
        let public = public_key(&one).expect("a key");
        let (sent, secret) = encapsulate(&public).expect("encapsulated");
        let other = decapsulate(&two, &public_key(&two).expect("a key"), &sent).expect("some");
        assert_ne!(other.expose(), secret.expose());
        let error = decapsulate(&one, &public, &[0; 32]).expect_err("refused");
        assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
    }
}
