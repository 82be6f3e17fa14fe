//! WIP
mod laws;
mod pruner;
mod rules;
mod search;
mod session;
mod step;
mod store;
mod world;

fn main() {
    let a: Vec<usize> = std::env::args().skip(1).map(|s| s.parse().unwrap()).collect();
    let mut r = rules::Rules { slots: a[0], pruners: a[1], rounds: a[2] as u8, preset: a[3] != 0, deltas: a[4] != 0, advisory: a[5] != 0, interchangeable: true, quiet: a.len() < 8 || rules::ALL[a[7]] == rules::Broken::LeavesOthersRounds, broken: None };
    if a.len() > 7 { r.broken = Some(rules::ALL[a[7]]); println!("{:?}", r.broken); }
    let rep = search::search(&r, a[6] as u64);
    println!("{rep:?} {}", size_of::<world::World>());
    if rep.violation.is_some() {
        let (steps, why) = search::trace(&r, u64::MAX).unwrap();
        for (i, (s, _)) in steps.iter().enumerate() { println!("{:3} {s}", i + 1); }
        println!("{why}");
    }
}
