//! Collects what a command warns of.

use std::sync::Mutex;

use cuttle::progress::{Progress, Step};

#[derive(Default)]
pub struct Warnings(pub Mutex<Vec<String>>);

impl Progress for Warnings {
    fn phase(&self, _name: &str, _total_bytes: Option<u64>) {}

    fn step(&self, _step: Step) {}

    fn warn(&self, message: &str) {
        self.0.lock().expect("not poisoned").push(message.to_owned());
    }
}
