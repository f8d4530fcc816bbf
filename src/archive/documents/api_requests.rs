//! Requests to APIs that will go.

use super::field::object;
use super::{Damage, Document, Source};

/// Requests by resource.
#[derive(Debug)]
pub struct ApiRequestCounts(pub Vec<ApiRequestCount>);

object! {
    /// Requests to one resource.
    pub struct ApiRequestCount {
        /// `{plural}.{version}.{group}`.
        pub resource: String = "resource",
        /// Kubernetes release without the resource; empty when none is planned.
        pub removed_in_release: String = "removed_in_release",
        /// Requests in the 24 h that the API keeps.
        pub total: i64 = "total_request_count",
        /// Requests in the current hour; the gatherer's name for it says day.
        pub current_hour: i64 = "last_day_request_count",
    }
}

impl Document for ApiRequestCounts {
    fn read(source: Source<'_>) -> Result<ApiRequestCounts, Damage> {
        source.json().map(ApiRequestCounts)
    }
}
