//! ApiVersions: what the broker speaks.

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};

use super::connection::{Api, Call};

impl Api for ApiVersionsRequest {
    fn handle(self, call: &Call<'_>) -> Option<ApiVersionsResponse> {
        let mut response = ApiVersionsResponse::default();
        if let Some(scripted) = call.error() {
            response.error_code = scripted.code;
            return Some(response);
        }
        let state = call.shared.lock();
        let versions = state.versions(call.node).0.iter();
        response.api_keys = versions.map(|(key, range)| entry(*key, *range)).collect();
        Some(response)
    }

    fn set_throttle(response: &mut ApiVersionsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

/// To a version that the broker does not speak: error 35 in the oldest form, naming only the range
/// of this API.
pub(super) fn refusal(call: &Call<'_>) -> ApiVersionsResponse {
    let key = ApiKey::ApiVersions as i16;
    let state = call.shared.lock();
    let range = state.versions(call.node).0.get(&key).copied();
    let mut response = ApiVersionsResponse::default();
    response.error_code = 35;
    response.api_keys = range.map(|range| entry(key, range)).into_iter().collect();
    response
}

fn entry(key: i16, (min, max): (i16, i16)) -> ApiVersion {
    let mut entry = ApiVersion::default();
    entry.api_key = key;
    entry.min_version = min;
    entry.max_version = max;
    entry
}
