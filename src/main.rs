//! The program: hands the command line over and ends with the outcome's code.

use ccx_data_pipeline::{cli, exit::Exit};
use dlmalloc::GlobalDlmalloc;

/// Gives large blocks back to the system when they are freed. The C library keeps as many as there
/// are threads once it has seen one: eight of them held 147 to 169 MiB over large archives, where
/// 128 is the limit, and hold 75 to 94 with this. The price is one lock for all threads: 7 % more
/// CPU with eight threads on two cores, none with one.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

fn main() -> Exit {
    cli::run(std::env::args_os())
}
