//! CRI v1, vaquita's own service and what else is spoken over gRPC: generated clients and servers.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::too_many_lines,
    clippy::use_self,
    reason = "generated code"
)]

/// `runtime.v1`: the Container Runtime Interface (1.36, with 1.37's additions).
pub mod cri {
    tonic::include_proto!("runtime.v1");

    impl std::fmt::Debug for AuthConfig {
        /// Names the user and the server; never prints a secret.
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AuthConfig")
                .field("username", &self.username)
                .field("server_address", &self.server_address)
                .finish_non_exhaustive()
        }
    }
}

/// `vaquita.v1`: what the command line needs beside the CRI.
pub mod node {
    tonic::include_proto!("vaquita.v1");

    impl std::fmt::Debug for PullImageRequest {
        /// Names the image and the user; never prints the password.
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("PullImageRequest")
                .field("reference", &self.reference)
                .field("username", &self.username)
                .finish_non_exhaustive()
        }
    }
}

/// `opentelemetry.proto.collector.trace.v1`: telling a collector of spans, as far as that is done.
pub mod otlp {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}

/// `grpc.health.v1`: the protocol of gRPC probes.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// `nri.pkg.api.v1alpha1`: what plugins of the Node Resource Interface and their runtime tell each other.
pub mod nri {
    tonic::include_proto!("nri.pkg.api.v1alpha1");
}
