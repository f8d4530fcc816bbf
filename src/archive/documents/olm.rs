//! Operators that the operator life-cycle manager installed.

use super::field::object;
use super::{Damage, Document, Source};

/// Operators of OLM.
#[derive(Debug)]
pub struct OlmOperators(pub Vec<OlmOperator>);

object! {
    /// An operator.
    pub struct OlmOperator {
        /// `{package}.{namespace}`.
        pub name: String = "name",
        /// The name for people.
        pub display_name: String = "displayName",
        /// Its version.
        pub version: String = "version",
        /// What became of its installation, oldest first.
        pub conditions: Vec<CsvCondition> = "csv_conditions",
    }

    /// A condition of a ClusterServiceVersion. Texts are empty when absent.
    pub struct CsvCondition {
        /// `Succeeded`, `Failed`, `Installing` and so on.
        pub phase: String = "phase",
        /// One word.
        pub reason: String = "reason",
        /// A sentence.
        pub message: String = "message",
        /// RFC 3339.
        pub last_transition_time: String = "lastTransitionTime",
    }
}

impl Document for OlmOperators {
    fn read(source: Source<'_>) -> Result<OlmOperators, Damage> {
        source.json().map(OlmOperators)
    }
}
