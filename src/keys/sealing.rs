//! Keys under which objects are sealed, each object with a key of its own (repo-format.md §4).

use std::sync::Arc;

use aws_lc_rs::aead::{Aad, LessSafeKey};
use aws_lc_rs::agreement::PrivateKey;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::{Secret, aead, kem, random_array, zero_nonce};
use crate::error::{Error, Result};
use crate::format::context;
use crate::format::envelope::{MARK_LEN_BYTES, SIGNATURE_LEN_BYTES, Sealing, damaged};

/// What seals objects of one kind, or opens them, or both.
#[derive(Clone)]
pub struct SealingKey(Way);

#[derive(Clone)]
enum Way {
    /// Whoever has the secret seals and opens.
    Secret(Secret),
    /// The same, and who may decide signs. Others have no pair.
    Signed { secret: Secret, verifying: [u8; 32], pair: Option<Arc<Ed25519KeyPair>> },
    /// Whoever has the public key seals, and marks it as sealed by one of the project; who has the private one opens.
    Public { public: [u8; 32], private: Option<Arc<PrivateKey>>, mark: Secret },
}

/// The key of one object.
pub struct ObjectKey {
    key: LessSafeKey,
    /// For who seals it once more under another name.
    secret: Secret,
}

impl SealingKey {
    /// Seals and opens with this secret, whichever key of repo-format.md §5 it is.
    pub fn new(secret: Secret) -> Self {
        Self(Way::Secret(secret))
    }

    /// As [`new`](Self::new), and signed: `signing` is the seed of an Ed25519 key, `None` for who only reads.
    pub(super) fn signed(secret: Secret, verifying: [u8; 32], signing: Option<&Secret>) -> Result<Self> {
        let pair = signing.map(key_pair).transpose()?.map(Arc::new);
        Ok(Self(Way::Signed { secret, verifying, pair }))
    }

    /// To a public key. `private` is its private key, `None` for who only seals; `mark` is what all of the project have.
    pub(super) fn public(public: [u8; 32], private: Option<&Secret>, mark: Secret) -> Result<Self> {
        let private = private.map(kem::private_key).transpose()?.map(Arc::new);
        Ok(Self(Way::Public { public, private, mark }))
    }

    /// How its objects are protected.
    pub fn sealing(&self) -> Sealing {
        match &self.0 {
            Way::Secret(_) => Sealing::Aes256Gcm,
            Way::Signed { .. } => Sealing::Signed,
            Way::Public { .. } => Sealing::Public,
        }
    }

    /// Whether what is sealed with it can be opened with it.
    pub fn opens(&self) -> bool {
        !matches!(&self.0, Way::Public { private: None, .. })
    }

    /// Whether objects can be sealed with it that others take for authentic.
    pub fn seals(&self) -> bool {
        !matches!(&self.0, Way::Signed { pair: None, .. })
    }

    /// The key of an object that is to be sealed, and the salt in its header. No object has the key of another.
    pub fn of_new(&self) -> Result<([u8; 32], ObjectKey)> {
        match &self.0 {
            Way::Public { public, .. } => {
                let (sent, secret) = kem::encapsulate(public)?;
                Ok((sent, ObjectKey::new(secret)?))
            }
            Way::Secret(_) | Way::Signed { .. } => {
                let salt = random_array()?;
                Ok((salt, self.of(&salt)?))
            }
        }
    }

    /// The key of the object that has this salt in its header.
    ///
    /// # Errors
    /// `WrongKey` where this key only seals.
    pub fn of(&self, salt: &[u8; 32]) -> Result<ObjectKey> {
        match &self.0 {
            Way::Secret(secret) | Way::Signed { secret, .. } => {
                ObjectKey::new(Secret::from_bytes(*blake3::keyed_hash(secret.expose(), salt).as_bytes()))
            }
            Way::Public { public, private: Some(private), .. } => {
                ObjectKey::new(kem::decapsulate(private, public, salt)?)
            }
            Way::Public { private: None, .. } => Err(Error::wrong_key(
                "this key seals chunks, and cannot open them: their content is sealed to whoever restores",
            )
            .help("use a key of the role restore or admin: `cuttle key list` shows them")),
        }
    }

    /// What stands behind the tag: who sealed this, proven over `digest`, which is of all before it.
    pub fn attest(&self, digest: &[u8; 32], out: &mut [u8]) -> Result<()> {
        match &self.0 {
            Way::Secret(_) => {}
            Way::Signed { pair, .. } => {
                let pair = pair.as_ref().ok_or_else(|| {
                    Error::wrong_key("this key may not decide what is forgotten, noted and deleted")
                        .help("use a key of the role keeper or admin: `cuttle key list` shows them")
                })?;
                out.copy_from_slice(pair.sign(&signed(digest)).as_ref());
            }
            Way::Public { mark, .. } => out.copy_from_slice(&made_mark(mark, digest)),
        }
        Ok(())
    }

    /// Holds what stands behind the tag against the digest of all before it.
    pub fn check(&self, digest: &[u8; 32], attested: &[u8]) -> Result<()> {
        let holds = match &self.0 {
            Way::Secret(_) => attested.is_empty(),
            Way::Signed { verifying, .. } => {
                attested.len() == SIGNATURE_LEN_BYTES
                    && UnparsedPublicKey::new(&ED25519, verifying).verify(&signed(digest), attested).is_ok()
            }
            Way::Public { mark, .. } => verify_slices_are_equal(&made_mark(mark, digest), attested).is_ok(),
        };
        match (holds, &self.0) {
            (true, _) => Ok(()),
            (false, Way::Signed { .. }) => Err(damaged(
                "it is not signed by whoever may decide this in its project: forged, moved or changed",
            )),
            (false, _) => Err(damaged("it is not authentic: nobody of its project sealed it")),
        }
    }
}

impl ObjectKey {
    fn new(secret: Secret) -> Result<Self> {
        Ok(Self { key: aead(&secret)?, secret })
    }

    /// The key of an object that this process sealed.
    pub(crate) fn again(secret: &Secret) -> Result<Self> {
        Self::new(secret.clone())
    }

    pub(crate) fn into_secret(self) -> Secret {
        self.secret
    }

    /// Encrypts `plain` into `out`, which is as long, and returns the tag. The key is new for every object, so the fixed nonce never
    /// repeats.
    pub fn seal(&self, aad: &[u8], plain: &[u8], out: &mut [u8]) -> Result<[u8; 16]> {
        let mut tag = [0; 16];
        self.key
            .seal_out_of_place_scatter(zero_nonce(), Aad::from(aad), plain, out, &[], &mut tag)
            .map_err(|_| Error::internal("an object could not be sealed"))?;
        Ok(tag)
    }

    /// Authenticates and decrypts ciphertext and tag into `out`, which is 16 bytes shorter.
    pub fn open(&self, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<()> {
        let (ciphertext, tag) =
            sealed.split_last_chunk::<16>().ok_or_else(|| damaged("a sealed body without a tag"))?;
        self.key
            .open_separate_gather(zero_nonce(), Aad::from(aad), ciphertext, tag, out)
            .map_err(|_| damaged("it is not authentic: changed, moved, or sealed with another key"))
    }
}

pub(super) fn verifying_key(signing: &Secret) -> Result<[u8; 32]> {
    let pair = key_pair(signing)?;
    pair.public_key().as_ref().try_into().map_err(|_| Error::internal("a verifying key of another length"))
}

fn key_pair(seed: &Secret) -> Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(seed.expose())
        .map_err(|_| Error::internal("Ed25519 refused its seed"))
}

fn signed(digest: &[u8; 32]) -> Vec<u8> {
    [context::SIGNED, digest].concat()
}

fn made_mark(key: &Secret, digest: &[u8; 32]) -> [u8; MARK_LEN_BYTES] {
    let mark = blake3::keyed_hash(key.expose(), digest);
    std::array::from_fn(|at| mark.as_bytes()[at])
}
