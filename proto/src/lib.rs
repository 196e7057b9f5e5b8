//! CRI v1 and vaquita's own service: generated clients and servers.
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]

/// `runtime.v1`: the Container Runtime Interface (1.36, with 1.37's additions).
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// `vaquita.v1`: what the command line needs beside the CRI.
pub mod node {
    tonic::include_proto!("vaquita.v1");
}

/// `grpc.health.v1`: the protocol of gRPC probes.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
