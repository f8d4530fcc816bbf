//! Documents of the cluster as a whole: version, identity, proxy, network, infrastructure.

use uuid::Uuid;

use super::field::object;
use super::version::Version;
use super::yaml::{self, Node};
use super::{AnyObject, Condition, Damage, Document, Source, json_documents};

/// Length of a UUID with hyphens: all that is read of `config/id`.
const UUID_LENGTH: u64 = 36;

/// The cluster's identity.
#[derive(Debug, Clone, Copy)]
pub struct ClusterId(pub Uuid);

impl Document for ClusterId {
    fn read(source: Source<'_>) -> Result<ClusterId, Damage> {
        let head = source.head(UUID_LENGTH)?;
        // Only the form with hyphens has this length.
        Uuid::try_parse_ascii(&head)
            .ok()
            .filter(|_| head.len() as u64 == UUID_LENGTH)
            .map(ClusterId)
            .ok_or(Damage::Text)
    }
}

object! {
    /// The ClusterVersion object.
    pub struct ClusterVersion {
        /// What is wanted.
        pub spec: ClusterVersionSpec = "spec",
        /// What is.
        pub status: ClusterVersionStatus = "status",
    }

    /// What of `spec` is read.
    pub struct ClusterVersionSpec {
        /// The cluster's identity.
        pub cluster_id: String = "clusterID",
        /// Update channel, such as `stable-4.7`.
        pub channel: String = "channel",
    }

    /// What of `status` is read.
    pub struct ClusterVersionStatus {
        /// The version that the cluster works towards.
        pub desired: Release = "desired",
        /// Updates, newest first.
        pub history: Vec<Update> = "history",
        /// `Progressing`, `Failing` and so on.
        pub conditions: Vec<Condition> = "conditions",
    }

    /// A release.
    pub struct Release {
        /// Its version.
        pub version: String = "version",
    }

    /// An entry of the history.
    pub struct Update {
        /// `Completed` or `Partial`.
        pub state: String = "state",
        /// The version updated to.
        pub version: String = "version",
        /// RFC 3339.
        pub started_time: String = "startedTime",
        /// RFC 3339.
        pub completion_time: Option<String> = "completionTime",
        /// Whether the release image's signature was verified.
        pub verified: Option<bool> = "verified",
    }
}

impl ClusterVersion {
    /// The version that the cluster runs: the newest completed update, else the desired one.
    /// Empty when neither is known.
    pub fn current(&self) -> &str {
        self.status
            .history
            .iter()
            .find(|update| update.state == "Completed" && !update.version.is_empty())
            .map_or(&self.status.desired.version, |update| &update.version)
    }

    /// The same, to compare.
    pub fn current_version(&self) -> Option<Version> {
        Version::parse(self.current())
    }

    /// `X.Y` of the current version, empty when that is not known.
    pub fn branch(&self) -> String {
        self.current_version()
            .map(|version| version.branch().to_string())
            .unwrap_or_default()
    }
}

object! {
    /// The cluster-wide proxy.
    pub struct Proxy {
        /// As configured.
        pub spec: ProxyUrls = "spec",
        /// As applied.
        pub status: ProxyUrls = "status",
    }

    /// Proxies by scheme, empty when not set; anonymised.
    pub struct ProxyUrls {
        /// For http.
        pub http_proxy: String = "httpProxy",
        /// For https.
        pub https_proxy: String = "httpsProxy",
    }
}

impl Proxy {
    /// Whether a proxy is set at all.
    pub fn is_set(&self) -> bool {
        [&self.spec, &self.status]
            .iter()
            .any(|urls| !urls.http_proxy.is_empty() || !urls.https_proxy.is_empty())
    }
}

object! {
    /// The cluster's infrastructure.
    pub struct Infrastructure {
        /// As found.
        pub status: InfrastructureStatus = "status",
    }

    /// What of `status` is read.
    pub struct InfrastructureStatus {
        /// `HighlyAvailable`, `SingleReplica`, `External` and so on; empty before 4.8.
        pub control_plane_topology: String = "controlPlaneTopology",
        /// Platform as written by older versions.
        pub platform: String = "platform",
        /// Platform.
        pub platform_status: PlatformStatus = "platformStatus",
    }

    /// What of `platformStatus` is read.
    pub struct PlatformStatus {
        /// `AWS`, `VSphere`, `None` and so on.
        pub kind: String = "type",
        /// What is known of Amazon's cloud.
        pub aws: Option<Platform> = "aws",
        /// What is known of Google's cloud.
        pub gcp: Option<Platform> = "gcp",
        /// What is known of IBM's Power cloud.
        pub power_vs: Option<Platform> = "powervs",
        /// What is known of Alibaba's cloud.
        pub alibaba_cloud: Option<Platform> = "alibabaCloud",
    }

    /// What of a platform's own block is read.
    pub struct Platform {
        /// Where the cluster runs.
        pub region: Option<String> = "region",
    }

    /// The cluster network.
    pub struct Network {
        /// As configured.
        pub spec: NetworkConfig = "spec",
        /// As applied.
        pub status: NetworkConfig = "status",
    }

    /// What of `spec` and `status` is read.
    pub struct NetworkConfig {
        /// `OpenShiftSDN`, `OVNKubernetes` and so on.
        pub network_type: String = "networkType",
        /// Ranges out of which pods get their addresses.
        pub cluster_network: Vec<ClusterNetwork> = "clusterNetwork",
    }

    /// A range of addresses for pods.
    pub struct ClusterNetwork {
        /// The range, such as `10.128.0.0/14`.
        pub cidr: String = "cidr",
        /// Length of the prefix that each node gets, in bits.
        pub host_prefix: Option<i64> = "hostPrefix",
    }
}

impl Infrastructure {
    /// Platform, empty when not known.
    pub fn platform(&self) -> &str {
        match self.status.platform_status.kind.as_str() {
            "" => &self.status.platform,
            kind => kind,
        }
    }

    /// Where the platform runs the cluster; most platforms know no regions.
    pub fn region(&self) -> Option<&str> {
        let status = &self.status.platform_status;
        [
            &status.aws,
            &status.gcp,
            &status.power_vs,
            &status.alibaba_cloud,
        ]
        .into_iter()
        .flatten()
        .find_map(|platform| platform.region.as_deref())
    }
}

impl Network {
    /// The plug-in in use, else the configured one; empty when neither is known.
    pub fn network_type(&self) -> &str {
        match self.status.network_type.as_str() {
            "" => &self.spec.network_type,
            applied => applied,
        }
    }
}

/// Names of PodSecurityPolicy objects.
#[derive(Debug)]
pub struct PspNames(pub Vec<String>);

impl Document for PspNames {
    fn read(source: Source<'_>) -> Result<PspNames, Damage> {
        source.json().map(PspNames)
    }
}

/// What the installer was told.
#[derive(Debug)]
pub struct InstallConfig {
    /// Number of control plane nodes.
    pub control_plane_replicas: Option<i64>,
}

impl Document for InstallConfig {
    fn read(source: Source<'_>) -> Result<InstallConfig, Damage> {
        let text = source.text()?;
        let replicas = match yaml::lookup(&text, &["controlPlane", "replicas"]) {
            Some(Node::Scalar(number)) => number.parse().ok(),
            _ => None,
        };
        Ok(InstallConfig {
            control_plane_replicas: replicas,
        })
    }
}

/// The cluster monitoring configuration, as far as storage goes.
#[derive(Debug)]
pub struct MonitoringConfig {
    /// Whether Prometheus has a template for a volume claim.
    pub prometheus_has_volume: bool,
}

object! {
    /// The configuration as JSON.
    pub struct MonitoringConfigFile {
        /// Prometheus of the platform.
        pub prometheus: PrometheusConfig = "prometheusK8s",
    }

    /// What of `prometheusK8s` is read.
    pub struct PrometheusConfig {
        /// The template; its content does not matter.
        pub volume_claim_template: Option<AnyObject> = "volumeClaimTemplate",
    }
}

impl Document for MonitoringConfig {
    fn read(source: Source<'_>) -> Result<MonitoringConfig, Damage> {
        let prometheus_has_volume = if source.path().ends_with(".yaml") {
            yaml::lookup(&source.text()?, &["prometheusK8s", "volumeClaimTemplate"]).is_some()
        } else {
            let file: MonitoringConfigFile = source.json()?;
            file.prometheus.volume_claim_template.is_some()
        };
        Ok(MonitoringConfig {
            prometheus_has_volume,
        })
    }
}

object! {
    /// A StatefulSet.
    pub struct StatefulSet {
        /// As configured.
        pub spec: StatefulSetSpec = "spec",
    }

    /// What of `spec` is read.
    pub struct StatefulSetSpec {
        /// Templates of volume claims; their content does not matter.
        pub volume_claim_templates: Vec<AnyObject> = "volumeClaimTemplates",
    }
}

json_documents!(ClusterVersion, Proxy, Infrastructure, Network, StatefulSet);
