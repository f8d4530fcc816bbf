//! Documents that the Insights Operator writes about itself.

use serde_json::Value;

use super::field::object;
use super::{AnyObject, Damage, Document, Source, json_documents};

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

/// The names of the settings in the operator's secret, sorted. Values are not kept.
#[derive(Debug)]
pub struct SupportSecret(pub Vec<String>);

impl Document for SupportSecret {
    fn read(source: Source<'_>) -> Result<SupportSecret, Damage> {
        let settings: AnyObject = source.json()?;
        Ok(SupportSecret(settings.into_keys().collect()))
    }
}

json_documents!(GathersReport);
