//! Events of a namespace, as the Insights Operator compacts them.

use super::field::object;
use super::json_documents;

object! {
    /// The events of one namespace; the file's name says which.
    pub struct Events {
        /// Its events, in no order.
        pub items: Vec<Event> = "items",
    }

    /// An event. Texts are empty when absent.
    pub struct Event {
        /// `Normal` or `Warning`.
        pub kind: String = "type",
        /// One word.
        pub reason: String = "reason",
        /// A sentence.
        pub message: String = "message",
        /// When it was last seen, RFC 3339.
        pub last_timestamp: String = "lastTimestamp",
    }
}

json_documents!(Events);
