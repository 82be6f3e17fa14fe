//! The `cuttle` command. Everything that it does is the library's; what it prints is `cli`'s.

#![forbid(unsafe_code)]

mod cli;

use std::io::Write;
use std::panic::catch_unwind;

use cli::{Exit, Ui};
use cuttle::rbd::leave;

/// Gives the buffers of chunks back; see Cargo.toml.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Told where the program is at fault. Whatever it was asked to do, what it said was done is done.
const DEFECT: &str = "this is a defect of cuttle: please report it, with this message. What was acknowledged before is safe, and the \
    same command may be run again";

fn main() {
    std::panic::set_hook(Box::new(|panic| {
        // Where nobody reads it, nothing more can be said; and nothing may panic here.
        let _ = writeln!(std::io::stderr(), "error: {panic}\n  help: {DEFECT}");
    }));
    // Whatever ends a program so, its exit code is one of those that scripts know.
    leave(catch_unwind(run).unwrap_or(Exit::Failure).code());
}

fn run() -> Exit {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(said) => return cli::usage(&said),
    };
    let ui = Ui::new(&cli.global.output);
    let code = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(cli, &ui));
            // A thread that still waits for input is not waited for.
            runtime.shutdown_background();
            code
        }
        Err(e) => ui.failed(&cuttle::Error::internal("the async runtime does not start").caused_by(e)),
    };
    ui.outcome(code)
}
