//! The node agent: drives pods of a Kubernetes manifest through the CRI.
