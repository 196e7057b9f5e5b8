//! ConfigMap and Secret.

use std::collections::BTreeMap;

use super::{Bytes, ObjectMeta};

super::object! {
    /// Configuration data that pods can use.
    pub struct ConfigMap {
        /// `v1`.
        pub api_version: String,
        /// `ConfigMap`.
        pub kind: String,
        /// Name and namespace.
        pub metadata: ObjectMeta,
        /// Text values.
        pub data: BTreeMap<String, String>,
        /// Binary values.
        pub binary_data: BTreeMap<String, Bytes>,
        /// The object may not change; it never does here.
        pub immutable: Option<bool>,
    }
}

super::object! {
    /// Secret data that pods can use.
    pub struct Secret {
        /// `v1`.
        pub api_version: String,
        /// `Secret`.
        pub kind: String,
        /// Name and namespace.
        pub metadata: ObjectMeta,
        /// Values.
        pub data: BTreeMap<String, Bytes>,
        /// Values as text; merged into `data` when the manifest is read.
        pub string_data: BTreeMap<String, String>,
        /// `Opaque` where absent.
        #[serde(rename = "type")]
        pub type_: String,
        /// The object may not change; it never does here.
        pub immutable: Option<bool>,
    }
}
