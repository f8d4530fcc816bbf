//! OffsetFetch: what a group has committed, for some partitions or for all.

use std::collections::BTreeMap;

use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse, TopicName};

use super::connection::{Api, Call};
use super::state::{State, text};

/// A topic and some of its partitions.
type Wanted = Option<Vec<(String, Vec<i32>)>>;

impl Api for OffsetFetchRequest {
    fn partitions(&self, _state: &State) -> Vec<(String, i32)> {
        let old = self.topics.iter().flatten();
        let old = old.map(|t| (&t.name, &t.partition_indexes));
        let new = self.groups.iter().flat_map(|g| g.topics.iter().flatten());
        let new = new.map(|t| (&t.name, &t.partition_indexes));
        let all = old.chain(new);
        let all = all.flat_map(|(name, list)| list.iter().map(|p| (name.to_string(), *p)));
        all.collect()
    }

    fn group(&self) -> Option<&str> {
        match self.groups.first() {
            Some(group) => Some(&group.group_id),
            None => Some(&self.group_id),
        }
    }

    fn handle(self, call: &Call<'_>) -> Option<OffsetFetchResponse> {
        let state = call.shared.lock();
        let mut response = OffsetFetchResponse::default();
        if call.version >= 8 {
            for group in self.groups {
                let topics = group.topics.map(|topics| {
                    let topics = topics.into_iter();
                    topics
                        .map(|t| (t.name.to_string(), t.partition_indexes))
                        .collect()
                });
                let (code, found) = look_up(call, &state, &group.group_id, topics);
                let mut answer = OffsetFetchResponseGroup::default();
                answer.group_id = group.group_id;
                answer.error_code = code;
                for (name, partitions) in found {
                    let mut topic = OffsetFetchResponseTopics::default();
                    topic.name = TopicName(text(name));
                    for found in partitions {
                        let mut one = OffsetFetchResponsePartitions::default();
                        one.partition_index = found.index;
                        one.committed_offset = found.offset;
                        one.committed_leader_epoch = -1;
                        one.metadata = Some(text(found.metadata));
                        one.error_code = found.code;
                        topic.partitions.push(one);
                    }
                    answer.topics.push(topic);
                }
                response.groups.push(answer);
            }
            return Some(response);
        }
        let topics = self.topics.map(|topics| {
            let topics = topics.into_iter();
            topics
                .map(|t| (t.name.to_string(), t.partition_indexes))
                .collect()
        });
        let (code, found) = look_up(call, &state, &self.group_id, topics);
        response.error_code = code;
        for (name, partitions) in found {
            let mut topic = OffsetFetchResponseTopic::default();
            topic.name = TopicName(text(name));
            for found in partitions {
                let mut one = OffsetFetchResponsePartition::default();
                one.partition_index = found.index;
                one.committed_offset = found.offset;
                one.committed_leader_epoch = -1;
                one.metadata = Some(text(found.metadata));
                one.error_code = found.code;
                topic.partitions.push(one);
            }
            response.topics.push(topic);
        }
        Some(response)
    }

    fn set_throttle(response: &mut OffsetFetchResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

struct Found {
    index: i32,
    offset: i64,
    metadata: String,
    code: i16,
}

fn look_up(
    call: &Call<'_>,
    state: &State,
    group: &str,
    wanted: Wanted,
) -> (i16, BTreeMap<String, Vec<Found>>) {
    // An error that is for no partition alone is the whole answer's.
    let scripted = call.error_for("", -1).map(|s| s.code);
    let moved = (state.coordinator(group) != call.node).then_some(16);
    if let Some(code) = scripted.or(moved) {
        return (code, BTreeMap::new());
    }
    let committed = state.groups.get(group).map(|g| &g.committed);
    let wanted = wanted.unwrap_or_else(|| {
        let keys = committed.into_iter().flat_map(BTreeMap::keys);
        keys.map(|(topic, p)| (topic.clone(), vec![*p])).collect()
    });
    let mut answer: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for (topic, partitions) in wanted {
        let list = answer.entry(topic.clone()).or_default();
        for index in partitions {
            let found = committed.and_then(|c| c.get(&(topic.clone(), index)));
            let code = call.error_for(&topic, index).map_or(0, |s| s.code);
            let found = found.filter(|_| code == 0);
            list.push(Found {
                index,
                offset: found.map_or(-1, |f| f.offset),
                metadata: found.and_then(|f| f.metadata.clone()).unwrap_or_default(),
                code,
            });
        }
    }
    (0, answer)
}
