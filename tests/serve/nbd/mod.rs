//! The NBD server: with real clients, by hand, and with clients that mean harm.

mod by_hand;
mod client;
mod hostile;
mod programs;
mod repository;
mod shelf;
