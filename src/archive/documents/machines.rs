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
    }

    /// What of `spec` is read.
    pub struct MachineSetSpec {
        /// What its machines look like.
        pub template: MachineTemplate = "template",
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
