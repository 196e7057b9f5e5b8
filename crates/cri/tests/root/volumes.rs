//! Images as volumes.

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
