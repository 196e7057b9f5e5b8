//! A cluster of its own for each test, and kubectl pointed at it.

use std::cell::RefCell;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{Node, eventually, succeed};

/// Which of the two kubectls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kubectl {
    /// 1.32, of Debian 13.
    Trixie,
    /// The newest that Debian has: 1.36 or later.
    Sid,
}

impl Kubectl {
    pub(crate) const BOTH: [Self; 2] = [Self::Trixie, Self::Sid];

    fn path(self) -> PathBuf {
        let release = match self {
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/kubectl/{release}/kubectl"));
        assert!(path.exists(), "{} is not there: run hack/kubectl", path.display());
        path
    }
}

/// A node with `vaquita up`, and what kubectl needs to reach it. Made by [`Cluster::up`], ended by [`Cluster::finish`].
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) node: Node,
    /// Beside the usual arguments.
    options: RefCell<Vec<String>>,
}

impl Cluster {
    /// A cluster whose node is ready, with the demo image.
    #[track_caller]
    pub(crate) fn up() -> Self {
        Self::up_with(&[])
    }

    /// The same, `vaquita up` with further arguments.
    #[track_caller]
    pub(crate) fn up_with(options: &[&str]) -> Self {
        let node = Node::without_daemon();
        let cluster = Self { node, options: RefCell::new(options.iter().map(ToString::to_string).collect()) };
        cluster.start();
        cluster
    }

    /// The same, with busybox in the image store ([`crate::support::BUSYBOX`]).
    #[track_caller]
    pub(crate) fn with_busybox() -> Self {
        let cluster = Self::up();
        cluster.node.load_busybox();
        cluster
    }

    /// Starts `vaquita up`, again for instance, and waits until the node is ready.
    #[track_caller]
    pub(crate) fn start(&self) {
        let mut args = vec!["up", "--api-address", "127.0.0.1:0", "--log-level", "info,vaquita=debug"];
        let options = self.options.borrow();
        args.extend(options.iter().map(String::as_str));
        self.node.start_daemon_as(&mut self.node.vaquita(&args));
        drop(options);
        eventually("the node to be ready", || {
            let output = self.run(
                Kubectl::Sid,
                &["get", "nodes", "-o", "jsonpath={..conditions[?(@.type=='Ready')].status}"],
            );
            (output.stdout == b"True").then_some(())
        });
        // Where the port is a free one, a new process has another: what the file says must be read again, so nothing is kept.
        eventually("the default service account", || {
            self.run(Kubectl::Sid, &["get", "serviceaccount", "default"]).status.success().then_some(())
        });
    }

    /// The kubeconfig of the administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.node.path("root/cluster/admin.kubeconfig")
    }

    /// kubectl with these arguments, not yet started.
    pub(crate) fn command(&self, version: Kubectl, args: &[&str]) -> Command {
        let mut command = Command::new(version.path());
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.node.path("home"))
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl to its end, however it ends.
    pub(crate) fn run(&self, version: Kubectl, args: &[&str]) -> Output {
        self.command(version, args).output().unwrap()
    }

    /// Runs the newer kubectl, which must succeed: what it printed.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        succeed(&self.run(Kubectl::Sid, args))
    }

    /// Runs the newer kubectl, which must fail: what it said on standard error.
    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let output = self.run(Kubectl::Sid, args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(!output.status.success(), "it succeeded: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Runs the newer kubectl with something on its standard input: what it printed.
    #[track_caller]
    pub(crate) fn kubectl_with(&self, input: &str, args: &[&str]) -> String {
        succeed(&self.run_with(Kubectl::Sid, input, args))
    }

    /// Runs kubectl with something on its standard input, however it ends.
    pub(crate) fn run_with(&self, version: Kubectl, input: &str, args: &[&str]) -> Output {
        let mut command = self.command(version, args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A kubectl that fails early does not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Applies a manifest.
    #[track_caller]
    pub(crate) fn apply(&self, manifest: &str) -> String {
        self.kubectl_with(manifest, &["apply", "-f", "-"])
    }

    /// An object as JSON.
    #[track_caller]
    pub(crate) fn get(&self, what: &[&str]) -> Value {
        let args: Vec<&str> = ["get", "-o", "json"].iter().chain(what).copied().collect();
        serde_json::from_str(&self.kubectl(&args)).unwrap()
    }

    /// Waits until a pod of the default namespace is ready.
    #[track_caller]
    pub(crate) fn ready(&self, pod: &str) {
        self.kubectl(&["wait", "--for=condition=Ready", "--timeout=120s", &format!("pod/{pod}")]);
    }

    /// Waits for a cell of `kubectl get pod`: ["NAME", "READY", "STATUS", "RESTARTS", …].
    #[track_caller]
    pub(crate) fn status(&self, pod: &str, wanted: &str) {
        eventually(&format!("{pod} to be {wanted}"), || {
            let output = self.run(Kubectl::Sid, &["get", "pod", pod, "--no-headers"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (text.split_whitespace().nth(2) == Some(wanted)).then_some(())
        });
    }

    /// Ends the test well: removes all pods, stops everything, and sees that nothing is left.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.kubectl(&["delete", "pods", "--all", "--all-namespaces", "--grace-period=1", "--timeout=120s"]);
        self.node.finish();
    }
}
