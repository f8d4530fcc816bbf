//! Cluster-wide configuration: images, log-in, features, the API server.

use super::field::object;
use super::{AnyObject, json_documents};

object! {
    /// Which image registries are used, and how.
    pub struct Image {
        /// As configured.
        pub spec: ImageSpec = "spec",
    }

    /// What of the image configuration's `spec` is read.
    pub struct ImageSpec {
        /// Registries by how they are treated.
        pub registry_sources: RegistrySources = "registrySources",
    }

    /// What of `registrySources` is read.
    pub struct RegistrySources {
        /// `host[:port]` of registries without transport security.
        pub insecure_registries: Vec<String> = "insecureRegistries",
    }

    /// The integrated OAuth server.
    pub struct OAuth {
        /// As configured.
        pub spec: OAuthSpec = "spec",
    }

    /// What of the OAuth server's `spec` is read.
    pub struct OAuthSpec {
        /// Who may say who somebody is; only whether there is one matters.
        pub identity_providers: Vec<AnyObject> = "identityProviders",
    }

    /// How users are authenticated.
    pub struct Authentication {
        /// As configured.
        pub spec: AuthenticationSpec = "spec",
    }

    /// What of the authentication's `spec` is read.
    pub struct AuthenticationSpec {
        /// `IntegratedOAuth`, `OIDC` or `None`; empty is the first.
        pub kind: String = "type",
    }

    /// Which features are on.
    pub struct FeatureGate {
        /// As configured.
        pub spec: FeatureGateSpec = "spec",
    }

    /// What of the feature gate's `spec` is read.
    pub struct FeatureGateSpec {
        /// `TechPreviewNoUpgrade` and so on; empty is the default set.
        pub feature_set: String = "featureSet",
    }

    /// The API servers.
    pub struct ApiServer {
        /// As configured.
        pub spec: ApiServerSpec = "spec",
    }

    /// What of the API servers' `spec` is read.
    pub struct ApiServerSpec {
        /// Encryption of what is stored.
        pub encryption: Encryption = "encryption",
        /// Audit log.
        pub audit: Audit = "audit",
    }

    /// What of `encryption` is read.
    pub struct Encryption {
        /// `identity` (none), `aescbc`, `aesgcm` or `KMS`; empty is none.
        pub kind: String = "type",
    }

    /// What of `audit` is read.
    pub struct Audit {
        /// `Default`, `None` and so on.
        pub profile: String = "profile",
    }
}

json_documents!(Image, OAuth, Authentication, FeatureGate, ApiServer);
