//! Pods of a folder of manifests, which the node runs whatever the API says.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::inotify;
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use vaquita_apiserver::kinds::POD;
use vaquita_schema::decode::{self, Strictness};

/// Between looks at the folder where nothing announces changes, as kubelet has it.
const PERIOD: Duration = Duration::from_secs(20);
/// After a change: whoever writes one file may write another.
const SETTLE: Duration = Duration::from_millis(100);
/// More than any manifest: what is larger is a mistake.
const LARGEST: u64 = 10 << 20;

/// Annotations of pods of manifests.
const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";
const SEEN: &str = "kubernetes.io/config.seen";

/// The pods of a folder, by uid. A file that cannot be used is none.
pub(crate) fn read(dir: &Path, node: &str) -> BTreeMap<String, Value> {
    let mut pods = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, dir = %dir.display(), "manifests cannot be read");
            return pods;
        }
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || !file.is_file() {
            continue;
        }
        let pod = text(&file).and_then(|text| parse(&text, &file, node));
        match pod {
            Ok(pod) => {
                let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                pods.insert(uid, pod);
            }
            Err(error) => tracing::warn!(error, file = %file.display(), "a manifest cannot be used"),
        }
    }
    pods
}

fn text(file: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if size > LARGEST {
        return Err(format!("it is larger than {} MiB", LARGEST >> 20));
    }
    std::fs::read(file).map_err(|error| error.to_string())
}

/// The pod of a manifest as the node runs it.
fn parse(text: &[u8], file: &Path, node: &str) -> Result<Value, String> {
    let ty = vaquita_schema::type_of("", "v1", "Pod").ok_or("no schema")?;
    let decoded = decode::yaml(text, ty, Strictness::Warn).map_err(|error| error.to_string())?;
    for warning in decoded.warnings {
        tracing::warn!(warning, file = %file.display(), "a manifest");
    }
    let mut pod = decoded.value;
    if pod["kind"] != "Pod" || pod["apiVersion"] != "v1" {
        return Err(format!("it is a {} {}, not a v1 Pod", pod["apiVersion"], pod["kind"]));
    }
    let Some(name) = pod["metadata"]["name"].as_str().filter(|name| !name.is_empty()) else {
        return Err("metadata.name: Required value".to_owned());
    };
    let name = format!("{name}-{node}");
    let uid = hash(&[node.as_bytes(), file.as_os_str().as_encoded_bytes(), pod.to_string().as_bytes()]);
    let metadata = &mut pod["metadata"];
    metadata["name"] = name.into();
    if metadata["namespace"].as_str().is_none_or(str::is_empty) {
        metadata["namespace"] = "default".into();
    }
    let uid = metadata["uid"].as_str().filter(|uid| !uid.is_empty()).map_or(uid, str::to_owned);
    metadata["uid"] = uid.as_str().into();
    metadata["creationTimestamp"] = Value::Null;
    metadata["annotations"][HASH] = uid.into();
    metadata["annotations"][SOURCE] = "file".into();
    pod["spec"]["nodeName"] = node.into();
    // Whatever becomes of the node, it stays.
    let anything = json!({"operator": "Exists", "effect": "NoExecute"});
    match pod["spec"]["tolerations"].as_array_mut() {
        Some(tolerations) => tolerations.push(anything),
        None => pod["spec"]["tolerations"] = json!([anything]),
    }
    (POD.default)(&mut pod);
    (POD.prepare)(&mut pod, None, None);
    if let [error, ..] = (POD.validate)(&pod, None, None).as_slice() {
        return Err(error.to_string());
    }
    Ok(pod)
}

/// When a pod of a manifest was seen for the first time.
pub(crate) fn seen(pod: &mut Value, at: Timestamp) {
    let metadata = &mut pod["metadata"];
    metadata["annotations"][SEEN] = at.to_string().into();
    metadata["creationTimestamp"] = crate::events::seconds(at).into();
}

/// FNV-1a of 128 bits, as 32 digits: the same for the same manifest, whatever the version of the program.
fn hash(parts: &[&[u8]]) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut hash = OFFSET;
    for part in parts {
        for byte in part.iter().chain(&[0]) {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }
    format!("{hash:032x}")
}

/// Reads the folder whenever it changes, until nobody wants to know.
pub(crate) async fn watch(dir: PathBuf, node: String, tell: mpsc::Sender<BTreeMap<String, Value>>) {
    let mut last = None;
    loop {
        let changes = changes(&dir);
        let (folder, name) = (dir.clone(), node.clone());
        let pods = tokio::task::spawn_blocking(move || read(&folder, &name)).await.unwrap_or_default();
        if last.as_ref() != Some(&pods) {
            last = Some(pods.clone());
            if tell.send(pods).await.is_err() {
                return;
            }
        }
        let changed = async {
            match &changes {
                Ok(changes) => drop(changes.readable().await),
                Err(_) => std::future::pending().await,
            }
        };
        if tokio::time::timeout(PERIOD, changed).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
    }
}

/// What becomes readable when something changes in the folder.
#[expect(
    deprecated,
    reason = "the replacement is unsafe for types that may give up their descriptor; OwnedFd cannot"
)]
fn changes(dir: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    use inotify::{CreateFlags, WatchFlags};
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let events = WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::DELETE_SELF;
    inotify::add_watch(&fd, dir, events | WatchFlags::ONLYDIR)?;
    AsyncFd::with_interest(fd, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: kube-system}\n\
                       spec: {containers: [{name: a, image: x}]}\n";

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("web.yaml"), WEB).unwrap();
        std::fs::write(dir.path().join(".hidden"), WEB).unwrap();
        std::fs::write(dir.path().join("bad.yaml"), "kind: Pod\n").unwrap();
        std::fs::write(dir.path().join("other.yaml"), "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n")
            .unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let pods = read(dir.path(), "n1");
        let [(uid, pod)] = pods.iter().collect::<Vec<_>>()[..] else { panic!("{pods:?}") };
        assert_eq!((uid.len(), &pod["metadata"]["uid"]), (32, &json!(uid)));
        assert_eq!(pod["metadata"]["name"], "web-n1");
        assert_eq!(pod["metadata"]["namespace"], "kube-system");
        assert_eq!(pod["metadata"]["annotations"], json!({HASH: uid, SOURCE: "file"}));
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["spec"]["restartPolicy"], "Always");
        assert_eq!(pod["spec"]["tolerations"], json!([{"operator": "Exists", "effect": "NoExecute"}]));
        assert_eq!(pod["status"]["phase"], "Pending");
        // The same file is the same pod; another text or node is another.
        assert_eq!(read(dir.path(), "n1"), pods);
        assert_ne!(read(dir.path(), "n2").keys().next(), Some(uid));
        std::fs::write(dir.path().join("web.yaml"), WEB.replace("image: x", "image: y")).unwrap();
        assert_ne!(read(dir.path(), "n1").keys().next(), Some(uid));
    }

    #[tokio::test]
    async fn changes_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (tell, mut told) = mpsc::channel(1);
        let watching = tokio::spawn(watch(dir.path().to_owned(), "n1".to_owned(), tell));
        assert!(told.recv().await.unwrap().is_empty());
        std::fs::write(dir.path().join("web.yaml"), WEB).unwrap();
        assert_eq!(told.recv().await.unwrap().len(), 1);
        std::fs::remove_file(dir.path().join("web.yaml")).unwrap();
        assert!(told.recv().await.unwrap().is_empty());
        watching.abort();
    }
}
