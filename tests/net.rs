//! The pod network, seen from the host and from pods.

use vaquita_proto::cri;

use crate::support::{Node, Pod, eventually, http};

const SERVER: &[&str] = &[
    "sh",
    "-c",
    "while true; do echo -e 'HTTP/1.0 200 OK\\r\\n\\r\\nhello' | nc -l -p 8080 >/dev/null; done",
];

#[test]
fn pods_have_addresses_and_reach_each_other() {
    let node = Node::start();
    node.load_busybox();
    let one = Pod::run(&node, "one");
    let two = Pod::run(&node, "two");
    let (a, b) = (one.ip(), two.ip());
    assert_ne!(a, b);
    assert!(a.starts_with("10.204.") && b.starts_with("10.204."), "{a} {b}");
    one.start("server", SERVER);
    let client = two.start("client", &["sleep", "1000"]);
    eventually("an answer from the other pod", || {
        let (code, out, _) = client.exec(&["wget", "-q", "-O", "-", &format!("http://{a}:8080/")]);
        (code == 0 && out == "hello\n").then_some(())
    });
    eventually("an answer to the host", || http("GET", &a, 8080, "/").filter(|(status, _)| *status == 200));
    node.finish();
}

#[test]
fn a_pod_has_both_families_and_so_has_its_host_port() {
    let node = Node::start();
    node.load_busybox();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut config = Pod::config(&node, "six");
    config.port_mappings = vec![cri::PortMapping {
        protocol: cri::Protocol::Tcp.into(),
        container_port: 8080,
        host_port: port.into(),
        host_ip: String::new(),
    }];
    config.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "100M".into());
    config.annotations.insert("kubernetes.io/egress-bandwidth".into(), "100M".into());
    let pod = Pod::run_config(&node, config);
    let other = Pod::run(&node, "other");
    let network = pod.status().network.unwrap();
    let six = network.additional_ips[0].ip.clone();
    assert_eq!((network.additional_ips.len(), &six[..2]), (1, "fd"), "{network:?}");
    pod.start("server", SERVER);
    let client = other.start("client", &["sleep", "1000"]);
    for url in [format!("http://[{six}]:8080/"), format!("http://{}:8080/", network.ip)] {
        eventually("an answer from the other pod", || {
            let (code, out, _) = client.exec(&["wget", "-q", "-O", "-", &url]);
            (code == 0 && out == "hello\n").then_some(())
        });
    }
    let hosts = client.exec(&["cat", "/etc/hosts"]).1;
    for ip in [other.ip(), other.status().network.unwrap().additional_ips[0].ip.clone()] {
        assert!(hosts.contains(&format!("{ip}\tother\n")), "{hosts}");
    }
    // On an address of the host, from the host, from another pod, and from the pod itself.
    let gateways = node.resources("address");
    let own = pod.start("own", &["sleep", "1000"]);
    for gateway in gateways.iter().map(|address| address.split('/').next().unwrap()) {
        let url = if gateway.contains(':') { format!("[{gateway}]") } else { gateway.to_owned() };
        eventually("an answer through the host port", || {
            http("GET", &url, port, "/").filter(|(status, body)| *status == 200 && body == "hello\n")
        });
        for container in [&client, &own] {
            eventually("an answer to a pod through the host port", || {
                (container.exec(&["wget", "-q", "-O", "-", &format!("http://{url}:{port}/")]).1 == "hello\n")
                    .then_some(())
            });
        }
    }
    assert_eq!(gateways.len(), 2, "{gateways:?}");
    pod.stop();
    node.finish();
}

#[test]
fn containers_of_a_pod_share_its_network() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "shared");
    pod.start("server", SERVER);
    let client = pod.start("client", &["sleep", "1000"]);
    eventually("an answer by loopback", || {
        (client.exec(&["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]).1 == "hello\n").then_some(())
    });
    assert_eq!(client.exec(&["hostname"]).1, "shared\n");
    node.finish();
}

#[test]
fn a_host_port_leads_into_the_pod() {
    let node = Node::start();
    node.load_busybox();
    // A port that is free now: nobody else takes it in the next moment.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut config = Pod::config(&node, "ported");
    config.port_mappings = vec![cri::PortMapping {
        protocol: cri::Protocol::Tcp.into(),
        container_port: 8080,
        host_port: port.into(),
        host_ip: String::new(),
    }];
    let pod = Pod::run_config(&node, config);
    pod.start("server", SERVER);
    eventually("an answer through the host port", || {
        http("GET", "127.0.0.1", port, "/").filter(|(status, body)| *status == 200 && body == "hello\n")
    });
    pod.stop();
    assert_eq!(http("GET", "127.0.0.1", port, "/"), None);
    node.finish();
}

#[test]
fn a_pod_on_the_host_network_sees_the_links_of_the_host() {
    let node = Node::start();
    node.load_busybox();
    let mut config = Pod::config(&node, "host");
    let options =
        cri::NamespaceOption { network: cri::NamespaceMode::Node.into(), ..cri::NamespaceOption::default() };
    config.hostname = String::new();
    config.linux = Some(cri::LinuxPodSandboxConfig {
        security_context: Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(options.clone()),
            ..cri::LinuxSandboxSecurityContext::default()
        }),
        ..cri::LinuxPodSandboxConfig::default()
    });
    let pod = Pod::run_config(&node, config);
    let (code, out) = pod.output(
        "links",
        |config| {
            config.linux = Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(options.clone()),
                    ..cri::LinuxContainerSecurityContext::default()
                }),
                ..cri::LinuxContainerConfig::default()
            });
        },
        &["cat", "/proc/net/dev"],
    );
    let here = std::fs::read_to_string("/proc/net/dev").unwrap();
    let names = |text: &str| -> Vec<String> {
        let names = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
        // Other nodes on this host come and go.
        names.filter(|name| !name.starts_with("vq") && !name.starts_with("vtest")).collect()
    };
    assert_eq!((code, names(&out)), (0, names(&here)));
    node.finish();
}

#[test]
fn teardown_leaves_no_link_and_an_address_can_be_given_again() {
    let node = Node::start();
    for round in 0..5 {
        let pod = Pod::run(&node, &format!("round{round}"));
        assert!(!pod.ip().is_empty());
        pod.stop();
        pod.remove();
    }
    eventually("the links to be gone", || {
        node.resources("link").iter().all(|name| *name == node.bridge()).then_some(())
    });
    node.finish();
}
