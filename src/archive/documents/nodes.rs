//! Nodes, machine config pools and container runtime configurations.

use std::collections::BTreeSet;

use serde_json::Value;

use super::field::object;
use super::quantity::Quantity;
use super::{Condition, Labels, Metadata, Object, json_documents};

/// Prefix of the labels that give a node its roles.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

object! {
    /// A node.
    pub struct Node {
        /// Name and labels.
        pub metadata: Metadata = "metadata",
        /// As configured.
        pub spec: NodeSpec = "spec",
        /// As found.
        pub status: NodeStatus = "status",
    }

    /// What of `spec` is read.
    pub struct NodeSpec {
        /// Taints.
        pub taints: Vec<Taint> = "taints",
        /// Cordoned: no new pods.
        pub unschedulable: bool = "unschedulable",
    }

    /// A taint.
    pub struct Taint {
        /// Its key.
        pub key: String = "key",
        /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
        pub effect: String = "effect",
    }

    /// What of `status` is read.
    pub struct NodeStatus {
        /// What the machine has.
        pub capacity: Capacity = "capacity",
        /// `Ready`, `MemoryPressure` and so on.
        pub conditions: Vec<Condition> = "conditions",
        /// Software versions.
        pub node_info: NodeInfo = "nodeInfo",
    }

    /// What of `capacity` is read.
    pub struct Capacity {
        /// Cores.
        pub cpu: Option<Quantity> = "cpu",
        /// Bytes.
        pub memory: Option<Quantity> = "memory",
    }

    /// What of `nodeInfo` is read.
    pub struct NodeInfo {
        /// Such as `v1.20.0+2817867`.
        pub kubelet_version: String = "kubeletVersion",
        /// Such as `cri-o://1.20.3-2.rhaos4.7.gitb53fa9d.el8`.
        pub container_runtime_version: String = "containerRuntimeVersion",
        /// Such as `Red Hat Enterprise Linux CoreOS 47.83.202106032343-0 (Ootpa)`.
        pub os_image: String = "osImage",
    }
}

impl Node {
    /// Every role, sorted.
    pub fn roles(&self) -> BTreeSet<&str> {
        self.metadata
            .labels
            .keys()
            .filter_map(|label| label.strip_prefix(ROLE_PREFIX))
            .filter(|role| !role.is_empty())
            .collect()
    }

    /// Whether it belongs to the control plane.
    pub fn is_control_plane(&self) -> bool {
        let roles = self.roles();
        roles.contains("master") || roles.contains("control-plane")
    }

    /// `master` for the control plane, else `worker`.
    pub fn role(&self) -> &'static str {
        if self.is_control_plane() {
            "master"
        } else {
            "worker"
        }
    }
}

impl Object for Node {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

object! {
    /// A machine config pool.
    pub struct MachinePool {
        /// Name and labels.
        pub metadata: Metadata = "metadata",
        /// As configured.
        pub spec: MachinePoolSpec = "spec",
        /// As found.
        pub status: MachinePoolStatus = "status",
    }

    /// What of `spec` is read.
    pub struct MachinePoolSpec {
        /// No updates while true.
        pub paused: bool = "paused",
        /// How many machines may be updated at once: a number or a percentage.
        pub max_unavailable: Option<Value> = "maxUnavailable",
        /// What its nodes are to be.
        pub configuration: PoolConfiguration = "configuration",
    }

    /// A rendered configuration.
    pub struct PoolConfiguration {
        /// Such as `rendered-worker-` and a hash.
        pub name: String = "name",
    }

    /// What of `status` is read.
    pub struct MachinePoolStatus {
        /// Its machines.
        pub machine_count: Option<i64> = "machineCount",
        /// Machines that are ready and updated.
        pub ready_machine_count: Option<i64> = "readyMachineCount",
        /// Machines that have the pool's configuration.
        pub updated_machine_count: Option<i64> = "updatedMachineCount",
        /// Machines on which an update failed.
        pub degraded_machine_count: Option<i64> = "degradedMachineCount",
        /// Machines that are not ready or take no pods.
        pub unavailable_machine_count: Option<i64> = "unavailableMachineCount",
        /// `Updating`, `Degraded` and so on.
        pub conditions: Vec<Condition> = "conditions",
    }

    /// Settings of the container runtime for the pools that its selector matches.
    pub struct ContainerRuntimeConfig {
        /// As configured.
        pub spec: ContainerRuntimeConfigSpec = "spec",
    }

    /// What of `spec` is read.
    pub struct ContainerRuntimeConfigSpec {
        /// The settings.
        pub settings: ContainerRuntimeSettings = "containerRuntimeConfig",
        /// Which pools; absent selects all.
        pub pools: Selector = "machineConfigPoolSelector",
    }

    /// What of the settings is read.
    pub struct ContainerRuntimeSettings {
        /// Size limit of a container's root file system: a quantity or a number.
        pub overlay_size: Option<Value> = "overlaySize",
    }

    /// A label selector.
    pub struct Selector {
        /// Labels that must be equal.
        pub match_labels: Labels = "matchLabels",
        /// Further requirements.
        pub match_expressions: Vec<Requirement> = "matchExpressions",
    }

    /// A requirement of a selector.
    pub struct Requirement {
        /// The label.
        pub key: String = "key",
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        pub operator: String = "operator",
        /// For `In` and `NotIn`.
        pub values: Vec<String> = "values",
    }
}

impl Object for MachinePool {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Selector {
    /// Whether the labels fulfil every requirement; none selects everything.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .match_expressions
                .iter()
                .all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            // Kubernetes refuses other operators, so such a selector never takes effect.
            _ => false,
        }
    }
}

json_documents!(Node, MachinePool, ContainerRuntimeConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::documents::field::from_json;
    use proptest::prelude::*;

    fn labels(keys: &[String]) -> Node {
        let mut node = Node::default();
        node.metadata.labels = keys
            .iter()
            .map(|key| (key.clone(), String::new()))
            .collect();
        node
    }

    #[test]
    fn a_selector_needs_every_requirement() {
        let pool: Labels = [("pool", "worker"), ("zone", "a")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        for (selector, expected) in [
            ("{}", true),
            (r#"{"matchLabels": {"pool": "worker"}}"#, true),
            (r#"{"matchLabels": {"pool": "worker", "zone": "b"}}"#, false),
            (
                r#"{"matchExpressions": [{"key": "pool", "operator": "In", "values": ["worker"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["worker"]}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["x"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions": [{"key": "zone", "operator": "?"}]}"#,
                false,
            ),
        ] {
            let selector: Selector = from_json(selector.as_bytes()).unwrap().unwrap();
            assert_eq!(selector.matches(&pool), expected, "{selector:?}");
        }
    }

    proptest! {
        #[test]
        fn a_node_is_master_exactly_when_a_control_plane_label_is_there(
            roles in proptest::collection::vec("master|control-plane|worker|infra|[a-z]{0,3}", 0..4),
        ) {
            let keys: Vec<_> = roles.iter().map(|role| format!("{ROLE_PREFIX}{role}")).collect();
            let node = labels(&keys);
            let master = roles.iter().any(|role| role == "master" || role == "control-plane");
            prop_assert_eq!(node.role(), if master { "master" } else { "worker" });
            let sorted: BTreeSet<_> = roles.iter().map(String::as_str).filter(|r| !r.is_empty()).collect();
            prop_assert_eq!(node.roles(), sorted);
        }
    }
}
