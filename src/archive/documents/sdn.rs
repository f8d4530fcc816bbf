//! Egress addresses of the OpenShift SDN plug-in; gone from newer archives.

use super::field::object;
use super::{Damage, Document, Metadata, Object, Source, json_documents};

/// Every namespace as the plug-in knows it.
#[derive(Debug)]
pub struct NetNamespaces(pub Vec<NetNamespace>);

object! {
    /// A namespace as the plug-in knows it.
    pub struct NetNamespace {
        /// Its name.
        pub name: String = "name",
        /// Addresses from which its pods reach the outside.
        pub egress_ips: Vec<String> = "egressIPs",
    }

    /// A node's part of the network.
    pub struct HostSubnet {
        /// Name of the node.
        pub metadata: Metadata = "metadata",
        /// Egress addresses that the node holds.
        pub egress_ips: Vec<String> = "egressIPs",
        /// Ranges out of which the node may get egress addresses.
        pub egress_cidrs: Vec<String> = "egressCIDRs",
    }
}

impl Document for NetNamespaces {
    fn read(source: Source<'_>) -> Result<NetNamespaces, Damage> {
        source.json().map(NetNamespaces)
    }
}

impl Object for HostSubnet {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

json_documents!(HostSubnet);
