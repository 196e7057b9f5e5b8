//! Images as volumes, and the volumes that images ask for.

use vaquita_image::Source;
use vaquita_proto::cri;

use crate::support::{IMAGE, Node, container};

fn volume(path: &str, sub_path: &str) -> cri::Mount {
    cri::Mount {
        container_path: path.into(),
        readonly: true,
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_volume() {
    let node = Node::new().await;
    let sandbox = node.run("volumes").await;
    for (name, sub_path, program) in
        [("whole", "", "/vol/bin/vaquita"), ("part", "bin", "/vol/vaquita"), ("file", "bin/vaquita", "/vol")]
    {
        let config = cri::ContainerConfig {
            command: vec![program.into(), "exit".into(), "7".into()],
            mounts: vec![volume("/vol", sub_path)],
            ..container(name, &[])
        };
        let id = node.create_as(&sandbox, config).await.unwrap();
        let of_volume = |kind: &str| {
            let all = node.check().into_iter();
            all.filter(|one| one.kind == kind && one.owner.as_deref() == Some(&id)).count()
        };
        assert_eq!(of_volume("snapshot"), 2, "the root and the volume");
        let on_host = node.check().into_iter().any(|one| one.kind == "mount" && one.name.contains("volumes"));
        assert!(!on_host, "the host sees it no more");
        node.start_container(&id).await;
        let status = node.exited(&id).await;
        assert_eq!(status.exit_code, 7, "{status:?}");
        let spec = status.mounts[0].image.clone().unwrap();
        assert_eq!((spec.image.as_str(), spec.image_ref), (IMAGE, status.image_id));
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_volume_leaves_nothing() {
    let node = Node::new().await;
    let sandbox = node.run("refused").await;
    let before = node.check().len();
    let missing = cri::ImageSpec { image: "not.there/image".into(), ..Default::default() };
    for (mount, code, text) in [
        (volume("/vol", "not/there"), tonic::Code::NotFound, "ImageVolumeMountFailed"),
        (
            cri::Mount { image: Some(missing), ..volume("/vol", "") },
            tonic::Code::NotFound,
            "ImageVolumeMountFailed",
        ),
        (
            cri::Mount { readonly: false, ..volume("/vol", "") },
            tonic::Code::InvalidArgument,
            "mounts[/vol].readonly",
        ),
    ] {
        let config = cri::ContainerConfig { mounts: vec![mount], ..container("main", &["sleep"]) };
        let status = node.create_as(&sandbox, config).await.unwrap_err();
        assert!(status.code() == code && status.message().starts_with(text), "{status:?}");
        assert_eq!(node.check().len(), before);
    }
    node.finish().await;
}

/// The reference of an image that asks for volumes.
const VOLUMES: &str = "vaquita.local/volumes:latest";

/// A server that has an image with these volumes, beside files of the image.
async fn with_image(volumes: &[&str]) -> Node {
    start_with_image(Node::without_server(), volumes).await
}

/// The same of a server that is yet to be started.
pub(crate) async fn start_with_image(mut node: Node, volumes: &[&str]) -> Node {
    let executable = std::fs::File::open(env!("CARGO_BIN_EXE_vaquita-cri-test")).unwrap();
    let mut options = vaquita_image::Options::default();
    options.unpacker = vaquita_image::Unpacker::Exe(std::sync::Arc::new(executable.into()));
    let store = vaquita_image::Store::open(&node.config.root.join("images"), options).unwrap();
    let mut config = vaquita_image::ImageConfig::default();
    config.entrypoint = vec!["/bin/vaquita".into()];
    config.volumes = volumes.iter().map(|path| (*path).to_owned()).collect();
    let file = |path: &str, mode, source| vaquita_image::BuiltinFile { path: path.into(), mode, source };
    let files = vec![
        file("/bin/vaquita", 0o755, Source::File(env!("CARGO_BIN_EXE_vaquita-cri-test").into())),
        file("/data", 0o1777, Source::Directory),
        file("/data/inner", 0o750, Source::Directory),
        file("/data/inner/file", 0o640, Source::Bytes(b"of the image".to_vec())),
        file("/srv", 0o777, Source::Symlink("data/inner".into())),
        file("/escape", 0o777, Source::Symlink("../../../../../../tmp".into())),
        file("/tmp", 0o1777, Source::Directory),
        file("/plain", 0o644, Source::Bytes(Vec::new())),
    ];
    store.builtin(&VOLUMES.parse().unwrap(), config, files).await.unwrap();
    drop(store);
    node.start().await;
    node
}

/// A container of that image, with a read-only root.
pub(crate) fn of_image(name: &str, args: &[&str]) -> cri::ContainerConfig {
    let image = cri::ImageSpec { image: VOLUMES.into(), ..Default::default() };
    let context = cri::LinuxContainerSecurityContext { readonly_rootfs: true, ..Default::default() };
    let linux = cri::LinuxContainerConfig { resources: None, security_context: Some(context) };
    cri::ContainerConfig { image: Some(image), linux: Some(linux), ..container(name, args) }
}

/// Each container has its own, with what the image has there; a root that is read-only does not hold for them.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_has_volumes_of_its_own() {
    let node = with_image(&["/data", "/new/deep", "/srv", "/escape/x", "/taken"]).await;
    let host = vaquita_testing::temp_dir();
    let sandbox = node.run("own").await;
    let before = node.check().len();
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let taken = cri::Mount {
            container_path: "/taken/".into(),
            host_path: host.path().to_str().unwrap().into(),
            ..Default::default()
        };
        let config = cri::ContainerConfig { mounts: vec![taken], ..of_image(name, &["sleep"]) };
        let id = node.create_as(&sandbox, config).await.unwrap();
        assert!(!node.check().iter().any(|one| one.kind == "mount" && one.name.contains("volumes")));
        node.start_container(&id).await;
        assert_eq!(node.inside(&id, &["list", "/data"]).await, (0, "inner 40750\n".into()));
        assert_eq!(node.inside(&id, &["read", "/data/inner/file"]).await, (0, "of the image".into()));
        assert_eq!(
            node.inside(&id, &["read", "/srv/file"]).await,
            (0, "of the image".into()),
            "where a link leads"
        );
        for path in
            ["/data/made", "/data/inner/file", "/srv/made", "/new/deep/made", "/escape/x/made", "/taken/made"]
        {
            assert_eq!(node.inside(&id, &["make", path, "7"]).await, (0, String::new()), "{path}");
        }
        assert_ne!(node.inside(&id, &["make", "/made", "7"]).await.0, 0, "the root is read-only");
        assert!(host.path().join("made").exists(), "the client's mount wins");
        assert_eq!(node.status(&id).await.mounts.len(), 1, "as asked");
        ids.push(id);
    }
    assert_eq!(std::fs::read_dir("/tmp/x").map(|_| ()).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    for id in ids {
        let request = cri::RemoveContainerRequest { container_id: id };
        node.runtime().remove_container(request).await.unwrap();
    }
    assert_eq!(node.check().len(), before, "they go with their containers");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_that_an_image_cannot_have_leave_nothing() {
    for (path, text) in
        [("/proc/self/attr", "is the kernel's"), ("/plain", "\"/plain\""), ("/a/../b", "\"/a/../b\"")]
    {
        let node = with_image(&[path]).await;
        let sandbox = node.run("hostile").await;
        let before = node.check().len();
        let error = node.create_as(&sandbox, of_image("main", &["sleep"])).await.unwrap_err();
        assert!(error.message().contains(text), "{error:?}");
        assert_eq!(node.check().len(), before);
        node.finish().await;
    }
}
