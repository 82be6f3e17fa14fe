//! The real code of backup, forget, prune and verify, in small worlds where everything goes wrong that can: processes
//! sleep for days and are killed, clocks are wrong, requests land late, twice or never, listings are short and old.
//!
//! A world follows from its seed alone, and each step of it is judged.

mod actors;
mod dice;
mod lies;
mod log;
mod objects;
mod oracle;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod volume;
mod world;

#[test]
fn thousands_of_worlds() {
    let begun = std::time::Instant::now();
    let mut requests = 0;
    let seeds: u64 = std::env::var("SEEDS").map_or(1000, |s| s.parse().expect("a number"));
    for seed in 0..seeds {
        let outcome = world::run(seed, None, false);
        requests += outcome.requests;
        if let Some(what) = outcome.violation {
            let again = world::run(seed, None, true);
            for line in &again.lines {
                println!("{line}");
            }
            assert_eq!(outcome.digest, again.digest);
            panic!("seed {seed}: {what}");
        }
    }
    println!("{seeds} seeds, {requests} requests, {:?}", begun.elapsed());
}
