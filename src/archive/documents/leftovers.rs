//! Counts of objects that the cluster made and nobody cleared away.

use std::collections::BTreeMap;

use super::field::object;
use super::{Damage, Document, Source, json_documents};

/// Revisions by namespace.
#[derive(Debug)]
pub struct RevisionedObjects(pub BTreeMap<String, Revisions>);

object! {
    /// Numbers of revisions in one namespace, by the name that the revisions share.
    pub struct Revisions {
        /// Of config maps.
        pub config_maps: BTreeMap<String, i64> = "configmaps",
        /// Of secrets.
        pub secrets: BTreeMap<String, i64> = "secrets",
    }

    /// Machine configs that no pool and no node uses.
    pub struct UnusedMachineConfigs {
        /// How many there are.
        pub count: i64 = "unused_machineconfigs_count",
    }
}

impl Document for RevisionedObjects {
    fn read(source: Source<'_>) -> Result<RevisionedObjects, Damage> {
        source.json().map(RevisionedObjects)
    }
}

json_documents!(UnusedMachineConfigs);
