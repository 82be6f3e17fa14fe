//! When Ceph's fast diff may be believed: the rule of `rbd/diff/judge.rs` against a model of the object maps, and both
//! against a real cluster.

mod advice;
mod cluster;
mod histories;
mod model;
mod search;
