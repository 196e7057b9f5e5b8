//! Registries as people have them: mirrors, certificates, users, credential helpers, proxies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use crate::support::{Node, PASSWORD, Registry, Run, USER, succeed, write_busybox};

/// Writes an authority, a server's certificate for these names, and a client's.
fn certificates(node: &Node, names: &[&str]) -> PathBuf {
    let dir = node.path("certificates");
    std::fs::create_dir(&dir).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    write("ca.crt", &authority.self_signed(&authority_key).unwrap().pem());
    let issuer = rcgen::Issuer::new(authority, &authority_key);
    let leaf = |certificate: &str, key_name: &str, names: Vec<String>, purpose| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        parameters.extended_key_usages = vec![purpose];
        write(certificate, &parameters.signed_by(&key, &issuer).unwrap().pem());
        write(key_name, &key.serialize_pem());
    };
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    leaf("server.pem", "server-key.pem", names, rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    leaf("client.cert", "client.key", vec!["node".to_owned()], rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    dir
}

/// Makes a directory for a registry in the node's settings.
fn settings(node: &Node, registry: &str, hosts: &str) -> PathBuf {
    let dir = node.path("certs.d").join(registry);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), hosts).unwrap();
    dir
}

/// A file that has the authority and the client's certificate.
fn client(certificates: &Path) -> String {
    let dir = certificates.display();
    format!("ca = \"{dir}/ca.crt\"\nclient = [[\"{dir}/client.cert\", \"{dir}/client.key\"]]")
}

fn busybox(node: &Node) -> PathBuf {
    let archive = node.path("busybox.tar");
    write_busybox(&archive);
    archive
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!error.contains(PASSWORD) && error.lines().count() == 1, "{error}");
    error
}

#[test]
fn a_registry_with_its_own_authority_client_certificates_and_users() {
    let node = Node::start();
    let certificates = certificates(&node, &["127.0.0.1"]);
    let registry = Registry::guarded(&node, &certificates);
    let reference = registry.push(&busybox(&node), "team/busybox:1");
    let pull = |more: &[&str]| node.output(&[&["image", "pull", &reference], more].concat());
    let copy = |name: &str, to: &Path| std::fs::copy(certificates.join(name), to.join(name)).unwrap();

    let dir = settings(&node, &registry.address, &format!("server = \"https://{}\"", registry.address));
    let error = refused(&pull(&[]));
    assert!(error.contains("TLS: invalid peer certificate: UnknownIssuer"), "{error}");
    copy("ca.crt", &dir);
    let error = refused(&pull(&[]));
    assert!(error.contains("it may want a client certificate"), "{error}");
    copy("client.cert", &dir);
    copy("client.key", &dir);
    let error = refused(&pull(&[]));
    assert!(error.contains("401 Unauthorized") && error.contains("without credentials"), "{error}");
    let error = refused(&pull(&["--creds", "puller:wrong"]));
    assert!(error.contains("with these credentials"), "{error}");

    // The helper is found in PATH, and has them for this registry alone.
    let bin = node.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-of-test");
    let script = format!(
        "#!/bin/sh\nread -r server\n[ \"$1 $server\" = 'get {}' ] || {{ echo credentials not found; exit 1; }}\n\
         echo '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'\n",
        registry.address
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = node.write("config.json", "{\"credsStore\": \"of-test\"}");
    let error = refused(&pull(&["--authfile", &config]));
    assert!(error.contains("docker-credential-of-test"), "{error}");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut with_helper = node.vaquita(&["image", "pull", &reference, "--authfile", &config]);
    let output = with_helper.env("PATH", path).stdin(Stdio::null()).output().unwrap();
    assert!(succeed(&output).starts_with(&reference));
    assert!(!node.log().contains(PASSWORD), "{}", node.log());
    node.finish();
}

/// The daemon's own file, for a registry and for nobody else.
#[test]
fn the_daemon_has_credentials_of_its_own() {
    let node = Node::without_daemon();
    let certificates = certificates(&node, &["127.0.0.1"]);
    let registry = Registry::guarded(&node, &certificates);
    let reference = registry.push(&busybox(&node), "team/busybox:1");
    settings(&node, &registry.address, &client(&certificates));
    let auths =
        serde_json::json!({ "auths": { &registry.address: { "username": USER, "password": PASSWORD } } });
    let file = node.write("auth.json", &auths.to_string());
    node.start_daemon_as(&mut node.vaquita(&[
        "daemon",
        "--log-level",
        "trace",
        "--registry-auth-file",
        &file,
    ]));
    assert!(succeed(&node.output(&["image", "pull", &reference])).starts_with(&reference));
    let log = node.log();
    assert!(!log.contains(PASSWORD) && !log.contains("cHVsbGVyOn"), "{log}");
    node.finish();
}

/// `docker login`, then `vaquita run`.
#[test]
fn a_manifest_is_run_with_the_credentials_of_who_runs_it() {
    let node = Node::start();
    let certificates = certificates(&node, &["127.0.0.1"]);
    let registry = Registry::guarded(&node, &certificates);
    let reference = registry.push(&busybox(&node), "team/busybox:1");
    settings(&node, &registry.address, &client(&certificates));
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: private}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - {{name: main, image: {reference}, command: [echo, from a registry]}}\n"
    );
    let path = node.write("pod.yaml", &manifest);
    let auths =
        serde_json::json!({ "auths": { &registry.address: { "username": USER, "password": PASSWORD } } });
    std::fs::create_dir(node.path("docker")).unwrap();
    node.write("docker/config.json", &auths.to_string());
    let ended = Run::start(&node, &["run", &path]).ended();
    assert_eq!(ended.stdout, ["private/main | from a registry"], "{}", ended.stderr);
    node.finish();
}

#[test]
fn a_mirror_that_is_dead_and_one_that_lives() {
    let node = Node::start();
    let mirror = Registry::start(&node);
    mirror.push(&busybox(&node), "team/busybox:1");
    // The registry itself does not exist.
    let reference = "registry.invalid:5000/team/busybox:1";
    let hosts = format!("[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}\"]\n", mirror.address);
    settings(&node, "registry.invalid_5000_", &hosts);
    assert!(succeed(&node.output(&["image", "pull", reference])).starts_with(reference));
    let error = refused(&node.output(&["image", "pull", "registry.invalid:5000/team/none:1"]));
    for part in ["https://registry.invalid:5000", "http://127.0.0.1:1: connect", "does not have it"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    settings(&node, "registry.invalid_5000_", "[host.\"http://127.0.0.1:1\"]\nca = 5\n");
    let error = refused(&node.output(&["image", "pull", reference]));
    assert!(error.contains("certs.d/registry.invalid_5000_/hosts.toml:2: "), "{error}");
    node.finish();
}

/// Leads every tunnel to one address, and notes what it was asked for. Its thread ends with the test's process.
fn proxy(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut head = String::new();
            let mut lines = BufReader::new(client.try_clone().unwrap());
            while !head.ends_with("\r\n\r\n") && lines.read_line(&mut head).unwrap_or(0) > 0 {}
            log.lock().unwrap().push(head);
            let server = TcpStream::connect(&target).unwrap();
            (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            for (from, to) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))] {
                std::thread::spawn(move || pass(&from.unwrap(), &to.unwrap()));
            }
        }
    });
    (address, seen)
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = [0; 16384];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn through_the_proxy_of_the_environment() {
    let node = Node::without_daemon();
    let certificates = certificates(&node, &["127.0.0.1", "registry.invalid"]);
    let registry = Registry::guarded(&node, &certificates);
    registry.push(&busybox(&node), "team/busybox:1");
    let (address, seen) = proxy(registry.address.clone());
    settings(&node, "_default", &client(&certificates));
    let mut daemon = node.vaquita(&["daemon", "--log-level", "trace"]);
    daemon
        .env("HTTPS_PROXY", format!("http://someone:{PASSWORD}@{address}"))
        .env("NO_PROXY", "other.invalid");
    node.start_daemon_as(&mut daemon);
    let creds = format!("{USER}:{PASSWORD}");
    let pull = |host: &str| {
        let reference = format!("{host}/team/busybox:1");
        node.output(&["image", "pull", &reference, "--creds", &creds])
    };
    assert!(succeed(&pull("registry.invalid")).starts_with("registry.invalid/team/busybox:1"));
    let heads = seen.lock().unwrap().clone();
    assert!(!heads.is_empty());
    assert!(
        heads.iter().all(|head| head.starts_with("CONNECT registry.invalid:443 HTTP/1.1\r\n")),
        "{heads:?}"
    );
    assert!(heads.iter().all(|head| head.contains("proxy-authorization: Basic c29tZW9uZTp")), "{heads:?}");
    // Directly there is no such host.
    let error = refused(&pull("other.invalid"));
    assert!(error.contains("https://other.invalid: "), "{error}");
    assert_eq!(seen.lock().unwrap().len(), heads.len());
    assert!(!node.log().contains(PASSWORD), "{}", node.log());
    node.finish();
}
