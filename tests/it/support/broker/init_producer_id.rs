//! InitProducerId: a new id for an idempotent producer, or the next epoch of the one it has.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::connection::{Api, Call};

/// Where producer ids begin, so that none looks like an offset or a count.
const FIRST: i64 = 7_000;

impl Api for InitProducerIdRequest {
    fn handle(self, call: &Call<'_>) -> Option<InitProducerIdResponse> {
        let mut response = InitProducerIdResponse::default();
        response.producer_id = ProducerId(-1);
        response.producer_epoch = -1;
        if let Some(scripted) = call.error() {
            response.error_code = scripted.code;
            return Some(response);
        }
        if call.version >= 3 && self.producer_id.0 >= 0 && self.producer_epoch >= 0 {
            response.producer_id = self.producer_id;
            response.producer_epoch = self.producer_epoch + 1;
            return Some(response);
        }
        let fresh = call.shared.update(super::state::State::fresh);
        response.producer_id = ProducerId(FIRST + fresh as i64);
        response.producer_epoch = 0;
        Some(response)
    }

    fn set_throttle(response: &mut InitProducerIdResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
