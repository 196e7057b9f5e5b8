//! The commands beside kubectl: `vaquita up`, `kubeconfig`, `backup` and `restore`.

use std::os::unix::fs::PermissionsExt;

use super::{Cluster, Kubectl};
use crate::support::succeed;

/// Standard error of a command that failed.
#[track_caller]
fn refused(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.node.output(args);
    assert!(!output.status.success(), "{args:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_kubeconfig_is_merged_and_objects_come_back_from_a_backup() {
    let cluster = Cluster::up();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cluster.kubeconfig()), 0o600);
    let pki = cluster.node.path("root/cluster/pki");
    assert_eq!(mode(&pki), 0o700);
    let authority = std::fs::read(pki.join("ca.crt")).unwrap();

    // Into a file that is used already, which stays usable.
    let theirs = "apiVersion: v1\nkind: Config\nclusters:\n- name: other\n  cluster: {server: 'https://192.0.2.1'}\n\
        contexts:\n- name: other\n  context: {cluster: other, user: me}\ncurrent-context: other\n\
        users:\n- name: me\n  user: {token: t}\n";
    let merged = cluster.node.write("config", theirs);
    assert!(succeed(&cluster.node.output(&["kubeconfig", "--merge", &merged])).contains("context vaquita"));
    assert_eq!(mode(merged.as_ref()), 0o600);
    for version in Kubectl::BOTH {
        let contexts =
            cluster.run(version, &["--kubeconfig", &merged, "config", "get-contexts", "-o", "name"]);
        assert_eq!(succeed(&contexts), "other\nvaquita\n");
        succeed(&cluster.run(version, &["--kubeconfig", &merged, "get", "namespaces"]));
    }

    // While it runs.
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"]);
    let saved = cluster.node.path("saved").display().to_string();
    succeed(&cluster.node.output(&["backup", &saved]));
    assert_eq!(mode(saved.as_ref()), 0o600);
    assert!(refused(&cluster, &["backup", &saved]).contains("is there already"));
    cluster.kubectl(&["delete", "configmap", "kept"]);
    cluster.kubectl(&["create", "configmap", "later", "--from-literal=a=1"]);
    assert!(refused(&cluster, &["restore", &saved]).contains("the daemon has to end first"));

    cluster.node.stop_daemon();
    succeed(&cluster.node.output(&["restore", &saved]));
    let again = cluster.node.path("again").display().to_string();
    succeed(&cluster.node.output(&["backup", &again]));
    let nonsense = cluster.node.write("nonsense", "not a backup");
    refused(&cluster, &["restore", &nonsense]);
    cluster.start();
    assert_eq!(cluster.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]), "1");
    assert!(cluster.refused(&["get", "configmap", "later"]).contains("NotFound"));
    assert_eq!(std::fs::read(pki.join("ca.crt")).unwrap(), authority);
    cluster.finish();
}

#[test]
fn an_address_that_cannot_be_had_is_told_before_anything_is_made() {
    let cluster = Cluster::up();
    let server = cluster.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let taken = server.trim_start_matches("https://").to_owned();
    cluster.node.stop_daemon();
    let listener = std::net::TcpListener::bind(&taken).unwrap();
    let said = refused(&cluster, &["up", "--api-address", &taken]);
    assert!(said.contains(&format!("another program serves {taken} already")), "{said}");
    drop(listener);
    let said = refused(&cluster, &["up", "--api-address", "192.0.2.77:6443"]);
    assert!(said.contains("this host does not have that address"), "{said}");
    let said = refused(&cluster, &["up", "--node-name", "Not_A_Name"]);
    assert!(said.contains("--node-name"), "{said}");
    let said = refused(&cluster, &["up", "--cgroup", "relative"]);
    assert!(said.contains("--cgroup relative"), "{said}");
    cluster.start();
    cluster.finish();
}
