//! The binary `slipring`: a node, its tools, and a demonstration.

mod cli;
mod client;
mod demo;
mod recover;
mod settings;
mod start;

use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
