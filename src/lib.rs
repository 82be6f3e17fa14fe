//! cuttle: content-addressed, deduplicating backups of Ceph RBD volumes in object storage.
//!
//! A volume is cut into chunks of 4 MiB. A chunk is named by a keyed hash of its content, so what the repository has is not stored again; it is compressed,
//! sealed, and stored as one object. A snapshot is the list of all chunks of a volume at one moment, in pages that are named by their content too. Nothing
//! else is needed: there is no index, no database, no lock. What may be deleted is found by marking from the snapshots, beside everything that goes on.
//!
//! The library never touches the terminal, `$HOME` or the environment: all of it is handed in. The thin binary of the same name parses, prints, and
//! decides nothing about data. `ARCHITECTURE.md` has the rooms and who may use whom, `repo-format.md` every byte and the protocol, `CONTRIBUTING.md` how to
//! add to it.
//!
//! # Words
//!
//! | word | is |
//! |---|---|
//! | repository | all below one prefix of a store: its record, keys and projects |
//! | project | volumes that share content and keys; projects share nothing |
//! | volume | what is backed up again and again under one name, such as `vms/db` |
//! | source, sink | where a volume is read from and restored to: an image, a file, a device, a stream |
//! | snapshot | one moment of a volume, whole in itself; `vms/db@2` is its second |
//! | sequence | a snapshot's number within its volume |
//! | point | the RBD snapshot that a snapshot was read at |
//! | chunk | a piece of a volume of fixed size, and the object that holds it |
//! | ref | what a manifest says of one chunk: zero, or generation, id, variant, sizes, and its closure |
//! | closure | the objects below a delta, which are needed to decode it |
//! | delta, full | a chunk stored as the difference from another, its base; a chunk that needs no other |
//! | variant | a number in an object's name that tells two objects of one content apart |
//! | page, manifest | up to 1,024 refs; the pages of a snapshot together |
//! | origin | the snapshot of another volume that a clone is first compared with: it was read from what the clone hangs on |
//! | parent, before | the snapshot that a backup is compared with; what that has in a chunk's place |
//! | base | below a delta: the chunk it differs from; on an image: the RBD snapshot kept for the next incremental |
//! | below | what a delta stands on: its base, and what that stands on |
//! | changes, difference | what a source says of itself since a point; in what two manifests differ |
//! | extent, span, run | a range of bytes that changed; the same widened to whole chunks; a range of bytes within a patch |
//! | log, session | what happened to a volume, sequence by sequence; one backup, from its registration to its outcome |
//! | outcome | committed or aborted: the one `.end` of a sequence |
//! | note | tags and protection of a snapshot |
//! | remark | what the operator is told of a run beside its result (in JSON: `notes`) |
//! | generation | a number in the names of chunks and pages; each prune round begins a new one |
//! | round | a prune: begin, settle, mark, seal, delete, done |
//! | roster | what a seal says of every volume: which sequences are live, and which are over |
//! | condemned | what the round under way may delete: nobody builds on it |
//! | lease | how long a session may give no sign of life |
//! | envelope | the header and body of every object |
//! | seal, open | to encrypt and authenticate an object, and back (the records `gc/{g}.seal` and, where a session registers, `.open` are called so, too) |
//! | foreign | what stands under a name of the format and does not open |
//! | lost, hurt | an object that snapshots need and that is gone or damaged; a snapshot that needs such a one |
//! | flaw, problem | what is wrong with one object that was looked at, and of which kind: missing, damaged, unreadable, a gap, gone back |
//! | quarantine | where the bytes of a damaged object are kept when it is replaced |
//! | budget, share | the bytes that an operation may have in flight; a part of it, taken before a buffer is filled |
//! | ledger | the requests and bytes that a run took |
//! | memory, cache | what a host saw of a repository, to notice that it went back; copies of objects, which decide nothing |
//!
//! # Invariants
//!
//! Each with its number in `repo-format.md`, where it has one; `ARCHITECTURE.md` says which code keeps it.
//!
//! 1. A session registers before it learns what may be deduplicated against (I1), and has one outcome (I2).
//! 2. Its chunks and pages lie in the generation in which it registered; a round waits for every session of older ones (I3).
//! 3. What is condemned is known before anything is referenced (I4); what deletes has marked every live snapshot, or deletes nothing (I5).
//! 4. References come from the parent, the origin or the own generation only (I6), and nothing is referenced that was not proven to be there.
//! 5. A name counts only once its object opens. A listing is a hint.
//! 6. No byte is written to a target unless its id matched. Corruption is an error: never zeros, never skipped.
//! 7. Nothing is replaced but by a repair and a quarantine, which keep a copy of what was there. Nothing is deleted but by a prune, the removal of a
//!    key, a quarantine, what makes room in a full store, and whoever finds that what was recorded as lost is there again.
//! 8. No clock decides about safety; retention goes by the store's times.
//!
//! # What each operation does to what is stored
//!
//! creates: only where nothing is. reads: gets or lists. replaces: puts over what is there. deletes: removes. asks: tries creates and deletes that change
//! nothing ([`store::permitted`]). The types say it too: who
//! reads is handed a `Project`, `backup` and `verify` a `Writer`, `forget`, `tag`, `protect`, `prune` and the repair a `Keeper`, keys and new projects
//! take the `Admin` ([`repo::roles`]). None can be made from a lesser one.
//!
//! | operation | repository, keys | catalog | log | chunks, pages | `gc/` | `lost/` | `reserve/` | `quarantine/` |
//! |---|---|---|---|---|---|---|---|---|
//! | `init` | creates | – | – | – | – | – | creates | – |
//! | `project create` | creates | – | – | – | – | – | creates | – |
//! | `key add` | creates | – | – | – | – | – | – | – |
//! | `key remove` | deletes | – | – | – | – | – | – | – |
//! | `backup` | reads | creates | creates | creates | reads | creates | deletes when full | – |
//! | `snapshots` | reads | reads | reads | – | – | – | – | – |
//! | `log` | reads | reads | reads | – | reads | – | – | – |
//! | `whoami` | reads | – | asks | asks | asks | – | – | – |
//! | `restore`, `export`, `diff`, `serve`, `mount` | reads | reads | reads | reads | – | – | – | – |
//! | `verify` | reads | reads | reads | reads | reads | creates | – | – |
//! | `verify --repair` | reads | reads | reads | replaces | reads | creates, deletes | – | creates |
//! | `verify --quarantine` | reads | replaces | creates, replaces, deletes | – | replaces | deletes | – | creates |
//! | `forget` | reads | reads | creates | – | – | – | deletes when full | – |
//! | `tag`, `protect` | reads | reads | creates | – | – | – | – | – |
//! | `stats` | reads | reads | reads | reads pages | reads | – | – | – |
//! | `prune` | reads | reads | creates, deletes | reads pages, deletes | creates, deletes | creates, deletes | creates, deletes when full | – |

#![deny(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(missing_docs)]

pub mod backup;
mod budget;
pub mod cancel;
mod chunker;
pub mod clock;
pub mod codec;
pub mod cpu;
pub mod diff;
pub mod error;
pub mod export;
pub mod forget;
pub mod format;
pub mod import;
pub mod instant;
pub mod keys;
pub mod mount;
pub mod plan;
pub mod policy;
pub mod progress;
pub mod prune;
mod qcow2;
pub mod random;
pub mod rbd;
pub mod reading;
pub mod repo;
pub mod restore;
pub mod serve;
pub mod sink;
pub mod source;
pub mod stats;
pub mod store;
// The test kit names the library as its users do.
#[cfg(test)]
extern crate self as cuttle;
#[cfg(test)]
mod testing;
pub mod units;
pub mod verify;

pub use error::{Error, ErrorKind, Result};
pub use format::volume;
