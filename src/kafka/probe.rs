//! Looks at a cluster once and says what it finds, for a person: which brokers answer and in
//! which versions, which topics are there, whether the group may be joined.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::{GroupId, HeartbeatRequest};
use kafka_protocol::protocol::StrBytes;

use super::cluster::{Cluster, TopicState};
use super::connection::{Connection, Timeouts};
use super::error::{Code, Error};
use super::options::ClusterOptions;
use crate::error::chain;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeLine {
    /// Whether it is as the worker needs it.
    pub finding: Finding,
    /// What was found, on one line and without secrets.
    pub text: String,
}

/// How something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// As the worker needs it.
    Fine,
    /// Did not answer, or not in a version that we speak.
    Unreachable,
    /// Is not there, or not usable.
    Missing,
    /// Refuses us.
    NotAuthorised,
}

fn line(finding: Finding, text: String) -> ProbeLine {
    ProbeLine { finding, text }
}

fn fine(text: String) -> ProbeLine {
    line(Finding::Fine, text)
}

fn unreachable(text: String) -> ProbeLine {
    line(Finding::Unreachable, text)
}

/// Looks at brokers, topics and, where one is named, the group. Tries everything once; changes
/// nothing. Takes at most some seconds for each broker that does not answer.
pub fn probe(options: &ClusterOptions, topics: &[&str], group: Option<&str>) -> Vec<ProbeLine> {
    let mut lines = Vec::new();
    let mut cluster = Cluster::new(options.clone(), Arc::default());
    for topic in topics {
        cluster.want(&Arc::from(*topic));
    }
    if let Err(error) = cluster.refresh() {
        for server in &options.bootstrap_servers {
            lines.push(broker(options, server, server));
        }
        lines.push(unreachable(chain(&error)));
        return lines;
    }
    for (node, address) in cluster.brokers() {
        lines.push(broker(options, &format!("{node} at {address}"), address));
    }
    for name in topics {
        lines.push(match cluster.topic(name) {
            TopicState::Known { partitions: 1 } => fine(format!("topic {name}: 1 partition")),
            TopicState::Known { partitions } => {
                fine(format!("topic {name}: {partitions} partitions"))
            }
            TopicState::Refused(Code::UnknownTopicOrPartition) => {
                line(Finding::Missing, format!("topic {name} does not exist"))
            }
            TopicState::Refused(Code::TopicAuthorizationFailed) => line(
                Finding::NotAuthorised,
                format!("topic {name}: not authorised"),
            ),
            TopicState::Refused(code) => line(
                Finding::Missing,
                format!("topic {name}: {code} ({})", code.code()),
            ),
            TopicState::Unknown => line(
                Finding::Missing,
                format!("topic {name}: the broker leaves it out"),
            ),
        });
    }
    lines.extend(group.map(|group| member(&mut cluster, group)));
    lines
}

fn broker(options: &ClusterOptions, name: &str, address: &str) -> ProbeLine {
    match Connection::open(address, options, &Timeouts::default()) {
        Err(error) => {
            let text = format!("broker {name}: {}", chain(&error));
            match error {
                Error::Authentication { .. } => line(Finding::NotAuthorised, text),
                _ => unreachable(text),
            }
        }
        Ok(connection) => {
            let gaps: Vec<String> = connection.gaps().iter().map(ToString::to_string).collect();
            if gaps.is_empty() {
                fine(format!("broker {name}: reachable, versions agree"))
            } else {
                unreachable(format!("broker {name}: {}", gaps.join("; ")))
            }
        }
    }
}

/// A heartbeat of nobody: a broker that lets us join knows no such member, one that does not
/// says so.
fn member(cluster: &mut Cluster, group: &str) -> ProbeLine {
    const ANSWER: Duration = Duration::from_secs(10);
    let coordinator = match cluster.coordinator(group) {
        Ok(coordinator) => coordinator,
        Err(error) => return unreachable(format!("group {group}: {}", chain(&error))),
    };
    let request = HeartbeatRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
        .with_generation_id(-1)
        .with_member_id(StrBytes::from_static_str("probe"))
        .with_group_instance_id(None);
    let (node, address) = (coordinator.node, &coordinator.address);
    let outcome = Connection::open(address, cluster.options(), cluster.timeouts())
        .and_then(|mut connection| connection.request(&request, ANSWER));
    let place = format!("group {group}: coordinator is broker {node} at {address}");
    match outcome {
        Err(error) => unreachable(format!("{place}: {}", chain(&error))),
        Ok(answer) => match Code::try_from_code(answer.error_code) {
            Some(code @ (Code::GroupAuthorizationFailed | Code::InvalidGroupId)) => {
                let text = format!("{place}, which refuses: {code} ({})", code.code());
                line(Finding::NotAuthorised, text)
            }
            _ => fine(place),
        },
    }
}
