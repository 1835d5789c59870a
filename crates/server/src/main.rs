//! The binary `slipring`: a node, its tools, and a demonstration.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic where nobody reads; `output` does not"
)]

mod announced;
mod byte_size;
mod cli;
mod client;
mod demo;
mod give_back;
mod machine_memory;
mod open_files;
mod output;
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
