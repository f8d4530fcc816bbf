//! Produce: checks batches, appends them, remembers sequences.

use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};

use super::batch::BatchHeader;
use super::connection::{Api, Call};
use super::log::Appended;
use super::state::State;

impl Api for ProduceRequest {
    fn partitions(&self, state: &State) -> Vec<(String, i32)> {
        let topics = self.topic_data.iter();
        let all = topics.flat_map(|topic| {
            let name = state.topic_name(&topic.name, topic.topic_id);
            let partitions = topic.partition_data.iter();
            partitions.map(move |p| (name.clone(), p.index))
        });
        all.collect()
    }

    fn handle(self, call: &Call<'_>) -> Option<ProduceResponse> {
        let mut state = call.shared.lock();
        let mut response = ProduceResponse::default();
        for topic in self.topic_data {
            let name = state.topic_name(&topic.name, topic.topic_id);
            let mut answer = TopicProduceResponse::default();
            answer.name = topic.name;
            answer.topic_id = topic.topic_id;
            for partition in topic.partition_data {
                let records = partition.records.unwrap_or_default();
                let index = partition.index;
                let done = produce(&mut state, call, self.acks, &name, index, &records);
                let mut partition = PartitionProduceResponse::default();
                partition.index = index;
                partition.base_offset = -1;
                partition.log_append_time_ms = -1;
                partition.log_start_offset = -1;
                match done {
                    Ok(offset) => {
                        let found = state.partition(&name, index);
                        partition.log_start_offset = found.map_or(-1, |p| p.start);
                        partition.base_offset = offset;
                    }
                    Err(code) => partition.error_code = code,
                }
                answer.partition_responses.push(partition);
            }
            response.responses.push(answer);
        }
        call.shared.notify(&mut state);
        (self.acks != 0).then_some(response)
    }

    fn set_throttle(response: &mut ProduceResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn produce(
    state: &mut State,
    call: &Call<'_>,
    acks: i16,
    topic: &str,
    index: i32,
    records: &[u8],
) -> Result<i64, i16> {
    let scripted = call.error_for(topic, index);
    if let Some(scripted) = scripted
        && !scripted.handled
    {
        return Err(scripted.code);
    }
    if !(-1..=1).contains(&acks) {
        return Err(21);
    }
    if let Some(code) = state.not_served(call.node, topic, index) {
        return Err(code);
    }
    let zstd = BatchHeader::parse(records).is_ok_and(|h| h.codec() == 4);
    if zstd && call.version < 7 {
        return Err(76);
    }
    let max = state.topics[topic].max_message_bytes;
    let duplicates_are_46 = state.settings.duplicates_are_46;
    let partition = state.partition_mut(topic, index).ok_or(3_i16)?;
    let done = match partition.produce(records, max) {
        Appended::At(offset) => Ok(offset),
        Appended::Duplicate(_) if duplicates_are_46 => Err(46),
        Appended::Duplicate(offset) => Ok(offset),
        Appended::Refused(code) => Err(code),
    };
    scripted.map_or(done, |scripted| Err(scripted.code))
}
