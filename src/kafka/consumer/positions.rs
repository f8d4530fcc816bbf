//! Where a partition without a position is read: at its committed offset, or at an end of the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, OffsetFetchRequest};

use super::{ANSWER, Consumer, SLOW, is_pause};
use crate::error::chain;
use crate::kafka::fetch::{Asked, Place, isolation, said, topic_name};
use crate::kafka::group::Failure;
use crate::kafka::options::{IsolationLevel, OffsetReset};
use crate::kafka::{Code, Error, Event, Fatal, FatalKind, TopicPartition};

impl Consumer {
    /// Finds out where partitions are read that have no position yet.
    pub(super) fn place(&mut self, events: &mut Vec<Event>) -> Result<(), Fatal> {
        let now = Instant::now();
        let unplaced = self.fetcher.unplaced(now);
        if !unplaced.is_empty() && self.known_at_start.is_some() {
            self.look_up_committed(&unplaced)?;
            if now.elapsed() > SLOW {
                return Ok(());
            }
        }
        let mut by_leader: BTreeMap<i32, Vec<Asked>> = BTreeMap::new();
        for asked in self.fetcher.unlisted(now) {
            match self.cluster.leader(&asked.partition) {
                // Behind a Fetch the answer would wait for data.
                Some(node) if self.fetcher.is_outstanding(node) => {}
                Some(node) => by_leader.entry(node).or_default().push(asked),
                None => self.fetcher.not_now(&asked, None, now),
            }
        }
        for (node, asked) in by_leader {
            if now.elapsed() > SLOW {
                break;
            }
            self.look_up_ends(node, &asked, events)?;
        }
        Ok(())
    }

    fn look_up_committed(&mut self, unplaced: &[Asked]) -> Result<(), Fatal> {
        let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
        for asked in unplaced {
            topics
                .entry(asked.partition.topic.clone())
                .or_default()
                .push(asked.partition.partition);
        }
        let topics = topics
            .into_iter()
            .map(|(topic, numbers)| {
                OffsetFetchRequestTopic::default()
                    .with_name(topic_name(&topic))
                    .with_partition_indexes(numbers)
            })
            .collect();
        let request = OffsetFetchRequest::default()
            .with_group_id(self.group_id())
            .with_topics(Some(topics));
        let outcome = self
            .group_connection()
            .and_then(|connection| connection.request(&request, ANSWER));
        let now = Instant::now();
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                self.fetcher.unsent(unplaced, error.pause(), now);
                self.coordinator_failed(Failure::Connection(error));
                return Ok(());
            }
        };
        if let Some(code) = Code::try_from_code(answer.error_code) {
            return self.committed_refused(unplaced, code, now);
        }
        let known_at_start = self.known_at_start.unwrap_or(0);
        for asked in unplaced {
            let found = answer
                .topics
                .iter()
                .filter(|topic| *topic.name.0 == *asked.partition.topic)
                .flat_map(|topic| &topic.partitions)
                .find(|partition| partition.partition_index == asked.partition.partition);
            match found.map(|partition| Code::try_from_code(partition.error_code)) {
                Some(None) => {
                    let offset = found
                        .map(|partition| partition.committed_offset)
                        .filter(|offset| *offset >= 0);
                    let added = asked.partition.partition >= known_at_start;
                    if let (Some(offset), Some(found)) = (offset, found) {
                        let text = found.metadata.as_deref().unwrap_or_default();
                        self.fetcher.committed_with(asked, offset, text);
                    }
                    self.fetcher.committed(asked, offset, added, now);
                }
                Some(Some(code)) => {
                    self.committed_refused(std::slice::from_ref(asked), code, now)?;
                }
                None => {
                    let what = Some("OffsetFetch leaves it out".into());
                    self.fetcher.not_now(asked, what, now);
                }
            }
        }
        Ok(())
    }

    fn committed_refused(
        &mut self,
        asked: &[Asked],
        code: Code,
        now: Instant,
    ) -> Result<(), Fatal> {
        for asked in asked {
            self.fetcher.not_now(asked, Some(said(code)), now);
        }
        match code {
            Code::GroupAuthorizationFailed | Code::TopicAuthorizationFailed => {
                let message = format!(
                    "OffsetFetch of group {}: {code} ({})",
                    self.options.group_id,
                    code.code()
                );
                Err(self.stop(FatalKind::NotAuthorised, message))
            }
            Code::NotCoordinator | Code::CoordinatorNotAvailable => {
                self.coordinator_failed(Failure::Code(code));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn look_up_ends(
        &mut self,
        node: i32,
        asked: &[Asked],
        events: &mut Vec<Event>,
    ) -> Result<(), Fatal> {
        let wants = |asked: &&Asked, which: OffsetReset| match asked.place {
            Place::Reset(reset) => reset == which,
            Place::OutOfRange(_) => true,
            Place::Anew => which == OffsetReset::Earliest,
            Place::Committed | Place::At(_) => false,
        };
        let mut ends: [BTreeMap<TopicPartition, Result<i64, Code>>; 2] = Default::default();
        for (which, found) in [OffsetReset::Earliest, OffsetReset::Latest]
            .into_iter()
            .zip(&mut ends)
        {
            // The end of the log for one that fell out of it; for a newcomer the end of what it
            // may read, so that it misses nothing of a transaction that commits later.
            for (isolated, level) in [
                (false, IsolationLevel::ReadUncommitted),
                (true, self.options.isolation_level),
            ] {
                let share: Vec<&Asked> = asked
                    .iter()
                    .filter(|entry| wants(entry, which))
                    .filter(|entry| matches!(entry.place, Place::Reset(_)) == isolated)
                    .collect();
                if share.is_empty() {
                    continue;
                }
                match self.list(node, &share, which, level) {
                    Ok(listed) => found.extend(listed),
                    Err(error) => {
                        if let Some(fatal) = Fatal::of(&error) {
                            return Err(self.stop(fatal.kind, fatal.message));
                        }
                        log::debug!("ListOffsets at broker {node}: {}", chain(&error));
                        if !is_pause(&error) {
                            self.cluster.expire();
                        }
                        self.fetcher.unsent(asked, error.pause(), Instant::now());
                        return Ok(());
                    }
                }
            }
        }
        let [starts, lasts] = ends;
        for entry in asked {
            // The side that was not asked does not matter.
            let end = |found: &BTreeMap<TopicPartition, Result<i64, Code>>, which| {
                if wants(&entry, which) {
                    found
                        .get(&entry.partition)
                        .copied()
                        .unwrap_or(Err(Code::UnknownServerError))
                } else {
                    Ok(0)
                }
            };
            let both = end(&starts, OffsetReset::Earliest)
                .and_then(|start| Ok((start, end(&lasts, OffsetReset::Latest)?)));
            match both {
                Ok(both) => self.fetcher.listed(entry, both, Instant::now(), events),
                Err(code @ Code::TopicAuthorizationFailed) => {
                    let message = format!("ListOffsets of {}: {code} (29)", entry.partition);
                    return Err(self.stop(FatalKind::NotAuthorised, message));
                }
                Err(code) => {
                    self.cluster.expire();
                    let what = Some(said(code));
                    self.fetcher.not_now(entry, what, Instant::now());
                }
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        node: i32,
        asked: &[&Asked],
        which: OffsetReset,
        level: IsolationLevel,
    ) -> Result<BTreeMap<TopicPartition, Result<i64, Code>>, Error> {
        const LATEST: i64 = -1;
        const EARLIEST: i64 = -2;
        let timestamp = match which {
            OffsetReset::Earliest => EARLIEST,
            OffsetReset::Latest => LATEST,
        };
        let mut topics: BTreeMap<Arc<str>, Vec<ListOffsetsPartition>> = BTreeMap::new();
        for entry in asked {
            topics
                .entry(entry.partition.topic.clone())
                .or_default()
                .push(
                    ListOffsetsPartition::default()
                        .with_partition_index(entry.partition.partition)
                        .with_timestamp(timestamp),
                );
        }
        let topics = topics
            .into_iter()
            .map(|(topic, partitions)| {
                ListOffsetsTopic::default()
                    .with_name(topic_name(&topic))
                    .with_partitions(partitions)
            })
            .collect();
        let request = ListOffsetsRequest::default()
            // The codec's default, 0, is the number of a broker that copies the log.
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(isolation(level))
            .with_topics(topics);
        let answer = self.cluster.connection(node)?.request(&request, ANSWER)?;
        Ok(answer
            .topics
            .iter()
            .flat_map(|topic| {
                let name: Arc<str> = topic.name.0.as_str().into();
                topic.partitions.iter().map(move |partition| {
                    let result = match Code::try_from_code(partition.error_code) {
                        Some(code) => Err(code),
                        None if partition.offset < 0 => Err(Code::OffsetNotAvailable),
                        None => Ok(partition.offset),
                    };
                    (
                        TopicPartition::new(name.clone(), partition.partition_index),
                        result,
                    )
                })
            })
            .collect())
    }
}
