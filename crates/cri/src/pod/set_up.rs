//! How a sandbox comes to be.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use vaquita_cgroup::{Cgroup, Resources};
use vaquita_net::{Bandwidth, PortMapping};
use vaquita_proto::cri;
use vaquita_shim::SandboxRequest;

use super::later::take_down_later;
use super::take_down::forget;
use super::{take_down, watch};
use crate::error::Doing;
use crate::host::check_labels;
use crate::model::{Sandbox, SandboxKey, SandboxLife, SandboxPhase, SandboxRecord, fingerprint, new_id, now};
use crate::network::{Netns, NewPod};
use crate::node::{Node, blocking};
use crate::paths::private_dir;
use crate::{Error, Kind, Result, cgroups, container, nri, pod_files, spec};

/// Everything that was decided before anything was made.
struct Plan {
    request: SandboxRequest,
    ports: Vec<PortMapping>,
    bandwidth: Bandwidth,
    resources: Option<Resources>,
}

pub(super) async fn run(node: &Arc<Node>, config: cri::PodSandboxConfig, handler: String) -> Result<String> {
    let fingerprint = fingerprint(&config);
    if let Some(there) = node.tables.sandbox_by_key(&SandboxKey::of(&config)) {
        return again(&there, fingerprint, &handler);
    }
    let id = new_id()?;
    let parent = config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default();
    let cgroup = cgroups::of_pod(node.config.cgroup_driver, parent, &node.cgroup_root, &id)?;
    let mut plan = plan(node, &config, &handler, (&id, &cgroup))?;
    plan.request.apparmor = apparmor(node, &config).await?;
    if let Some(path) = container::sandbox_seccomp(&config)? {
        let path = path.to_owned();
        blocking("read the seccomp profile", move || container::local_profile(&path)).await?;
    }
    if plan.request.new.net {
        node.network.check().await?;
    }
    let record = SandboxRecord {
        cgroup_is_ours: !exists(node, &cgroup)?,
        id,
        config,
        fingerprint,
        runtime_handler: handler,
        created_at: now(),
        cgroup,
        selinux: None,
        life: SandboxLife::INTENT,
    };
    let sandbox = insert(node, record)?;
    let labels = sandbox.record.selinux.clone().unwrap_or_default();
    (plan.request.selinux, plan.request.mount_label) = (labels.process, labels.mount);
    match make(node, &sandbox, plan).await {
        Ok(()) => Ok(sandbox.id().to_owned()),
        Err(error) => Err(roll_back(node, &sandbox, error).await),
    }
}

/// Lists the sandbox, with SELinux labels at a level that no other has.
fn insert(node: &Node, record: SandboxRecord) -> Result<Arc<Sandbox>> {
    let _levels = node.levels.lock().unwrap_or_else(PoisonError::into_inner);
    let level = match node.host.selinux_policy {
        Some(_) => level(node, &record.id)?,
        None => String::new(),
    };
    let selinux = spec::selinux::of_sandbox(&record.config, &node.host, &level)?;
    check_labels(selinux.as_ref())?;
    let sandbox = Arc::new(Sandbox::new(SandboxRecord { selinux, ..record }));
    node.tables.insert_sandbox(sandbox.clone());
    Ok(sandbox)
}

/// A level that no other sandbox has.
fn level(node: &Node, id: &str) -> Result<String> {
    let others = node.tables.sandboxes();
    let taken = others.iter().filter_map(|sandbox| sandbox.record.selinux.as_ref());
    // The id is drawn at random.
    let start = id.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let level = spec::selinux::fresh_level(taken, start.unwrap_or_default());
    level.ok_or_else(|| Error::new(Kind::Exhausted, "all levels of SELinux are taken by other pods"))
}

/// The AppArmor profile of pause, empty where nobody asks for one.
async fn apparmor(node: &Arc<Node>, config: &cri::PodSandboxConfig) -> Result<String> {
    let Some(wanted) = spec::sandbox_apparmor(config, &node.host)? else { return Ok(String::new()) };
    let node = node.clone();
    let profile = blocking("look for the AppArmor profile", move || node.apparmor.profile(&wanted)).await?;
    Ok(profile.unwrap_or_default())
}

/// A retry gets the sandbox that its first try made.
fn again(there: &Sandbox, fingerprint: u64, handler: &str) -> Result<String> {
    if there.life().phase != SandboxPhase::Ready {
        return Err(Error::new(
            Kind::Exists,
            format!("sandbox {} is this pod's and was stopped: remove it, or count attempt up", there.id()),
        ));
    }
    if there.record.fingerprint != fingerprint || there.record.runtime_handler != handler {
        return Err(Error::new(
            Kind::Exists,
            format!("sandbox {} is this pod's, with another configuration", there.id()),
        ));
    }
    Ok(there.id().to_owned())
}

/// Whether pods of this handler can have users of their own.
fn users_are_possible(node: &Node, handler: &str) -> Result<()> {
    if node.runtimes.find(handler)?.is_some() {
        return Err(Error::unsupported(format!(
            "userns_options: users of its own are for pods of the built-in runtime, and not of {handler:?}"
        )));
    }
    node.users
        .as_ref()
        .map_err(|why| Error::unsupported(format!("userns_options: this host cannot: {why}")))?;
    Ok(())
}

fn plan(
    node: &Node,
    config: &cri::PodSandboxConfig,
    handler: &str,
    (id, cgroup): (&str, &Path),
) -> Result<Plan> {
    let request = spec::sandbox_request(id, config, &cgroups::of_container(cgroup, id), &node.host)?;
    if request.new.user {
        users_are_possible(node, handler)?;
    }
    let ports = spec::ports(config)?;
    let bandwidth = spec::bandwidth(config)?;
    if !request.new.net && !ports.is_empty() {
        return Err(Error::invalid("port_mappings: a pod with the network of the host has its ports anyway"));
    }
    if !request.new.net && !bandwidth.is_unlimited() {
        return Err(Error::invalid(
            "annotations: the bandwidth of a pod with the network of the host cannot be limited",
        ));
    }
    let directory = &config.log_directory;
    if !directory.is_empty() && !is_clean_absolute(directory) {
        return Err(Error::invalid(format!(
            "log_directory: {directory:?} must be absolute and without \"..\""
        )));
    }
    let resources = config
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref())
        .map(|resources| spec::limits(resources, &node.host))
        .transpose()?
        .map(|limits| spec::cgroup_limits(&limits));
    Ok(Plan { request, ports, bandwidth, resources })
}

/// The steps, each after its intent: what a step made is found again by the id alone.
async fn make(node: &Arc<Node>, sandbox: &Arc<Sandbox>, plan: Plan) -> Result<()> {
    let dir = node.paths.pod(sandbox.id());
    private_dir(&node.paths.containers(sandbox.id()))?;
    private_dir(&dir)?;
    node.paths.write_sandbox(&sandbox.record)?;

    let files = {
        let (node, sandbox) = (node.clone(), sandbox.clone());
        blocking("prepare the pod", move || prepare(&node, &sandbox, plan.resources.as_ref()))
    };
    let spawn = async { node.spawner.spawn(&dir).await.doing(|| "start the shim of the pod") };
    let early = connects_early(node, &plan.request);
    let (files, shim, netns) = tokio::join!(files, spawn, new_netns(early));
    let shim = sandbox.shim.get_or_init({
        let shim = shim?;
        || shim
    });
    files?;
    let netns = netns?;
    // Asked for before anything can happen, so that nothing is missed.
    let events = shim.events();
    let connect = |fd, pid| {
        let config = &sandbox.record.config;
        let (ports, bandwidth) = (plan.ports.clone(), plan.bandwidth);
        node.network.attach(NewPod { id: sandbox.id(), config, ports, bandwidth, netns: Netns { fd, pid } })
    };
    let create = async |netns| shim.create_sandbox(&plan.request, netns).await.doing(|| "create the sandbox");
    let (created, ips) = match netns {
        Some(netns) => {
            let copy = netns.try_clone().doing(|| "copy a descriptor of the network namespace")?;
            // Both come to their end, whatever becomes of the other: what they made is taken back afterwards.
            let (created, ips) = tokio::join!(create(Some(copy)), connect(netns, None));
            (created?, ips?)
        }
        None => {
            let mut created = create(None).await?;
            let ips = match created.netns.take() {
                Some(netns) => connect(netns, Some(created.pid)).await?,
                None => Vec::new(),
            };
            (created, ips)
        }
    };
    pod_files::write_hosts(&node.paths, &sandbox.record, &ips)?;
    nri::run_pod(node, sandbox, created.pid, &ips).await?;
    let record = sandbox.advance(SandboxPhase::Ready, |life| {
        life.pid = Some(created.pid);
        life.ips = ips;
    })?;
    node.paths.write_sandbox(&record)?;
    tokio::spawn(watch(node.clone(), sandbox.clone(), events));
    Ok(())
}

/// Whether the pod can be connected while pause is made. Not where pause makes the namespace, because the pod has users of its own,
/// or sets what links that come later take over.
fn connects_early(node: &Node, request: &SandboxRequest) -> bool {
    let is_of_links = |name: &str| name.split(['.', '/']).any(|part| matches!(part, "conf" | "neigh"));
    let has_early = request.sysctls.iter().any(|(name, _)| is_of_links(name));
    request.new.net && !request.new.user && !has_early && node.network.needs_no_process()
}

async fn new_netns(is_wanted: bool) -> Result<Option<OwnedFd>> {
    if !is_wanted {
        return Ok(None);
    }
    let make = || vaquita_sys::ns::new_netns().doing(|| "make the network namespace of the pod");
    blocking("make a network namespace", make).await.map(Some)
}

/// What needs neither the shim nor the network.
fn prepare(node: &Node, sandbox: &Sandbox, resources: Option<&Resources>) -> Result<()> {
    let record = &sandbox.record;
    pod_files::make(&node.paths, record)?;
    if record.cgroup_is_ours {
        let nothing = Resources::default();
        cgroups::make(&node.layout, &record.cgroup, resources.unwrap_or(&nothing))?;
    }
    Ok(())
}

/// Takes everything back. What cannot be taken back now stays listed as not ready, so that the client's clean-up gets
/// another try at it.
async fn roll_back(node: &Arc<Node>, sandbox: &Arc<Sandbox>, error: Error) -> Error {
    sandbox.close();
    let undone = async {
        take_down(node, sandbox).await?;
        sandbox.advance(SandboxPhase::Removing, |_| {})?;
        forget(node, sandbox).await
    };
    match undone.await {
        Ok(()) => error,
        Err(also) => {
            tracing::warn!(sandbox = sandbox.id(), error = %also, "a sandbox that failed could not be taken back");
            if node.network.has_plugins(sandbox.id()) {
                take_down_later(node, sandbox, true, Duration::from_secs(1));
            }
            Error::new(error.kind(), format!("{error} (taking it back failed too: {also})"))
        }
    }
}

fn exists(node: &Node, cgroup: &Path) -> Result<bool> {
    match Cgroup::open(&node.layout, cgroup) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == vaquita_cgroup::Kind::NotFound => Ok(false),
        Err(error) => Err(error).doing(|| format!("open the cgroup {}", cgroup.display())),
    }
}

/// Absolute, and without a way up.
pub(crate) fn is_clean_absolute(path: &str) -> bool {
    use std::path::Component;
    path.starts_with('/')
        && Path::new(path).components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !path.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T32.
    #[test]
    fn cve_2025_0750_paths_do_not_climb() {
        for good in ["/var/log/pods/a_b_c", "/a/./b"] {
            assert!(is_clean_absolute(good), "{good}");
        }
        for bad in ["", "var/log", "/var/../etc", "/..", "/a\0b"] {
            assert!(!is_clean_absolute(bad), "{bad:?}");
        }
    }
}
