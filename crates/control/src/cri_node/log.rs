//! What containers have written, from the files that the CRI server writes.
//!
//! Words and behaviour are kubelet's, but for one thing: files that were rotated away and are there still are read too.

mod files;
mod record;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use vaquita_apiserver::{LogOptions, LogText, Status};
use vaquita_proto::cri;
use vaquita_proto::cri::runtime_service_client::RuntimeServiceClient;

use self::files::Reader;
use self::record::Records;
use super::{cri_id, failed, refused, status_of, text};

/// Between looks at a file that has been read to its end, and at whether its container runs still.
const POLL: Duration = Duration::from_millis(100);
const ALIVE: Duration = Duration::from_secs(1);

/// Pieces that wait for a client that reads slowly.
const WAITING: usize = 2;

/// Finds the container's log and begins to read it.
pub(super) async fn open(
    runtime: RuntimeServiceClient<Channel>,
    pod: &Value,
    options: &LogOptions,
) -> Result<LogText, Status> {
    let id = container_id(pod, options).map_err(Status::bad_request)?;
    let (send, receive) = mpsc::channel(WAITING);
    let plain = cri_id(&id).unwrap_or(&id).to_owned();
    let status = match ask(runtime.clone(), &plain).await {
        Ok(status) => status,
        // It has been removed with its files; kubelet says so in the log's place.
        Err(error) if error.code() == tonic::Code::NotFound => {
            let gone = format!("unable to retrieve container logs for {id}");
            let _ = send.send(Ok(Bytes::from(gone))).await;
            return Ok(LogText(receive));
        }
        Err(error) => return Err(refused(error)),
    };
    let path = PathBuf::from(&status.log_path);
    if status.log_path.is_empty() {
        return Err(failed(format!("container {id} has no log")));
    }
    let pump = Pump {
        runtime,
        id: plain,
        running: status.state() == cri::ContainerState::ContainerRunning,
        follow: options.follow,
        send,
    };
    let records = Records::new(options);
    let tail = options.tail_lines;
    let since = options.since;
    let reader = tokio::task::spawn_blocking(move || Reader::open(&path, tail, since))
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(format!("cannot read the log {}: {error}", status.log_path)))?;
    tokio::spawn(pump.run(reader, records));
    Ok(LogText(receive))
}

/// Whose log it is, or why there is none (`validateContainerLogStatus`).
fn container_id(pod: &Value, options: &LogOptions) -> Result<String, String> {
    let what = format!("container {:?} in pod {:?}", options.container, text(pod, "/metadata/name"));
    let status = status_of(pod, &options.container).ok_or_else(|| format!("{what} is not available"))?;
    let id = |path: &str| Some(text(status, path)).filter(|id| !id.is_empty());
    let last = || id("/lastState/terminated/containerID");
    let is = |path: &str| status.pointer(path).is_some_and(Value::is_object);
    if options.previous {
        return last().ok_or_else(|| format!("previous terminated {what} not found"));
    }
    if is("/state/running") {
        return id("/containerID").ok_or_else(|| format!("{what} is waiting to start - no logs yet"));
    }
    if is("/state/terminated") {
        let own = id("/state/terminated/containerID");
        return own.or_else(last).ok_or_else(|| format!("{what} is terminated"));
    }
    if is("/lastState/terminated") {
        return last().ok_or_else(|| format!("{what} is terminated"));
    }
    Err(match text(status, "/state/waiting/reason").as_str() {
        "" if !is("/state/waiting") => format!("{what} is waiting to start - no logs yet"),
        "ErrImagePull" => format!("{what} is waiting to start: image can't be pulled"),
        "ImagePullBackOff" => format!("{what} is waiting to start: trying and failing to pull image"),
        reason => format!("{what} is waiting to start: {reason}"),
    })
}

async fn ask(
    mut runtime: RuntimeServiceClient<Channel>,
    id: &str,
) -> Result<cri::ContainerStatus, tonic::Status> {
    let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    Ok(runtime.container_status(request).await?.into_inner().status.unwrap_or_default())
}

/// Brings a log to who reads it.
struct Pump {
    runtime: RuntimeServiceClient<Channel>,
    id: String,
    running: bool,
    follow: bool,
    send: mpsc::Sender<std::io::Result<Bytes>>,
}

impl Pump {
    async fn run(mut self, reader: Reader, records: Records) {
        let mut work = (reader, records);
        let mut asked = Instant::now();
        loop {
            // Looked at before reading: what was written when the container had ended is all there is.
            let last = !(self.follow && self.running);
            loop {
                let read = tokio::task::spawn_blocking(move || {
                    let (reader, records) = &mut work;
                    let piece = reader.next().map(|piece| piece.map(|bytes| records.feed(&bytes)));
                    (work, piece)
                });
                let Ok((back, piece)) = read.await else { return };
                work = back;
                match piece {
                    Ok(Some(text)) => {
                        if !self.give(text).await || work.1.is_full() {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        let _ = self.send.send(Err(error)).await;
                        return;
                    }
                }
            }
            if last {
                let rest = work.1.finish();
                self.give(rest).await;
                return;
            }
            while !work.0.has_more() {
                if asked.elapsed() >= ALIVE {
                    asked = Instant::now();
                    self.running = self.is_running().await;
                    if !self.running {
                        break;
                    }
                }
                tokio::select! {
                    () = sleep(POLL) => {}
                    () = self.send.closed() => return,
                }
            }
        }
    }

    /// Whether somebody reads still.
    async fn give(&self, text: Vec<u8>) -> bool {
        text.is_empty() || self.send.send(Ok(text.into())).await.is_ok()
    }

    async fn is_running(&self) -> bool {
        match ask(self.runtime.clone(), &self.id).await {
            Ok(status) => status.state() == cri::ContainerState::ContainerRunning,
            Err(error) => error.code() != tonic::Code::NotFound,
        }
    }
}

/// The name of a file, as text.
fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn why(status: Value, previous: bool) -> Result<String, String> {
        let mut status = status;
        status["name"] = json!("c");
        let pod = json!({ "metadata": { "name": "p" }, "status": { "containerStatuses": [status] } });
        let options = LogOptions { container: "c".to_owned(), previous, ..LogOptions::default() };
        container_id(&pod, &options)
    }

    #[test]
    fn the_reasons_are_kubelets() {
        let waiting =
            |reason: &str| why(json!({ "state": { "waiting": { "reason": reason } } }), false).unwrap_err();
        assert_eq!(
            waiting("ContainerCreating"),
            "container \"c\" in pod \"p\" is waiting to start: ContainerCreating"
        );
        assert!(waiting("ErrImagePull").ends_with("image can't be pulled"));
        assert!(waiting("ImagePullBackOff").ends_with("trying and failing to pull image"));
        let running = json!({ "state": { "running": {} }, "containerID": "vaquita://1" });
        assert_eq!(why(running.clone(), false).unwrap(), "vaquita://1");
        assert_eq!(
            why(running, true).unwrap_err(),
            "previous terminated container \"c\" in pod \"p\" not found"
        );
        let again = json!({
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "containerID": "vaquita://0" } },
        });
        assert_eq!(why(again.clone(), false).unwrap(), "vaquita://0");
        assert_eq!(why(again, true).unwrap(), "vaquita://0");
        assert!(why(json!({ "state": {} }), false).unwrap_err().ends_with("no logs yet"));
    }
}
