//! The `cuttle` command. Everything that it does is the library's; what it prints is `cli`'s.

#![forbid(unsafe_code)]

mod cli;

use std::process::exit;

use clap::Parser;

use cli::{Cli, Ui};
use cuttle::rbd::leave;

/// Gives the buffers of chunks back; see Cargo.toml.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) => exit(cli::usage(&said).code()),
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
    leave(ui.outcome(code).code());
}
