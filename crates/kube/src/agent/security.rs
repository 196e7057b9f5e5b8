//! Security attributes: the container's win over the pod's, the pod's over the image's.

use std::collections::BTreeMap;
use std::path::Path;

use vaquita_proto::cri;

use super::context::Context;
use crate::api::{
    AppArmorProfile, AppArmorProfileType, Container, PodSecurityContext, PodSpec, SELinuxOptions,
    SeccompProfile, SeccompProfileType, SecurityContext, SupplementalGroupsPolicy,
};
use crate::event::full_name;
use crate::{Error, Result};

/// The user that an image names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ImageUser {
    pub(super) uid: Option<i64>,
    pub(super) name: String,
}

impl From<&cri::Image> for ImageUser {
    fn from(image: &cri::Image) -> Self {
        let uid = image.uid.as_ref().map(|uid| uid.value);
        // An image that names nobody runs as root.
        let uid = if uid.is_none() && image.username.is_empty() { Some(0) } else { uid };
        Self { uid, name: image.username.clone() }
    }
}

/// The sandbox's own process, and the namespaces of the pod.
pub(super) fn sandbox(spec: &PodSpec) -> cri::LinuxSandboxSecurityContext {
    let empty = PodSecurityContext::default();
    let context = spec.security_context.as_ref().unwrap_or(&empty);
    let privileged = spec.containers.iter().chain(&spec.init_containers).any(is_privileged);
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        selinux_options: context.se_linux_options.as_ref().map(selinux),
        run_as_user: id(context.run_as_user),
        // A group without a user is refused by CRI servers.
        run_as_group: id(context.run_as_user.and(context.run_as_group)),
        readonly_rootfs: false,
        supplemental_groups: groups(context),
        supplemental_groups_policy: groups_policy(context).into(),
        privileged,
        seccomp: Some(profile(cri::security_profile::ProfileType::RuntimeDefault, String::new())),
        ..cri::LinuxSandboxSecurityContext::default()
    }
}

/// The sysctls of the pod's namespaces, with dots.
pub(super) fn sysctls(spec: &PodSpec) -> BTreeMap<String, String> {
    let list = spec.security_context.iter().flat_map(|context| &context.sysctls);
    list.map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone())).collect()
}

/// A container's process (`determineEffectiveSecurityContext`).
///
/// # Errors
/// A user that runAsNonRoot forbids.
pub(super) fn container(
    context: &Context,
    container: &Container,
    image: &ImageUser,
    target: Option<String>,
) -> Result<cri::LinuxContainerSecurityContext> {
    let spec = &context.pod.spec;
    let (no_pod, no_own) = (PodSecurityContext::default(), SecurityContext::default());
    let pod = spec.security_context.as_ref().unwrap_or(&no_pod);
    let own = container.security_context.as_ref().unwrap_or(&no_own);
    let user = own.run_as_user.or(pod.run_as_user);
    if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
        non_root(context, container, user, image)?;
    }
    let named = user.is_none() && image.uid.is_none();
    let seccomp = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    // In kubelet's order (`pkg/security/apparmor`, GetProfile).
    let annotation =
        context.pod.metadata.annotations.get(&format!("{}{}", AppArmorProfile::ANNOTATION, container.name));
    let annotated = annotation.and_then(|value| AppArmorProfile::from_annotation(value));
    let app_armor = own.app_armor_profile.as_ref().or(annotated.as_ref()).or(pod.app_armor_profile.as_ref());
    let se_linux = own.se_linux_options.as_ref().or(pod.se_linux_options.as_ref());
    let (masked, readonly) = if is_privileged(container) { (&[][..], &[][..]) } else { (MASKED, READONLY) };
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|capabilities| cri::Capability {
            add_capabilities: capabilities.add.clone(),
            drop_capabilities: capabilities.drop.clone(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: is_privileged(container),
        namespace_options: Some(match target {
            Some(target_id) => {
                let pid = cri::NamespaceMode::Target.into();
                cri::NamespaceOption { pid, target_id, ..namespaces(spec) }
            }
            None => namespaces(spec),
        }),
        selinux_options: se_linux.map(selinux),
        run_as_user: if named { None } else { id(user.or(image.uid)) },
        run_as_group: id(own.run_as_group.or(pod.run_as_group)),
        run_as_username: if named { image.name.clone() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod).into(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: masked.iter().map(|path| (*path).to_owned()).collect(),
        readonly_paths: readonly.iter().map(|path| (*path).to_owned()).collect(),
        seccomp: Some(seccomp_profile(seccomp, &context.config.seccomp_root)),
        apparmor: app_armor.map(app_armor_profile),
        ..cri::LinuxContainerSecurityContext::default()
    })
}

pub(super) fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
}

/// `verifyRunAsNonRoot`.
fn non_root(context: &Context, container: &Container, user: Option<i64>, image: &ImageUser) -> Result<()> {
    let name = &container.name;
    let (plain, kubelets) = match (user, image.uid) {
        (Some(0), _) => (
            "runAsUser is 0, which runAsNonRoot forbids".to_owned(),
            "container's runAsUser breaks non-root policy".to_owned(),
        ),
        (None, Some(0)) => (
            "the image runs as root, which runAsNonRoot forbids; set runAsUser".to_owned(),
            "container has runAsNonRoot and image will run as root".to_owned(),
        ),
        (None, None) => (
            format!(
                "the image's user {:?} is no number, so runAsNonRoot cannot be checked; set runAsUser",
                image.name
            ),
            format!(
                "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
                image.name
            ),
        ),
        (Some(_), _) | (None, Some(_)) => return Ok(()),
    };
    Err(Error::invalid(match context.kept {
        true => format!("{kubelets} (pod: {:?}, container: {name})", full_name(&context.pod)),
        false => format!("{name}: {plain}"),
    }))
}

fn namespaces(spec: &PodSpec) -> cri::NamespaceOption {
    let mode = |host: bool| if host { cri::NamespaceMode::Node } else { cri::NamespaceMode::Pod };
    let pid = if spec.host_pid {
        cri::NamespaceMode::Node
    } else if spec.share_process_namespace == Some(true) {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: mode(spec.host_network).into(),
        pid: pid.into(),
        ipc: mode(spec.host_ipc).into(),
        ..cri::NamespaceOption::default()
    }
}

fn id(value: Option<i64>) -> Option<cri::Int64Value> {
    value.map(|value| cri::Int64Value { value })
}

/// Every process is in the group that owns the volumes.
fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context.fs_group.iter().chain(&context.supplemental_groups).copied().collect()
}

fn groups_policy(context: &PodSecurityContext) -> cri::SupplementalGroupsPolicy {
    match context.supplemental_groups_policy {
        Some(SupplementalGroupsPolicy::Strict) => cri::SupplementalGroupsPolicy::Strict,
        _ => cri::SupplementalGroupsPolicy::Merge,
    }
}

fn profile(type_: cri::security_profile::ProfileType, localhost_ref: String) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: type_.into(), localhost_ref }
}

/// No profile is Unconfined, as for a kubelet without seccompDefault.
fn seccomp_profile(seccomp: Option<&SeccompProfile>, root: &Path) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    match seccomp.map(|seccomp| (seccomp.type_, &seccomp.localhost_profile)) {
        None | Some((SeccompProfileType::Unconfined, _)) => profile(ProfileType::Unconfined, String::new()),
        Some((SeccompProfileType::RuntimeDefault, _)) => profile(ProfileType::RuntimeDefault, String::new()),
        Some((SeccompProfileType::Localhost, file)) => {
            let path = root.join(file.as_deref().unwrap_or_default());
            profile(ProfileType::Localhost, path.to_string_lossy().into_owned())
        }
    }
}

fn app_armor_profile(app_armor: &AppArmorProfile) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let name = app_armor.localhost_profile.clone().unwrap_or_default();
    match app_armor.type_ {
        AppArmorProfileType::Unconfined => profile(ProfileType::Unconfined, String::new()),
        AppArmorProfileType::RuntimeDefault => profile(ProfileType::RuntimeDefault, String::new()),
        AppArmorProfileType::Localhost => profile(ProfileType::Localhost, name),
    }
}

fn selinux(options: &SELinuxOptions) -> cri::SeLinuxOption {
    cri::SeLinuxOption {
        user: options.user.clone(),
        role: options.role.clone(),
        r#type: options.type_.clone(),
        level: options.level.clone(),
    }
}

/// What the kubelet masks (`pkg/securitycontext/util.go`, defaultMaskedPaths).
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// What the kubelet makes read-only (defaultReadonlyPaths).
const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::context::tests::context;

    fn of(pod: &str, own: &str, image: &ImageUser) -> Result<cri::LinuxContainerSecurityContext> {
        let spec = format!(
            "securityContext: {{{pod}}}\ncontainers: [{{name: a, image: x, securityContext: {{{own}}}}}]"
        );
        let context = context(&spec);
        container(&context, &context.pod.spec.containers[0], image, None)
    }

    /// T36, GHSA-7ww5-4wqc-m92c: what containerd masks (`pkg/oci/spec.go`), and what Kubernetes added.
    #[test]
    fn t36_what_others_mask_is_masked() {
        let image = ImageUser { uid: Some(0), name: String::new() };
        let context = of("", "", &image).unwrap();
        for path in [
            "/proc/acpi",
            "/proc/asound",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/sys/devices/virtual/powercap",
            "/sys/firmware",
        ] {
            assert!(context.masked_paths.iter().any(|masked| masked == path), "{path}");
        }
        for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
            assert!(context.readonly_paths.iter().any(|readonly| readonly == path), "{path}");
        }
    }

    /// The container's field, its annotation, the pod's field; and nothing where there is none of them.
    #[test]
    fn apparmor_profiles() {
        use cri::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
        let image = ImageUser { uid: Some(0), name: String::new() };
        let of = |pod: &str, annotation: &str, own: &str| {
            let profile = |text: &str| {
                if text.is_empty() { String::new() } else { format!("appArmorProfile: {{{text}}}") }
            };
            let spec = format!(
                "securityContext: {{{}}}\ncontainers: [{{name: a, image: x, securityContext: {{{}}}}}]",
                profile(pod),
                profile(own)
            );
            let mut context = context(&spec);
            if !annotation.is_empty() {
                let key = format!("{}a", AppArmorProfile::ANNOTATION);
                context.pod.metadata.annotations.insert(key, annotation.to_owned());
            }
            let made = container(&context, &context.pod.spec.containers[0], &image, None).unwrap();
            made.apparmor.map(|profile| (profile.profile_type(), profile.localhost_ref))
        };
        let named = |name: &str| Some((Localhost, name.to_owned()));
        assert_eq!(of("", "", ""), None);
        assert_eq!(of("type: Unconfined", "", ""), Some((Unconfined, String::new())));
        assert_eq!(of("type: Unconfined", "localhost/old", ""), named("old"));
        assert_eq!(of("", "localhost/old", "type: RuntimeDefault"), Some((RuntimeDefault, String::new())));
        assert_eq!(of("type: Unconfined", "", "type: Localhost, localhostProfile: x"), named("x"));
    }

    #[test]
    fn selinux_options() {
        let image = ImageUser { uid: Some(0), name: String::new() };
        let made = of("seLinuxOptions: {level: s0}", "", &image).unwrap().selinux_options.unwrap();
        assert_eq!((made.level.as_str(), made.r#type.as_str()), ("s0", ""));
        let made = of("seLinuxOptions: {level: s0}", "seLinuxOptions: {type: t}", &image).unwrap();
        let made = made.selinux_options.unwrap();
        assert_eq!((made.level.as_str(), made.r#type.as_str()), ("", "t"));
    }

    #[test]
    fn users() {
        let root = ImageUser { uid: Some(0), name: String::new() };
        let named = ImageUser { uid: None, name: "www".to_owned() };
        let user = |pod, own, image| {
            let context = of(pod, own, image).unwrap();
            (context.run_as_user.map(|id| id.value), context.run_as_username)
        };
        assert_eq!(user("", "", &root), (Some(0), String::new()));
        assert_eq!(user("", "", &named), (None, "www".to_owned()));
        assert_eq!(user("runAsUser: 5", "", &named), (Some(5), String::new()));
        assert_eq!(user("runAsUser: 5", "runAsUser: 6", &named), (Some(6), String::new()));
        let refused = |pod, own, image| of(pod, own, image).unwrap_err().to_string();
        assert!(refused("runAsNonRoot: true", "", &root).contains("the image runs as root"));
        assert!(refused("", "runAsNonRoot: true", &named).contains("no number"));
        assert!(of("runAsNonRoot: true", "runAsNonRoot: false", &root).is_ok());
        assert!(of("runAsNonRoot: true, runAsUser: 7", "", &root).is_ok());
    }

    #[test]
    fn image_users() {
        let image = |uid: Option<i64>, username: &str| {
            let uid = uid.map(|value| cri::Int64Value { value });
            ImageUser::from(&cri::Image { uid, username: username.to_owned(), ..cri::Image::default() })
        };
        assert_eq!(image(None, "").uid, Some(0));
        assert_eq!(image(None, "www").uid, None);
        assert_eq!(image(Some(3), "").uid, Some(3));
    }
}
