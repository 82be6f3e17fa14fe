//! Stores: what each must do, and what becomes of requests that fail, lie or may only add.

mod append_only;
mod conformance;
mod faults;
mod http;
mod roles;
#[path = "../support/mod.rs"]
mod support;
