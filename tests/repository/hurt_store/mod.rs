//! Backups and restores over a store that fails, stops, races and lies: whatever happens, no snapshot is broken or
//! false, nothing acknowledged is lost, and the next run succeeds.

mod crash;
mod faults;
mod memory;
mod prune;
mod race;

mod world;
