//! Configurations of admission webhooks.

use super::field::object;
use super::{AnyObject, Found, Metadata, Object, json_documents};

object! {
    /// A validating or mutating webhook configuration.
    pub struct WebhookConfiguration {
        /// Name.
        pub metadata: Metadata = "metadata",
        /// Its webhooks.
        pub webhooks: Vec<Webhook> = "webhooks",
    }

    /// A webhook.
    pub struct Webhook {
        /// Its name.
        pub name: String = "name",
        /// How long the API server waits for an answer, in seconds.
        pub timeout_seconds: Option<i64> = "timeoutSeconds",
        /// For which requests it is called: those that one of these matches.
        pub rules: Vec<WebhookRule> = "rules",
        /// `Fail` or `Ignore`: what becomes of the request without an answer; empty is the first.
        pub failure_policy: String = "failurePolicy",
        /// Limits it to namespaces; empty and absent are no limit.
        pub namespace_selector: AnyObject = "namespaceSelector",
        /// Limits it to objects; empty and absent are no limit.
        pub object_selector: AnyObject = "objectSelector",
        /// Where it is.
        pub client_config: WebhookClientConfig = "clientConfig",
    }

    /// What of `clientConfig` is read.
    pub struct WebhookClientConfig {
        /// A service of the cluster; absent for a URL.
        pub service: Option<WebhookService> = "service",
    }

    /// What of `service` is read.
    pub struct WebhookService {
        /// Its namespace.
        pub namespace: String = "namespace",
        /// Its name.
        pub name: String = "name",
    }

    /// Requests for which a webhook is called. `*` stands for all.
    pub struct WebhookRule {
        /// `CREATE`, `UPDATE` and so on.
        pub operations: Vec<String> = "operations",
        /// Groups of the API; the core group is the empty text.
        pub api_groups: Vec<String> = "apiGroups",
        /// Such as `pods` or `pods/exec`.
        pub resources: Vec<String> = "resources",
    }
}

impl Object for WebhookConfiguration {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Found<'_, WebhookConfiguration> {
    /// Kind of the configuration, by the folder: the objects themselves do not say.
    pub fn kind(self) -> &'static str {
        match self.folder() {
            "mutatingwebhookconfigurations" => "MutatingWebhookConfiguration",
            _ => "ValidatingWebhookConfiguration",
        }
    }
}

json_documents!(WebhookConfiguration);
