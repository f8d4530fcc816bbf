//! LeaveGroup: one member in old versions, a list of them in newer ones.

use std::time::Instant;

use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::connection::{Api, Call};
use super::group::UNKNOWN_MEMBER;

impl Api for LeaveGroupRequest {
    fn group(&self) -> Option<&str> {
        Some(&self.group_id)
    }

    fn handle(self, call: &Call<'_>) -> Option<LeaveGroupResponse> {
        let mut response = LeaveGroupResponse::default();
        let scripted = call.error();
        if let Some(scripted) = scripted
            && !scripted.handled
        {
            response.error_code = scripted.code;
            return Some(response);
        }
        let mut state = call.shared.lock();
        if state.coordinator(&self.group_id) != call.node {
            response.error_code = 16;
            return Some(response);
        }
        let group = state.groups.entry(self.group_id.to_string()).or_default();
        let now = Instant::now();
        let code = |left: bool| if left { 0 } else { UNKNOWN_MEMBER };
        if call.version < 3 {
            response.error_code = code(group.remove(&self.member_id, now));
        }
        for member in self.members {
            let mut one = MemberResponse::default();
            one.error_code = code(group.remove(&member.member_id, now));
            one.member_id = member.member_id;
            one.group_instance_id = member.group_instance_id;
            response.members.push(one);
        }
        if let Some(scripted) = scripted {
            response.error_code = scripted.code;
        }
        call.shared.notify(&mut state);
        Some(response)
    }

    fn set_throttle(response: &mut LeaveGroupResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
