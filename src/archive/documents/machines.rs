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

    /// A machine.
    pub struct Machine {
        /// Name, namespace and times.
        pub metadata: Metadata = "metadata",
        /// As found.
        pub status: MachineStatus = "status",
    }

    /// What of `status` is read. Texts are empty when absent.
    pub struct MachineStatus {
        /// `Provisioning`, `Provisioned`, `Running`, `Deleting` or `Failed`.
        pub phase: Option<String> = "phase",
        /// Why it failed, one word.
        pub error_reason: String = "errorReason",
        /// Why it failed, a sentence.
        pub error_message: String = "errorMessage",
        /// `errorReason` under the name of other versions of the API.
        pub failure_reason: String = "failureReason",
        /// `errorMessage` under the name of other versions of the API.
        pub failure_message: String = "failureMessage",
    }
}

impl Object for MachineSet {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Object for Machine {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

json_documents!(MachineSet, Machine);
