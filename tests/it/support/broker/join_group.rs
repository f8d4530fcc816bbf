//! JoinGroup: waits until the round is complete.

use std::time::{Duration, Instant};

use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};

use super::connection::{Api, Call};
use super::group::{Join, Joined, Joining, Wait};
use super::state::text;

impl Api for JoinGroupRequest {
    fn group(&self) -> Option<&str> {
        Some(&self.group_id)
    }

    fn handle(self, call: &Call<'_>) -> Option<JoinGroupResponse> {
        let scripted = call.error();
        if let Some(scripted) = scripted
            && !scripted.handled
        {
            return Some(refusal(scripted.code, &self.member_id));
        }
        let group_id = self.group_id.to_string();
        let session = millis(self.session_timeout_ms);
        let rebalance = match self.rebalance_timeout_ms {
            ..=0 => session,
            ms => millis(ms),
        };
        let mut state = call.shared.lock();
        let refused = if group_id.is_empty() {
            Some(24)
        } else if state.coordinator(&group_id) != call.node {
            Some(16)
        } else {
            let (least, most) = state.settings.session_timeouts;
            (session < least || session > most).then_some(26)
        };
        if let Some(code) = refused {
            return Some(refusal(code, &self.member_id));
        }
        let protocols = self.protocols.iter();
        let join = Join {
            member: self.member_id.to_string(),
            instance: self.group_instance_id.as_ref().map(ToString::to_string),
            client: call.client.clone().unwrap_or_default(),
            session,
            rebalance,
            protocol_type: self.protocol_type.to_string(),
            protocols: protocols
                .map(|p| (p.name.to_string(), p.metadata.clone()))
                .collect(),
            can_retry: call.version >= 4,
            initial_delay: state.settings.initial_rebalance_delay,
            max_size: state.settings.max_group_size,
        };
        let fresh = state.fresh();
        let group = state.groups.entry(group_id.clone()).or_default();
        let joining = group.join(join, fresh, Instant::now());
        call.shared.notify(&mut state);
        let (member, ticket) = match joining {
            Joining::Refused(code) => return Some(refusal(code, &self.member_id)),
            Joining::Retry(member) => return Some(refusal(79, &member)),
            Joining::Wait(member, ticket) => (member, ticket),
        };
        loop {
            if state.coordinator(&group_id) != call.node {
                return Some(refusal(16, &member));
            }
            let group = state.groups.get_mut(&group_id)?;
            match group.joined(&member, ticket) {
                Wait::Replaced => return None,
                Wait::Done(Err(code)) => return Some(refusal(code, &member)),
                Wait::Done(Ok(joined)) => {
                    call.shared.notify(&mut state);
                    let protocol_type = self.protocol_type.as_str();
                    let mut response = answer(&member, protocol_type, joined);
                    if let Some(scripted) = scripted {
                        response = refusal(scripted.code, &member);
                    }
                    return Some(response);
                }
                Wait::NotYet => {}
            }
            state = call.wait(state, None)?;
        }
    }

    fn set_throttle(response: &mut JoinGroupResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn refusal(code: i16, member: &str) -> JoinGroupResponse {
    let mut response = JoinGroupResponse::default();
    response.error_code = code;
    response.generation_id = -1;
    response.protocol_name = Some(text(""));
    response.member_id = text(member);
    response
}

fn answer(member: &str, protocol_type: &str, joined: Joined) -> JoinGroupResponse {
    let mut response = JoinGroupResponse::default();
    response.generation_id = joined.generation;
    response.protocol_type = Some(text(protocol_type));
    response.protocol_name = Some(text(joined.protocol));
    response.leader = text(joined.leader);
    response.member_id = text(member);
    let members = joined.members.into_iter();
    response.members = members
        .map(|(id, instance, metadata)| {
            let mut member = JoinGroupResponseMember::default();
            member.member_id = text(id);
            member.group_instance_id = instance.map(text);
            member.metadata = metadata;
            member
        })
        .collect();
    response
}
