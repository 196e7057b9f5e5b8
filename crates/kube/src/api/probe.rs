//! Probes and lifecycle hooks.

use super::IntOrString;

super::object! {
    /// A check that the node agent makes; exactly one handler. Zero means the default.
    pub struct Probe {
        /// Run a command; 0 is success.
        pub exec: Option<ExecAction>,
        /// Make an HTTP request; 200 to 399 is success.
        pub http_get: Option<HTTPGetAction>,
        /// Open a TCP connection.
        pub tcp_socket: Option<TCPSocketAction>,
        /// Ask the gRPC health service.
        pub grpc: Option<GRPCAction>,
        /// Seconds after the container's start before the first probe.
        pub initial_delay_seconds: i32,
        /// Seconds until an attempt counts as failed; default 1.
        pub timeout_seconds: i32,
        /// Seconds between attempts; default 10.
        pub period_seconds: i32,
        /// Successes in a row that make a failed probe good; default 1.
        pub success_threshold: i32,
        /// Failures in a row that make a probe failed; default 3.
        pub failure_threshold: i32,
        /// Grace period when this probe kills the container; the pod's where absent.
        pub termination_grace_period_seconds: Option<i64>,
    }
}

super::object! {
    /// A command in the container, without a shell.
    pub struct ExecAction {
        /// Program and arguments.
        pub command: Vec<String>,
    }
}

super::object! {
    /// An HTTP GET request.
    pub struct HTTPGetAction {
        /// Path; `/` where absent.
        pub path: String,
        /// Port by number or name.
        pub port: IntOrString,
        /// Host to connect to; the pod's address where absent.
        pub host: String,
        /// HTTP, or HTTPS without verification.
        pub scheme: UriScheme,
        /// Headers of the request.
        pub http_headers: Vec<HTTPHeader>,
    }
}

super::choice! {
    /// Scheme of an HTTP request.
    pub enum UriScheme {
        /// http.
        HTTP,
        /// https; the certificate is not verified.
        HTTPS,
    }
}

super::object! {
    /// A header of an HTTP request.
    pub struct HTTPHeader {
        /// Name.
        pub name: String,
        /// Value.
        pub value: String,
    }
}

super::object! {
    /// A TCP connection.
    pub struct TCPSocketAction {
        /// Port by number or name.
        pub port: IntOrString,
        /// Host to connect to; the pod's address where absent.
        pub host: String,
    }
}

super::object! {
    /// A request to the gRPC health service.
    pub struct GRPCAction {
        /// Port number.
        pub port: i32,
        /// Service to ask for; the whole server where absent.
        pub service: Option<String>,
    }
}

super::object! {
    /// Hooks of a container.
    pub struct Lifecycle {
        /// Right after the start; failure kills the container.
        pub post_start: Option<LifecycleHandler>,
        /// Before the stop signal, within the grace period.
        pub pre_stop: Option<LifecycleHandler>,
    }
}

super::object! {
    /// What a hook does; exactly one.
    pub struct LifecycleHandler {
        /// Run a command.
        pub exec: Option<ExecAction>,
        /// Make an HTTP request.
        pub http_get: Option<HTTPGetAction>,
        /// Wait.
        pub sleep: Option<SleepAction>,
    }
}

super::object! {
    /// Waiting for a time.
    pub struct SleepAction {
        /// Seconds.
        pub seconds: i64,
    }
}
