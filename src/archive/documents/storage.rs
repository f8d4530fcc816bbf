//! Storage classes and Ceph clusters.

use super::field::object;
use super::{Condition, Damage, Document, Found, Metadata, Object, Source, json_documents};

object! {
    /// A storage class.
    pub struct StorageClass {
        /// Name and annotations.
        pub metadata: Metadata = "metadata",
    }
}

impl Object for StorageClass {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

json_documents!(StorageClass);

/// A Ceph cluster: its status alone is gathered.
#[derive(Debug)]
pub struct CephCluster {
    /// As found.
    pub status: CephStatus,
    is_cluster: bool,
}

object! {
    /// A Ceph cluster's `status`.
    pub struct CephStatus {
        /// `Creating`, `Created`, `Error` and so on.
        pub state: Option<String> = "state",
        /// `Ready`, `Progressing`, `Failure` and so on.
        pub phase: Option<String> = "phase",
        /// A sentence.
        pub message: String = "message",
        /// `Ready`, `Progressing` and so on.
        pub conditions: Vec<Condition> = "conditions",
        /// What Ceph itself says.
        pub ceph: CephHealth = "ceph",
    }

    /// What of `ceph` is read.
    pub struct CephHealth {
        /// `HEALTH_OK`, `HEALTH_WARN` or `HEALTH_ERR`.
        pub health: String = "health",
    }
}

impl Document for CephCluster {
    fn read(source: Source<'_>) -> Result<CephCluster, Damage> {
        let in_folder = source.path().split('/').nth(3) == Some("cephclusters");
        let status: CephStatus = source.json()?;
        // Before 4.13 clusters of other kinds lay in the same place. They have no state.
        let is_cluster = in_folder || (status.state.is_some() && status.phase.is_some());
        Ok(CephCluster { status, is_cluster })
    }

    fn belongs(&self, _: super::Model) -> bool {
        self.is_cluster
    }
}

impl<'a> Found<'a, CephCluster> {
    /// Namespace and name, as the path says: a status holds neither.
    pub fn namespace_and_name(self) -> (&'a str, &'a str) {
        let namespace = self.path().split('/').nth(2).unwrap_or("");
        (namespace, self.stem())
    }
}
