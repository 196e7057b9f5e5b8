//! `health PORT`: answers the gRPC health protocol, for probes.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tonic::{Request, Response, Status};
use vaquita_proto::health::health_check_response::ServingStatus;
use vaquita_proto::health::health_server::{Health, HealthServer};
use vaquita_proto::health::{HealthCheckRequest, HealthCheckResponse};

use super::Terminate;

/// Serves until it is told to end. The server as a whole is well, and so is the service `good`; no other is.
pub(super) async fn serve(args: &[OsString]) -> Result<ExitCode> {
    let port = args.first().and_then(|port| port.to_str()?.parse::<u16>().ok());
    let address = (Ipv4Addr::UNSPECIFIED, port.context("usage: health PORT")?).into();
    let mut terminate = Terminate::new()?;
    let server = tonic::transport::Server::builder().add_service(HealthServer::new(Service));
    tokio::select! {
        code = terminate.wait() => Ok(code),
        served = server.serve(address) => {
            served.with_context(|| format!("serve on {address}")).map(|()| ExitCode::SUCCESS)
        }
    }
}

struct Service;

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = match request.into_inner().service.as_str() {
            "" | "good" => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }
}
