//! Certificates of ingress controllers, as the Insights Operator sums them up.

use super::field::object;
use super::{Damage, Document, Source};

/// Certificates of ingress controllers.
#[derive(Debug)]
pub struct IngressCerts(pub Vec<IngressCert>);

object! {
    /// A certificate.
    pub struct IngressCert {
        /// Name of its secret.
        pub name: String = "name",
        /// Namespace of its secret.
        pub namespace: String = "namespace",
        /// The end of its validity, RFC 3339.
        pub not_after: String = "not_after",
        /// The ingress controllers that use it.
        pub controllers: Vec<IngressController> = "controllers",
    }

    /// An ingress controller.
    pub struct IngressController {
        /// Its name.
        pub name: String = "name",
        /// Its namespace.
        pub namespace: String = "namespace",
    }
}

impl Document for IngressCerts {
    fn read(source: Source<'_>) -> Result<IngressCerts, Damage> {
        source.json().map(IngressCerts)
    }
}
