//! The plugins that everybody has, as Debian packages them: bridge, host-local, portmap, bandwidth, firewall.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vaquita_proto::cri;

use super::plugins::Plugins;
use super::{attachments, network};
use crate::support::{Node, pod};

const PLUGINS: &str = "/usr/lib/cni";

fn conflist(dir: &str) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "debian", "plugins": [
            {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
              "ipam": {{"type": "host-local", "dataDir": "{dir}/leases", "routes": [{{"dst": "0.0.0.0/0"}}],
                        "ranges": [[{{"subnet": "10.66.0.0/24"}}]]}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}},
            {{"type": "bandwidth", "capabilities": {{"bandwidth": true}}}},
            {{"type": "firewall"}}]}}"#
    )
}

/// A server in a network namespace of its own: portmap and bridge leave chains of the host's behind, by design.
async fn node() -> (Node, Plugins, Arc<OwnedFd>) {
    assert!(
        std::path::Path::new(PLUGINS).join("bridge").exists(),
        "this test needs the plugins in {PLUGINS}: install containernetworking-plugins and iptables"
    );
    let (mut node, plugins) = Plugins::node();
    let netns = Arc::new(vaquita_sys::ns::new_netns().unwrap());
    vaquita_net::loopback_up(std::os::fd::AsFd::as_fd(&*netns)).unwrap();
    node.netns = Some(netns.clone());
    node.config.cni.bin_dirs = vec![PLUGINS.into()];
    let dir = plugins.path("");
    plugins.write("conf/10-debian.conflist", &conflist(dir.to_str().unwrap().trim_end_matches('/')));
    node.start().await;
    assert_eq!(network(&node).await, None);
    (node, plugins, netns)
}

async fn run(node: &Node, name: &str, host_port: i32) -> (String, IpAddr) {
    let mut config = pod(name);
    if host_port != 0 {
        config.port_mappings =
            vec![cri::PortMapping { protocol: 0, container_port: 80, host_port, host_ip: String::new() }];
        config.annotations.insert("kubernetes.io/egress-bandwidth".into(), "100M".into());
    }
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let id = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = node.runtime().pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    (id, status.network.unwrap().ip.parse().unwrap())
}

fn netns_of(node: &Node, id: &str) -> std::fs::File {
    let all = node.check();
    let note = &all.iter().find(|one| one.kind == "netns" && one.owner.as_deref() == Some(id)).unwrap().note;
    std::fs::File::open(format!("/proc/{}/ns/net", note.rsplit(' ').next().unwrap())).unwrap()
}

/// Listens in one namespace, connects from another, and passes a word.
fn talk(server: &impl std::os::fd::AsFd, client: &impl std::os::fd::AsFd, to: SocketAddr) {
    // Not at once: a plugin of another test that is about to be executed holds a copy of the one before.
    let listener = loop {
        let bound = vaquita_sys::ns::in_netns(server, || TcpListener::bind("0.0.0.0:80")).unwrap();
        match bound {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => std::thread::yield_now(),
            bound => break bound.unwrap(),
        }
    };
    let mut client = vaquita_sys::ns::in_netns(client, || TcpStream::connect(to)).unwrap().unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.write_all(b"hello").unwrap();
    drop(accepted);
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_connected_by_bridge_portmap_bandwidth_and_firewall() {
    let (mut node, plugins, host) = node().await;
    let (server, address) = run(&node, "server", 8081).await;
    let (client, other) = run(&node, "client", 0).await;
    assert_ne!(address, other);
    let (in_server, in_client) = (netns_of(&node, &server), netns_of(&node, &client));
    talk(&in_server, &in_client, (address, 80).into());
    talk(&in_server, &*host, (address, 80).into());
    // From the host by its own address, and from another pod.
    let gateway: IpAddr = "10.66.0.1".parse().unwrap();
    talk(&in_server, &*host, (gateway, 8081).into());
    talk(&in_server, &in_client, (gateway, 8081).into());
    let mut listed = attachments(&node);
    listed.sort();
    let mut expected = [server.clone(), client.clone()];
    expected.sort();
    assert_eq!(listed, expected);

    // The next server takes them back, although the configuration is gone.
    node.kill();
    plugins.remove("conf/10-debian.conflist");
    node.start().await;
    talk(&in_server, &in_client, (address, 80).into());
    drop((in_server, in_client));
    for id in [&server, &client] {
        node.remove_pod(id).await;
    }
    let leases = std::fs::read_dir(plugins.path("leases/debian")).unwrap();
    let left = leases.flatten().map(|entry| entry.file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.starts_with("10.")).collect::<Vec<_>>(), Vec::<String>::new());
    // iptables(8) lists what iptables(8) has made.
    let rules = vaquita_sys::ns::in_netns(&*host, || {
        std::process::Command::new("iptables").args(["-t", "nat", "-S"]).output().unwrap()
    })
    .unwrap();
    let rules = String::from_utf8(rules.stdout).unwrap();
    assert!(rules.contains("CNI-HOSTPORT-DNAT"), "{rules}");
    for id in [&server, &client] {
        assert!(!rules.contains(id.as_str()), "{rules}");
    }
    node.finish().await;
}

/// host-local gives out five addresses: an attachment that fails half-way gives its own back.
#[tokio::test(flavor = "multi_thread")]
async fn no_address_is_lost_when_a_later_plugin_fails() {
    let (mut node, plugins, _host) = node().await;
    node.kill();
    let text = std::fs::read_to_string(plugins.path("conf/10-debian.conflist")).unwrap();
    let text = text
        .replace("10.66.0.0/24", "10.66.0.0/29")
        .replace(r#"{"type": "firewall"}"#, r#"{"type": "firewall"}, {"type": "refuses"}"#);
    plugins.write("conf/10-debian.conflist", &text);
    plugins.install("refuses", "[ \"$CNI_COMMAND\" = ADD ] && exit 1; exit 0");
    node.config.cni.bin_dirs.push(plugins.path("bin"));
    node.start().await;
    for round in 0..8 {
        let config = Some(pod(&format!("lost-{round}")));
        let request = cri::RunPodSandboxRequest { config, ..Default::default() };
        let error = node.runtime().run_pod_sandbox(request).await.unwrap_err();
        assert!(error.message().contains("plugin refuses (ADD)"), "{error}");
    }
    plugins.install(
        "refuses",
        r#"[ "$CNI_COMMAND" = ADD ] && printf '%s' "$input" | sed 's/.*"prevResult":\(.*\)}$/\1/'; exit 0"#,
    );
    run(&node, "at-last", 0).await;
    node.finish().await;
}
