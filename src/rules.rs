//! The registered rules: what a rule is, what it may answer, and the list of all.
//!
//! A rule is a file below this one with a `RULE` and a `check`, a `mod` line and an entry in
//! [`RULES`]. It reads documents of the archive and nothing else: no clock, network,
//! environment, file path, log or metric. Same archive, same answer, on any machine. Components,
//! keys and field names are downstream's contract: copied, never tidied.

pub mod details;
pub mod life_cycle;

// Names public, details public.
mod bug_1766907;
mod bug_1821905;
mod cluster_wide_proxy_auth_check;
mod container_max_root_partition_size;
mod control_plane_replicas;
mod empty_prometheus_db_volume;
mod image_registry_multiple_storage_types;
mod machineconfig_stuck_by_node_taints;
mod master_defined_as_machinesets;
mod mcp_set_to_pause;
mod node_installer_degraded;
mod nodes_kubelet_version_check;
mod nodes_requirements_check;
mod ocp_version_end_of_life;
mod operator_unmanaged;
mod psp_installed;
mod samples_op_failed_image_import_check;
mod tutorial_rule;
mod unsupported_cni_plugin;
mod vsphere_problem_detector_controller_syncerror;
// Names public, key or details partly ours.
mod certificates_expired;
mod certificates_not_approved;
mod etcd_low_backend_performance;
mod haproxy_exporter_server_threshold_exceeded;
mod high_severity_alerts;
mod image_registry_no_volume_set_check;
mod image_registry_removed_state_reports_degraded;
mod insights_operator_degraded_uhc_authentication_failed;
mod io_415_change_config_location;
mod lib_bucket_provisioner_check;
mod machine_pool_check;
mod machineconfigpool_maxunavailable;
mod master_nodes_are_schedulable;
mod nodes_container_runtime_version_check;
mod nodes_not_ready;
mod nodes_pressure_check;
mod openshift_sdn_egress_ip_in_no_hostsubnet;
mod operators_check;
mod pods_check;
mod pods_check_containers;
mod pods_crash_loop_check;
mod same_egress_ip_in_multiple_netnamespaces;
mod version_check;
mod version_forced;
mod vsphere_upi_machine_is_in_phase;
mod webhook_timeout_is_larger_than_default;
// Ours, evaluable on real archives.
mod alertmanager_receivers_missing;
mod audit_profile_none;
mod ceph_cluster_not_ready;
mod cluster_not_upgradeable;
mod cluster_version_failing;
mod clusterroles_admin_edit_modified;
mod critical_alerts_silenced;
mod default_storage_class_problem;
mod etcd_alerts;
mod etcd_encryption_off;
mod feature_set_blocks_updates;
mod identity_provider_missing;
mod image_pruner_suspended;
mod image_registry_ephemeral_storage;
mod ingress_certificate_expiring;
mod insecure_registries_configured;
mod insights_gatherers_failed;
mod install_plans_buildup;
mod kubelet_version_skew;
mod machine_api_warning_events;
mod machines_not_running;
mod machinesets_replicas_missing;
mod namespaces_overlapping_uids;
mod node_machine_config_degraded;
mod nodes_unschedulable;
mod olm_operators_not_succeeded;
mod openshift_sdn_deprecated;
mod operator_log_level_raised;
mod pdb_blocks_drain;
mod pod_network_connectivity_failed;
mod prometheus_high_cardinality;
mod removed_apis_in_use;
mod revisioned_objects_buildup;
mod scc_broad_group_access;
mod unsupported_config_overrides;
mod unused_machine_configs;
mod update_stuck;
mod updates_not_retrieved;
mod webhook_fail_policy_wide_scope;
// Info.
mod certificates_expiring_soon_info;
mod cluster_id;
mod cluster_status_overview;
mod machine_pool_info;
mod version_info;
// Workloads.
mod workloads;

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use self::life_cycle::LifeCycle;
use crate::archive::{Archive, Model};

/// Every rule. The order means nothing: reports are sorted.
pub static RULES: &[Rule] = &[
    // Names public, details public.
    bug_1766907::RULE,
    bug_1821905::RULE,
    cluster_wide_proxy_auth_check::RULE,
    container_max_root_partition_size::RULE,
    control_plane_replicas::RULE,
    empty_prometheus_db_volume::RULE,
    image_registry_multiple_storage_types::RULE,
    machineconfig_stuck_by_node_taints::RULE,
    master_defined_as_machinesets::RULE,
    mcp_set_to_pause::RULE,
    node_installer_degraded::RULE,
    nodes_kubelet_version_check::RULE,
    nodes_requirements_check::RULE,
    ocp_version_end_of_life::RULE,
    operator_unmanaged::RULE,
    psp_installed::RULE,
    samples_op_failed_image_import_check::RULE,
    tutorial_rule::RULE,
    unsupported_cni_plugin::RULE,
    vsphere_problem_detector_controller_syncerror::RULE,
    // Names public, key or details partly ours.
    certificates_expired::RULE,
    certificates_not_approved::RULE,
    etcd_low_backend_performance::RULE,
    haproxy_exporter_server_threshold_exceeded::RULE,
    high_severity_alerts::RULE,
    image_registry_no_volume_set_check::RULE,
    image_registry_removed_state_reports_degraded::RULE,
    insights_operator_degraded_uhc_authentication_failed::RULE,
    io_415_change_config_location::RULE,
    lib_bucket_provisioner_check::RULE,
    machine_pool_check::RULE,
    machineconfigpool_maxunavailable::RULE,
    master_nodes_are_schedulable::RULE,
    nodes_container_runtime_version_check::RULE,
    nodes_not_ready::RULE,
    nodes_pressure_check::RULE,
    openshift_sdn_egress_ip_in_no_hostsubnet::RULE,
    operators_check::RULE,
    pods_check::RULE,
    pods_check_containers::RULE,
    pods_crash_loop_check::RULE,
    same_egress_ip_in_multiple_netnamespaces::RULE,
    version_check::RULE,
    version_forced::RULE,
    vsphere_upi_machine_is_in_phase::RULE,
    webhook_timeout_is_larger_than_default::RULE,
    // Ours, evaluable on real archives.
    alertmanager_receivers_missing::RULE,
    audit_profile_none::RULE,
    ceph_cluster_not_ready::RULE,
    cluster_not_upgradeable::RULE,
    cluster_version_failing::RULE,
    clusterroles_admin_edit_modified::RULE,
    critical_alerts_silenced::RULE,
    default_storage_class_problem::RULE,
    etcd_alerts::RULE,
    etcd_encryption_off::RULE,
    feature_set_blocks_updates::RULE,
    identity_provider_missing::RULE,
    image_pruner_suspended::RULE,
    image_registry_ephemeral_storage::RULE,
    ingress_certificate_expiring::RULE,
    insecure_registries_configured::RULE,
    insights_gatherers_failed::RULE,
    kubelet_version_skew::RULE,
    machine_api_warning_events::RULE,
    machines_not_running::RULE,
    machinesets_replicas_missing::RULE,
    install_plans_buildup::RULE,
    namespaces_overlapping_uids::RULE,
    node_machine_config_degraded::RULE,
    nodes_unschedulable::RULE,
    olm_operators_not_succeeded::RULE,
    openshift_sdn_deprecated::RULE,
    operator_log_level_raised::RULE,
    pdb_blocks_drain::RULE,
    pod_network_connectivity_failed::RULE,
    prometheus_high_cardinality::RULE,
    removed_apis_in_use::RULE,
    revisioned_objects_buildup::RULE,
    scc_broad_group_access::RULE,
    unsupported_config_overrides::RULE,
    unused_machine_configs::RULE,
    update_stuck::RULE,
    updates_not_retrieved::RULE,
    webhook_fail_policy_wide_scope::RULE,
    // Info.
    certificates_expiring_soon_info::RULE,
    cluster_id::RULE,
    cluster_status_overview::RULE,
    machine_pool_info::RULE,
    version_info::RULE,
    // Workloads.
    workloads::AN_ISSUE_POD,
    workloads::BAD_REQUIREMENTS,
    workloads::DNSCONFIG_OPTIONS,
    workloads::EXCLUDED_POD,
    workloads::HOST_IPC,
    workloads::HOST_NETWORK,
    workloads::HOST_PID,
    workloads::MINIMUM_THREE_REPLICAS,
    workloads::NON_ISOLATED_POD,
    workloads::NO_ANTI_AFFINITY,
    workloads::NO_NODE_AFFINITY,
    workloads::PDB_MAX_UNAVAILABLE,
    workloads::PDB_MIN_AVAILABLE,
    workloads::PRIVILEGED_CONTAINER,
    workloads::PRIVILEGE_ESCALATION_CONTAINER,
    workloads::RUN_AS_NON_ROOT,
    workloads::UNSAFE_SYSCTLS,
    workloads::UNSET_REQUIREMENTS,
];

/// The condition of rules that are for some versions only, as skips name it.
pub(crate) const AFFECTED_VERSION: &str =
    "ccx_ocp_core.utils.affected_version.ensure_is_affected_condition.<locals>.version_condition";

/// One rule: what it is called, what it reads, and its function.
#[derive(Debug)]
pub struct Rule {
    /// Full name of the public function that it stands for.
    pub component: &'static str,
    /// One sentence for people: what it detects.
    pub detects: &'static str,
    /// Every key that it can answer with.
    pub keys: &'static [Key],
    /// In which profile it runs.
    pub profile: RuleProfile,
    /// Whether it runs without being asked for.
    pub enabled_by_default: bool,
    /// From 1 (low) to 4 (critical), where it is known.
    pub total_risk: Option<u8>,
    /// Tags in the report.
    pub tags: &'static [&'static str],
    /// Links in the report: group and URLs.
    pub links: &'static [(&'static str, &'static [&'static str])],
    /// The documents that it reads.
    pub requires: Requires,
    /// The rule itself.
    pub check: fn(&Context<'_>) -> RuleResult,
}

/// The documents that a rule reads.
#[derive(Debug)]
pub struct Requires {
    /// Needed: the rule is skipped when one is missing.
    pub all: &'static [Model],
    /// Of each of these groups at least one is needed.
    pub any: &'static [&'static [Model]],
    /// Read where they are there.
    pub optional: &'static [Model],
}

impl Requires {
    /// Nothing: to start from in a rule that names only some of the fields.
    pub const NOTHING: Requires = Requires {
        all: &[],
        any: &[],
        optional: &[],
    };

    /// Every model in any of the three roles.
    pub fn models(&self) -> impl Iterator<Item = Model> {
        let any = self.any.iter().flat_map(|group| group.iter());
        self.all.iter().chain(any).chain(self.optional).copied()
    }
}

/// A key that a rule answers with.
#[derive(Debug)]
pub struct Key {
    /// In capitals, as downstream knows it.
    pub key: &'static str,
    /// What the answer is.
    pub kind: KeyKind,
    /// When it is this key, for rules with several; else empty.
    pub when: &'static str,
    /// Whether its answers go without the rule's tags and links.
    pub is_bare: bool,
}

impl Key {
    /// The only key of a rule that finds faults.
    pub const fn fail(key: &'static str) -> Key {
        Key {
            key,
            kind: KeyKind::Fail,
            when: "",
            is_bare: false,
        }
    }

    /// A key of an info rule.
    pub const fn info(key: &'static str) -> Key {
        Key {
            key,
            kind: KeyKind::Info,
            when: "",
            is_bare: false,
        }
    }

    /// The key that says that all is well.
    pub const fn pass(key: &'static str) -> Key {
        Key {
            key,
            kind: KeyKind::Pass,
            when: "",
            is_bare: false,
        }
    }

    /// A key of a rule for workloads.
    pub const fn recommendation(key: &'static str) -> Key {
        Key {
            key,
            kind: KeyKind::Recommendation,
            when: "",
            is_bare: false,
        }
    }

    /// The same key, with the case that it is for.
    pub const fn when(self, when: &'static str) -> Key {
        Key { when, ..self }
    }

    /// The same key, without the rule's tags and links.
    pub const fn bare(self) -> Key {
        Key {
            is_bare: true,
            ..self
        }
    }
}

/// In which list of the report an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// `reports`: a hit.
    Fail,
    /// `pass`.
    Pass,
    /// `info`.
    Info,
    /// `workload_recommendations`.
    Recommendation,
}

impl KeyKind {
    /// The word that listings use.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyKind::Fail => "fail",
            KeyKind::Pass => "pass",
            KeyKind::Info => "info",
            KeyKind::Recommendation => "recommendation",
        }
    }
}

/// In which profile a rule runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleProfile {
    /// For users of the cluster.
    External,
    /// For those who run the service.
    Internal,
    /// Both.
    Both,
    /// Neither: rules for workloads, whose answers are a message of their own.
    Workloads,
    /// None: a rule for workloads of which downstream knows the name and nobody the condition.
    Reserved,
}

impl RuleProfile {
    /// The word that listings use.
    pub fn as_str(self) -> &'static str {
        match self {
            RuleProfile::External => "external",
            RuleProfile::Internal => "internal",
            RuleProfile::Both => "both",
            RuleProfile::Workloads | RuleProfile::Reserved => "workloads",
        }
    }
}

/// For whom reports are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Users of the cluster, through the aggregator: info values are strings, nothing passes.
    #[default]
    External,
    /// Those who run the service: everything.
    Internal,
}

/// What a rule may look at.
pub struct Context<'a> {
    /// The documents.
    pub archive: &'a Archive,
    /// The moment to which "now" in a condition refers.
    pub reference_time: OffsetDateTime,
    /// Whose details are wanted.
    pub profile: Profile,
    /// What is configured for rules.
    pub settings: &'a Settings,
}

/// What those who run the program may tell rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// What the link to a cluster's dashboard begins with; the cluster's id follows.
    pub grafana_url: Option<String>,
    /// Minor versions and when their support ends.
    pub life_cycle: LifeCycle,
}

/// What a rule answers: a response, nothing to say, or (with `?`) that it does not apply.
pub type RuleResult = Result<Option<Response>, Skip>;

/// What a rule found.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// One of the rule's keys.
    pub key: &'static str,
    /// The fields of the catalogue in their order, without `type` and the key.
    pub details: Details,
    /// The workloads that a recommendation is for; empty for all other rules.
    pub workloads: Vec<Workload>,
}

impl Response {
    /// Bytes of its fields and workloads, about as they are rendered.
    pub fn size(&self) -> usize {
        let workloads = self.workloads.iter().map(|workload| {
            let texts = [&workload.namespace, &workload.namespace_uid];
            let texts = texts.into_iter();
            let texts = texts.chain([&workload.kind, &workload.name, &workload.uid]);
            texts.map(|text| text.len() + MARKS).sum::<usize>()
        });
        of_fields(&self.details) + workloads.sum::<usize>()
    }
}

/// Quotes, colons and commas around a value; for a number or a word, about itself.
const MARKS: usize = 8;

fn of_fields(fields: &Details) -> usize {
    let fields = fields.iter();
    fields
        .map(|(name, value)| name.len() + MARKS + of_value(value))
        .sum()
}

fn of_value(value: &Value) -> usize {
    MARKS
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(of_value).sum(),
            Value::Object(fields) => of_fields(fields),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

/// A workload as recommendations name it. Namespace and name are empty where only ids are known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Workload {
    /// Name of its namespace.
    pub namespace: String,
    /// Id of its namespace.
    pub namespace_uid: String,
    /// Such as `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its id.
    pub uid: String,
}

/// Fields of a response.
pub type Details = Map<String, Value>;

/// The usual end of a rule that found something.
///
/// # Errors
/// Never; it is a result so that rules can return it.
pub fn respond(key: &'static str, details: Details) -> RuleResult {
    Ok(Some(Response {
        key,
        details,
        workloads: Vec::new(),
    }))
}

/// Why a rule does not apply: components that are missing, as the report names them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Skip {
    /// Missing ones of those that are all needed.
    pub all: Vec<&'static str>,
    /// Groups of which none is there.
    pub any: Vec<Vec<&'static str>>,
}

impl Skip {
    /// A condition component does not hold.
    pub fn condition(component: &'static str) -> Skip {
        Skip {
            all: vec![component],
            any: Vec::new(),
        }
    }

    /// A model is there but not with what the rule needs.
    pub fn model(model: Model) -> Skip {
        Skip::condition(model.spec().component)
    }

    /// The models of a group are there but none decides.
    pub fn any_of(models: &[Model]) -> Skip {
        Skip {
            all: Vec::new(),
            any: vec![components(models)],
        }
    }
}

fn components(models: &[Model]) -> Vec<&'static str> {
    models.iter().map(|model| model.spec().component).collect()
}

/// As the report's `details` of a skip says it, in the form of a Python list.
impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |components: &[&str]| {
            let quoted: Vec<_> = components.iter().map(|name| format!("'{name}'")).collect();
            format!("[{}]", quoted.join(", "))
        };
        let groups: Vec<_> = self.any.iter().map(|group| list(group)).collect();
        write!(
            formatter,
            "All: {} Any: {}",
            list(&self.all),
            groups.join(" Any: ")
        )
    }
}

impl Rule {
    /// Its short name: the last but one part of the component.
    pub fn name(&self) -> &'static str {
        self.component.rsplit('.').nth(1).unwrap_or(self.component)
    }

    /// Its name and a key, by which downstream knows an answer.
    pub fn id(&self, key: &str) -> String {
        format!("{}|{key}", self.name())
    }

    /// Which of the models that it needs are missing.
    pub fn missing(&self, archive: &Archive) -> Option<Skip> {
        let absent = |model: &&Model| !model.is_present(archive);
        let all: Vec<Model> = self.requires.all.iter().filter(absent).copied().collect();
        let any: Vec<_> = self
            .requires
            .any
            .iter()
            .filter(|group| group.iter().all(|model| absent(&model)))
            .map(|group| components(group))
            .collect();
        (!all.is_empty() || !any.is_empty()).then(|| Skip {
            all: components(&all),
            any,
        })
    }

    /// Which list an answer with this key goes to.
    pub fn kind_of(&self, key: &str) -> Option<KeyKind> {
        self.key(key).map(|known| known.kind)
    }

    /// What is declared of a key.
    pub fn key(&self, key: &str) -> Option<&'static Key> {
        self.keys.iter().find(|known| known.key == key)
    }

    /// Whether it recommends something for workloads.
    pub fn is_for_workloads(&self) -> bool {
        matches!(self.profile, RuleProfile::Workloads | RuleProfile::Reserved)
    }

    /// Whether it runs in a profile.
    pub fn is_of(&self, profile: Profile) -> bool {
        match (self.profile, profile) {
            (RuleProfile::Workloads | RuleProfile::Reserved, _)
            | (RuleProfile::Internal, Profile::External) => false,
            (_, Profile::Internal) | (RuleProfile::Both | RuleProfile::External, _) => true,
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! What tests of rules share.

    use serde_json::Value;
    use time::OffsetDateTime;

    use super::{Context, Profile, Rule, Settings};
    use crate::archive::Archive;
    use crate::archive::documents::timestamp;

    /// What came of a rule: key and details, nothing, or the skip's words.
    #[derive(Debug, PartialEq)]
    pub(crate) enum Answer {
        /// Key and details as JSON text, fields in order.
        Found(&'static str, String),
        /// Nothing to say.
        Nothing,
        /// Does not apply.
        Skip(String),
    }

    /// The reference time of most tests.
    pub(crate) fn reference_time() -> OffsetDateTime {
        timestamp::parse("2021-07-13T07:16:44Z").expect("a valid time")
    }

    /// Runs a rule over files, as the engine does.
    pub(crate) fn run(rule: &Rule, files: &[(&str, &str)]) -> Answer {
        run_at(rule, files, reference_time(), Profile::External)
    }

    /// The same at another time or in another profile.
    pub(crate) fn run_at(
        rule: &Rule,
        files: &[(&str, &str)],
        reference_time: OffsetDateTime,
        profile: Profile,
    ) -> Answer {
        let archive = Archive::from_files(files.iter().copied());
        if let Some(skip) = rule.missing(&archive) {
            return Answer::Skip(skip.to_string());
        }
        match (rule.check)(&Context {
            archive: &archive,
            reference_time,
            profile,
            settings: &Settings::default(),
        }) {
            Ok(None) => Answer::Nothing,
            Ok(Some(response)) => {
                assert!(rule.kind_of(response.key).is_some(), "key is declared");
                Answer::Found(response.key, Value::Object(response.details).to_string())
            }
            Err(skip) => Answer::Skip(skip.to_string()),
        }
    }

    /// A hit with these details.
    pub(crate) fn found(key: &'static str, details: Value) -> Answer {
        Answer::Found(key, details.to_string())
    }

    /// A skip with these words.
    pub(crate) fn skip(details: &str) -> Answer {
        Answer::Skip(details.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_file_is_a_registered_rule() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rules");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .filter(|name| !["details", "life_cycle", "workloads"].contains(&name.as_str()))
            .collect();
        let registered: BTreeSet<String> = RULES
            .iter()
            .filter(|rule| !rule.is_for_workloads())
            .map(|rule| rule.name().to_lowercase())
            .collect();
        assert_eq!(files, registered);
        let components: BTreeSet<_> = RULES.iter().map(|rule| rule.component).collect();
        assert_eq!(RULES.len(), components.len(), "a rule is registered twice");
    }

    #[test]
    fn keys_and_components_have_the_form_that_downstream_accepts() {
        let word = |text: &str, ok: fn(char) -> bool| !text.is_empty() && text.chars().all(ok);
        for rule in RULES {
            let ending = if rule.is_for_workloads() {
                ".recommendation"
            } else {
                ".report"
            };
            assert!(rule.component.ends_with(ending), "{}", rule.component);
            assert!(word(rule.name(), |c| c.is_ascii_alphanumeric() || c == '_'));
            assert!(!rule.keys.is_empty() && !rule.detects.is_empty());
            assert!(rule.total_risk.is_none_or(|risk| (1..=4).contains(&risk)));
            for key in rule.keys {
                assert!(word(key.key, |c| c.is_ascii_uppercase()
                    || c.is_ascii_digit()
                    || c == '_'));
                assert!(key.key.contains('_'), "{}", key.key);
            }
        }
    }

    #[test]
    fn skips_read_like_the_original() {
        assert_eq!(Skip::condition("a.b").to_string(), "All: ['a.b'] Any: ");
        let skip = Skip {
            all: vec![],
            any: vec![vec!["x.a", "x.b"], vec!["x.c"]],
        };
        assert_eq!(skip.to_string(), "All: [] Any: ['x.a', 'x.b'] Any: ['x.c']");
        let skip = Skip {
            all: vec!["a", "b"],
            any: vec![],
        };
        assert_eq!(skip.to_string(), "All: ['a', 'b'] Any: ");
    }
}
