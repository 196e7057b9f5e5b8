//! Against Debian's docker-registry and skopeo.

use std::io::{BufRead, BufReader, Cursor};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use vaquita_image::{Auth, Kind, Reference};

use crate::content::{Form, image, layer, noise};
use crate::{Place, impatient, read};

/// A registry process; it ends when this is dropped.
pub(crate) struct Distribution {
    process: Child,
    pub(crate) address: String,
}

impl Drop for Distribution {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The package's program, or one clear sentence.
pub(crate) fn need(program: &str) {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(found.is_ok(), "this test needs Debian's package {program}: apt-get install {program}");
}

impl Distribution {
    pub(crate) fn start(dir: &Path, auth: &str) -> Self {
        need("docker-registry");
        // The port was free a moment ago; the registry cannot say which one it took.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{auth}",
            dir.join("registry").display()
        );
        let file = dir.join("registry.yml");
        std::fs::write(&file, config).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = process.stderr.take().unwrap();
        let started = Self { process, address };
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("listening on")), "docker-registry did not start");
        // It must not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        started
    }
}

/// An OCI layout in a directory, for skopeo.
pub(crate) fn layout(dir: &Path) -> String {
    use serde_json::json;
    let files = [
        layer(&[("./", ""), ("etc/", ""), ("etc/hostname", "debian")]),
        layer(&[("big", &noise(5, 2_000_000))]),
    ];
    let content = image(&files, Form::Gzip);
    let blobs = dir.join("layout/blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let all = content.layers.iter().map(|(_, bytes)| bytes).chain([&content.config, &content.manifest]);
    for bytes in all {
        std::fs::write(blobs.join(vaquita_image::Digest::of(bytes).hex()), bytes).unwrap();
    }
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": crate::content::MANIFEST,
        "digest": vaquita_image::Digest::of(&content.manifest), "size": content.manifest.len()}]});
    std::fs::write(dir.join("layout/index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    format!("oci:{}", dir.join("layout").display())
}

pub(crate) fn skopeo(arguments: &[&str]) {
    need("skopeo");
    let output =
        Command::new("skopeo").args(["--insecure-policy", "copy", "-q"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn pull_from_docker_registry() {
    let place = Place::new();
    let registry = Distribution::start(place.dir.path(), "");
    let source = layout(place.dir.path());
    for (tag, format) in [("oci", "oci"), ("docker", "v2s2")] {
        let target = format!("docker://{}/team/app:{tag}", registry.address);
        skopeo(&["--dest-tls-verify=false", "--format", format, &source, &target]);
        let reference = Reference::parse(&format!("{}/team/app:{tag}", registry.address)).unwrap();
        let pulled = place.store.pull(&reference, None, &impatient()).await.unwrap();
        let by_digest = Reference::parse(&pulled.repo_digests[0]).unwrap();
        assert_eq!(place.store.pull(&by_digest, None, &impatient()).await.unwrap().id, pulled.id);
        let root = place.store.snapshot(tag, &pulled.id).unwrap().mount(true).unwrap();
        assert_eq!(read(&root, "etc/hostname"), "debian");
    }
    let missing = Reference::parse(&format!("{}/team/none", registry.address)).unwrap();
    assert_eq!(place.store.pull(&missing, None, &impatient()).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn pull_with_a_password() {
    let place = Place::new();
    let passwords = place.dir.path().join("htpasswd");
    // "user" with the password "secret" (bcrypt).
    std::fs::write(&passwords, "user:$2y$04$/9MnUs9TLdjAo63xF45ns.URk9EJfJD00TsPX894wXor8xxcv02ia\n")
        .unwrap();
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", passwords.display());
    let registry = Distribution::start(place.dir.path(), &auth);
    let target = format!("docker://{}/a:1", registry.address);
    skopeo(&["--dest-tls-verify=false", "--dest-creds", "user:secret", &layout(place.dir.path()), &target]);
    let reference = Reference::parse(&format!("{}/a:1", registry.address)).unwrap();
    assert_eq!(place.store.pull(&reference, None, &impatient()).await.unwrap_err().kind(), Kind::Denied);
    let auth = Auth::Basic { username: "user".into(), password: "secret".into() };
    place.store.pull(&reference, Some(&auth), &impatient()).await.unwrap();
}

#[tokio::test]
async fn load_what_skopeo_writes() {
    let place = Place::new();
    let source = layout(place.dir.path());
    let oci = place.dir.path().join("oci.tar");
    let docker = place.dir.path().join("docker.tar");
    skopeo(&[&source, &format!("oci-archive:{}:quay.io/team/app:1", oci.display())]);
    skopeo(&[&source, &format!("docker-archive:{}:quay.io/team/app:2", docker.display())]);
    let loaded = place.store.load(Cursor::new(std::fs::read(oci).unwrap()), |_| {}).await.unwrap();
    assert_eq!(loaded[0].repo_tags, ["quay.io/team/app:1"]);
    let root = place.store.snapshot("c1", &loaded[0].id).unwrap().mount(true).unwrap();
    assert_eq!(read(&root, "etc/hostname"), "debian");
    let loaded = place.store.load(Cursor::new(std::fs::read(docker).unwrap()), |_| {}).await.unwrap();
    assert!(loaded[0].repo_tags.contains(&"quay.io/team/app:2".to_owned()));
    assert_eq!(place.names("layers").len(), 2, "both archives have the same layers");
}
