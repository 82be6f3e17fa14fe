//! The golden repositories of `fixtures/golden/`: one pair for each released version of the format, readable forever.

mod broken;
mod make;
mod read;
mod specification;
#[path = "../support/mod.rs"]
mod support;
