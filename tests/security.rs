//! What images and other users of the host try (T23 to T31), through the whole of it: image, pod, container.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::json;
use vaquita_proto::cri;

use crate::support::{Node, Pod, Tar};

const IMAGE: &str = "localhost/test/hostile:1";

fn config(name: &str, command: &[&str]) -> cri::ContainerConfig {
    let image = cri::ImageSpec { image: IMAGE.into(), ..cri::ImageSpec::default() };
    cri::ContainerConfig { image: Some(image), ..Pod::container_config(name, command) }
}

/// T23: CVE-2021-41103, CVE-2024-25621. Whatever the umask of the daemon is.
#[test]
fn cve_2024_25621_other_users_see_nothing() {
    let node = Node::without_daemon();
    // Not that the directory above is what keeps them out.
    let place = node.path("");
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = node.vaquita(&["daemon"]);
    let mut wide = Command::new("sh");
    wide.args(["-c", "umask 0 && exec \"$@\"", "sh"]).arg(daemon.get_program()).args(daemon.get_args());
    for (name, value) in daemon.get_envs() {
        match value {
            Some(value) => wide.env(name, value),
            None => wide.env_remove(name),
        };
    }
    node.start_daemon_as(&mut wide);
    node.load_busybox();
    let pod = Pod::run(&node, "private");
    let container = pod.start("main", &["sleep", "1000"]);
    assert_eq!(container.exec(&["echo", "x"]).1, "x\n");
    let found = |uid: u32, dir: &str| {
        let output = Command::new("find").arg(node.path(dir)).uid(uid).gid(uid).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    for dir in ["root", "state"] {
        assert!(found(0, dir) > 10, "root sees what there is");
        assert_eq!(found(1000, dir), 1, "its name alone");
    }
    let shared = |path: &str| {
        let find =
            Command::new("find").arg(node.path(path)).args(["-maxdepth", "1", "-perm", "/077"]).output();
        String::from_utf8(find.unwrap().stdout).unwrap()
    };
    assert_eq!(shared("root") + &shared("state"), "", "nothing that is for others");
    node.finish();
}

/// A directory of the host with a file in it.
fn outside(node: &Node) -> String {
    let outside = node.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    outside.to_str().unwrap().to_owned()
}

#[track_caller]
fn assert_untouched(outside: &str) {
    let left: Vec<_> = std::fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["secret"]);
    assert_eq!(std::fs::read_to_string(format!("{outside}/secret")).unwrap(), "secret");
}

/// T25: CVE-2022-23648. The place of a volume is a link out: nothing of the host is copied or mounted.
#[test]
fn cve_2022_23648_volumes_bring_nothing_of_the_host() {
    let node = Node::start();
    let outside = outside(&node);
    let volumes = json!({ "/data": {}, &outside: {} });
    node.load(IMAGE, json!({ "Env": ["PATH=/bin"], "Volumes": volumes }), |tar: &mut Tar| {
        tar.dir("etc/");
        tar.link("data", &outside);
    });
    let pod = Pod::run(&node, "volumes");
    // Each volume is an empty part of an overlay.
    let script = "ls /data/ \"$0\" /data/secret 2>&1
        grep -c -e outside -e /data /proc/self/mountinfo
        grep -e outside -e /data /proc/self/mountinfo | grep -cv ' - overlay '
        echo end";
    let container = pod.start_config(config("main", &["sh", "-c", script, &outside]));
    container.exited();
    let said = container.output();
    assert!(said.ends_with("\n2\n0\nend\n") && said.contains("/data/secret: No such file"), "{said}");
    assert!(said.contains("/data/:\n\n") && !said.contains("\nsecret"), "{said}");
    node.load(IMAGE, json!({ "Volumes": { "/../../etc": {} } }), |tar: &mut Tar| {
        tar.dir("etc/");
    });
    let pod = Pod::run(&node, "up");
    let error = pod.create(config("main", &["true"])).map(|container| container.id).unwrap_err();
    assert!(error.message().contains("VOLUME") && error.message().contains("/../../etc"), "{error}");
    assert_untouched(&outside);
    node.finish();
}

/// T31: CVE-2024-5154. What is made in an image, when its directories or files are links to the host's, is made inside of the
/// root, where they lead to for the container too.
#[test]
fn cve_2024_5154_links_of_an_image_lead_nowhere() {
    let node = Node::start();
    let outside = outside(&node);
    for link in ["etc", "etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        node.load(IMAGE, json!({}), |tar: &mut Tar| {
            if link != "etc" {
                tar.dir("etc/");
                tar.link("etc/mtab", &format!("{outside}/mtab"));
            }
            tar.link(link, &if link == "etc" { outside.clone() } else { format!("{outside}/new") });
        });
        let pod = Pod::run(&node, &link.replace(['/', '.'], "-"));
        let script = "cat /etc/hosts /etc/hostname /etc/resolv.conf && ls -di \"$0\"/* && readlink /etc";
        let container = pod.start_config(config("main", &["sh", "-c", script, &outside]));
        container.exited();
        let said = container.output();
        assert!(said.starts_with("127.0.0.1\tlocalhost\n") && !said.contains("secret"), "{link}: {said}");
        assert!(said.contains("outside/"), "{link}: {said}");
        assert_untouched(&outside);
    }
    // One that leads to itself leads nowhere.
    node.load(IMAGE, json!({}), |tar: &mut Tar| {
        tar.dir("etc/");
        tar.link("etc/hosts", "../etc/hosts");
    });
    let pod = Pod::run(&node, "loop");
    let error = pod.create(config("main", &["true"])).map(|container| container.id).unwrap_err();
    let message = error.message();
    assert!(message.contains("ELOOP") && message.contains("on \"/etc/hosts\""), "{error}");
    node.load(IMAGE, json!({ "WorkingDir": "/work/new" }), |tar: &mut Tar| {
        tar.dir("etc/");
        tar.link("etc/mtab", &format!("{outside}/mtab"));
        tar.link("work", &outside);
    });
    let pod = Pod::run(&node, "work");
    if let Ok(container) = pod.create(config("main", &["/bin/ls", "/etc/mtab"]))
        && container.start().is_ok()
    {
        container.exited();
    }
    assert_untouched(&outside);
    node.finish();
}

/// Many images have it as a link to a file of systemd-resolved, which they do not have.
#[test]
fn resolv_conf_may_be_a_link_to_a_file_that_is_not_there() {
    let node = Node::start();
    for (name, target) in [
        ("absolute", "/run/systemd/resolve/stub-resolv.conf"),
        ("relative", "../run/systemd/resolve/stub-resolv.conf"),
    ] {
        node.load(IMAGE, json!({}), |tar: &mut Tar| {
            tar.dir("etc/");
            tar.link("etc/resolv.conf", target);
        });
        let mut pod = Pod::config(&node, name);
        let servers = vec!["192.0.2.53".to_owned()];
        pod.dns_config = Some(cri::DnsConfig { servers, ..cri::DnsConfig::default() });
        let pod = Pod::run_config(&node, pod);
        let script = "cat /etc/resolv.conf; readlink /etc/resolv.conf";
        let container = pod.start_config(config("main", &["sh", "-c", script]));
        container.exited();
        assert_eq!(container.output(), format!("nameserver 192.0.2.53\n{target}\n"));
    }
    node.finish();
}

/// T27: CVE-2023-25173, CVE-2022-2995, CVE-2022-36109. The groups of the image's user, the primary one among them.
#[test]
fn cve_2023_25173_groups_are_those_of_the_image() {
    let node = Node::start();
    node.load(IMAGE, json!({ "User": "www" }), |tar: &mut Tar| {
        tar.dir("etc/");
        tar.file("etc/passwd", "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:/bin/sh\n");
        tar.file("etc/group", "root:x:0:\nwww:x:33:\naudio:x:29:www\nother:x:30:root\nvideo:x:44:www\n");
    });
    let pod = Pod::run(&node, "groups");
    let of = |name: &str, change: &dyn Fn(&mut cri::LinuxContainerSecurityContext)| {
        let mut config = config(name, &["id", "-G"]);
        change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
        let container = pod.start_config(config);
        assert_eq!(container.exited().exit_code, 0);
        container.output()
    };
    assert_eq!(of("image", &|_| {}), "33 29 44\n");
    assert_eq!(of("more", &|context| context.supplemental_groups = vec![7]), "33 7 29 44\n");
    let strict = cri::SupplementalGroupsPolicy::Strict;
    assert_eq!(of("strict", &|context| context.supplemental_groups_policy = strict.into()), "33\n");
    assert_eq!(of("number", &|context| context.run_as_user = Some(cri::Int64Value { value: 5 })), "0\n");
    node.finish();
}

/// T28: CVE-2022-4318. A home directory or a user with a newline is no new line of /etc/passwd.
#[test]
fn cve_2022_4318_a_newline_in_home_or_user_writes_nothing() {
    let node = Node::start();
    let passwd = "root:x:0:0::/root:/bin/sh\n";
    let home = "HOME=/x\nevil:x:0:0::/:/bin/sh\n";
    node.load(IMAGE, json!({ "Env": ["PATH=/bin", home] }), |tar: &mut Tar| {
        tar.dir("etc/");
        tar.file("etc/passwd", passwd);
    });
    let pod = Pod::run(&node, "home");
    let mut asked = config("main", &["cat", "/etc/passwd"]);
    asked.envs = vec![cri::KeyValue { key: "HOME".into(), value: home.as_bytes()[5..].to_vec() }];
    let container = pod.start_config(asked);
    container.exited();
    assert_eq!(container.output(), passwd);
    for user in ["evil\nroot:x:0:0::/:/bin/sh", "a\rb", "a:b:c", "\n0"] {
        let mut config = config("refused", &["cat", "/etc/passwd"]);
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().run_as_username = user.into();
        let error = pod.create(config).map(|container| container.id).unwrap_err();
        assert!(!error.message().contains('\n'), "{user:?}: {error}");
    }
    node.finish();
}

/// T37: CVE-2024-8676, CVE-2026-50195. An archive of a checkpoint is not an image, though such archives can be written.
#[test]
fn cve_2024_8676_checkpoints_are_not_restored() {
    let node = Node::start();
    let archive = node.write("checkpoint.tar", "spec.dump");
    let pod = Pod::run(&node, "checkpoint");
    let mut config = config("main", &["true"]);
    config.image.as_mut().unwrap().image = archive;
    let error = pod.create(config).map(|container| container.id).unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    assert!(error.message().contains("checkpoint"), "{error}");
    let error = node.wait(node.cri().restore_pod(cri::RestorePodRequest::default())).unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    node.finish();
}
