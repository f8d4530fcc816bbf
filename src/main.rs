//! The program: hands the command line over and ends with the outcome's code.

use ccx_data_pipeline::{cli, exit::Exit};

fn main() -> Exit {
    cli::run(std::env::args_os())
}
