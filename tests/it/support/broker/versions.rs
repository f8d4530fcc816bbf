//! Which versions of which API a broker says that it speaks.

use std::collections::BTreeMap;

use kafka_protocol::messages::ApiKey;

/// The ranges that ApiVersions announces. A request outside of them ends its connection.
#[derive(Debug, Clone)]
pub struct Versions(pub(super) BTreeMap<i16, (i16, i16)>);

impl Versions {
    /// Kafka 2.1, the oldest that the client supports.
    pub fn kafka_2_1() -> Self {
        Self::table(&[
            (ApiKey::Produce, 0, 7),
            (ApiKey::Fetch, 0, 10),
            (ApiKey::ListOffsets, 0, 4),
            (ApiKey::Metadata, 0, 7),
            (ApiKey::OffsetCommit, 0, 6),
            (ApiKey::OffsetFetch, 0, 5),
            (ApiKey::FindCoordinator, 0, 2),
            (ApiKey::JoinGroup, 0, 3),
            (ApiKey::Heartbeat, 0, 2),
            (ApiKey::LeaveGroup, 0, 2),
            (ApiKey::SyncGroup, 0, 2),
            (ApiKey::SaslHandshake, 0, 1),
            (ApiKey::ApiVersions, 0, 2),
            (ApiKey::CreateTopics, 0, 3),
            (ApiKey::InitProducerId, 0, 1),
        ])
    }

    /// Kafka 3.9.
    pub fn kafka_3_9() -> Self {
        Self::table(&[
            (ApiKey::Produce, 0, 11),
            (ApiKey::Fetch, 0, 17),
            (ApiKey::ListOffsets, 0, 9),
            (ApiKey::Metadata, 0, 12),
            (ApiKey::OffsetCommit, 0, 9),
            (ApiKey::OffsetFetch, 0, 9),
            (ApiKey::FindCoordinator, 0, 6),
            (ApiKey::JoinGroup, 0, 9),
            (ApiKey::Heartbeat, 0, 4),
            (ApiKey::LeaveGroup, 0, 5),
            (ApiKey::SyncGroup, 0, 5),
            (ApiKey::SaslHandshake, 0, 1),
            (ApiKey::ApiVersions, 0, 4),
            (ApiKey::CreateTopics, 0, 7),
            (ApiKey::InitProducerId, 0, 5),
            (ApiKey::SaslAuthenticate, 0, 2),
            (ApiKey::ConsumerGroupHeartbeat, 0, 0),
        ])
    }

    /// Kafka 4, which has dropped what was old in 2.1. Names an API that nobody knows, too.
    pub fn kafka_4() -> Self {
        let mut versions = Self::table(&[
            (ApiKey::Produce, 3, 13),
            (ApiKey::Fetch, 4, 18),
            (ApiKey::ListOffsets, 1, 10),
            (ApiKey::Metadata, 0, 13),
            (ApiKey::OffsetCommit, 2, 9),
            (ApiKey::OffsetFetch, 1, 9),
            (ApiKey::FindCoordinator, 0, 6),
            (ApiKey::JoinGroup, 2, 9),
            (ApiKey::Heartbeat, 0, 4),
            (ApiKey::LeaveGroup, 0, 5),
            (ApiKey::SyncGroup, 0, 5),
            (ApiKey::SaslHandshake, 0, 1),
            (ApiKey::ApiVersions, 0, 4),
            (ApiKey::CreateTopics, 2, 7),
            (ApiKey::InitProducerId, 0, 5),
            (ApiKey::SaslAuthenticate, 0, 2),
            (ApiKey::ConsumerGroupHeartbeat, 0, 1),
        ]);
        versions.0.insert(999, (0, 0));
        versions
    }

    /// Changes one range.
    #[must_use]
    pub fn with(mut self, api: ApiKey, min: i16, max: i16) -> Self {
        self.0.insert(api as i16, (min, max));
        self
    }

    /// Leaves one API out.
    #[must_use]
    pub fn without(mut self, api: ApiKey) -> Self {
        self.0.remove(&(api as i16));
        self
    }

    pub(super) fn has(&self, api: ApiKey, version: i16) -> bool {
        let range = self.0.get(&(api as i16));
        range.is_some_and(|(min, max)| (*min..=*max).contains(&version))
    }

    fn table(rows: &[(ApiKey, i16, i16)]) -> Self {
        let rows = rows
            .iter()
            .map(|(api, min, max)| (*api as i16, (*min, *max)));
        Self(rows.collect())
    }
}
