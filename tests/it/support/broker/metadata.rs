//! Metadata: the nodes that run, and who leads what. Topics that are not there are made for those
//! who allow it, as brokers do unless told otherwise.

use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};

use super::connection::{Api, Call};
use super::state::{State, text};

impl Api for MetadataRequest {
    fn partitions(&self, state: &State) -> Vec<(String, i32)> {
        let names = names(self, state, 1).into_iter();
        let all = names.flat_map(|name| {
            let count = state.topics.get(&name).map_or(0, |t| t.partitions.len());
            // A topic that is not there can be scripted, too, as a whole.
            (0..count.max(1) as i32).map(move |p| (name.clone(), p))
        });
        all.collect()
    }

    fn handle(self, call: &Call<'_>) -> Option<MetadataResponse> {
        let mut state = call.shared.lock();
        let names = names(&self, &state, call.version);
        let may_create = self.allow_auto_topic_creation || call.version < 4;
        let missing = |state: &State, name: &str| {
            !state.topics.contains_key(name) && call.error_for(name, -1).is_none()
        };
        let wanted = names.iter().filter(|_| may_create);
        let created: Vec<&String> = wanted.filter(|name| missing(&state, name)).collect();
        let mut response = MetadataResponse::default();
        response.cluster_id = Some(text("scripted"));
        let running = state.nodes.iter().filter(|(_, n)| n.running);
        response.brokers = running
            .map(|(id, node)| {
                let mut broker = MetadataResponseBroker::default();
                broker.node_id = BrokerId(*id);
                broker.host = text(node.address.ip().to_string());
                broker.port = i32::from(node.address.port());
                broker
            })
            .collect();
        response.controller_id = response.brokers.first().map_or(BrokerId(-1), |b| b.node_id);
        let topics = names
            .iter()
            .map(|name| topic(call, &state, name, created.contains(&name)));
        response.topics = topics.collect();
        for name in &created {
            state.create_topic(name, 1);
        }
        if !created.is_empty() {
            call.shared.notify(&mut state);
        }
        Some(response)
    }

    fn set_throttle(response: &mut MetadataResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn names(request: &MetadataRequest, state: &State, version: i16) -> Vec<String> {
    let all = || state.topics.keys().cloned().collect();
    match &request.topics {
        None => all(),
        Some(topics) if topics.is_empty() && version == 0 => all(),
        Some(topics) => {
            let none = TopicName::default();
            let name = |t: &Option<TopicName>| t.as_ref().unwrap_or(&none).clone();
            let named = topics
                .iter()
                .map(|t| state.topic_name(&name(&t.name), t.topic_id));
            named.collect()
        }
    }
}

fn topic(call: &Call<'_>, state: &State, name: &str, created: bool) -> MetadataResponseTopic {
    let mut answer = MetadataResponseTopic::default();
    answer.name = Some(TopicName(text(name)));
    // An error that is for no partition alone is the topic's.
    if let Some(scripted) = call.error_for(name, -1) {
        answer.error_code = scripted.code;
        return answer;
    }
    let Some(topic) = state.topics.get(name) else {
        // One that is being made has no leader yet.
        answer.error_code = if created { 5 } else { 3 };
        return answer;
    };
    answer.topic_id = topic.id;
    for (index, found) in (0..).zip(&topic.partitions) {
        let mut partition = MetadataResponsePartition::default();
        partition.partition_index = index;
        partition.leader_epoch = found.epoch;
        partition.replica_nodes = state.nodes.keys().map(|id| BrokerId(*id)).collect();
        partition.isr_nodes = vec![BrokerId(found.leader)];
        let running = state.nodes.get(&found.leader).is_some_and(|n| n.running);
        if let Some(scripted) = call.error_for(name, index) {
            partition.error_code = scripted.code;
            partition.leader_id = BrokerId(-1);
        } else if running {
            partition.leader_id = BrokerId(found.leader);
        } else {
            partition.error_code = 5;
            partition.leader_id = BrokerId(-1);
        }
        answer.partitions.push(partition);
    }
    answer
}
