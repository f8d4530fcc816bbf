//! Heartbeat: keeps a member in, and tells it of a rebalance.

use std::time::Instant;

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::connection::{Api, Call};
use super::group::UNKNOWN_MEMBER;

impl Api for HeartbeatRequest {
    fn group(&self) -> Option<&str> {
        Some(&self.group_id)
    }

    fn handle(self, call: &Call<'_>) -> Option<HeartbeatResponse> {
        let mut response = HeartbeatResponse::default();
        let scripted = call.error();
        if let Some(scripted) = scripted
            && !scripted.handled
        {
            response.error_code = scripted.code;
            return Some(response);
        }
        let mut state = call.shared.lock();
        let instance = self.group_instance_id.as_deref();
        response.error_code = if state.coordinator(&self.group_id) == call.node {
            let group = state.groups.get_mut(self.group_id.as_str());
            let now = Instant::now();
            let done = group.map_or(Err(UNKNOWN_MEMBER), |group| {
                group.heartbeat(&self.member_id, instance, self.generation_id, now)
            });
            done.err().unwrap_or(0)
        } else {
            16
        };
        if let Some(scripted) = scripted {
            response.error_code = scripted.code;
        }
        call.shared.notify(&mut state);
        Some(response)
    }

    fn set_throttle(response: &mut HeartbeatResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
