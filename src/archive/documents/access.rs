//! Who may do what: security context constraints, roles and their bindings.

use super::field::object;
use super::{Metadata, Object, json_documents};

object! {
    /// A security context constraint.
    pub struct SecurityContextConstraint {
        /// Name.
        pub metadata: Metadata = "metadata",
        /// Groups that may use it.
        pub groups: Vec<String> = "groups",
    }

    /// A cluster role binding, in the form of the group `authorization.openshift.io`.
    pub struct ClusterRoleBinding {
        /// Name.
        pub metadata: Metadata = "metadata",
        /// Groups that have the role.
        pub group_names: Vec<String> = "groupNames",
        /// The role.
        pub role_ref: RoleRef = "roleRef",
    }

    /// What of `roleRef` is read.
    pub struct RoleRef {
        /// The role's name.
        pub name: String = "name",
    }

    /// A cluster role.
    pub struct ClusterRole {
        /// Name.
        pub metadata: Metadata = "metadata",
        /// What it allows.
        pub rules: Vec<PolicyRule> = "rules",
    }

    /// Verbs on resources. `*` stands for all.
    pub struct PolicyRule {
        /// Groups of the API.
        pub api_groups: Vec<String> = "apiGroups",
        /// Resources.
        pub resources: Vec<String> = "resources",
        /// Verbs.
        pub verbs: Vec<String> = "verbs",
    }
}

impl Object for SecurityContextConstraint {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Object for ClusterRoleBinding {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Object for ClusterRole {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

json_documents!(SecurityContextConstraint, ClusterRoleBinding, ClusterRole);
