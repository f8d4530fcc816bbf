//! `check --connect`: one line for each broker, topic and permission.

use super::tell;
use crate::config::Config;
use crate::exit::Exit;

/// Asks the brokers that the configuration names.
pub(super) fn check(config: &Config) -> Exit {
    let servers = &config.consumer.options.cluster.bootstrap_servers;
    tell(&format!("cannot ask {} yet", servers.join(", ")));
    Exit::Unavailable
}
