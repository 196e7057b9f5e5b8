//! The Node object and its Lease: what this machine is, has and can take, kept true.

mod machine;
mod object;
mod taints;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::watch;
use vaquita_apiserver::{Reason, Status, Subresource, Write};
use vaquita_kube::client::Client;
use vaquita_proto::cri;

pub(crate) use self::machine::Room;
use self::machine::{Load, Machine};
use self::object::{Happenings, Look, Pressures, Runtime};
use crate::control::Shared;
use crate::events::{KUBELET, Reference, seconds};
use crate::follow::{Follow, Told};
use vaquita_apiserver::kinds::{LEASE, NODE};

/// Between looks at the machine, as kubelet has it.
const PERIOD: Duration = Duration::from_secs(10);
/// Between looks while the node is not ready.
const IMPATIENT: Duration = Duration::from_millis(200);
/// The status is written so often though nothing has changed.
const HEARTBEAT: SignedDuration = SignedDuration::from_mins(5);
/// How long a lease lasts that is not renewed, and how often it is.
const LEASE_SECONDS: i64 = 40;
const RENEWAL: Duration = Duration::from_secs(10);
/// How long a CRI server may take to say how it is.
const ANSWER: Duration = Duration::from_secs(10);

/// Events about the node, as kubelet names it: by its name in place of the uid.
pub(crate) fn reference(name: &str) -> Reference {
    Reference { kind: "Node", name: name.to_owned(), uid: name.to_owned(), ..Reference::default() }
}

/// Keeps the Node object true. Tells `ready` whether it is.
pub(crate) async fn keep(shared: Arc<Shared>, ready: watch::Sender<bool>) {
    let root = shared.config.agent.root.clone();
    let looked = tokio::task::spawn_blocking(move || Machine::look(&root)).await;
    let machine = looked.unwrap_or_default();
    let mut keeper = Keeper {
        shared,
        machine,
        pressures: Pressures::default(),
        images: PathBuf::from("/"),
        written: None,
    };
    let about = reference(&keeper.shared.name);
    keeper.shared.recorder.normal(KUBELET, about, "Starting", "Starting kubelet.");
    loop {
        let pause = match keeper.look().await {
            Ok(true) => {
                ready.send_replace(true);
                PERIOD
            }
            Ok(false) => {
                ready.send_replace(false);
                IMPATIENT
            }
            Err(error) => {
                tracing::warn!(error = %error.message, "the node cannot be written");
                Duration::from_secs(1)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

struct Keeper {
    shared: Arc<Shared>,
    machine: Machine,
    pressures: Pressures,
    /// Where the CRI server keeps images.
    images: PathBuf,
    /// When the status was written for the last time.
    written: Option<Timestamp>,
}

impl Keeper {
    /// Looks at the machine and the CRI server, and writes what is new. Whether the node is ready.
    async fn look(&mut self) -> Result<bool, Status> {
        let runtime = self.ask().await;
        let (root, images) = (self.shared.config.agent.root.clone(), self.images.clone());
        let load = tokio::task::spawn_blocking(move || Load::look(&root, &images)).await.unwrap_or_default();
        let now = Timestamp::now();
        let pressed = self.pressures.feel(&load, self.shared.config.disk_percent, now);
        match self.write(&runtime, pressed, now).await {
            Err(error) if error.reason == Reason::NotFound => {
                self.register().await?;
                self.write(&runtime, pressed, now).await?;
            }
            result => result?,
        }
        Ok(runtime.trouble.is_empty())
    }

    async fn write(&mut self, runtime: &Runtime, pressed: [bool; 3], now: Timestamp) -> Result<(), Status> {
        let name = self.shared.name.as_str();
        let address = self.shared.config.node_ip.or(self.machine.address);
        let disk_percent = self.shared.config.disk_percent;
        let look = Look { name, address, machine: &self.machine, disk_percent, pressed, runtime, now };
        let due = self.written.is_none_or(|written| now.duration_since(written) >= HEARTBEAT);
        let mut happenings = Happenings::new();
        let mut changed = false;
        let change = |node: &mut Value| {
            let before = node["status"].clone();
            happenings = object::refresh(&mut node["status"], &look);
            changed = due || object::differs(&before, &node["status"]);
            Ok(changed)
        };
        let write = Write::system("node");
        self.shared.cluster.modify(&NODE, "", name, Some(Subresource::Status), &write, change).await?;
        if changed {
            self.written = Some(now);
        }
        for reason in happenings {
            let message = format!("Node {name} status is now: {reason}");
            self.shared.recorder.normal(KUBELET, reference(name), reason, message);
        }
        Ok(())
    }

    /// Makes the object, or gives the one that is there the labels that it must have.
    async fn register(&self) -> Result<(), Status> {
        let Shared { cluster, config, name, .. } = &*self.shared;
        let node = object::new(name, &self.machine, &config.labels, &config.pod_cidrs);
        let write = Write::system("node");
        match cluster.create(&NODE, "", node, &write).await {
            Err(error) if error.reason == Reason::AlreadyExists => Ok(()),
            result => result.map(drop),
        }
    }

    /// What the CRI server says of itself.
    async fn ask(&mut self) -> Runtime {
        match tokio::time::timeout(ANSWER, ask(&self.shared.config.cri)).await {
            Ok(Ok((runtime, images))) => {
                if let Some(images) = images {
                    self.images = images;
                }
                runtime
            }
            Ok(Err(status)) => {
                let trouble = vec![format!("container runtime is down: {}", status.message())];
                Runtime { trouble, version: "vaquita://Unknown".to_owned(), ..Runtime::default() }
            }
            Err(_) => {
                let trouble = vec!["container runtime is down: it does not answer".to_owned()];
                Runtime { trouble, version: "vaquita://Unknown".to_owned(), ..Runtime::default() }
            }
        }
    }
}

async fn ask(client: &Client) -> Result<(Runtime, Option<PathBuf>), tonic::Status> {
    let (mut runtime, mut images) = (client.runtime(), client.images());
    let version = runtime.version(cri::VersionRequest { version: "v1".to_owned() }).await?.into_inner();
    let status = runtime.status(cri::StatusRequest { verbose: false }).await?.into_inner();
    let list = images.list_images(cri::ListImagesRequest { filter: None }).await?.into_inner();
    let place = images.image_fs_info(cri::ImageFsInfoRequest {}).await.ok();
    let place = place.and_then(|info| info.into_inner().image_filesystems.into_iter().next()?.fs_id);
    let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
    let bad = conditions.iter().filter(|condition| !condition.status);
    let trouble = bad.map(|condition| {
        let what = if condition.r#type == "NetworkReady" { "runtime network" } else { "runtime" };
        format!(
            "container {what} not ready: {}=false reason:{} message:{}",
            condition.r#type, condition.reason, condition.message
        )
    });
    let handlers = status.runtime_handlers.into_iter().map(|handler| {
        let features = handler.features.unwrap_or_default();
        (handler.name, features.recursive_read_only_mounts, features.user_namespaces)
    });
    let images = list.images.into_iter().map(|image| {
        let names: Vec<String> = image.repo_digests.into_iter().chain(image.repo_tags).collect();
        (names, image.size)
    });
    let runtime = Runtime {
        version: format!("{}://{}", version.runtime_name, version.runtime_version),
        trouble: trouble.collect(),
        handlers: handlers.collect(),
        supplemental_groups_policy: status
            .features
            .is_some_and(|features| features.supplemental_groups_policy),
        images: images.collect(),
    };
    Ok((runtime, place.map(|place| PathBuf::from(place.mountpoint))))
}

/// Watches the Node object for what users do with it: labels that it must have come back, taints follow conditions.
pub(crate) async fn mind(shared: Arc<Shared>) {
    let mut follow = Follow::new(shared.cluster.clone(), &NODE);
    let arch = Machine::look(&shared.config.agent.root).arch;
    let mut cordoned: Option<bool> = None;
    loop {
        let nodes = match follow.next().await {
            Told::All(nodes) => nodes,
            Told::Set(node) => vec![node],
            Told::Gone(_) => continue,
        };
        for node in nodes {
            let value = node.value();
            let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let ours = name == shared.name;
            if ours {
                let now = value["spec"]["unschedulable"] == true;
                if cordoned.replace(now).is_some_and(|before| before != now) {
                    let reason = if now { "NodeNotSchedulable" } else { "NodeSchedulable" };
                    let message = format!("Node {name} status is now: {reason}");
                    shared.recorder.normal(KUBELET, reference(&name), reason, message);
                }
            }
            let now = seconds(Timestamp::now());
            let mend = |node: &mut Value| {
                let labelled = ours && object::label(node, &shared.name, arch);
                taints::settle(node, &now) || labelled
            };
            let mut copy = value.clone();
            if !mend(&mut copy) {
                continue;
            }
            let write = Write::system("node");
            match shared.cluster.modify(&NODE, "", &name, None, &write, |node| Ok(mend(node))).await {
                Err(error) if error.reason != Reason::NotFound => {
                    tracing::warn!(error = %error.message, name, "the node's taints cannot be written");
                }
                _ => {}
            }
        }
    }
}

/// Renews the node's Lease.
pub(crate) async fn renew(shared: Arc<Shared>) {
    let write = Write::system("node");
    loop {
        let result = renew_once(&shared, &write).await;
        if let Err(error) = &result {
            tracing::debug!(error = %error.message, "the node's lease cannot be renewed");
        }
        let pause = if result.is_ok() { RENEWAL } else { Duration::from_millis(500) };
        tokio::time::sleep(pause).await;
    }
}

/// Namespace of nodes' leases.
const LEASES: &str = "kube-node-lease";

async fn renew_once(shared: &Shared, write: &Write) -> Result<(), Status> {
    // Not before the node is there: the lease is the node's.
    let node = shared.cluster.get(&NODE, "", &shared.name)?;
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": shared.name, "uid": node.uid()}]);
    let spec = json!({
        "holderIdentity": shared.name,
        "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": format!("{:.6}", Timestamp::now()),
    });
    let change = |lease: &mut Value| {
        lease["metadata"]["ownerReferences"] = owner.clone();
        lease["spec"] = spec.clone();
        Ok(true)
    };
    match shared.cluster.modify(&LEASE, LEASES, &shared.name, None, write, change).await {
        Err(error) if error.reason == Reason::NotFound => {
            let lease = json!({
                "metadata": {"name": shared.name, "namespace": LEASES, "ownerReferences": owner},
                "spec": spec,
            });
            shared.cluster.create(&LEASE, LEASES, lease, write).await.map(drop)
        }
        result => result.map(drop),
    }
}
