//! FindCoordinator: which node looks after a group.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};

use super::connection::{Api, Call};
use super::state::{State, text};

impl Api for FindCoordinatorRequest {
    fn group(&self) -> Option<&str> {
        match self.coordinator_keys.first() {
            Some(first) => Some(first),
            None => Some(&self.key),
        }
    }

    fn handle(self, call: &Call<'_>) -> Option<FindCoordinatorResponse> {
        let state = call.shared.lock();
        let mut response = FindCoordinatorResponse::default();
        if call.version >= 4 {
            let keys = self.coordinator_keys.into_iter();
            let found = keys.map(|key| {
                let mut one = find(call, &state, self.key_type, &key);
                one.key = key;
                one
            });
            response.coordinators = found.collect();
        } else {
            let found = find(call, &state, self.key_type, &self.key);
            response.error_code = found.error_code;
            response.node_id = found.node_id;
            response.host = found.host;
            response.port = found.port;
        }
        Some(response)
    }

    fn set_throttle(response: &mut FindCoordinatorResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn find(call: &Call<'_>, state: &State, key_type: i8, key: &str) -> Coordinator {
    let mut answer = Coordinator::default();
    answer.node_id = BrokerId(-1);
    answer.port = -1;
    if let Some(scripted) = call.error() {
        answer.error_code = scripted.code;
        return answer;
    }
    if key_type != 0 {
        answer.error_code = 42;
        return answer;
    }
    let id = state.coordinator(key);
    let Some(node) = state.nodes.get(&id).filter(|n| n.running) else {
        answer.error_code = 15;
        return answer;
    };
    answer.node_id = BrokerId(id);
    answer.host = text(node.address.ip().to_string());
    answer.port = i32::from(node.address.port());
    answer
}
