//! Metadata that every object has.

use std::collections::BTreeMap;

super::object! {
    /// Name, namespace, labels and annotations of an object.
    pub struct ObjectMeta {
        /// Name, unique within kind and namespace.
        pub name: String,
        /// Namespace; `default` where none is given.
        pub namespace: String,
        /// Identity of this very object, given by the server, or by the node agent where there is none.
        pub uid: String,
        /// Labels.
        pub labels: BTreeMap<String, String>,
        /// Annotations.
        pub annotations: BTreeMap<String, String>,
        /// When the object was created; set by whoever gives the uid.
        pub creation_timestamp: Option<jiff::Timestamp>,
        /// Number of the specification, counted by the server.
        pub generation: Option<i64>,
        /// When the object shall be gone; set by the server when it is deleted.
        pub deletion_timestamp: Option<jiff::Timestamp>,
        /// Seconds that its end may take.
        pub deletion_grace_period_seconds: Option<i64>,
    }
}
