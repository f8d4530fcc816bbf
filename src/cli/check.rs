//! `check`: what is in force, and whether it would work.

use super::{connect, put, tell};
use crate::config::{Config, Problems};
use crate::exit::Exit;

/// Prints the configuration in force; with `ask_brokers` also what they say to it.
pub(super) fn run(config: &Config, ask_brokers: bool) -> Result<Exit, Problems> {
    config.check_tmp_dir()?;
    for note in &config.notes {
        tell(&note.text);
    }
    let exit = put(&config.to_toml());
    if exit != Exit::Done || !ask_brokers {
        return Ok(exit);
    }
    Ok(connect::check(config))
}
