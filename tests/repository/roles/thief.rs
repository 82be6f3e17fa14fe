//! Somebody who has the keys of a backup host, its credentials, and the library with every check taken out. He lacks one thing: the key that signs.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use cuttle::codec;
use cuttle::format::envelope::{
    HEADER_BOUND_LEN_BYTES, HEADER_LEN_BYTES, SIGNATURE_LEN_BYTES, Sealing, checksum,
};
use cuttle::format::{ObjectName, Record};

use crate::support::by_hand::{ByHand, put};

/// How he makes what only the keeper may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgery {
    /// Sealed as everything else is, by nobody's signature.
    Unsigned,
    /// With room for a signature, and zeros in it.
    Zeros,
    /// Signed by a key of his own.
    OwnKey,
    /// Signed by the keeper, for another name.
    Moved,
    /// Nothing that opens at all.
    Garbage,
}

impl Forgery {
    pub const ALL: [Self; 5] = [Self::Unsigned, Self::Zeros, Self::OwnKey, Self::Moved, Self::Garbage];
}

/// Makes a forgery of the object of this name.
///
/// `hand` has all keys, of which he uses the metadata key alone: what is encrypted here he can encrypt too, and what the keeper signed is overwritten, or
/// was signed for `elsewhere`.
pub fn forged<R: Record + PartialEq>(
    hand: &ByHand,
    name: &ObjectName,
    elsewhere: &ObjectName,
    record: &R,
    how: Forgery,
) -> Vec<u8> {
    let sealed = |name: &ObjectName| {
        hand.at(name, |place| codec::seal_record(place, record)).expect("sealed").bytes().to_vec()
    };
    match how {
        Forgery::Garbage => vec![7; 300],
        Forgery::Moved => resummed(hand, name, sealed(elsewhere)),
        Forgery::Zeros => signed(hand, name, sealed(name), &[0; SIGNATURE_LEN_BYTES]),
        Forgery::OwnKey => {
            let object = sealed(name);
            let digest = digest(hand, name, &object[..object.len() - SIGNATURE_LEN_BYTES]);
            let pair = Ed25519KeyPair::from_seed_unchecked(&[13; 32]).expect("a key");
            assert_ne!(pair.public_key().as_ref(), [0; 32]);
            let signature = pair.sign(&[&b"cuttle v1 signed"[..], &digest].concat());
            signed(hand, name, object, signature.as_ref())
        }
        Forgery::Unsigned => {
            let mut object = sealed(name);
            object.truncate(object.len() - SIGNATURE_LEN_BYTES);
            object[9] = Sealing::Aes256Gcm as u8;
            let body_len = (object.len() - HEADER_LEN_BYTES) as u32;
            object[16..20].copy_from_slice(&body_len.to_le_bytes());
            resummed(hand, name, object)
        }
    }
}

/// Puts one where it is believed, if it is.
pub async fn plant<R: Record + PartialEq>(
    hand: &ByHand,
    name: &ObjectName,
    elsewhere: &ObjectName,
    record: &R,
    how: Forgery,
) {
    put(&*hand.objects, &name.to_string(), forged(hand, name, elsewhere, record, how)).await;
}

fn signed(hand: &ByHand, name: &ObjectName, mut object: Vec<u8>, signature: &[u8]) -> Vec<u8> {
    let at = object.len() - SIGNATURE_LEN_BYTES;
    object[at..].copy_from_slice(signature);
    resummed(hand, name, object)
}

/// With the checksum that its bytes have under that name.
fn resummed(hand: &ByHand, name: &ObjectName, mut object: Vec<u8>) -> Vec<u8> {
    let sum = {
        let (head, body) = object.split_at(HEADER_LEN_BYTES);
        checksum(&head[..HEADER_BOUND_LEN_BYTES], &hand.repository.repo_id, &name.to_string(), body)
    };
    object[HEADER_BOUND_LEN_BYTES..HEADER_LEN_BYTES].copy_from_slice(&sum);
    object
}

/// What a signature is over (repo-format.md §4, sealing 2), of an object without it.
fn digest(hand: &ByHand, name: &ObjectName, unsigned: &[u8]) -> [u8; 32] {
    let (head, body) = unsigned.split_at(HEADER_LEN_BYTES);
    checksum(&head[..HEADER_BOUND_LEN_BYTES], &hand.repository.repo_id, &name.to_string(), body)
}
