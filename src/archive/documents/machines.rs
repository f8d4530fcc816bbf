//! Machines and machine sets.

use super::field::object;
use super::{Labels, Metadata, Object, json_documents};

object! {
    /// A machine set.
    pub struct MachineSet {
        /// Name and namespace.
        pub metadata: Metadata = "metadata",
        /// As configured.
        pub spec: MachineSetSpec = "spec",
        /// As found.
        pub status: MachineSetStatus = "status",
    }

    /// What of `spec` is read.
    pub struct MachineSetSpec {
        /// Machines wanted; absent is one.
        pub replicas: Option<i64> = "replicas",
        /// What its machines look like.
        pub template: MachineTemplate = "template",
    }

    /// What of `status` is read.
    pub struct MachineSetStatus {
        /// Machines that exist.
        pub replicas: Option<i64> = "replicas",
        /// Of those, machines whose node is ready.
        pub ready_replicas: Option<i64> = "readyReplicas",
        /// Of those, machines whose node has been ready for long enough.
        pub available_replicas: Option<i64> = "availableReplicas",
    }

    /// What of `template` is read.
    pub struct MachineTemplate {
        /// Labels of its machines.
        pub metadata: TemplateMetadata = "metadata",
    }

    /// What of the template's `metadata` is read.
    pub struct TemplateMetadata {
        /// Labels.
        pub labels: Labels = "labels",
    }
}

impl Object for MachineSet {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

json_documents!(MachineSet);
