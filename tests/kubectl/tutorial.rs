//! The first pages of any tutorial, word for word, with both kubectls.

use super::{Cluster, Kubectl};
use crate::support::{DEMO, succeed};

#[test]
fn a_pod_is_run_looked_at_and_deleted() {
    for version in Kubectl::BOTH {
        let cluster = Cluster::up();
        let kubectl = |args: &[&str]| succeed(&cluster.run(version, args));
        assert_eq!(kubectl(&["run", "kuard", &format!("--image={DEMO}")]), "pod/kuard created\n");
        kubectl(&["wait", "--for=condition=Ready", "pod/kuard", "--timeout=60s"]);
        let table = kubectl(&["get", "pods"]);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
        assert_eq!(lines[1][..4], ["kuard", "1/1", "Running", "0"], "{table}");
        assert_eq!(lines.len(), 2, "{table}");
        let deleted = kubectl(&["delete", "pod", "kuard", "--grace-period=1"]);
        assert!(deleted.starts_with("pod \"kuard\" deleted"), "{deleted}");
        cluster.finish();
    }
}
