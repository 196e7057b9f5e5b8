use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::agent::Config;
use crate::agent::context::tests::context;
use crate::agent::env::Environment;

/// A pod whose files are in a temporary directory.
pub(super) struct Fixture {
    pub(super) context: Context,
    _root: vaquita_testing::TempDir,
}

impl Fixture {
    pub(super) fn new(spec: &str) -> Self {
        let root = vaquita_testing::temp_dir();
        let mut context = context(spec);
        context.config = Arc::new(Config::new(root.path().join("agent")));
        Self { context, _root: root }
    }

    pub(super) fn path(&self, volume: &str) -> PathBuf {
        self.context.volume(volume)
    }

    pub(super) fn mounts(&self) -> Result<Vec<vaquita_proto::cri::Mount>> {
        self.mounts_of(Abilities { recursive_read_only: true, labels: false })
    }

    fn mounts_of(&self, abilities: Abilities) -> Result<Vec<vaquita_proto::cri::Mount>> {
        let container = &self.context.pod.spec.containers[0];
        let env = Environment::resolve(&self.context, container, &[])?;
        container_mounts(&self.context, container, 0, &env, abilities)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let errors = remove_all(&self.context.config.root, &self.context.pod.metadata.uid);
        if !std::thread::panicking() {
            assert_eq!(errors, Vec::<String>::new());
        }
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

const VOLUMES: &str = "\
containers: [{name: a, image: x, resources: {limits: {memory: 64Mi}}}]
volumes:
- {name: disk, emptyDir: {}}
- {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
- {name: conf, configMap: {name: conf, items: [{key: color, path: a/b/c}, {key: raw, path: raw, mode: 0400}]}}
- {name: all, configMap: {name: conf}}
- {name: pass, secret: {secretName: pass, defaultMode: 0400}}
- {name: none, secret: {secretName: nope, optional: true}}
- name: both
  projected:
    sources:
    - secret: {name: pass}
    - configMap: {name: conf, items: [{key: size, path: size}]}
    - downwardAPI:
        items:
        - {path: name, fieldRef: {fieldPath: metadata.name}}
        - {path: memory, resourceFieldRef: {containerName: a, resource: limits.memory, divisor: 1Mi}}
- {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
";

#[test]
fn volumes_of_all_kinds() {
    vaquita_testing::require_root();
    let fixture = Fixture::new(VOLUMES);
    make_all(&fixture.context).unwrap();
    make_all(&fixture.context).unwrap();
    let read =
        |path: &str| std::fs::read_to_string(fixture.context.dir().join("volumes").join(path)).unwrap();
    assert_eq!(mode(&fixture.path("disk")), 0o777);
    assert_eq!(mode(&fixture.path("memory")), 0o777);
    assert_eq!(read("conf/a/b/c"), "red");
    assert_eq!(mode(&fixture.path("conf/raw")), 0o400);
    assert_eq!(read("all/size"), "big");
    assert_eq!(std::fs::read(fixture.path("all/raw")).unwrap(), [0, 1]);
    assert_eq!(read("pass/word"), "s3cret");
    assert_eq!(mode(&fixture.path("pass/word")), 0o400);
    assert_eq!(std::fs::read_dir(fixture.path("none")).unwrap().count(), 2);
    assert_eq!(
        (read("both/word"), read("both/size"), read("both/name"), read("both/memory")),
        ("s3cret".to_owned(), "big".to_owned(), "web".to_owned(), "64".to_owned())
    );
    assert_eq!(read("down/labels"), "app=\"w\\\"1\"\ntier=\"a\"");
    assert_eq!(std::fs::read_link(fixture.path("all/size")).unwrap(), PathBuf::from("..data/size"));
    assert_eq!(std::fs::read_link(fixture.path("conf/a")).unwrap(), PathBuf::from("..data/a"));
    let tmpfs = |name: &str| {
        let points = mount::mountinfo().unwrap();
        points.iter().any(|mount| mount.mount_point == fixture.path(name) && mount.fs_type == "tmpfs")
    };
    assert!(
        tmpfs("memory")
            && tmpfs("pass")
            && tmpfs("both")
            && tmpfs("down")
            && !tmpfs("conf")
            && !tmpfs("disk")
    );
    // More than sizeLimit does not fit.
    assert!(std::fs::write(fixture.path("memory").join("big"), vec![0; 2 << 20]).is_err());
}

#[test]
fn fs_group_owns_what_it_may() {
    vaquita_testing::require_root();
    let fixture = Fixture::new(&format!("securityContext: {{fsGroup: 4242}}\n{VOLUMES}"));
    make_all(&fixture.context).unwrap();
    for (path, expected) in
        [("disk", 0o2777), ("memory", 0o2777), ("pass", 0o2775), ("pass/word", 0o440), ("conf/a/b", 0o2775)]
    {
        let path = fixture.path(path);
        assert_eq!(std::fs::metadata(&path).unwrap().gid(), 4242, "{}", path.display());
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
}

#[test]
fn missing_sources_are_named() {
    vaquita_testing::require_root();
    for (source, message) in [
        (
            "configMap: {name: nope}",
            "volume v: there is no ConfigMap \"nope\" in namespace \"default\": add it to the manifest",
        ),
        ("secret: {secretName: pass, items: [{key: x, path: out}]}", "volume v: \"pass\" has no key \"x\""),
    ] {
        let fixture =
            Fixture::new(&format!("containers: [{{name: a, image: x}}]\nvolumes: [{{name: v, {source}}}]"));
        assert_eq!(make_all(&fixture.context).unwrap_err().to_string(), message);
    }
}

#[test]
fn what_is_the_pods_gets_its_label() {
    let volumes = "volumes: [{name: own, emptyDir: {}}, {name: host, hostPath: {path: /srv}}]";
    let mounts = "volumeMounts: [{name: own, mountPath: /own}, {name: host, mountPath: /host}]";
    let fixture = Fixture::new(&format!("containers: [{{name: a, image: x, {mounts}}}]\n{volumes}"));
    let labelled = |labels| -> Vec<_> {
        let mounts = fixture.mounts_of(Abilities { labels, ..Abilities::default() }).unwrap();
        mounts.into_iter().filter(|mount| mount.selinux_relabel).map(|mount| mount.container_path).collect()
    };
    assert_eq!(labelled(true), ["/own", "/etc/hosts", "/dev/termination-log"]);
    assert!(labelled(false).is_empty());
}

#[test]
fn host_paths() {
    let dir = vaquita_testing::temp_dir();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let prepare =
        |name: &str, type_| host_path::prepare(&crate::api::HostPathVolumeSource { path: path(name), type_ });
    use crate::api::HostPathType;
    assert!(prepare("nope", HostPathType::Unset).is_ok());
    assert!(prepare("nope", HostPathType::Directory).is_err());
    assert!(prepare("a/b", HostPathType::DirectoryOrCreate).is_ok());
    assert!(prepare("a/b", HostPathType::Directory).is_ok());
    assert!(prepare("a/b", HostPathType::File).is_err());
    assert!(prepare("f", HostPathType::FileOrCreate).is_ok());
    assert!(prepare("f", HostPathType::File).is_ok());
    assert!(prepare("f", HostPathType::Socket).is_err());
    assert!(prepare("f", HostPathType::DirectoryOrCreate).is_err());
    let null =
        |type_| host_path::prepare(&crate::api::HostPathVolumeSource { path: "/dev/null".to_owned(), type_ });
    assert!(null(HostPathType::CharDevice).is_ok() && null(HostPathType::BlockDevice).is_err());
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    assert!(prepare("s", HostPathType::Socket).is_ok());
}

#[test]
fn subpaths_stay_inside_the_volume() {
    vaquita_testing::require_root();
    let spec = "\
containers:
- name: a
  image: x
  env: [{name: DIR, value: made}]
  volumeMounts:
  - {name: v, mountPath: /one, subPathExpr: $(DIR)/deep}
  - {name: v, mountPath: /two, subPath: link/etc}
  - {name: v, mountPath: /three, subPath: file, readOnly: true, recursiveReadOnly: IfPossible}
  - {name: v, mountPath: four, mountPropagation: HostToContainer}
volumes: [{name: v, emptyDir: {}}]
";
    let fixture = Fixture::new(spec);
    make_all(&fixture.context).unwrap();
    let volume = fixture.path("v");
    symlink(".", volume.join("link")).unwrap();
    std::fs::create_dir(volume.join("etc")).unwrap();
    std::fs::write(volume.join("etc/mine"), "x").unwrap();
    std::fs::write(volume.join("file"), "y").unwrap();
    for _ in 0..2 {
        let mounts = fixture.mounts().unwrap();
        assert!(volume.join("made/deep").is_dir());
        assert!(
            PathBuf::from(&mounts[1].host_path).join("mine").exists(),
            "a link inside the volume is followed"
        );
        assert!(!PathBuf::from(&mounts[1].host_path).join("passwd").exists());
        assert_eq!(std::fs::read_to_string(&mounts[2].host_path).unwrap(), "y");
        assert!(mounts[2].readonly && mounts[2].recursive_read_only);
        assert_eq!((mounts[3].container_path.as_str(), mounts[3].propagation), ("/four", 1));
        let own: Vec<&str> = mounts[4..].iter().map(|mount| mount.container_path.as_str()).collect();
        assert_eq!(own, ["/etc/hosts", "/dev/termination-log"]);
    }
}

#[test]
fn subpaths_that_lead_out_of_the_volume_are_refused() {
    vaquita_testing::require_root();
    for (target, sub_path, wanted) in [
        ("/etc", "link", "leads out of the volume, to /etc"),
        ("/etc", "link/made", "leads out of the volume, to /etc"),
        ("../..", "link/etc", "leads out of the volume"),
        ("/no/such/place", "link", "No such file"),
    ] {
        let spec = format!(
            "containers: [{{name: a, image: x, volumeMounts: [{{name: v, mountPath: /v, subPath: {sub_path}}}]}}]\nvolumes: [{{name: v, emptyDir: {{}}}}]"
        );
        let fixture = Fixture::new(&spec);
        make_all(&fixture.context).unwrap();
        symlink(target, fixture.path("v").join("link")).unwrap();
        let error = fixture.mounts().unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn removal_never_deletes_through_a_mount() {
    vaquita_testing::require_root();
    let outside = vaquita_testing::temp_dir();
    std::fs::create_dir(outside.path().join("sub")).unwrap();
    std::fs::write(outside.path().join("sub/precious"), "x").unwrap();
    let spec = format!(
        "containers: [{{name: a, image: x, volumeMounts: [{{name: v, mountPath: /v, subPath: sub}}]}}]\nvolumes: [{{name: v, hostPath: {{path: {}}}}}]",
        outside.path().display()
    );
    let fixture = Fixture::new(&spec);
    make_all(&fixture.context).unwrap();
    let mounts = fixture.mounts().unwrap();
    assert!(PathBuf::from(&mounts[0].host_path).join("precious").exists());
    drop(fixture);
    assert!(outside.path().join("sub/precious").exists());
}

#[test]
fn what_the_agent_writes_nobody_in_the_pod_may() {
    let read_only = |source: &str| {
        let fixture = Fixture::new(&format!(
            "containers: [{{name: a, image: x, volumeMounts: [{{name: v, mountPath: /v}}]}}]\nvolumes: [{{name: v, {source}}}]"
        ));
        fixture.mounts().unwrap()[0].readonly
    };
    for (source, expected) in [
        ("configMap: {name: conf}", true),
        ("secret: {secretName: pass}", true),
        ("downwardAPI: {items: []}", true),
        ("projected: {sources: [{secret: {name: pass}}]}", true),
        ("nfs: {server: s, path: /, readOnly: true}", true),
        ("nfs: {server: s, path: /}", false),
        ("emptyDir: {}", false),
        ("hostPath: {path: /srv}", false),
    ] {
        assert_eq!(read_only(source), expected, "{source}");
    }
}

#[test]
fn removal_does_not_wait_for_who_never_answers() {
    vaquita_testing::require_root();
    let fixture =
        Fixture::new("containers: [{name: a, image: x}]\nvolumes: [{name: v, nfs: {server: s, path: /}}]");
    make_all(&fixture.context).unwrap();
    let path = fixture.path("v");
    // A filesystem of which the server says nothing at all: whoever looks into it hangs.
    let server = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", std::os::fd::AsRawFd::as_raw_fd(&server));
    let data = std::ffi::CString::new(data).unwrap();
    rustix::mount::mount("dead", &path, "fuse", rustix::mount::MountFlags::empty(), Some(data.as_c_str()))
        .unwrap();
    // To make the volumes again is to look at nothing of it.
    make_all(&fixture.context).unwrap();
    assert_eq!(
        remove_all(&fixture.context.config.root, &fixture.context.pod.metadata.uid),
        Vec::<String>::new()
    );
    assert!(!fixture.context.dir().exists());
    drop(server);
}

#[test]
fn a_volume_that_failed_is_made_anew() {
    let dir = vaquita_testing::temp_dir();
    let path = dir.path().join("v");
    let failed = whole(&path, 0o755, || {
        std::fs::write(path.join("half"), "x").unwrap();
        Err(Error::invalid("no"))
    });
    assert!(failed.is_err() && !path.exists());
    whole(&path, 0o755, || Ok(())).unwrap();
    whole(&path, 0o755, || panic!("it is there")).unwrap();
}
