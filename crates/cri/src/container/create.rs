//! How a container comes to be.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Spec;
use vaquita_cgroup::Resources;
use vaquita_image::Image;
use vaquita_nri::api::ContainerAdjustment;
use vaquita_proto::cri;
use vaquita_shim::{CreateRequest, OciRuntime};

use super::adjust::{adjust_all, has_late_work};
use super::volumes::{self, Volumes};
use super::{cdi, probe, relabel};
use crate::error::Doing;
use crate::host::check_labels;
use crate::model::{
    Container, ContainerRecord, Ended, Life, Sandbox, fingerprint, new_id, now, signal_from_cri,
    signal_from_image,
};
use crate::node::{Node, blocking};
use crate::nri::{self, Candidate, Stage};
use crate::paths::private_dir;
use crate::spec::{self, Input, PidNamespace, PodFiles, User};
use crate::{Error, Kind, Result, cgroups, pod_files};

/// How long looking at host paths and images may take: a network file system that is gone hangs whoever looks at it.
const PATIENCE: Duration = Duration::from_secs(90);

pub(super) async fn run(
    node: &Arc<Node>,
    sandbox: &Arc<Sandbox>,
    config: cri::ContainerConfig,
) -> Result<String> {
    let _pod = sandbox.lane.read().await;
    let shim = sandbox.open()?;
    let fingerprint = fingerprint(&config);
    let metadata = config.metadata.clone().unwrap_or_default();
    if let Some(there) = node.tables.container_by_name(sandbox.id(), &metadata.name, metadata.attempt) {
        return again(&there, fingerprint);
    }
    let pod = &sandbox.record.config;
    spec::refuse_unsupported(&config, pod, &node.host)?;
    let pid = spec::pid_namespace(&config, pod)?;
    let target = target(node, sandbox, &config, pid)?;
    let image = image(node, &config)?;
    let volumes = volumes::images(node, &config)?;
    let runtime = runtime(node, sandbox)?;
    let mut record = record(sandbox, &config, &image, fingerprint)?;
    record.image_volumes = spec::volumes(&image.config.volumes, &config)?;
    for (mount, image) in record.config.mounts.iter_mut().zip(&volumes) {
        if let (Some(spec), Some(image)) = (&mut mount.image, image) {
            spec.image_ref = image.id.to_string();
        }
    }
    let bundle = node.paths.container(sandbox.id(), &record.id);
    let request = CreateRequest {
        id: record.id.clone(),
        bundle: bundle.clone(),
        cgroup: record.cgroup.clone(),
        log_path: None,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        join: spec::joined(pod, pid),
        restrict_oom_score_adj: node.host.restrict_oom_score_adj,
        log_limit: node.config.container_log_limit.unwrap_or_default(),
        runtime: runtime.map(|program| OciRuntime {
            program: program.to_owned(),
            systemd_cgroup: cgroups::is_systemd(&record.cgroup),
        }),
        has_late_work: false,
    };
    let users = if request.join.user {
        Some(shim.userns().await.doing(|| "find the user namespace of the pod")?)
    } else {
        None
    };
    private_dir(&bundle)?;
    node.paths.write_container(&record)?;

    let worker = Worker {
        node: node.clone(),
        sandbox: sandbox.clone(),
        config,
        image,
        volumes,
        image_volumes: record.image_volumes.clone(),
        target,
        users,
        is_built_in: request.runtime.is_none(),
    };
    let group = make_group(node, &record, request.runtime.is_none());
    let prepare = async {
        let id = record.id.clone();
        let cgroup = record.cgroup.clone();
        let task = blocking("prepare the container", move || worker.prepare(&id, &cgroup));
        match tokio::time::timeout(PATIENCE, task).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                Kind::Timeout,
                "a file system does not answer: one of the mounts, or that of the images",
            )),
        }
    };
    let (prepared, group) = tokio::join!(prepare, group);
    let prepared = match group.and(prepared) {
        Ok(prepared) => prepared,
        Err(error) => return Err(roll_back(node, sandbox, record, error).await),
    };
    record.user = prepared.user.clone();
    record.real_log_path = prepared.log_path.clone().filter(|_| prepared.log_path != record.log_path);
    let candidate = Candidate::new(node, sandbox, &record, Some(&prepared.spec)).await;
    match make(node, sandbox, &candidate, (&mut record, request, prepared)).await {
        Ok(pid) => {
            let container = Arc::new(Container::new(record));
            container.created(pid);
            container.told.enter(Stage::Made);
            node.paths.write_container(&container.record())?;
            node.tables.insert_container(container.clone());
            drop(candidate);
            nri::post_create(node, &container).await;
            Ok(container.id().to_owned())
        }
        Err(error) => {
            candidate.undo(node).await;
            Err(roll_back(node, sandbox, record, error).await)
        }
    }
}

/// Has plugins say what they want of the container, and makes it. Returns its first process.
async fn make(
    node: &Arc<Node>,
    sandbox: &Arc<Sandbox>,
    candidate: &Candidate<'_>,
    (record, mut request, prepared): (&mut ContainerRecord, CreateRequest, Prepared),
) -> Result<i32> {
    let Prepared { rootfs, volumes, log_path, spec, .. } = prepared;
    let mut has_late_work = has_late_work(&spec);
    if let Some(wishes) = candidate.wishes().await? {
        nri::evict(node, wishes.evictions);
        // Their failure is logged: it is no fault of this container.
        drop(nri::apply(node, wishes.updates).await);
        if wishes.adjustment != ContainerAdjustment::default() {
            has_late_work =
                adjust_all(node, sandbox, (record, &mut request), spec, wishes.adjustment).await?;
        }
    }
    request.has_late_work = has_late_work && request.runtime.is_none();
    request.log_path = log_path;
    let shim = sandbox.open()?;
    let created = shim.create(&request, rootfs).await;
    drop(volumes);
    let name = || record.config.metadata.clone().unwrap_or_default().name;
    Ok(created.doing(|| format!("create container {:?}", name()))?.pid)
}

/// Makes the container's cgroup while its root is prepared; its limits follow when its process is made. What systemd or another
/// runtime shall make is theirs.
async fn make_group(node: &Arc<Node>, record: &ContainerRecord, is_built_in: bool) -> Result<()> {
    if !is_built_in || cgroups::is_systemd(&record.cgroup) {
        return Ok(());
    }
    let (node, cgroup) = (node.clone(), record.cgroup.clone());
    blocking("make the cgroup of a container", move || {
        cgroups::make(&node.layout, &cgroup, &Resources::default()).map(drop)
    })
    .await
}

/// A retry gets the container that its first try made.
fn again(there: &Container, fingerprint: u64) -> Result<String> {
    use crate::model::ContainerPhase;
    if there.life().phase == ContainerPhase::Created && there.record.fingerprint == fingerprint {
        return Ok(there.id().to_owned());
    }
    Err(Error::new(
        Kind::Exists,
        format!(
            "container {} of this sandbox has that name and attempt, and is {} or was configured otherwise: remove it, \
             or count attempt up",
            there.id(),
            there.life().state().as_str_name()
        ),
    ))
}

async fn roll_back(node: &Arc<Node>, sandbox: &Sandbox, record: ContainerRecord, error: Error) -> Error {
    let container = Arc::new(Container::new(record));
    match super::erase(node, Some(sandbox), &container).await {
        Ok(()) => error,
        Err(also) => {
            // Listed, so that the client's clean-up gets another try at it.
            container.ended(Ended::not_started(error.to_string(), now()), 0);
            node.tables.insert_container(container);
            Error::new(error.kind(), format!("{error} (taking it back failed too: {also})"))
        }
    }
}

/// The runtime of the pod's handler, which the server may have been started without this time.
fn runtime<'a>(node: &'a Node, sandbox: &Sandbox) -> Result<Option<&'a Path>> {
    let handler = &sandbox.record.runtime_handler;
    node.runtimes.find(handler).map_err(|_| {
        let message = format!(
            "the pod's runtime handler {handler:?} is not configured any more: start the server with it, or remove the pod"
        );
        Error::new(Kind::Precondition, message)
    })
}

/// The process whose PID namespace is joined.
fn target(
    node: &Node,
    sandbox: &Sandbox,
    config: &cri::ContainerConfig,
    pid: PidNamespace,
) -> Result<Option<i32>> {
    if pid != PidNamespace::Target {
        return Ok(None);
    }
    let options = spec::context(config).namespace_options.unwrap_or_default();
    let target = node.tables.container(&options.target_id)?;
    if target.record.sandbox != sandbox.id() {
        return Err(Error::invalid("namespace_options.target_id: that container is in another sandbox"));
    }
    target.expect_running("namespace_options.target_id")?;
    Ok(target.life().pid)
}

fn image(node: &Node, config: &cri::ContainerConfig) -> Result<Arc<Image>> {
    let spec = config.image.as_ref().ok_or_else(|| Error::invalid("config.image: is missing"))?;
    if spec.image.is_empty() {
        return Err(Error::invalid("config.image.image: is missing"));
    }
    // What is in there runs with the privileges that it says itself, not with those that the client asks for.
    if spec.image.starts_with('/') {
        return Err(Error::unsupported(format!(
            "config.image.image: {:?} is a path; checkpoints are not restored through the CRI; name an image",
            spec.image
        )));
    }
    let image = node.images.find(&spec.image).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("image {:?} is not on this node: pull it first", spec.image))
    })?;
    if !image.artifact_type.is_empty() {
        return Err(Error::invalid(format!(
            "config.image.image: {:?} is an artifact ({}), which can be mounted as a volume and not run",
            spec.image, image.artifact_type
        )));
    }
    Ok(image)
}

fn record(
    sandbox: &Sandbox,
    config: &cri::ContainerConfig,
    image: &Image,
    fingerprint: u64,
) -> Result<ContainerRecord> {
    let id = new_id()?;
    let stop_signal = match signal_from_cri(config.stop_signal)? {
        Some(signal) => signal,
        None if image.config.stop_signal.is_empty() => 15,
        None => signal_from_image(&image.config.stop_signal)?,
    };
    let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    Ok(ContainerRecord {
        cgroup: cgroups::of_container(&sandbox.record.cgroup, &id),
        id,
        sandbox: sandbox.id().to_owned(),
        log_path: log_path(&sandbox.record.config.log_directory, &config.log_path)?,
        real_log_path: None,
        config: cri::ContainerConfig { envs: Vec::new(), windows: None, ..config.clone() },
        fingerprint,
        image: image.id.to_string(),
        created_at: now(),
        image_volumes: Vec::new(),
        user: cri::LinuxContainerUser::default(),
        stop_signal,
        resources,
        life: Life::INTENT,
    })
}

/// Below the directory of the pod, and nowhere else (CVE-2025-0750).
fn log_path(directory: &str, path: &str) -> Result<Option<PathBuf>> {
    let below = Path::new(path);
    let is_below = below.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !is_below || path.ends_with('/') || path.contains('\0') {
        return Err(Error::invalid(format!("log_path: {path:?} must be relative and without \"..\"")));
    }
    if directory.is_empty() || path.is_empty() {
        return Ok(None);
    }
    let whole = Path::new(directory).join(below);
    // With what is added to the name of a log that is rotated.
    let is_long = |part: Component<'_>| part.as_os_str().len() > NAME - ".20060102-150405".len();
    if whole.as_os_str().len() > PATH || below.components().any(is_long) {
        return Err(Error::invalid(format!("log_path: {path:?} is longer than a file's path can be")));
    }
    Ok(Some(whole))
}

/// Bytes of a path, and of a name in it (Linux, limits.h).
const PATH: usize = 4095;
const NAME: usize = 255;

/// What the blocking part needs.
struct Worker {
    node: Arc<Node>,
    sandbox: Arc<Sandbox>,
    config: cri::ContainerConfig,
    image: Arc<Image>,
    /// For each mount.
    volumes: Vec<Option<Arc<Image>>>,
    /// Where those of its own image go.
    image_volumes: Vec<String>,
    target: Option<i32>,
    /// The pod's user namespace, if it has one of its own.
    users: Option<OwnedFd>,
    /// Whether the built-in runtime makes the container.
    is_built_in: bool,
}

/// What the blocking part makes, beside `config.json`.
struct Prepared {
    rootfs: OwnedFd,
    /// To be kept until the container's process is made.
    volumes: Volumes,
    /// Where the log goes, without symbolic links.
    log_path: Option<PathBuf>,
    user: cri::LinuxContainerUser,
    /// As it was written.
    spec: Box<Spec>,
}

impl Worker {
    fn prepare(&self, id: &str, cgroup: &Path) -> Result<Prepared> {
        let bundle = self.node.paths.container(self.sandbox.id(), id);
        let record = &self.sandbox.record;
        let selinux = record.selinux.as_ref();
        let selinux = spec::selinux::of_container(&self.config, &record.config, selinux, &self.node.host)?;
        check_labels(selinux.as_ref())?;
        let label = selinux.as_ref().map(|labels| labels.mount.as_str());
        let how = (self.users.as_ref(), label);
        let mut volumes = Volumes::mount(&self.node, &bundle, (id, &self.config), &self.volumes, how)?;
        let root = spec::users(&record.config)?.map(|users| users.root());
        volumes.define(&self.node, &bundle, (id, &self.image), &self.image_volumes, how, root)?;
        let sources = probe::sources(&self.config, &volumes.sources)?;
        relabel::sources(&self.config, &volumes.sources, &sources, label, &self.node.host)?;
        let devices = probe::devices(&self.config)?;
        let names: Vec<&str> = self.config.cdi_devices.iter().map(|device| device.name.as_str()).collect();
        let edits = cdi::edits(&names, &self.node.config.cdi_spec_dirs)?;
        let seccomp = probe::seccomp(&self.config, &self.node.host)?;
        let apparmor = spec::apparmor(&self.config, &self.node.host)?;
        let apparmor = apparmor.map(|wanted| self.node.apparmor.profile(&wanted)).transpose()?.flatten();
        let snapshot = self.node.images.snapshot(id, &self.image.id)?;
        let snapshot = match label {
            Some(label) => snapshot.labelled(label),
            None => snapshot,
        };
        let rootfs = match &self.users {
            Some(users) => snapshot.mount_mapped(false, users.as_fd())?,
            None => snapshot.mount(false)?,
        };
        let user = self.user(rootfs.as_fd(), edits.groups())?;
        let paths = &self.node.paths;
        let sandbox = self.sandbox.id();
        let pod = &self.sandbox.record.config;
        let own_ipc = spec::joined(pod, PidNamespace::Own).ipc;
        let shm = if own_ipc { paths.shm(sandbox) } else { "/dev/shm".into() };
        let mut spec = spec::build(&Input {
            config: &self.config,
            sandbox: pod,
            sandbox_id: sandbox,
            pod: PodFiles {
                hosts: &paths.hosts(sandbox),
                hostname: &paths.hostname(sandbox),
                resolv: &paths.resolv(sandbox),
                shm: &shm,
            },
            image: &self.image.config,
            user: &user,
            sources: &sources,
            volumes: &volumes.defined,
            devices: &devices,
            seccomp,
            apparmor,
            selinux,
            target: self.target,
            cgroup,
            host: &self.node.host,
            hostname: &pod_files::hostname(pod),
        })?;
        let context = spec::cdi::Context {
            look: &probe::device,
            is_built_in: self.is_built_in,
            has_own_users: self.users.is_some(),
        };
        edits.apply(&mut spec, &context)?;
        paths.write_spec(sandbox, id, &spec)?;
        let log_path = self.log_path()?;
        Ok(Prepared {
            rootfs,
            volumes,
            log_path,
            user: cri::LinuxContainerUser {
                uid: user.uid.into(),
                gid: user.gid.into(),
                supplemental_groups: user.groups.iter().map(|gid| i64::from(*gid)).collect(),
            },
            spec: Box::new(spec),
        })
    }

    /// Where the log goes, in a directory that is there: kubelet makes it before, others do not. The pod's own may be reached by
    /// symbolic links of the host; below it the shim follows none.
    #[expect(clippy::disallowed_methods, reason = "a directory of the host, which the client names")]
    fn log_path(&self) -> Result<Option<PathBuf>> {
        let directory = &self.sandbox.record.config.log_directory;
        let Some(path) = log_path(directory, &self.config.log_path)? else { return Ok(None) };
        let doing = || format!("make the log directory {directory}");
        std::fs::create_dir_all(directory).doing(doing)?;
        let real = std::fs::canonicalize(directory).doing(doing)?;
        Ok(path.strip_prefix(directory).ok().map(|below| real.join(below)))
    }

    /// Whom it runs as: the client's word, else the image's, looked up in the image's own files.
    fn user(&self, rootfs: BorrowedFd<'_>, more: impl Iterator<Item = u32>) -> Result<User> {
        let context = spec::context(&self.config);
        let text = user_text(&context, &self.image.config.user)?;
        let found = vaquita_image::passwd::resolve(rootfs, &text)?;
        let mut groups = vec![found.gid];
        let strict = context.supplemental_groups_policy == cri::SupplementalGroupsPolicy::Strict as i32;
        if !strict {
            groups.extend(&found.additional_gids);
        }
        for gid in &context.supplemental_groups {
            groups.push(spec::id("supplemental_groups", *gid)?);
        }
        groups.extend(more);
        let mut seen = std::collections::BTreeSet::new();
        groups.retain(|gid| seen.insert(*gid));
        let user = User { uid: found.uid, gid: found.gid, groups, home: found.home };
        if let Some(users) = spec::users(&self.sandbox.record.config)? {
            users.check(&user)?;
        }
        Ok(user)
    }
}

/// `user[:group]`, as the image's files are asked for it.
fn user_text(context: &cri::LinuxContainerSecurityContext, image: &str) -> Result<String> {
    let group = context.run_as_group.map(|group| spec::id("run_as_group", group.value)).transpose()?;
    let user = match &context.run_as_user {
        Some(user) => Some(spec::id("run_as_user", user.value)?.to_string()),
        None if !context.run_as_username.is_empty() => Some(context.run_as_username.clone()),
        None => None,
    };
    match (user, group) {
        (Some(user), _) if user.contains(':') => {
            Err(Error::invalid(format!("run_as_username: {user:?} is not the name of a user")))
        }
        (Some(user), Some(group)) => Ok(format!("{user}:{group}")),
        (Some(user), None) => Ok(user),
        (None, Some(_)) => {
            Err(Error::invalid("run_as_group: a group without run_as_user or run_as_username"))
        }
        (None, None) => Ok(image.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T32.
    #[test]
    fn cve_2025_0750_logs_stay_in_their_directory() {
        assert_eq!(log_path("/logs", "a/0.log").unwrap().unwrap(), Path::new("/logs/a/0.log"));
        assert_eq!(log_path("", "a").unwrap(), None);
        assert_eq!(log_path("/logs", "").unwrap(), None);
        for bad in ["../x", "/etc/x", "a/../../x", "a/", "a\0"] {
            assert!(log_path("/logs", bad).is_err(), "{bad:?}");
        }
        assert!(log_path("/logs", &"x".repeat(239)).is_ok());
        for long in ["x".repeat(240), format!("{}x", "a/".repeat(2045))] {
            let error = log_path("/logs", &long).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{error}");
        }
    }

    #[test]
    fn who_it_runs_as() {
        let context =
            |user: Option<i64>, name: &str, group: Option<i64>| cri::LinuxContainerSecurityContext {
                run_as_user: user.map(|value| cri::Int64Value { value }),
                run_as_username: name.into(),
                run_as_group: group.map(|value| cri::Int64Value { value }),
                ..Default::default()
            };
        for (user, name, group, text) in [
            (None, "", None, "image:user"),
            (Some(0), "", None, "0"),
            (Some(7), "x", Some(8), "7:8"),
            (None, "x", Some(8), "x:8"),
        ] {
            assert_eq!(user_text(&context(user, name, group), "image:user").unwrap(), text);
        }
        for (user, name, group) in
            [(None, "", Some(8)), (Some(-1), "", None), (Some(1 << 32), "", None), (None, "x:0", None)]
        {
            assert!(user_text(&context(user, name, group), "").is_err());
        }
    }
}
