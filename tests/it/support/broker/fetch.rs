//! Fetch: waits for data as long as the client allows, cuts the last batch at the limit.

use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ProducerId};

use super::batch::BatchHeader;
use super::connection::{Api, Call};
use super::state::State;

impl Api for FetchRequest {
    fn partitions(&self, state: &State) -> Vec<(String, i32)> {
        let topics = self.topics.iter();
        let all = topics.flat_map(|topic| {
            let name = state.topic_name(&topic.topic, topic.topic_id);
            let partitions = topic.partitions.iter();
            partitions.map(move |p| (name.clone(), p.partition))
        });
        all.collect()
    }

    fn handle(self, call: &Call<'_>) -> Option<FetchResponse> {
        let wait = Duration::from_millis(self.max_wait_ms.max(0) as u64);
        let until = Instant::now() + wait;
        let mut state = call.shared.lock();
        loop {
            let (response, bytes, at_once) = read(&self, call, &state);
            let enough = bytes >= self.min_bytes.max(0) as usize;
            if at_once || enough || Instant::now() >= until {
                return Some(response);
            }
            state = call.wait(state, Some(until))?;
        }
    }

    fn set_throttle(response: &mut FetchResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

/// The answer as things stand, its bytes of records, and whether some error is in it.
fn read(request: &FetchRequest, call: &Call<'_>, state: &State) -> (FetchResponse, usize, bool) {
    let mut response = FetchResponse::default();
    let mut bytes = 0;
    let mut at_once = false;
    let limit = request.max_bytes.max(0) as usize;
    for topic in &request.topics {
        let name = state.topic_name(&topic.topic, topic.topic_id);
        let mut answer = FetchableTopicResponse::default();
        answer.topic = topic.topic.clone();
        answer.topic_id = topic.topic_id;
        for wanted in &topic.partitions {
            let mut data = PartitionData::default();
            data.partition_index = wanted.partition;
            data.high_watermark = -1;
            data.last_stable_offset = -1;
            data.log_start_offset = -1;
            data.preferred_read_replica = BrokerId(-1);
            data.records = Some(bytes::Bytes::new());
            let code = refusal(call, state, &name, wanted.partition, wanted.fetch_offset);
            let code = code.or_else(|| {
                let epoch = state.partition(&name, wanted.partition)?.epoch;
                match wanted.current_leader_epoch {
                    -1 => None,
                    known if known < epoch => Some(74),
                    known if known > epoch => Some(75),
                    _ => None,
                }
            });
            if let Some(code) = code {
                data.error_code = code;
                at_once = true;
                answer.partitions.push(data);
                continue;
            }
            let Some(partition) = state.partition(&name, wanted.partition) else {
                continue;
            };
            let stable = partition.stable.unwrap_or(partition.end);
            data.high_watermark = partition.end;
            data.last_stable_offset = stable;
            data.log_start_offset = partition.start;
            let below = if request.isolation_level == 1 {
                let aborted = partition.aborted.iter();
                let list = aborted.map(|(producer, first)| {
                    let mut entry = AbortedTransaction::default();
                    entry.producer_id = ProducerId(*producer);
                    entry.first_offset = *first;
                    entry
                });
                data.aborted_transactions = Some(list.collect());
                stable
            } else {
                partition.end
            };
            let room = limit.saturating_sub(bytes);
            let room = room.min(wanted.partition_max_bytes.max(0) as usize);
            let records = partition.read(wanted.fetch_offset, below, room, bytes == 0);
            let zstd = BatchHeader::parse(&records).is_ok_and(|h| h.codec() == 4);
            if zstd && call.version < 10 {
                data.error_code = 76;
                at_once = true;
            } else {
                bytes += records.len();
                data.records = Some(records);
            }
            answer.partitions.push(data);
        }
        response.responses.push(answer);
    }
    (response, bytes, at_once)
}

fn refusal(call: &Call<'_>, state: &State, topic: &str, index: i32, offset: i64) -> Option<i16> {
    if let Some(scripted) = call.error_for(topic, index) {
        return Some(scripted.code);
    }
    if let Some(code) = state.not_served(call.node, topic, index) {
        // Those that name topics by id have a code of their own for one that is not there.
        return Some(if code == 3 && call.version >= 13 {
            100
        } else {
            code
        });
    }
    let partition = state.partition(topic, index)?;
    (offset < partition.start || offset > partition.end).then_some(1)
}
