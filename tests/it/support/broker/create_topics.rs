//! CreateTopics: with a number of partitions; settings of the topic are not looked at.

use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};

use super::connection::{Api, Call};

impl Api for CreateTopicsRequest {
    fn handle(self, call: &Call<'_>) -> Option<CreateTopicsResponse> {
        let mut response = CreateTopicsResponse::default();
        for topic in self.topics {
            let mut result = CreatableTopicResult::default();
            let partitions = usize::try_from(topic.num_partitions).unwrap_or(1);
            result.error_code = match call.error() {
                Some(scripted) => scripted.code,
                None if partitions == 0 => 37,
                None => call.shared.update(|state| {
                    if state.topics.contains_key(topic.name.as_str()) {
                        return 36;
                    }
                    if !self.validate_only {
                        state.create_topic(&topic.name, partitions);
                    }
                    0
                }),
            };
            result.num_partitions = partitions as i32;
            result.replication_factor = 1;
            result.name = topic.name;
            response.topics.push(result);
        }
        Some(response)
    }

    fn set_throttle(response: &mut CreateTopicsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
