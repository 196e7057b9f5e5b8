//! What the API asks of the machine: logs, streams and what pods use, by CRI alone.

mod log;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tonic::transport::Channel;
use vaquita_apiserver::{Answer, LogOptions, LogText, Node, NodeUsage, Reason, Status, Stream};
use vaquita_kube::client::Client;
use vaquita_proto::cri;
use vaquita_proto::cri::runtime_service_client::RuntimeServiceClient;

/// The label that kubelet gives sandboxes, and the agent too.
const UID_LABEL: &str = "io.kubernetes.pod.uid";

/// The machine behind a CRI server. What containers a pod has is taken from the status in its object.
#[derive(Clone, Debug)]
pub struct CriNode {
    runtime: RuntimeServiceClient<Channel>,
    name: String,
    looks: Arc<usage::Looks>,
}

impl CriNode {
    /// The machine of that name, whose pods run on that server.
    pub fn new(client: &Client, name: impl Into<String>) -> Self {
        Self { runtime: client.runtime(), name: name.into(), looks: Arc::default() }
    }

    async fn url(&self, pod: &Value, what: &Stream) -> Result<String, Status> {
        let mut runtime = self.runtime.clone();
        match what {
            Stream::Exec { container, command, streams } => {
                let request = cri::ExecRequest {
                    container_id: running(pod, container)?,
                    cmd: command.clone(),
                    tty: streams.tty,
                    stdin: streams.stdin,
                    stdout: streams.stdout,
                    stderr: streams.stderr,
                };
                Ok(runtime.exec(request).await.map_err(refused)?.into_inner().url)
            }
            Stream::Attach { container, streams } => {
                let request = cri::AttachRequest {
                    container_id: running(pod, container)?,
                    stdin: streams.stdin,
                    tty: streams.tty,
                    stdout: streams.stdout,
                    stderr: streams.stderr,
                };
                Ok(runtime.attach(request).await.map_err(refused)?.into_inner().url)
            }
            Stream::PortForward { ports } => {
                let request = cri::PortForwardRequest {
                    pod_sandbox_id: self.sandbox(pod).await?,
                    port: ports.iter().map(|port| i32::from(*port)).collect(),
                };
                Ok(runtime.port_forward(request).await.map_err(refused)?.into_inner().url)
            }
        }
    }

    /// The sandbox of a pod that runs.
    async fn sandbox(&self, pod: &Value) -> Result<String, Status> {
        let labels: BTreeMap<_, _> = [(UID_LABEL.to_owned(), text(pod, "/metadata/uid"))].into();
        let state = cri::PodSandboxStateValue { state: cri::PodSandboxState::SandboxReady.into() };
        let filter =
            cri::PodSandboxFilter { label_selector: labels, state: Some(state), ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let answer = self.runtime.clone().list_pod_sandbox(request).await.map_err(refused)?.into_inner();
        let newest = answer.items.into_iter().max_by_key(|sandbox| sandbox.created_at);
        newest.map(|sandbox| sandbox.id).ok_or_else(|| {
            let (name, namespace) = (text(pod, "/metadata/name"), text(pod, "/metadata/namespace"));
            failed(format!("pod not found ({:?})", format!("{name}_{namespace}")))
        })
    }
}

impl Node for CriNode {
    fn log<'a>(&'a self, pod: &'a Value, options: &'a LogOptions) -> Answer<'a, LogText> {
        Box::pin(log::open(self.runtime.clone(), pod, options))
    }

    fn stream<'a>(&'a self, pod: &'a Value, what: &'a Stream) -> Answer<'a, String> {
        Box::pin(self.url(pod, what))
    }

    fn usage(&self) -> Answer<'_, Option<NodeUsage>> {
        Box::pin(self.looks.measure(self.runtime.clone(), &self.name))
    }
}

/// The status of a container, of whichever kind.
fn status_of<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"]
        .iter()
        .filter_map(|list| pod["status"][*list].as_array())
        .flatten()
        .find(|status| status["name"] == container)
}

/// The CRI server's id of a container that runs.
fn running(pod: &Value, container: &str) -> Result<String, Status> {
    let status = status_of(pod, container).filter(|status| status["state"]["running"].is_object());
    let id = status.and_then(|status| status["containerID"].as_str()).and_then(cri_id);
    id.map(str::to_owned).ok_or_else(|| failed(format!("container not found ({container:?})")))
}

/// Without the runtime's name in front.
fn cri_id(id: &str) -> Option<&str> {
    id.split_once("://").map(|(_, id)| id).filter(|id| !id.is_empty())
}

/// kubelet's failures, as which clients get them.
fn failed(message: String) -> Status {
    Status::plain(500, Reason::InternalError, message)
}

fn refused(status: tonic::Status) -> Status {
    match status.code() {
        tonic::Code::Unavailable => Status::unavailable("the node does not answer yet: try again"),
        _ => failed(status.message().to_owned()),
    }
}

fn text(value: &Value, path: &str) -> String {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_runs_is_streamed_to() {
        let pod = json!({ "status": {
            "containerStatuses": [
                { "name": "a", "containerID": "vaquita://1", "state": { "running": {} } },
                { "name": "b", "containerID": "vaquita://2", "state": { "terminated": {} } },
            ],
            "ephemeralContainerStatuses": [{ "name": "e", "containerID": "vaquita://3", "state": { "running": {} } }],
        } });
        assert_eq!(running(&pod, "a").unwrap(), "1");
        assert_eq!(running(&pod, "e").unwrap(), "3");
        for name in ["b", "x"] {
            assert_eq!(running(&pod, name).unwrap_err().message, format!("container not found ({name:?})"));
        }
    }
}
