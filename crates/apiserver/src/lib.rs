//! The Kubernetes API of one machine: what kinds there are, what can be done with them, and who may.
