//! Install plans of the operator life-cycle manager, counted by the Insights Operator.

use super::field::object;
use super::json_documents;

object! {
    /// Counts of install plans.
    pub struct InstallPlans {
        /// Those with the same namespace and service version, the most frequent only.
        pub items: Vec<InstallPlanGroup> = "items",
        /// Sums.
        pub stats: InstallPlanStats = "stats",
    }

    /// Install plans of one service version in one namespace.
    pub struct InstallPlanGroup {
        /// The namespace.
        pub namespace: String = "ns",
        /// What their names begin with.
        pub name: String = "name",
        /// Name of the service version.
        pub csv: String = "csv",
        /// How many there are.
        pub count: Option<i64> = "count",
    }

    /// What of `stats` is read.
    pub struct InstallPlanStats {
        /// All install plans of the cluster.
        pub total: i64 = "TOTAL_COUNT",
    }
}

json_documents!(InstallPlans);
