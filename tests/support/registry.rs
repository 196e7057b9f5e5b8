//! Debian's registry.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Node, eventually};

/// The one user that a registry knows which has users, and the password with its bcrypt hash.
pub(crate) const USER: &str = "puller";
pub(crate) const PASSWORD: &str = "p4ss-of-the-registry";
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuunLOWaaJlI9W7mkBZNe2ubIZfsjDiIL2";

/// Debian's registry on a port of 127.0.0.1, until it is dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Child,
    pub(crate) address: String,
    /// What skopeo has to say to it.
    options: Vec<String>,
}

impl Registry {
    /// By HTTP, for everybody.
    #[track_caller]
    pub(crate) fn start(node: &Node) -> Self {
        Self::serve(node, "", vec!["--dest-tls-verify=false".to_owned()])
    }

    /// By HTTPS, for who has a client certificate, the name and the password. `certificates` has `ca.crt`, `server.pem`, `server-key.pem`,
    /// `client.cert` and `client.key`.
    #[track_caller]
    pub(crate) fn guarded(node: &Node, certificates: &Path) -> Self {
        let users = node.write("htpasswd", &format!("{USER}:{HASH}\n"));
        let dir = certificates.display();
        let more = format!(
            "  tls:\n    certificate: {dir}/server.pem\n    key: {dir}/server-key.pem\n    clientcas: [{dir}/ca.crt]\n\
             auth:\n  htpasswd: {{realm: test, path: {users}}}\n"
        );
        let options = vec![format!("--dest-cert-dir={dir}"), format!("--dest-creds={USER}:{PASSWORD}")];
        Self::serve(node, &more, options)
    }

    fn serve(node: &Node, more: &str, options: Vec<String>) -> Self {
        // The port was free a moment ago; the registry cannot say which one it took.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{more}",
            node.path(&format!("registry-{port}")).display()
        );
        let config = node.write(&format!("registry-{port}.yml"), &config);
        let process = Command::new("docker-registry")
            .args(["serve", &config])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry: install the package of this name");
        let started = Self { process, address, options };
        eventually("the registry", || TcpStream::connect(&started.address).ok());
        started
    }

    /// Puts an archive of Docker's there. Returns the reference.
    #[track_caller]
    pub(crate) fn push(&self, archive: &Path, name: &str) -> String {
        let target = format!("{}/{name}", self.address);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "-q"])
            .args(&self.options)
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("docker://{target}"))
            .output()
            .expect("skopeo: install the package of this name");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
