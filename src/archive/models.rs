//! The models: which files of an archive hold what, and how a rule gets at it.
//!
//! One table. An entry says the model's name in code, the accessor that rules call, whether the
//! first readable file counts (`one`) or all do (`many`), the type its files are parsed into, the
//! component by which skips name it, and its globs: those of today and those of older archives.
//! `*` does not cross `/`. A glob that ends in `.json` also stands for the name without it, as
//! archives before 4.6 have it.
//!
//! A file is parsed once, into one type. Where globs of several models meet on a file, they name
//! the same type and tell their documents apart in [`Document::belongs`](super::documents::Document::belongs); a model of another
//! type leaves the file to the one whose glob is of today.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use super::Archive;
use super::documents::{
    ApiRequestCounts, ApiServer, Authentication, CephCluster, ClusterId, ClusterRole,
    ClusterRoleBinding, ClusterVersion, ConnectivityChecks, ContainerRuntimeConfig, DvoMetrics,
    Events, FeatureGate, Found, GathersReport, HostSubnet, Image, Infrastructure, IngressCerts,
    InstallConfig, InstallPlans, Machine, MachinePool, MachineSet, Monitoring, MonitoringConfig,
    NetNamespaces, Network, Node, OAuth, OlmOperators, Operator, OverlappingUids, Pod,
    PodDisruptionBudget, PodLog, Proxy, PspNames, RevisionedObjects, SecurityContextConstraint,
    SigningRequest, SilencedAlerts, StatefulSet, StorageClass, SupportSecret, Tsdb, Unread,
    UnusedMachineConfigs, WebhookConfiguration,
};

/// What the table says of a model.
#[derive(Debug)]
pub struct Spec {
    /// The name by which a skip says that it is missing.
    pub component: &'static str,
    /// Globs of today's archives, best first.
    pub now: &'static [&'static str],
    /// Globs of older archives, tried after those.
    pub before: &'static [&'static str],
}

macro_rules! accessor {
    (one $(#[$doc:meta])* $model:ident, $accessor:ident, $kind:ty) => {
        $(#[$doc])*
        ///
        /// The first readable file, newest path first.
        pub fn $accessor(&self) -> Option<&$kind> {
            self.found(Model::$model).next().map(Found::document)
        }
    };
    (many $(#[$doc:meta])* $model:ident, $accessor:ident, $kind:ty) => {
        $(#[$doc])*
        ///
        /// Every readable file, by name.
        pub fn $accessor(&self) -> Vec<Found<'_, $kind>> {
            self.found(Model::$model).collect()
        }
    };
}

macro_rules! models {
    ($(
        $(#[$doc:meta])*
        $model:ident, $accessor:ident: $count:ident $kind:ty = $component:literal {
            now: [$($now:literal),* $(,)?],
            before: [$($before:literal),* $(,)?] $(,)?
        }
    )*) => {
        /// A kind of document that rules require or read.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Model { $($(#[$doc])* $model,)* }

        impl Model {
            /// Every model, in the order of the table.
            pub const ALL: &'static [Model] = &[$(Model::$model,)*];

            /// What the table says of it.
            pub fn spec(self) -> &'static Spec {
                match self {
                    $(Model::$model => &Spec {
                        component: $component,
                        now: &[$($now),*],
                        before: &[$($before),*],
                    },)*
                }
            }

            /// Whether at least one of its files can be read.
            pub(crate) fn is_present(self, archive: &Archive) -> bool {
                match self {
                    $(Model::$model => archive.found::<$kind>(self).next().is_some(),)*
                }
            }

            /// Whether one file counts, and not all.
            pub(super) fn is_one(self) -> bool {
                match self { $(Model::$model => matches!(stringify!($count).as_bytes(), b"one"),)* }
            }

            fn document_type(self) -> TypeId {
                match self { $(Model::$model => TypeId::of::<$kind>(),)* }
            }
        }

        impl Archive {
            $(accessor! { $count $(#[$doc])* $model, $accessor, $kind })*
        }
    };
}

models! {
    /// The text of `config/id`.
    ClusterId, cluster_id: one ClusterId = "ccx_ocp_core.models.cluster_id.ClusterId" {
        now: ["config/id"],
        before: [],
    }

    /// The ClusterVersion object.
    ClusterVersion, cluster_version: one ClusterVersion = "ccx_ocp_core.models.version.ClusterVersion" {
        now: ["config/version.json"],
        before: [],
    }

    /// ClusterOperator objects.
    Operators, operators: many Operator = "ccx_ocp_core.models.operators.Operators" {
        now: ["config/clusteroperator/*.json"],
        before: [],
    }

    /// Configuration resources of operators, `{group}/{kind}/{name}`.
    OperatorResources, operator_resources: many Operator = "ccx_ocp_core.models.operators.OperatorResources" {
        now: [
            "config/clusteroperator/*operator.openshift.io/*/*.json",
            "config/clusteroperator/*operator.openshift.io/*/*/*.json",
        ],
        before: ["config/clusteroperator/*-*.json"],
    }

    /// Node objects; label values are anonymised, except roles and region.
    Nodes, nodes: many Node = "ccx_ocp_core.models.nodes.Nodes" {
        now: ["config/node/*.json"],
        before: [],
    }

    /// MachineConfigPool objects.
    MachinePool, machine_pools: many MachinePool = "ccx_ocp_core.models.machine_pools.MachinePool" {
        now: ["config/machineconfigpools/*.json"],
        before: [],
    }

    /// Pod objects of unhealthy operators and the like: absence proves nothing.
    Pods, pods: many Pod = "ccx_ocp_core.models.pods.Pods" {
        now: ["config/pod/*/*.json", "conditional/namespaces/*/pods/*/*.json"],
        before: [],
    }

    /// Container logs of pods, text.
    PodLogs, pod_logs: many PodLog = "ccx_ocp_core.models.logs.PodLogs" {
        now: [
            "namespaces/*/pods/*/*/current.log",
            "namespaces/*/pods/*/*/previous.log",
            "config/pod/*/logs/*/*_current.log",
            "config/pod/*/logs/*/*_previous.log",
            "conditional/namespaces/*/pods/*/containers/*/logs/last-*-lines.log",
        ],
        before: ["config/pod/*/logs/*/errors.log", "config/pod/*/logs/*/messages.log"],
    }

    /// Compacted events, a file for each namespace.
    Events, events: many Events = "ccx_ocp_core.models.events.Events" {
        now: ["events/*.json"],
        before: [],
    }

    /// Certificate signing requests with Go field names (`ObjectMeta`).
    Certificates, certificates: many SigningRequest = "ccx_ocp_core.models.certificates.Certificates" {
        now: ["config/certificatesigningrequests/*.json"],
        before: [],
    }

    /// The cluster-wide proxy; URLs are anonymised.
    Proxy, proxy: one Proxy = "ccx_ocp_core.models.proxy.Proxy" {
        now: ["config/proxy.json"],
        before: [],
    }

    /// Platform and topology.
    Infrastructure, infrastructure: one Infrastructure = "ccx_ocp_core.models.infrastructure.Infrastructure" {
        now: ["config/infrastructure.json"],
        before: [],
    }

    /// The cluster network.
    Network, network: one Network = "ccx_ocp_core.models.network.Network" {
        now: ["config/network.json"],
        before: [],
    }

    /// The authentication configuration.
    Authentication, authentication: one Authentication = "ccx_ocp_core.models.authentication.Authentication" {
        now: ["config/authentication.json"],
        before: [],
    }

    /// Identity providers.
    OAuth, oauth: one OAuth = "ccx_ocp_core.models.oauth.OAuth" {
        now: ["config/oauth.json"],
        before: [],
    }

    /// The feature set.
    FeatureGate, feature_gate: one FeatureGate = "ccx_ocp_core.models.feature_gate.FeatureGate" {
        now: ["config/featuregate.json"],
        before: [],
    }

    /// Audit and encryption of the API server.
    ApiServer, api_server: one ApiServer = "ccx_ocp_core.models.apiserver.APIServer" {
        now: ["config/apiserver.json"],
        before: [],
    }

    /// Allowed and insecure registries.
    Image, image: one Image = "ccx_ocp_core.models.image.Image" {
        now: ["config/image.json"],
        before: [],
    }

    /// Whether control plane nodes take workloads.
    Scheduler, scheduler: one Unread = "ccx_ocp_core.models.scheduler.Scheduler" {
        now: ["config/schedulers/cluster.json"],
        before: [],
    }

    /// The image registry and its storage.
    ImageRegistryConfig, image_registry_config: one Operator = "ccx_ocp_core.models.image_registry.ImageRegistryConfig" {
        now: [
            "config/clusteroperator/imageregistry.operator.openshift.io/config/cluster.json",
        ],
        before: ["config/imageregistry.json"],
    }

    /// The image pruner.
    ImagePruner, image_pruner: one Operator = "ccx_ocp_core.models.image_registry.ImagePruner" {
        now: [
            "config/clusteroperator/imageregistry.operator.openshift.io/imagepruner/cluster.json",
        ],
        before: ["config/imagepruner.json"],
    }

    /// Firing alerts: Alertmanager's list, before 4.17 also series of `config/metrics`.
    Alerts, alerts: one Monitoring = "ccx_ocp_core.models.alerts.Alerts" {
        now: ["config/alerts.json"],
        before: ["config/metrics"],
    }

    /// Silenced alerts, Alertmanager's list.
    SilencedAlerts, silenced_alerts: one SilencedAlerts = "ccx_ocp_core.models.alerts.SilencedAlerts" {
        now: ["config/silenced_alerts.json"],
        before: [],
    }

    /// Selected metrics in Prometheus' text form.
    Metrics, metrics: one Monitoring = "ccx_ocp_core.models.metrics.Metrics" {
        now: ["config/metrics"],
        before: [],
    }

    /// MachineSet objects.
    MachineSets, machine_sets: many MachineSet = "ccx_ocp_core.models.machine_sets.MachineSets" {
        now: ["machinesets/*/*.json", "machinesets/*.json"],
        before: [],
    }

    /// Machine objects.
    Machines, machines: many Machine = "ccx_ocp_core.models.machines.Machines" {
        now: ["config/machines/*/*.json", "config/machines/*.json"],
        before: [],
    }

    /// ContainerRuntimeConfig objects.
    ContainerRuntimeConfigs, container_runtime_configs: many ContainerRuntimeConfig = "ccx_ocp_core.models.container_runtime_configs.ContainerRuntimeConfigs" {
        now: ["config/containerruntimeconfigs/*.json"],
        before: [],
    }

    /// Counts of install plans.
    InstallPlans, install_plans: one InstallPlans = "ccx_ocp_core.models.install_plans.InstallPlans" {
        now: ["config/installplans.json"],
        before: ["config/install_plans", "config/install_plans.json"],
    }

    /// Operators installed by OLM.
    OlmOperators, olm_operators: one OlmOperators = "ccx_ocp_core.models.olm_operators.OLMOperators" {
        now: ["config/olm_operators.json"],
        before: [],
    }

    /// PodDisruptionBudget objects.
    Pdbs, pdbs: many PodDisruptionBudget = "ccx_ocp_core.models.pdbs.PDBs" {
        now: ["config/pdbs/*/*.json"],
        before: ["config/pdbs/*.json"],
    }

    /// Lists of namespaces that share user ids.
    OverlappingUids, overlapping_uids: one OverlappingUids = "ccx_ocp_core.models.namespaces.OverlappingUIDs" {
        now: ["config/namespaces_with_overlapping_uids.json"],
        before: [],
    }

    /// Certificates of ingress controllers.
    IngressCerts, ingress_certs: one IngressCerts = "ccx_ocp_core.models.ingress_certs.IngressCerts" {
        now: ["aggregated/ingress_controllers_certs.json"],
        before: [],
    }

    /// Requests to removed APIs; the folder is the alert's name.
    ApiRequestCounts, api_request_counts: many ApiRequestCounts = "ccx_ocp_core.models.api_requests.ApiRequestCounts" {
        now: ["conditional/alerts/*/api_request_counts.json"],
        before: [],
    }

    /// Webhook configurations; the folder says which kind.
    Webhooks, webhooks: many WebhookConfiguration = "ccx_ocp_core.models.webhooks.Webhooks" {
        now: [
            "config/validatingwebhookconfigurations/*.json",
            "config/mutatingwebhookconfigurations/*.json",
        ],
        before: [],
    }

    /// The operator's own secret, anonymised.
    SupportSecret, support_secret: one SupportSecret = "ccx_ocp_core.models.insights.SupportSecret" {
        now: ["config/secrets/openshift-config/support/data.json"],
        before: [],
    }

    /// The operator's config map.
    InsightsConfigMap, insights_config_map: one Unread = "ccx_ocp_core.models.insights.InsightsConfigMap" {
        now: ["config/configmaps/openshift-insights/insights-config/config.json"],
        before: [],
    }

    /// The cluster monitoring configuration.
    MonitoringConfig, monitoring_config: one MonitoringConfig = "ccx_ocp_core.models.monitoring.MonitoringConfig" {
        now: [
            "config/configmaps/openshift-monitoring/cluster-monitoring-config/config.json",
        ],
        before: [
            "config/configmaps/openshift-monitoring/cluster-monitoring-config/config.yaml",
        ],
    }

    /// Prometheus' StatefulSet; only in archives of 4.6.0 to 4.6.21.
    PrometheusStatefulSet, prometheus_stateful_set: one StatefulSet = "ccx_ocp_core.models.monitoring.PrometheusStatefulSet" {
        now: [],
        before: ["config/statefulsets/openshift-monitoring/prometheus-k8s.json"],
    }

    /// Statistics of Prometheus' head block.
    Tsdb, tsdb: one Tsdb = "ccx_ocp_core.models.monitoring.TSDB" {
        now: ["config/tsdb.json"],
        before: [],
    }

    /// Failed connectivity checks: reason, message, last time.
    ConnectivityChecks, connectivity_checks: one ConnectivityChecks = "ccx_ocp_core.models.network_checks.PodNetworkConnectivityChecks" {
        now: ["config/podnetworkconnectivitychecks.json"],
        before: [],
    }

    /// Counts of revisioned config maps and secrets.
    RevisionedObjects, revisioned_objects: one RevisionedObjects = "ccx_ocp_core.models.revisioned_objects.RevisionedObjects" {
        now: ["config/versioned_object_revision_counts.json"],
        before: ["config/revisioned_objects.json"],
    }

    /// A count.
    UnusedMachineConfigs, unused_machine_configs: one UnusedMachineConfigs = "ccx_ocp_core.models.machine_configs.UnusedMachineConfigs" {
        now: ["aggregated/unused_machine_configs_count.json"],
        before: [],
    }

    /// StorageClass objects.
    StorageClasses, storage_classes: many StorageClass = "ccx_ocp_core.models.storage.StorageClasses" {
        now: ["config/storage/storageclasses/*.json"],
        before: [],
    }

    /// Status of Ceph clusters, without metadata.
    CephClusters, ceph_clusters: many CephCluster = "ccx_ocp_core.models.storage.CephClusters" {
        now: ["config/storage/*/cephclusters/*.json"],
        before: ["config/storage/*/*.json"],
    }

    /// Egress IPs of namespaces (OpenShift SDN).
    NetNamespaces, net_namespaces: one NetNamespaces = "ccx_ocp_core.models.sdn.NetNamespaces" {
        now: [],
        before: ["config/netnamespaces.json", "config/netnamespaces"],
    }

    /// Egress IPs of hosts (OpenShift SDN).
    HostSubnets, host_subnets: many HostSubnet = "ccx_ocp_core.models.sdn.HostSubnets" {
        now: [],
        before: ["config/hostsubnet/*.json"],
    }

    /// Names of PodSecurityPolicy objects.
    PspNames, psp_names: one PspNames = "ccx_ocp_core.models.psp.PSPNames" {
        now: [],
        before: ["config/psp_names.json"],
    }

    /// What the Insights Operator's gatherers did.
    GathersReport, gathers_report: one GathersReport = "ccx_ocp_core.models.insights.GathersReport" {
        now: ["insights-operator/gathers.json"],
        before: [],
    }

    /// install-config, YAML text.
    InstallConfig, install_config: one InstallConfig = "ccx_ocp_core.models.install_config.InstallConfig" {
        now: ["config/configmaps/kube-system/cluster-config-v1/install-config"],
        before: ["config/configmaps/kube-system/cluster-config-v1.json"],
    }

    /// Violations that the deployment validation operator found.
    DvoMetrics, dvo_metrics: one DvoMetrics = "ccx_ocp_core.models.dvo.DVOMetrics" {
        now: ["config/dvo_metrics"],
        before: [],
    }

    /// SecurityContextConstraints objects; only on clusters with SAP workloads.
    SecurityContextConstraints, security_context_constraints: many SecurityContextConstraint = "ccx_ocp_core.models.scc.SecurityContextConstraints" {
        now: ["config/securitycontextconstraint/*.json"],
        before: [],
    }

    /// ClusterRoleBinding objects; only on clusters with SAP workloads.
    ClusterRoleBindings, cluster_role_bindings: many ClusterRoleBinding = "ccx_ocp_core.models.rbac.ClusterRoleBindings" {
        now: ["config/clusterrolebinding/*.json"],
        before: [],
    }

    /// The roles admin and edit.
    ClusterRoles, cluster_roles: many ClusterRole = "ccx_ocp_core.models.rbac.ClusterRoles" {
        now: ["cluster-scoped-resources/rbac.authorization.k8s.io/clusterroles/*.json"],
        before: [],
    }
}

impl Spec {
    /// Every glob, best first: today's, today's without `.json`, older ones.
    pub fn globs(&self) -> Vec<&'static str> {
        let bare = |globs: &'static [&'static str]| {
            globs.iter().filter_map(|glob| glob.strip_suffix(".json"))
        };
        let all = self.now.iter().copied().chain(bare(self.now));
        all.chain(self.before.iter().copied())
            .chain(bare(self.before))
            .collect()
    }
}

/// A file's place in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Position of the glob that it matches in [`Spec::globs`]: lower is newer.
    pub(super) rank: usize,
    /// The model.
    pub(super) model: Model,
}

/// Which models a file belongs to: all of one document type.
pub(super) fn classify(path: &str) -> Vec<Place> {
    static GLOBS: LazyLock<(GlobSet, Vec<Place>)> = LazyLock::new(|| {
        let mut set = GlobSetBuilder::new();
        let mut places = Vec::new();
        for &model in Model::ALL {
            for (rank, glob) in model.spec().globs().into_iter().enumerate() {
                set.add(compile(glob));
                places.push(Place { rank, model });
            }
        }
        (
            set.build().expect("the table's globs fit into one set"),
            places,
        )
    });
    let (set, places) = &*GLOBS;

    let mut best = BTreeMap::new();
    for position in set.matches(path) {
        let Place { rank, model } = places[position];
        let entry = best.entry(model).or_insert(rank);
        *entry = rank.min(*entry);
    }
    let mut found: Vec<Place> = best
        .into_iter()
        .map(|(model, rank)| Place { rank, model })
        .collect();
    found.sort();
    if let Some(owner) = found.first().map(|place| place.model.document_type()) {
        found.retain(|place| place.model.document_type() == owner);
    }
    found
}

/// A glob of the table, whose `*` does not cross `/`.
fn compile(glob: &str) -> Glob {
    GlobBuilder::new(glob)
        .literal_separator(true)
        .build()
        .expect("the table holds valid globs")
}
