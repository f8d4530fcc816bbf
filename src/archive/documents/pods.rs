//! Pods.

use super::field::object;
use super::{AnyObject, Metadata, Object, json_documents};

object! {
    /// A pod.
    pub struct Pod {
        /// Name and namespace.
        pub metadata: Metadata = "metadata",
        /// As configured.
        pub spec: PodSpec = "spec",
    }

    /// What of `spec` is read.
    pub struct PodSpec {
        /// Volumes.
        pub volumes: Vec<Volume> = "volumes",
    }

    /// A volume.
    pub struct Volume {
        /// Its name.
        pub name: String = "name",
        /// Set for a volume that lives as long as the pod; `null` is absent.
        pub empty_dir: Option<AnyObject> = "emptyDir",
    }
}

impl Object for Pod {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

json_documents!(Pod);
