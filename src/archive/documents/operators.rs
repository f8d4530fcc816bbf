//! Cluster operators and their configuration resources.
//!
//! One type for both: in old archives they lie side by side in one folder, and the image
//! registry's configuration is at once a resource and a model of its own.

use serde_json::Value;

use super::field::object;
use super::{Condition, Damage, Document, Found, Metadata, Object, Source};
use crate::archive::models::Model;

object! {
    /// A ClusterOperator, or a configuration resource of an operator.
    pub struct Operator {
        /// `group/version`; absent in some resources.
        pub api_version: String = "apiVersion",
        /// `ClusterOperator` or the resource's; absent in some.
        pub kind: String = "kind",
        /// Name of a reduced resource, which has no metadata.
        pub name: String = "name",
        /// Name and link.
        pub metadata: Metadata = "metadata",
        /// As configured: resources only.
        pub spec: OperatorSpec = "spec",
        /// As found.
        pub status: OperatorStatus = "status",
    }

    /// What of a resource's `spec` is read.
    pub struct OperatorSpec {
        /// `Managed`, `Unmanaged`, `Removed` or `Force`.
        pub management_state: String = "managementState",
        /// Log level of what the operator runs.
        pub log_level: String = "logLevel",
        /// Log level of the operator.
        pub operator_log_level: String = "operatorLogLevel",
        /// Settings outside support, as they are.
        pub unsupported_config_overrides: Option<Value> = "unsupportedConfigOverrides",
        /// Storage of the image registry, as it is.
        pub storage: Option<Value> = "storage",
        /// Replicas of the image registry.
        pub replicas: Option<i64> = "replicas",
        /// Whether the image pruner stands still.
        pub suspend: bool = "suspend",
    }

    /// What of `status` is read.
    pub struct OperatorStatus {
        /// `Available`, `Degraded` and so on.
        pub conditions: Vec<Condition> = "conditions",
        /// Versions of the operator and its operands.
        pub versions: Vec<OperandVersion> = "versions",
    }

    /// A version of the operator or an operand.
    pub struct OperandVersion {
        /// `operator` for the operator itself.
        pub name: String = "name",
        /// Such as `4.7.16`.
        pub version: String = "version",
    }
}

impl Operator {
    /// The operator's own version.
    pub fn version(&self) -> Option<&str> {
        self.status
            .versions
            .iter()
            .find(|version| version.name == "operator")
            .map(|version| version.version.as_str())
    }
}

impl Object for Operator {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Document for Operator {
    fn read(source: Source<'_>) -> Result<Operator, Damage> {
        source.json()
    }

    fn belongs(&self, model: Model) -> bool {
        // A file without kind is an operator by its place, and a resource by its place.
        let cluster_operator = self.kind == "ClusterOperator";
        match model {
            Model::Operators => cluster_operator || self.kind.is_empty(),
            _ => !cluster_operator,
        }
    }
}

impl<'a> Found<'a, Operator> {
    /// Group and kind of a resource in lower case, as its path says; in the old layout
    /// `{kind}-{name}` the group comes from the document.
    pub fn group_and_kind(self) -> (&'a str, &'a str) {
        let mut parts = self
            .path()
            .split('/')
            .skip("config/clusteroperator".split('/').count());
        match (parts.next(), parts.next()) {
            (Some(group), Some(kind)) => (group, kind),
            _ => {
                let group = self.document().api_version.split('/').next().unwrap_or("");
                (group, self.stem().split('-').next().unwrap_or(""))
            }
        }
    }
}
