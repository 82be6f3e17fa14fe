//! The parsers of cuttle alone, from its own sources, so that fuzzing them builds in a minute.
//!
//! `diff`, `format` and `codec` use nothing above them and few crates; the whole library would bring a client of object
//! stores and a cryptographic library into every instrumented build, and keys that no fuzzer guesses. A target uses `cuttle::…` as any other program does. A
//! further module that a target needs is one more pair of lines here.

#![allow(dead_code, unused_imports, reason = "what only the whole library uses")]

#[path = "../../../src/codec/mod.rs"]
pub mod codec;
#[path = "../../../src/diff/mod.rs"]
pub mod diff;
#[path = "../../../src/error.rs"]
pub mod error;
#[path = "../../../src/format/mod.rs"]
pub mod format;
pub mod keys;
#[path = "../../../src/serve/nbd/wire/mod.rs"]
pub mod nbd_wire;
// Of `serve` the parsers of its own; HTTP itself is hyper's.
#[path = "../../../src/serve/http/range.rs"]
pub mod range;
#[path = "../../../src/serve/http/target.rs"]
pub mod target;
#[path = "../../../src/units.rs"]
pub mod units;

pub use error::{Error, ErrorKind, Result};
pub use format::volume;
