//! Connectivity checks between parts of the control plane.

use std::collections::BTreeMap;

use super::{Damage, Document, Source};

/// Failed checks of the last day: by reason, by message, the last failure (RFC 3339).
#[derive(Debug)]
pub struct ConnectivityChecks(pub BTreeMap<String, BTreeMap<String, String>>);

impl Document for ConnectivityChecks {
    fn read(source: Source<'_>) -> Result<ConnectivityChecks, Damage> {
        source.json().map(ConnectivityChecks)
    }
}
