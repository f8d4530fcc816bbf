//! OffsetCommit: fenced by member id and generation; every attempt is remembered.

use std::time::Instant;

use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};

use super::connection::{Api, Call};
use super::group::{CommitSeen, Committed};
use super::state::State;

impl Api for OffsetCommitRequest {
    fn partitions(&self, _state: &State) -> Vec<(String, i32)> {
        let topics = self.topics.iter();
        let all = topics.flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|p| (topic.name.to_string(), p.partition_index))
        });
        all.collect()
    }

    fn group(&self) -> Option<&str> {
        Some(&self.group_id)
    }

    fn handle(self, call: &Call<'_>) -> Option<OffsetCommitResponse> {
        let mut response = OffsetCommitResponse::default();
        let mut state = call.shared.lock();
        let ours = state.coordinator(&self.group_id) == call.node;
        let generation = self.generation_id_or_member_epoch;
        let instance = self.group_instance_id.as_deref();
        let group = state.groups.entry(self.group_id.to_string()).or_default();
        let allowed = match ours {
            true => group.may_commit(&self.member_id, instance, generation, Instant::now()),
            false => Err(16),
        };
        for topic in self.topics {
            let mut answer = OffsetCommitResponseTopic::default();
            for partition in topic.partitions {
                let index = partition.partition_index;
                let name = topic.name.to_string();
                let scripted = call.error_for(&name, index);
                let known = state.partition(&name, index).is_some();
                let honest = allowed.and(if known { Ok(()) } else { Err(3) });
                let done = match scripted {
                    Some(scripted) if !scripted.handled => Err(scripted.code),
                    _ => honest,
                };
                let group = state.groups.get_mut(self.group_id.as_str())?;
                let offset = partition.committed_offset;
                if done.is_ok() {
                    let metadata = partition.committed_metadata.map(|m| m.to_string());
                    let committed = Committed { offset, metadata };
                    group.committed.insert((name.clone(), index), committed);
                }
                let code = scripted.map_or(done, |s| Err(s.code)).err().unwrap_or(0);
                group.commits.push(CommitSeen {
                    topic: name,
                    partition: index,
                    offset,
                    member: self.member_id.to_string(),
                    generation,
                    code,
                });
                let mut one = OffsetCommitResponsePartition::default();
                one.partition_index = index;
                one.error_code = code;
                answer.partitions.push(one);
            }
            answer.name = topic.name;
            response.topics.push(answer);
        }
        call.shared.notify(&mut state);
        Some(response)
    }

    fn set_throttle(response: &mut OffsetCommitResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
