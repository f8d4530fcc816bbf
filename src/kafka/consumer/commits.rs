//! Commits: only under a live lease, with the identity of its generation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::OffsetCommitRequest;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::protocol::StrBytes;

use super::Consumer;
use crate::backoff::{Backoff, sleep_unless};
use crate::error::chain;
use crate::kafka::fetch::topic_name;
use crate::kafka::group::{Failure, Identity, Step};
use crate::kafka::versions::Api;
use crate::kafka::{Code, Commit, CommitResult, Error, TopicPartition};

/// Time for a commit, unless the caller has less: for the last try to begin, or for the only one.
const COMMIT: Duration = Duration::from_secs(5);
/// Least time for the answer to one try of a commit.
const COMMIT_ANSWER: Duration = Duration::from_secs(1);

/// What is committed along with the offsets of partitions.
pub type Metadata = BTreeMap<TopicPartition, String>;

impl Consumer {
    /// Commits the next offsets to read, under the identity of the member. One answer for each.
    ///
    /// Tried again while the coordinator is away, for at most `limit` and never more than some
    /// seconds: for the commits that have no next time. Only offsets whose lease is live are sent.
    ///
    /// Each offset is committed with the metadata of its partition, empty where there is none.
    /// [`Consumer::began_at`] tells it to the next owner.
    pub fn commit(
        &mut self,
        offsets: &[Commit],
        metadata: &Metadata,
        limit: Duration,
    ) -> Vec<CommitResult> {
        self.commit_until(offsets, metadata, Instant::now() + limit.min(COMMIT), true)
    }

    /// [`Consumer::commit`] that is tried once: for those that come again in a moment anyway.
    ///
    /// While the coordinator is not reached it returns at once, so that a group that cannot take
    /// commits does not hold up the reading of records.
    pub fn commit_once(
        &mut self,
        offsets: &[Commit],
        metadata: &Metadata,
        limit: Duration,
    ) -> Vec<CommitResult> {
        self.commit_until(offsets, metadata, Instant::now() + limit.min(COMMIT), false)
    }

    fn commit_until(
        &mut self,
        offsets: &[Commit],
        metadata: &Metadata,
        deadline: Instant,
        insists: bool,
    ) -> Vec<CommitResult> {
        let mut results = BTreeMap::new();
        let mut open: Vec<&Commit> = offsets.iter().collect();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 20);
        while !open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            // An answer that comes too late costs the connection, however well the broker is. Who
            // insists has time for another one.
            let answer_within = if insists { left / 2 } else { left }.max(COMMIT_ANSWER);
            results.extend(self.try_commit(&open, metadata, answer_within));
            let mut last = None;
            open.retain(|commit| match results.get(&commit.partition) {
                Some(Err(error)) if passes(error) => {
                    last = Some(error);
                    true
                }
                _ => false,
            });
            let Some(last) = last else { break };
            let pause = last.pause().unwrap_or_else(|| backoff.next_pause());
            if !insists || Instant::now() + pause >= deadline {
                break;
            }
            self.stats.commits_retried.increment();
            log::debug!("commit is tried again: {}", chain(last));
            sleep_unless(pause, || false);
        }
        self.shared.lock().progress(Instant::now());
        let missing = self.refusal(Code::UnknownServerError);
        offsets
            .iter()
            .map(|commit| {
                let result = results
                    .get(&commit.partition)
                    .cloned()
                    .unwrap_or(Err(missing.clone()));
                match result {
                    Ok(()) => self.stats.commits_ok.increment(),
                    Err(_) => self.stats.commits_failed.increment(),
                }
                CommitResult {
                    partition: commit.partition.clone(),
                    offset: commit.offset,
                    result,
                }
            })
            .collect()
    }

    /// One try. Tells what became of each commit; those without a live lease are not sent.
    fn try_commit<'a>(
        &mut self,
        commits: &[&'a Commit],
        metadata: &Metadata,
        limit: Duration,
    ) -> BTreeMap<&'a TopicPartition, Result<(), Error>> {
        let mut results = BTreeMap::new();
        let mut live = Vec::new();
        let identity = {
            let group = self.shared.lock();
            let committer = group.committer();
            for commit in commits {
                let ours =
                    group.lease(&commit.partition) == Some(&commit.lease) && commit.lease.is_live();
                let refusal = match (&committer, ours) {
                    (Some(_), true) => {
                        live.push(*commit);
                        continue;
                    }
                    (None, true) => Code::RebalanceInProgress,
                    (_, false) => Code::IllegalGeneration,
                };
                results.insert(&commit.partition, Err(self.refusal(refusal)));
            }
            committer
        };
        let Some(identity) = identity.filter(|_| !live.is_empty()) else {
            return results;
        };
        let answer = self.send_commit(&identity, &live, metadata, limit);
        for commit in live {
            let result = match &answer {
                Err(error) => Err(error.clone()),
                Ok(codes) => match codes.get(&commit.partition) {
                    Some(None) => Ok(()),
                    Some(Some(code)) => Err(self.refusal(*code)),
                    None => Err(self.refusal(Code::UnknownServerError)),
                },
            };
            results.insert(&commit.partition, result);
        }
        results
    }

    /// One OffsetCommit; the code of each partition, `None` for success.
    fn send_commit(
        &mut self,
        identity: &Identity,
        commits: &[&Commit],
        metadata: &Metadata,
        limit: Duration,
    ) -> Result<BTreeMap<TopicPartition, Option<Code>>, Error> {
        // While the coordinator is away only we can look for it: nobody polls meanwhile.
        let step = self.shared.lock().step(Instant::now());
        if step == Step::Find {
            self.find();
        }
        if self.shared.lock().coordinator().is_none() {
            return Err(self.refusal(Code::CoordinatorNotAvailable));
        }
        let mut topics: BTreeMap<Arc<str>, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for commit in commits {
            let text = metadata.get(&commit.partition).cloned().unwrap_or_default();
            topics
                .entry(commit.partition.topic.clone())
                .or_default()
                .push(
                    OffsetCommitRequestPartition::default()
                        .with_partition_index(commit.partition.partition)
                        .with_committed_offset(commit.offset)
                        .with_committed_leader_epoch(-1)
                        .with_committed_metadata(Some(StrBytes::from_string(text))),
                );
        }
        let topics = topics
            .into_iter()
            .map(|(topic, partitions)| {
                OffsetCommitRequestTopic::default()
                    .with_name(topic_name(&topic))
                    .with_partitions(partitions)
            })
            .collect();
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id_or_member_epoch(identity.generation)
            .with_member_id(StrBytes::from_string(identity.member_id.to_string()))
            .with_group_instance_id(self.instance_id())
            .with_topics(topics);
        let sent = Instant::now();
        let outcome = self
            .group_connection()
            .and_then(|connection| connection.request(&request, limit));
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                self.coordinator_failed(Failure::Connection(error.clone()));
                return Err(error);
            }
        };
        let mut group = self.shared.lock();
        let mut codes = BTreeMap::new();
        for topic in &answer.topics {
            let name: Arc<str> = topic.name.0.as_str().into();
            for partition in &topic.partitions {
                let code = Code::try_from_code(partition.error_code);
                match code {
                    None => group.well(identity, sent, Instant::now()),
                    Some(code) => {
                        let api = OffsetCommitRequest::NAME;
                        group.refused(identity, api, code, sent, Instant::now());
                    }
                }
                codes.insert(
                    TopicPartition::new(name.clone(), partition.partition_index),
                    code,
                );
            }
        }
        drop(group);
        self.shared.wake();
        Ok(codes)
    }

    pub(super) fn refusal(&self, code: Code) -> Error {
        Error::Refused {
            address: self
                .coordinator
                .as_ref()
                .map(|known| known.address.clone())
                .unwrap_or_else(|| "the group coordinator".into()),
            api: OffsetCommitRequest::NAME,
            code,
        }
    }
}

/// Whether a commit that failed with this may be sent again as it is.
fn passes(error: &Error) -> bool {
    let Error::Refused { code, .. } = error else {
        return true;
    };
    matches!(
        code,
        Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::RequestTimedOut
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NetworkException
            | Code::KafkaStorageError
            | Code::UnstableOffsetCommit
            | Code::ThrottlingQuotaExceeded
            | Code::UnknownServerError
    )
}
