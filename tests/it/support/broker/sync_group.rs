//! SyncGroup: waits for the leader's assignment.

use std::time::Instant;

use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::connection::{Api, Call};
use super::group::{UNKNOWN_MEMBER, Wait};
use super::state::text;

impl Api for SyncGroupRequest {
    fn group(&self) -> Option<&str> {
        Some(&self.group_id)
    }

    fn handle(self, call: &Call<'_>) -> Option<SyncGroupResponse> {
        let mut response = SyncGroupResponse::default();
        let mut state = call.shared.lock();
        if let Some(scripted) = call.error() {
            response.error_code = scripted.code;
            return Some(response);
        }
        let instance = self.group_instance_id.as_deref();
        let assignments = self.assignments.iter();
        let assignments = assignments.map(|a| (a.member_id.to_string(), a.assignment.clone()));
        let assignments: Vec<_> = assignments.collect();
        let mut taken = false;
        let done = loop {
            if state.coordinator(&self.group_id) != call.node {
                break Err(16);
            }
            let now = Instant::now();
            let Some(group) = state.groups.get_mut(self.group_id.as_str()) else {
                break Err(UNKNOWN_MEMBER);
            };
            if !taken {
                taken = true;
                let (member, generation) = (&self.member_id, self.generation_id);
                if let Err(code) = group.sync(member, instance, generation, &assignments, now) {
                    break Err(code);
                }
            }
            match group.synced(&self.member_id, self.generation_id, now) {
                Wait::Done(done) => {
                    if done.is_ok() {
                        response.protocol_name = Some(text(group.protocol.clone()));
                        response.protocol_type = self.protocol_type.clone();
                    }
                    break done;
                }
                Wait::Replaced => return None,
                Wait::NotYet => {}
            }
            state = call.wait(state, None)?;
        };
        match done {
            Ok(assignment) => response.assignment = assignment,
            Err(code) => response.error_code = code,
        }
        call.shared.notify(&mut state);
        Some(response)
    }

    fn set_throttle(response: &mut SyncGroupResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
