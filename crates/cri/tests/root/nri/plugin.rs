//! A plugin that does as a test says: the other side of the protocol, on a thread of its own.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use prost::Message;
use vaquita_nri::api;

/// Longer than anything takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The channels of a connection: what we serve, what the runtime serves.
const OURS: u32 = 1;
const RUNTIMES: u32 = 2;
/// All events, by their numbers in the protocol.
const ALL: i32 = (1 << 13) - 1;

/// What happened, with the id of the container, or else of the pod, and the pod's name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Event {
    pub(super) method: String,
    pub(super) id: String,
}

/// What a plugin is asked, and what it says: an encoded answer (an empty one agrees), or why not.
pub(super) type Script = Box<dyn FnMut(&str, &[u8]) -> Result<Vec<u8>, String> + Send>;

/// A plugin that is connected.
pub(super) struct Plugin {
    stream: UnixStream,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// One message at a time.
    writer: Mutex<()>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    pods: Vec<api::PodSandbox>,
    containers: Vec<api::Container>,
    is_synchronized: bool,
    is_closed: bool,
    answers: HashMap<u32, Result<Vec<u8>, String>>,
    asked: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// The pod and the container of any request about one; of a pod the second is nothing that makes sense.
#[derive(Clone, PartialEq, Message)]
struct About {
    #[prost(message, optional, tag = "1")]
    pod: Option<api::PodSandbox>,
    #[prost(message, optional, tag = "2")]
    container: Option<api::Container>,
}

impl Plugin {
    /// Connects, and waits until the runtime has told what there is.
    pub(super) fn join(socket: &Path, index: &str, script: Script) -> Self {
        let plugin = Self::connect(socket, index, script);
        plugin.wait(|state| state.is_synchronized);
        plugin
    }

    /// Agrees with everything.
    pub(super) fn agreeing(socket: &Path) -> Self {
        Self::join(socket, "10", Box::new(|_, _| Ok(Vec::new())))
    }

    fn connect(socket: &Path, index: &str, script: Script) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let shared = Arc::new(Shared::default());
        let (reading, mine) = (stream.try_clone().unwrap(), shared.clone());
        std::thread::spawn(move || {
            serve(&reading, &mine, script);
            mine.state.lock().unwrap().is_closed = true;
            mine.changed.notify_all();
        });
        let plugin = Self { stream, shared };
        let register = api::RegisterPluginRequest {
            plugin_name: "scripted".into(),
            plugin_idx: index.into(),
            ..Default::default()
        };
        plugin.ask("RegisterPlugin", register.encode_to_vec()).unwrap();
        plugin
    }

    fn ask(&self, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, String> {
        let request =
            Request { service: "nri.pkg.api.v1alpha1.Runtime".into(), method: method.into(), payload };
        let stream = {
            let mut state = self.shared.state.lock().unwrap();
            state.asked += 2;
            state.asked - 1
        };
        send(&self.stream, &self.shared, RUNTIMES, stream, 1, &request.encode_to_vec());
        self.wait(|state| state.answers.contains_key(&stream));
        self.shared.state.lock().unwrap().answers.remove(&stream).unwrap()
    }

    /// Asks for changes that nobody has asked it about. Returns those that failed.
    pub(super) fn update(
        &self,
        update: Vec<api::ContainerUpdate>,
        evict: Vec<api::ContainerEviction>,
    ) -> Vec<api::ContainerUpdate> {
        let request = api::UpdateContainersRequest { update, evict };
        let answer = self.ask("UpdateContainers", request.encode_to_vec()).unwrap();
        api::UpdateContainersResponse::decode(&*answer).unwrap().failed
    }

    fn wait(&self, is_done: impl Fn(&State) -> bool) {
        let state = self.shared.state.lock().unwrap();
        let waited =
            self.shared.changed.wait_timeout_while(state, PATIENCE, |state| !is_done(state)).unwrap();
        assert!(!waited.1.timed_out(), "{:#?}", waited.0.events);
    }

    /// What it was told of one pod or container.
    pub(super) fn told_of(&self, id: &str) -> Vec<String> {
        let state = self.shared.state.lock().unwrap();
        state.events.iter().filter(|event| event.id == id).map(|event| event.method.clone()).collect()
    }

    /// All that it was told, in order.
    pub(super) fn told(&self) -> Vec<Event> {
        self.shared.state.lock().unwrap().events.clone()
    }

    /// Waits until it is told that of one pod or container.
    pub(super) fn is_told(&self, id: &str, method: &str) {
        self.wait(|state| state.events.iter().any(|event| event.id == id && event.method == method));
    }

    /// Waits until the runtime has thrown it out, or has gone.
    pub(super) fn is_closed(&self) {
        self.wait(|state| state.is_closed);
    }

    /// What there was when it joined.
    pub(super) fn synchronized(&self) -> (Vec<api::PodSandbox>, Vec<api::Container>) {
        let state = self.shared.state.lock().unwrap();
        (state.pods.clone(), state.containers.clone())
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Answers until the connection ends.
fn serve(stream: &UnixStream, shared: &Shared, mut script: Script) {
    let mut channels: HashMap<u32, Vec<u8>> = HashMap::new();
    loop {
        let mut header = [0; 8];
        if (&mut &*stream).read_exact(&mut header).is_err() {
            return;
        }
        let (channel, length) = (number(&header[..4]), number(&header[4..]));
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        if (&mut &*stream).read_exact(&mut bytes).is_err() {
            return;
        }
        let buffer = channels.entry(channel).or_default();
        buffer.extend(bytes);
        while buffer.len() >= 10 {
            let end = 10 + usize::try_from(number(&buffer[..4])).unwrap();
            if buffer.len() < end {
                break;
            }
            let message: Vec<u8> = buffer.drain(..end).collect();
            let id = number(&message[4..8]);
            match (channel, message[8]) {
                (OURS, 1) => {
                    let request = Request::decode(&message[10..]).unwrap();
                    let answer = answer(shared, &request, &mut script);
                    let response = match answer {
                        Ok(payload) => Response { status: None, payload },
                        Err(message) => {
                            Response { status: Some(Status { code: 2, message }), payload: Vec::new() }
                        }
                    };
                    send(stream, shared, OURS, id, 2, &response.encode_to_vec());
                }
                (RUNTIMES, 2) => {
                    let response = Response::decode(&message[10..]).unwrap();
                    let answer = match response.status.filter(|status| status.code != 0) {
                        Some(status) => Err(status.message),
                        None => Ok(response.payload),
                    };
                    shared.state.lock().unwrap().answers.insert(id, answer);
                    shared.changed.notify_all();
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn answer(shared: &Shared, request: &Request, script: &mut Script) -> Result<Vec<u8>, String> {
    let payload = &*request.payload;
    match request.method.as_str() {
        "Configure" => return Ok(api::ConfigureResponse { events: ALL }.encode_to_vec()),
        "Synchronize" => {
            let request = api::SynchronizeRequest::decode(payload).unwrap();
            let mut state = shared.state.lock().unwrap();
            state.pods.extend(request.pods);
            state.containers.extend(request.containers);
            state.is_synchronized = !request.more;
            shared.changed.notify_all();
            return Ok(api::SynchronizeResponse { more: request.more, ..Default::default() }.encode_to_vec());
        }
        "Shutdown" => return Ok(Vec::new()),
        "StateChange" => {
            let change = api::StateChangeEvent::decode(payload).unwrap();
            let about = About { pod: change.pod.clone(), container: change.container.clone() };
            let method = name(change.event());
            note(shared, method, &about);
            return script(method, &about.encode_to_vec());
        }
        _ => {}
    }
    let about = About::decode(payload).unwrap_or_default();
    note(shared, &request.method, &about);
    script(&request.method, payload)
}

/// Events without a method of their own.
fn name(event: api::Event) -> &'static str {
    match event {
        api::Event::RunPodSandbox => "RunPodSandbox",
        api::Event::StopPodSandbox => "StopPodSandbox",
        api::Event::RemovePodSandbox => "RemovePodSandbox",
        api::Event::PostUpdatePodSandbox => "PostUpdatePodSandbox",
        api::Event::PostCreateContainer => "PostCreateContainer",
        api::Event::StartContainer => "StartContainer",
        api::Event::PostStartContainer => "PostStartContainer",
        api::Event::PostUpdateContainer => "PostUpdateContainer",
        api::Event::RemoveContainer => "RemoveContainer",
        other => panic!("{other:?}"),
    }
}

fn note(shared: &Shared, method: &str, about: &About) {
    let container = about.container.clone().filter(|_| method.ends_with("Container"));
    let pod = about.pod.clone().unwrap_or_default();
    let id = container.map_or(pod.id, |container| container.id);
    shared.state.lock().unwrap().events.push(Event { method: method.to_owned(), id });
    shared.changed.notify_all();
}

fn send(mut stream: &UnixStream, shared: &Shared, channel: u32, id: u32, kind: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap();
    let mut bytes = Vec::new();
    for number in [channel, 10 + length, length, id] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend([kind, 0]);
    bytes.extend(payload);
    let _turn = shared.writer.lock().unwrap();
    // It may have gone.
    let _ = stream.write_all(&bytes);
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}
