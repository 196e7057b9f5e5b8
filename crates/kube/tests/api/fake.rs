//! A CRI server in this process whose containers behave as the test says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tonic::transport::{Endpoint, Server, Uri};
use vaquita_kube::client::Client;
use vaquita_proto::cri;
use vaquita_proto::cri::image_service_server::ImageServiceServer;
use vaquita_proto::cri::runtime_service_server::RuntimeServiceServer;

/// One run of a container.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) seconds: Option<u64>,
    pub(crate) code: i32,
}

impl Run {
    pub(crate) fn ends(seconds: u64, code: i32) -> Self {
        Self { seconds: Some(seconds), code }
    }
}

/// What a container does. Runs after the last one listed are like it.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) runs: Vec<Run>,
    pub(crate) logs: Vec<&'static str>,
    pub(crate) message: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) start_error: &'static str,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            runs: vec![Run { seconds: None, code: 0 }],
            logs: Vec::new(),
            message: "",
            reason: "",
            start_error: "",
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    link: Arc<Mutex<Link>>,
}

/// Where new connections go; nowhere while the server is down.
#[derive(Default)]
struct Link {
    connect: Option<mpsc::UnboundedSender<DuplexStream>>,
    server: Option<AbortHandle>,
    /// Tasks that carry the bytes of connections.
    carriers: Vec<AbortHandle>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) calls: Vec<String>,
    pub(crate) behaviours: BTreeMap<String, Behaviour>,
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
    pub(crate) containers: BTreeMap<String, Container>,
    pub(crate) images: Vec<String>,
    pub(crate) failing_pulls: BTreeMap<String, u32>,
    pub(crate) slow_pulls: BTreeMap<String, Duration>,
    pub(crate) pulling: Vec<String>,
    pub(crate) credentials: Vec<String>,
    pub(crate) attempts: Vec<u32>,
    pub(crate) lose: Option<String>,
    pub(crate) failing_stops: u32,
    pub(crate) next: u32,
}

pub(crate) struct Sandbox {
    pub(crate) config: cri::PodSandboxConfig,
    pub(crate) ready: bool,
}

pub(crate) struct Container {
    pub(crate) sandbox: String,
    pub(crate) config: cri::ContainerConfig,
    pub(crate) log: PathBuf,
    pub(crate) state: cri::ContainerState,
    pub(crate) code: i32,
    pub(crate) created: i64,
    pub(crate) started: i64,
    pub(crate) finished: i64,
    pub(crate) reason: String,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let fake = Self::default();
        fake.come_up();
        fake
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The server begins to serve.
    pub(crate) fn come_up(&self) {
        let (connect, connections) = mpsc::unbounded_channel();
        let incoming = tokio_stream::wrappers::UnboundedReceiverStream::new(connections);
        let incoming = tokio_stream::StreamExt::map(incoming, Ok::<_, std::io::Error>);
        let server = Server::builder()
            .add_service(RuntimeServiceServer::new(self.clone()))
            .add_service(ImageServiceServer::new(self.clone()))
            .serve_with_incoming(incoming);
        let task = tokio::spawn(server);
        let mut link = self.link.lock().unwrap();
        link.connect = Some(connect);
        link.server = Some(task.abort_handle());
    }

    /// The server dies; containers go on.
    pub(crate) fn go_down(&self) {
        let mut link = self.link.lock().unwrap();
        link.connect = None;
        link.server.take().unwrap().abort();
        drop(link);
        self.cut();
    }

    /// Connections break, with whatever is on its way.
    pub(crate) fn cut(&self) {
        for carrier in self.link.lock().unwrap().carriers.drain(..) {
            carrier.abort();
        }
    }

    pub(crate) fn client(&self) -> Client {
        let link = Arc::clone(&self.link);
        let endpoint = Endpoint::try_from("http://fake").unwrap();
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (ours, theirs, carrier) = cuttable();
            let mut link = link.lock().unwrap();
            link.carriers.push(carrier);
            let connect = link.connect.clone();
            async move {
                let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                connect.ok_or_else(refused)?.send(theirs).map_err(|_| refused())?;
                Ok::<_, std::io::Error>(TokioIo::new(ours))
            }
        }));
        Client::from_channel(channel)
    }

    pub(crate) fn behave(&self, container: &str, behaviour: Behaviour) {
        self.lock().behaviours.insert(container.to_owned(), behaviour);
    }

    pub(crate) fn have(&self, image: &str) {
        self.lock().images.push(image.to_owned());
    }

    pub(crate) fn fail_pulls(&self, image: &str, times: u32) {
        self.lock().failing_pulls.insert(image.to_owned(), times);
    }

    pub(crate) fn slow_pull(&self, image: &str, time: Duration) {
        self.lock().slow_pulls.insert(image.to_owned(), time);
    }

    /// The next call of this name is heard, but its answer is not.
    pub(crate) fn lose_answer(&self, call: &str) {
        self.lock().lose = Some(call.to_owned());
    }

    pub(crate) fn fail_stops(&self, times: u32) {
        self.lock().failing_stops = times;
    }

    /// Calls that change something, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    pub(crate) fn credentials(&self) -> Vec<String> {
        self.lock().credentials.clone()
    }

    pub(crate) fn sandbox_attempts(&self) -> Vec<u32> {
        self.lock().attempts.clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.sandboxes.is_empty() && state.containers.is_empty()
    }

    /// The only sandbox dies, with everything in it.
    pub(crate) fn kill_sandbox(&self) {
        let mut state = self.lock();
        state.sandboxes.values_mut().for_each(|sandbox| sandbox.ready = false);
        for container in state.containers.values_mut() {
            container.end(137, "Error");
        }
    }

    /// The machine was started anew: nothing is left.
    pub(crate) fn forget_everything(&self) {
        let mut state = self.lock();
        state.sandboxes.clear();
        state.containers.clear();
    }

    /// Ids of the containers that run, by name.
    pub(crate) fn running(&self) -> Vec<(String, String)> {
        let state = self.lock();
        let running = state
            .containers
            .iter()
            .filter(|(_, container)| container.state == cri::ContainerState::ContainerRunning);
        running.map(|(id, container)| (container.name(), id.clone())).collect()
    }

    /// How many containers there are, dead or alive.
    pub(crate) fn container_count(&self) -> usize {
        self.lock().containers.len()
    }

    pub(crate) fn add_sandbox(&self, id: &str, annotations: &[(&str, &str)]) {
        let annotations =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let config = cri::PodSandboxConfig { annotations, ..cri::PodSandboxConfig::default() };
        self.lock().sandboxes.insert(id.to_owned(), Sandbox { config, ready: true });
    }

    pub(crate) fn remove_sandbox(&self, id: &str) {
        self.lock().sandboxes.remove(id);
    }
}

impl Container {
    pub(crate) fn end(&mut self, code: i32, reason: &str) {
        if self.state != cri::ContainerState::ContainerExited {
            self.state = cri::ContainerState::ContainerExited;
            self.code = code;
            self.finished = now();
            self.reason = reason.to_owned();
        }
    }

    pub(crate) fn name(&self) -> String {
        self.config.metadata.as_ref().unwrap().name.clone()
    }
}

/// Nanoseconds of the simulated clock since some beginning.
pub(crate) fn now() -> i64 {
    static BEGINNING: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let beginning = *BEGINNING.get_or_init(std::time::Instant::now);
    let elapsed = tokio::time::Instant::now().into_std().saturating_duration_since(beginning);
    1_000_000_000_000_000_000 + i64::try_from(elapsed.as_nanos()).unwrap()
}

/// A connection that [`Fake::go_down`] can cut: a task of its own carries the bytes.
fn cuttable() -> (DuplexStream, DuplexStream, AbortHandle) {
    let (client, mut client_end) = tokio::io::duplex(1 << 20);
    let (mut server_end, server) = tokio::io::duplex(1 << 20);
    let carrier = tokio::spawn(async move {
        let _ = tokio::io::copy_bidirectional(&mut client_end, &mut server_end).await;
    });
    (client, server, carrier.abort_handle())
}
