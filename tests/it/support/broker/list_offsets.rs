//! ListOffsets: the ends of a log, and the first record of a time.

use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::connection::{Api, Call};
use super::state::State;

impl Api for ListOffsetsRequest {
    fn partitions(&self, _state: &State) -> Vec<(String, i32)> {
        let topics = self.topics.iter();
        let all = topics.flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|p| (topic.name.to_string(), p.partition_index))
        });
        all.collect()
    }

    fn handle(self, call: &Call<'_>) -> Option<ListOffsetsResponse> {
        let state = call.shared.lock();
        let mut response = ListOffsetsResponse::default();
        for topic in self.topics {
            let mut answer = ListOffsetsTopicResponse::default();
            for wanted in topic.partitions {
                let mut partition = ListOffsetsPartitionResponse::default();
                partition.partition_index = wanted.partition_index;
                partition.timestamp = -1;
                partition.offset = -1;
                let committed = self.isolation_level == 1;
                let from_client = self.replica_id.0 == -1;
                let index = wanted.partition_index;
                let scripted = call.error_for(&topic.name, index).map(|s| s.code);
                let refused = state.not_served(call.node, &topic.name, index);
                // A replica id is for brokers; to one that is not ours the answer is this.
                let refused = refused.or((!from_client).then_some(40));
                if let Some(code) = scripted.or(refused) {
                    partition.error_code = code;
                } else if let Some(found) = state.partition(&topic.name, index) {
                    partition.leader_epoch = found.epoch;
                    match wanted.timestamp {
                        -2 => partition.offset = found.start,
                        -1 if committed => partition.offset = found.stable.unwrap_or(found.end),
                        -1 => partition.offset = found.end,
                        time => {
                            if let Some(record) = found.find(time) {
                                partition.offset = record.offset;
                                partition.timestamp = record.timestamp;
                            }
                        }
                    }
                }
                answer.partitions.push(partition);
            }
            answer.name = topic.name;
            response.topics.push(answer);
        }
        Some(response)
    }

    fn set_throttle(response: &mut ListOffsetsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
