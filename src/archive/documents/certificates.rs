//! Certificate signing requests, as the Insights Operator anonymises them.

use super::field::object;
use super::{Metadata, Object, json_documents};

object! {
    /// A request. Its fields have the names of Go code, not of the API.
    pub struct SigningRequest {
        /// Name and times.
        pub metadata: Metadata = "ObjectMeta",
        /// What is asked for.
        pub spec: SigningRequestSpec = "Spec",
        /// What became of it.
        pub status: SigningRequestStatus = "Status",
    }

    /// What of `Spec` is read.
    pub struct SigningRequestSpec {
        /// Who asks.
        pub username: String = "Username",
    }

    /// What of `Status` is read.
    pub struct SigningRequestStatus {
        /// What was decided.
        pub conditions: Vec<Decision> = "Conditions",
        /// The certificate, once it is issued.
        pub certificate: Option<Certificate> = "Cert",
    }

    /// A condition of a request; it may have the names of the API.
    pub struct Decision {
        /// `Approved`, `Denied` or `Failed`.
        kind: String = "type",
        /// The same under the name of Go code.
        go_kind: String = "Type",
    }

    /// What of a certificate is read. Texts are empty when absent.
    pub struct Certificate {
        /// Whether it is valid for the cluster's own authority.
        pub verified: Option<bool> = "Verified",
        /// Valid from, RFC 3339.
        pub not_before: String = "NotBefore",
        /// Valid until, RFC 3339.
        pub not_after: String = "NotAfter",
    }
}

impl Object for SigningRequest {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl SigningRequest {
    /// Whether it was approved, denied or failed.
    pub fn is_decided(&self) -> bool {
        self.status.conditions.iter().any(|decision| {
            [&decision.kind, &decision.go_kind]
                .iter()
                .any(|kind| ["Approved", "Denied", "Failed"].contains(&kind.as_str()))
        })
    }
}

json_documents!(SigningRequest);
