//! vaquita: Kubernetes pods on one bare Linux host.

fn main() {}
