//! Probes and hooks: performed from the host, or in the container through ExecSync.

mod http;
mod words;

use std::time::Duration;

use tonic::transport::Endpoint;
use vaquita_proto::cri;
use vaquita_proto::health;
use vaquita_proto::health::health_client::HealthClient;

use super::cri::Cri;
use super::env::Environment;
use crate::api::{Container, GRPCAction, LifecycleHandler, Probe};
use crate::event::ProbeKind;
use crate::worker::Outcome;
use crate::{Error, Kind, Result};

/// In whose words the failure of a probe is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    /// Those of `vaquita run`.
    Ours,
    /// Those that are in the events of every cluster.
    Kubelets,
}

/// What output of probes and hooks is kept, in bytes (the kubelet's).
const OUTPUT: usize = 10 << 10;

/// Makes a probe. `ip` is the pod's address.
pub(super) async fn probe(
    cri: &Cri,
    container: &Container,
    id: &str,
    kind: ProbeKind,
    ip: &str,
    words: Words,
) -> Outcome {
    let probe = match kind {
        ProbeKind::Startup => &container.startup_probe,
        ProbeKind::Liveness => &container.liveness_probe,
        ProbeKind::Readiness => &container.readiness_probe,
    };
    let Some(probe) = probe else { return Outcome::Error("there is no such probe".to_owned()) };
    let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds).unwrap_or(1).max(1));
    if probe.exec.is_some() {
        return exec_probe(cri, container, probe, id, limit, words).await;
    }
    let attempt = network_probe(container, probe, ip, words);
    match tokio::time::timeout(limit, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure(match words {
            Words::Ours => format!("no answer within {} s", limit.as_secs()),
            Words::Kubelets => words::timeout(container, probe, ip, limit),
        }),
    }
}

/// Runs a hook. Output and answers are dropped unless it fails.
///
/// # Errors
/// What went wrong.
pub(super) async fn hook(
    cri: &Cri,
    container: &Container,
    hook: &LifecycleHandler,
    id: &str,
    ip: &str,
    limit: Option<Duration>,
) -> Result<()> {
    if let Some(exec) = &hook.exec {
        let answer = exec_sync(cri, id, exec.command.clone(), limit).await?;
        return match answer.exit_code {
            0 => Ok(()),
            code => Err(Error::new(Kind::Failed, format!("exit code {code}: {}", output(&answer)))),
        };
    }
    let work = async {
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        } else if let Some(get) = &hook.http_get {
            let port = port(container, &get.port)?;
            http::get(get, if get.host.is_empty() { ip } else { &get.host }, port).await.map(drop)?;
        }
        Ok(())
    };
    // The kubelet gives HTTP hooks no limit of their own beyond the grace period; a dead peer must not hold a pod.
    match tokio::time::timeout(limit.unwrap_or(HOOK_LIMIT), work).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(Kind::Timeout, "the hook did not end in time")),
    }
}

/// Limit of a postStart hook that only waits or asks.
const HOOK_LIMIT: Duration = Duration::from_secs(3600);

async fn exec_probe(
    cri: &Cri,
    container: &Container,
    probe: &Probe,
    id: &str,
    limit: Duration,
    words: Words,
) -> Outcome {
    let environment = Environment::literal(container);
    let command: Vec<String> =
        probe.exec.iter().flat_map(|exec| &exec.command).map(|word| environment.expand(word)).collect();
    match exec_sync(cri, id, command.clone(), Some(limit)).await {
        Ok(answer) if answer.exit_code == 0 => Outcome::Success(output(&answer)),
        Ok(answer) => {
            let text = output(&answer);
            if words == Words::Kubelets {
                return Outcome::Failure(text);
            }
            let separator = if text.is_empty() { "" } else { ": " };
            Outcome::Failure(format!("exit code {}{separator}{text}", answer.exit_code))
        }
        Err(error) if error.kind() == Kind::Timeout => {
            let seconds = limit.as_secs();
            Outcome::Failure(match words {
                Words::Ours => format!("the command did not end within {seconds} s"),
                Words::Kubelets => {
                    format!("command timed out: {:?} timed out after {seconds}s", command.join(" "))
                }
            })
        }
        Err(error) => Outcome::Error(error.to_string()),
    }
}

async fn exec_sync(
    cri: &Cri,
    id: &str,
    command: Vec<String>,
    limit: Option<Duration>,
) -> Result<cri::ExecSyncResponse> {
    let seconds = limit.map_or(0, |limit| i64::try_from(limit.as_secs()).unwrap_or(i64::MAX));
    let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: command, timeout: seconds };
    // The server ends the command in time; its own time to say so comes on top.
    let patience = limit.map(|limit| limit + Duration::from_secs(10));
    cri.once("ExecSync", patience, |mut client| async move { client.runtime.exec_sync(request).await }).await
}

fn output(answer: &cri::ExecSyncResponse) -> String {
    let bytes: Vec<u8> = answer.stdout.iter().chain(&answer.stderr).copied().take(OUTPUT).collect();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

async fn network_probe(container: &Container, probe: &Probe, ip: &str, words: Words) -> Outcome {
    let host = |own: &str| if own.is_empty() { ip.to_owned() } else { own.to_owned() };
    if let Some(get) = &probe.http_get {
        return match port(container, &get.port) {
            Ok(port) => {
                let host = host(&get.host);
                http_outcome(http::get(get, &host, port).await, words, &http::url(get, &host, port))
            }
            Err(error) => Outcome::Error(error.to_string()),
        };
    }
    if let Some(socket) = &probe.tcp_socket {
        let port = match port(container, &socket.port) {
            Ok(port) => port,
            Err(error) => return Outcome::Error(error.to_string()),
        };
        return match tokio::net::TcpStream::connect((host(&socket.host), port)).await {
            Ok(_) => Outcome::Success(String::new()),
            Err(error) => Outcome::Failure(match words {
                Words::Ours => format!("connect to {}:{port}: {error}", host(&socket.host)),
                Words::Kubelets => words::dial(&host(&socket.host), port, &error.to_string()),
            }),
        };
    }
    match &probe.grpc {
        Some(grpc) => match (grpc_probe(grpc, ip).await, words) {
            (Outcome::Failure(text), Words::Kubelets) => Outcome::Failure(words::grpc(&text)),
            (outcome, _) => outcome,
        },
        None => Outcome::Error("the probe has no handler".to_owned()),
    }
}

fn http_outcome(result: Result<http::Answer>, words: Words, url: &str) -> Outcome {
    match result {
        Ok(answer) if (200..400).contains(&answer.status) => {
            Outcome::Success(format!("HTTP {}", answer.status))
        }
        Ok(answer) => Outcome::Failure(match words {
            Words::Ours => format!("HTTP {}", answer.status),
            Words::Kubelets => format!("HTTP probe failed with statuscode: {}", answer.status),
        }),
        Err(error) => Outcome::Failure(match words {
            Words::Ours => error.to_string(),
            Words::Kubelets => words::get(url, &error.to_string()),
        }),
    }
}

fn port(container: &Container, port: &crate::api::IntOrString) -> Result<u16> {
    container.port_number(port).ok_or_else(|| Error::invalid(format!("the container has no port {port}")))
}

async fn grpc_probe(grpc: &GRPCAction, ip: &str) -> Outcome {
    let uri = format!("http://{}:{}", http::bracketed(ip), grpc.port);
    let endpoint = Endpoint::try_from(uri.clone()).and_then(|endpoint| endpoint.user_agent(http::USER_AGENT));
    let channel = match endpoint {
        Ok(endpoint) => endpoint.connect().await,
        Err(error) => return Outcome::Error(format!("{uri}: {error}")),
    };
    let channel = match channel {
        Ok(channel) => channel,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            return Outcome::Failure(format!("connect to {uri}: {error}: {cause}"));
        }
    };
    let request = health::HealthCheckRequest { service: grpc.service.clone().unwrap_or_default() };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => {
            let status = answer.into_inner().status();
            match status {
                health::health_check_response::ServingStatus::Serving => {
                    Outcome::Success("SERVING".to_owned())
                }
                other => Outcome::Failure(format!("the service answers {}", other.as_str_name())),
            }
        }
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            Outcome::Failure("the server does not implement the gRPC health protocol".to_owned())
        }
        Err(status) => Outcome::Failure(format!("{:?}: {}", status.code(), status.message())),
    }
}

#[cfg(test)]
mod tests;
