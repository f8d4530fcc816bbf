//! Pods.

use super::field::object;
use super::{AnyObject, Condition, Found, Metadata, Object, json_documents};

object! {
    /// A pod.
    pub struct Pod {
        /// Name and namespace.
        pub metadata: Metadata = "metadata",
        /// As configured.
        pub spec: PodSpec = "spec",
        /// As found.
        pub status: PodStatus = "status",
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
        /// Set for a volume out of a claim.
        pub persistent_volume_claim: Option<AnyObject> = "persistentVolumeClaim",
    }

    /// What of `status` is read. Texts are empty when absent.
    pub struct PodStatus {
        /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
        pub phase: String = "phase",
        /// One word.
        pub reason: String = "reason",
        /// A sentence.
        pub message: String = "message",
        /// `PodScheduled`, `Ready` and so on.
        pub conditions: Vec<Condition> = "conditions",
        /// Its containers.
        containers: Vec<ContainerStatus> = "containerStatuses",
        /// Containers that run before them.
        init_containers: Vec<ContainerStatus> = "initContainerStatuses",
    }

    /// A container.
    pub struct ContainerStatus {
        /// Its name.
        pub name: String = "name",
        /// How it is.
        pub state: ContainerState = "state",
        /// How its run before was.
        pub last_state: ContainerState = "lastState",
        /// How often it was started anew.
        pub restart_count: i64 = "restartCount",
    }

    /// A state; one at most is set.
    pub struct ContainerState {
        /// Does not run yet.
        pub waiting: Option<Waiting> = "waiting",
        /// Does not run any more.
        pub terminated: Option<Terminated> = "terminated",
    }

    /// Why a container does not run. Texts are empty when absent.
    pub struct Waiting {
        /// One word.
        pub reason: String = "reason",
        /// A sentence.
        pub message: String = "message",
    }

    /// How a container ended. Texts are empty when absent.
    pub struct Terminated {
        /// 0 is well.
        pub exit_code: Option<i64> = "exitCode",
        /// One word.
        pub reason: String = "reason",
        /// A sentence.
        pub message: String = "message",
        /// RFC 3339.
        pub finished_at: String = "finishedAt",
    }
}

impl PodStatus {
    /// Its containers, then those that run before them.
    pub fn all_containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().chain(&self.init_containers)
    }
}

impl Terminated {
    /// Whether it ended with an error.
    pub fn failed(&self) -> bool {
        self.exit_code.is_some_and(|code| code != 0)
    }
}

impl Object for Pod {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Found<'_, Pod> {
    /// Whether it belongs to OpenShift itself.
    pub fn is_of_openshift(self) -> bool {
        self.namespace().starts_with("openshift-")
    }

    /// Whether it belongs to OpenShift itself or to Kubernetes.
    pub fn is_of_platform(self) -> bool {
        self.is_of_openshift() || self.namespace().starts_with("kube-")
    }
}

json_documents!(Pod);
