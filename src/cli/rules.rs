//! `rules`: what the rules are called and what they look for.

use super::{Rules, tell};
use crate::exit::Exit;

/// Lists the rules.
pub(super) fn run(arguments: &Rules) -> Exit {
    tell(&format!("cannot list rules yet: {arguments:?}"));
    Exit::Failure
}
