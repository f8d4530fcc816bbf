//! What the Insights Operator finds out about namespaces.

use super::{Damage, Document, Source};

/// Groups of namespaces whose ranges of user ids overlap.
#[derive(Debug)]
pub struct OverlappingUids(pub Vec<Vec<String>>);

impl Document for OverlappingUids {
    fn read(source: Source<'_>) -> Result<OverlappingUids, Damage> {
        source.json().map(OverlappingUids)
    }
}
