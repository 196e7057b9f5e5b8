//! Label and field selectors: parsing, with Kubernetes' errors, and matching.

mod fields;
mod labels;

pub use fields::FieldSelector;
pub use labels::LabelSelector;
