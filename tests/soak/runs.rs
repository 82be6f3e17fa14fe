//! The short runs of every test run, and the long ones of `cargo xtask soak`.

use std::time::Duration;

use crate::place::Place;
use crate::together::Crowd;
use crate::{killed, together};

/// A night of many hosts.
const CROWD: Crowd = Crowd { backups: 16, prunes: 4, forgets: 4 };
const SMALL_CROWD: Crowd = Crowd { backups: 4, prunes: 2, forgets: 1 };
const SHORT: Duration = Duration::from_secs(20);
const SHORT_CYCLES: u64 = 20;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().expect("a number"))
}

/// The store that `cargo xtask soak` is about.
fn place(name: &str) -> Option<Place> {
    match std::env::var("CUTTLE_SOAK_STORE").as_deref() {
        Ok("rgw") => Place::rgw(name),
        _ => Some(Place::local()),
    }
}

#[test]
fn backups_prunes_and_forgets_at_once_on_rgw() {
    let Some(place) = Place::rgw("together-short") else { return };
    together::run(&place, SMALL_CROWD, SHORT, 1);
}

#[test]
fn killed_at_random_in_a_folder() {
    killed::run(&Place::local(), SHORT_CYCLES, 2);
}

#[test]
#[ignore = "as long as one likes: cargo xtask soak"]
fn together_by_command() {
    let Some(place) = place("together") else { return };
    let minutes = number("CUTTLE_SOAK_MINUTES", 3);
    together::run(&place, CROWD, Duration::from_secs(60 * minutes), number("CUTTLE_SOAK_SEED", 1));
}

#[test]
#[ignore = "as long as one likes: cargo xtask soak"]
fn killed_by_command() {
    let Some(place) = place("killed") else { return };
    killed::run(&place, number("CUTTLE_SOAK_CYCLES", 200), number("CUTTLE_SOAK_SEED", 1));
}
