//! `check --connect`: one line for each broker, topic and permission.

use super::put;
use crate::config::Config;
use crate::exit::Exit;
use crate::kafka::{Finding, ProbeLine, probe};

/// Asks the brokers that the configuration names. The lines are comments of the TOML before them.
pub(super) fn check(config: &Config) -> Exit {
    let consumer = &config.consumer.options;
    let publisher = &config.publisher;
    let mut incoming = vec![consumer.topic.as_str()];
    incoming.extend(config.dead_letter_queue.topic.as_deref());
    incoming.extend(config.payload_tracker.as_ref().map(|t| t.topic.as_str()));
    let mut outgoing = vec![publisher.outgoing_topic.as_str()];
    outgoing.extend(publisher.workloads_topic.as_deref());
    let group = Some(consumer.group_id.as_str());

    let mut lines = Vec::new();
    if publisher.shares_cluster {
        incoming.append(&mut outgoing);
        lines.extend(probe(&consumer.cluster, &incoming, group));
    } else {
        lines.extend(probe(&consumer.cluster, &incoming, group));
        lines.extend(probe(&publisher.options.cluster, &outgoing, None));
    }
    let text: String = lines
        .iter()
        .map(|line| format!("# {}\n", shown(line)))
        .collect();
    let exit = put(&text);
    if exit != Exit::Done {
        return exit;
    }
    match lines.iter().map(|line| line.finding).max() {
        Some(Finding::NotAuthorised) => Exit::NotAuthorised,
        Some(Finding::Missing) => Exit::Configuration,
        Some(Finding::Unreachable) => Exit::Unavailable,
        Some(Finding::Fine) | None => Exit::Done,
    }
}

fn shown(line: &ProbeLine) -> String {
    let word = match line.finding {
        Finding::Fine => "ok",
        Finding::Unreachable | Finding::Missing | Finding::NotAuthorised => "FAILED",
    };
    format!("{word}: {}", line.text)
}
