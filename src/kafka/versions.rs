//! The requests that we speak, in which versions, and what a broker offers.
//!
//! Ceilings are fixed: the last version before the flexible encoding wherever possible. These
//! are what librdkafka speaks for the group, and every broker from Kafka 2.1 to 4.x has them.
//! Metadata goes further, for the ids of topics. Both ends are intersected
//! for every connection, because a broker closes the connection on a version that it removed.

use std::collections::HashMap;
use std::sync::Arc;

use kafka_protocol::messages::{
    FetchRequest, FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest,
    HeartbeatResponse, InitProducerIdRequest, InitProducerIdResponse, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, ListOffsetsRequest,
    ListOffsetsResponse, MetadataRequest, MetadataResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, ProduceRequest, ProduceResponse,
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};

use super::error::Error;

/// A request, its answer and the versions that we speak.
///
/// The codec crate has such a trait only together with its broker half.
pub(super) trait Api: Encodable + HeaderVersion {
    /// What the broker answers.
    type Response: Decodable + HeaderVersion;
    /// Number of the request.
    const KEY: i16;
    /// Kafka's name of the request.
    const NAME: &'static str;
    /// First and last version that we speak.
    const VERSIONS: (i16, i16);
    /// Milliseconds during which the broker wants no further request on the connection.
    fn throttle(response: &Self::Response) -> i32;
    /// The answer that says nothing but `code`, for requests whose answers begin with one.
    fn refused(code: i16) -> Option<Self::Response>;
}

macro_rules! apis {
    ($($request:ident -> $response:ident, $key:literal $name:literal $first:literal..=$last:literal $($kind:ident)?;)*) => {
        $(impl Api for $request {
            type Response = $response;
            const KEY: i16 = $key;
            const NAME: &'static str = $name;
            const VERSIONS: (i16, i16) = ($first, $last);
            fn throttle(response: &$response) -> i32 {
                apis!(@throttle response $($kind)?)
            }
            fn refused(code: i16) -> Option<$response> {
                apis!(@refused $response code $($kind)?)
            }
        })*

        /// Number, name and versions of every request.
        pub(super) const ALL: &[(i16, &str, (i16, i16))] = &[$(($key, $name, ($first, $last)),)*];
    };
    (@refused $response:ident $code:ident leading) => {
        Some($response::default().with_error_code($code))
    };
    (@refused $response:ident $code:ident $($other:ident)?) => {{
        let _ = $code;
        None
    }};
    (@throttle $response:ident sasl) => {{
        let _ = $response;
        0
    }};
    (@throttle $response:ident $($other:ident)?) => {
        $response.throttle_time_ms
    };
}

// `leading`: the answer begins with the throttle time and then a code for the whole request.
// `sasl`: asked only where the settings say so, and the answer has no throttle time.
apis! {
    ProduceRequest -> ProduceResponse, 0 "Produce" 7..=8; // 7: zstd; 8: says which record is bad
    FetchRequest -> FetchResponse, 1 "Fetch" 10..=11; // 10: zstd; from 13 topics have ids
    ListOffsetsRequest -> ListOffsetsResponse, 2 "ListOffsets" 4..=5;
    MetadataRequest -> MetadataResponse, 3 "Metadata" 5..=10; // 10: topics have ids (KIP-516, Kafka 2.8)
    OffsetCommitRequest -> OffsetCommitResponse, 8 "OffsetCommit" 6..=7; // 7: static id
    OffsetFetchRequest -> OffsetFetchResponse, 9 "OffsetFetch" 5..=5;
    FindCoordinatorRequest -> FindCoordinatorResponse, 10 "FindCoordinator" 1..=2;
    JoinGroupRequest -> JoinGroupResponse, 11 "JoinGroup" 2..=5 leading; // 4: MEMBER_ID_REQUIRED
    HeartbeatRequest -> HeartbeatResponse, 12 "Heartbeat" 2..=3 leading; // 3: static id
    LeaveGroupRequest -> LeaveGroupResponse, 13 "LeaveGroup" 1..=2 leading; // 3: list of members
    SyncGroupRequest -> SyncGroupResponse, 14 "SyncGroup" 2..=3 leading; // 3: static id
    SaslHandshakeRequest -> SaslHandshakeResponse, 17 "SaslHandshake" 1..=1 sasl;
    InitProducerIdRequest -> InitProducerIdResponse, 22 "InitProducerId" 0..=4;
    SaslAuthenticateRequest -> SaslAuthenticateResponse, 36 "SaslAuthenticate" 0..=1 sasl; // 1: lifetime
}

/// What one broker speaks, by request number.
#[derive(Debug, Clone, Default)]
pub(super) struct Versions(HashMap<i16, (i16, i16)>);

impl Versions {
    /// Takes over what a broker offers.
    pub(super) fn new(offered: impl IntoIterator<Item = (i16, (i16, i16))>) -> Self {
        Self(offered.into_iter().collect())
    }

    /// The version to use for a request.
    ///
    /// # Errors
    /// [`Error::Version`] when nothing is common.
    pub(super) fn pick<A: Api>(&self, address: &Arc<str>) -> Result<i16, Error> {
        self.common(A::KEY, A::NAME, A::VERSIONS, address)
    }

    /// An error for each request without a common version. Those of SASL are left out: where they
    /// are needed the connection would not be there without them.
    pub(super) fn gaps(&self, address: &Arc<str>) -> Vec<Error> {
        ALL.iter()
            .filter(|(key, ..)| {
                ![SaslHandshakeRequest::KEY, SaslAuthenticateRequest::KEY].contains(key)
            })
            .filter_map(|(key, api, ours)| self.common(*key, api, *ours, address).err())
            .collect()
    }

    fn common(
        &self,
        key: i16,
        api: &'static str,
        ours: (i16, i16),
        address: &Arc<str>,
    ) -> Result<i16, Error> {
        let theirs = self.0.get(&key).copied();
        match theirs {
            Some((first, last)) if first.max(ours.0) <= last.min(ours.1) => Ok(last.min(ours.1)),
            _ => Err(Error::Version {
                address: address.clone(),
                api,
                ours,
                theirs,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_highest_common_version() {
        let address = Arc::from("broker:9092");
        let pick = |low, high| Versions::new([(3, (low, high))]).pick::<MetadataRequest>(&address);
        assert_eq!(pick(0, 12).unwrap(), 10);
        assert_eq!(pick(0, 6).unwrap(), 6);
        assert_eq!(pick(8, 13).unwrap(), 10);
        let error = pick(11, 13).unwrap_err().to_string();
        assert_eq!(
            error,
            "broker:9092 and we share no version of Metadata: ours 5-10, its 11-13"
        );
        assert!(pick(0, 4).is_err());
        // A range that makes no sense is no range.
        assert!(pick(7, 6).is_err());
        assert!(
            Versions::default()
                .pick::<MetadataRequest>(&address)
                .is_err()
        );
    }
}
