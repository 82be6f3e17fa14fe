//! Prunes beside everything else: what nobody needs goes, what anybody needs stays, whoever stops, stalls or races.

mod crash;
mod full;
mod histories;
mod joined;
mod named;
mod over;
mod planted;
mod quiet;
mod refusals;
mod sessions;
mod undo;

pub(crate) mod world;
