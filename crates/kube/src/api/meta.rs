//! Metadata that every object has.

use std::collections::BTreeMap;

super::object! {
    /// Name, namespace, labels and annotations of an object.
    pub struct ObjectMeta {
        /// Name, unique within kind and namespace.
        pub name: String,
        /// Namespace; `default` where none is given.
        pub namespace: String,
        /// Identity of this very object, given by the node agent.
        pub uid: String,
        /// Labels.
        pub labels: BTreeMap<String, String>,
        /// Annotations.
        pub annotations: BTreeMap<String, String>,
        /// When the object was created; set by the node agent.
        pub creation_timestamp: Option<jiff::Timestamp>,
    }
}
