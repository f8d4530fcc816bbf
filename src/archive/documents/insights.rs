//! Documents that the Insights Operator writes about itself.

use serde_json::Value;

use super::field::object;
use super::json_documents;

object! {
    /// What the gatherers did.
    pub struct GathersReport {
        /// One entry for each gatherer.
        pub status_reports: Vec<GathererStatus> = "status_reports",
    }

    /// What one gatherer did.
    pub struct GathererStatus {
        /// `clusterconfig/config_maps` and so on.
        pub name: String = "name",
        /// Errors in words.
        pub errors: Vec<String> = "errors",
        /// What it panicked with: a text, or whatever else Go wrote.
        pub panic: Option<Value> = "panic",
    }
}

json_documents!(GathersReport);
