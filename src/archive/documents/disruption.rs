//! Pod disruption budgets.

use serde_json::Value;

use super::field::object;
use super::{Metadata, Object, json_documents};

object! {
    /// A pod disruption budget.
    pub struct PodDisruptionBudget {
        /// Name and namespace.
        pub metadata: Metadata = "metadata",
        /// As configured.
        pub spec: PodDisruptionBudgetSpec = "spec",
        /// As found.
        pub status: PodDisruptionBudgetStatus = "status",
    }

    /// What of a budget's `spec` is read: numbers of pods, or percentages as text.
    pub struct PodDisruptionBudgetSpec {
        /// How many may be away.
        pub max_unavailable: Option<Value> = "maxUnavailable",
        /// How many must be there.
        pub min_available: Option<Value> = "minAvailable",
    }

    /// What of a budget's `status` is read. Numbers of pods, zero when absent.
    pub struct PodDisruptionBudgetStatus {
        /// How many may be evicted now.
        pub disruptions_allowed: i64 = "disruptionsAllowed",
        /// How many are healthy.
        pub current_healthy: i64 = "currentHealthy",
        /// How many have to be.
        pub desired_healthy: i64 = "desiredHealthy",
        /// How many there are.
        pub expected_pods: i64 = "expectedPods",
    }
}

impl Object for PodDisruptionBudget {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

json_documents!(PodDisruptionBudget);
