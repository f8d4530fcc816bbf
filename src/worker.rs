//! The poll loop: dispatch, settle, commit, pause, drain.

use std::time::Duration;

use crate::backoff::sleep_unless;
use crate::config::Config;
use crate::exit::Exit;
use crate::shutdown::Shutdown;

/// Works until it is asked to end.
pub fn run(config: Config, shutdown: &Shutdown) -> Exit {
    log::info!(topic = config.consumer.options.topic.as_str(); "started");
    while sleep_unless(Duration::from_secs(1), || shutdown.is_requested()) {}
    log::info!(signal = shutdown.signal(); "ended");
    Exit::Done
}
