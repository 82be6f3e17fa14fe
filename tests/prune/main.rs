//! Prunes beside everything else: what nobody needs goes, what anybody needs stays, whoever stops, stalls or races.

mod quiet;

#[path = "../support/mod.rs"]
mod support;
mod world;
