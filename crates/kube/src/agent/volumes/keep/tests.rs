use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::SignedDuration;

use super::*;
use crate::agent::volumes::tests::Fixture;
use crate::agent::{Objects, Token, TokenRequest, cri};
use crate::api::{ConfigMap, Secret};
use crate::client::Client;

/// What a cluster has, as a test makes it.
struct Cluster {
    config_maps: Mutex<BTreeMap<String, ConfigMap>>,
    /// Seconds that tokens are valid; none are given where absent.
    life: Mutex<Option<i64>>,
    given: AtomicUsize,
    changed: watch::Sender<u64>,
}

impl Cluster {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            config_maps: Mutex::default(),
            life: Mutex::new(Some(3600)),
            given: AtomicUsize::new(0),
            changed: watch::channel(0).0,
        })
    }

    fn set(&self, name: &str, data: &[(&str, &str)]) {
        let mut object = ConfigMap::default();
        object.metadata.name = name.to_owned();
        object.metadata.namespace = "default".to_owned();
        object.data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.config_maps.lock().unwrap().insert(name.to_owned(), object);
        self.changed.send_modify(|number| *number += 1);
    }

    fn remove(&self, name: &str) {
        self.config_maps.lock().unwrap().remove(name);
        self.changed.send_modify(|number| *number += 1);
    }
}

impl Objects for Cluster {
    fn config_map<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<ConfigMap>>> + Send + 'a>> {
        let found = self.config_maps.lock().unwrap().get(name).cloned();
        Box::pin(async { Ok(found) })
    }

    fn secret<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Secret>>> + Send + 'a>> {
        Box::pin(async { Ok(None) })
    }

    fn token<'a>(
        &'a self,
        request: &'a TokenRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Token>> + Send + 'a>> {
        let life = *self.life.lock().unwrap();
        let number = self.given.fetch_add(usize::from(life.is_some()), Ordering::SeqCst);
        Box::pin(async move {
            let life = life.ok_or_else(|| Error::failed("no tokens today"))?;
            let expires = Timestamp::now() + SignedDuration::from_secs(life);
            let token = format!("{}/{}:{number}", request.service_account, request.audience);
            Ok(Token { token, expires })
        })
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// A pod of a cluster whose volumes are kept.
struct Pod {
    fixture: Fixture,
    cluster: Arc<Cluster>,
    hands: Hands,
    current: watch::Sender<Hands>,
    told: mpsc::UnboundedReceiver<EventKind>,
    task: tokio::task::JoinHandle<()>,
}

impl Pod {
    async fn new(spec: &str, cluster: Arc<Cluster>) -> Self {
        vaquita_testing::require_root();
        let mut fixture = Fixture::new("containers: [{name: a, image: x}]");
        let spec: serde_json::Value = serde_saphyr::from_str(spec).unwrap();
        let mut pod = serde_json::json!({ "metadata": fixture.context.pod.metadata });
        pod["spec"] = spec;
        fixture.context.pod = crate::api::Pod::from_value(pod).unwrap();
        fixture.context.kept = true;
        let client = Client::connect(Path::new("/nowhere")).unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        let hands = Hands {
            cri: cri::Cri::new(client, tell.clone()),
            context: Arc::new(fixture.context.clone()),
            objects: Arc::clone(&cluster) as Arc<dyn Objects>,
            volumes: Arc::default(),
        };
        prepare(&hands).await.unwrap();
        let (current, receiver) = watch::channel(hands.clone());
        let task = tokio::spawn(keep(receiver, tell));
        Self { fixture, cluster, hands, current, told, task }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.fixture.context.dir().join("volumes").join(path)
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok()
    }

    /// Waits until a file is so, or is not there.
    async fn becomes(&self, path: &str, content: Option<&str>) {
        let wait = async {
            while self.read(path).as_deref() != content {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "{path}: {:?} instead of {content:?}", self.read(path));
    }

    /// Waits until a volume shows these files: links are put right after what they lead to.
    async fn shows(&self, volume: &str, names: &[&str]) {
        let wait = async {
            while self.names(volume) != names {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "{volume}: {:?} instead of {names:?}", self.names(volume));
    }

    fn names(&self, volume: &str) -> Vec<String> {
        let names = std::fs::read_dir(self.path(volume)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> =
            names.map(|name| name.into_string().unwrap()).filter(|name| !name.starts_with("..2")).collect();
        names.sort();
        names
    }

    fn stamps(&self, volume: &str) -> usize {
        let names = std::fs::read_dir(self.path(volume)).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("..2")).count()
    }

    async fn complaint(&mut self) -> (String, String) {
        match tokio::time::timeout(Duration::from_secs(30), self.told.recv()).await.unwrap().unwrap() {
            EventKind::VolumeFailed { volume, message } => (volume, message),
            other => panic!("{other:?}"),
        }
    }

    /// The end of the pod: nobody keeps its volumes any more.
    async fn end(self) {
        drop(self.current);
        tokio::time::timeout(Duration::from_secs(30), self.task).await.unwrap().unwrap();
    }
}

const SPEC: &str = "\
containers: [{name: a, image: x, volumeMounts: [{name: conf, mountPath: /sub, subPath: deep}]}]
volumes:
- {name: conf, configMap: {name: conf}}
- {name: part, configMap: {name: conf, items: [{key: a, path: deep/a}]}}
- {name: later, configMap: {name: later, optional: true}}
- {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
";

#[tokio::test]
async fn what_changes_is_written_anew() {
    let cluster = Cluster::new();
    cluster.set("conf", &[("a", "1"), ("b", "2")]);
    let mut pod = Pod::new(SPEC, cluster).await;
    assert_eq!(pod.names("conf"), ["..data", "a", "b"]);
    assert_eq!(pod.names("later"), ["..data"]);
    let inode = || std::fs::symlink_metadata(pod.path("conf/..data")).unwrap().ino();
    let before = inode();

    pod.cluster.set("conf", &[("a", "changed"), ("c", "3")]);
    pod.becomes("conf/a", Some("changed")).await;
    pod.becomes("part/deep/a", Some("changed")).await;
    pod.becomes("conf/b", None).await;
    assert_ne!(inode(), before);
    pod.shows("conf", &["..data", "a", "c"]).await;
    assert_eq!(pod.read("conf/c").as_deref(), Some("3"));

    // What was optional comes, and goes.
    pod.cluster.set("later", &[("x", "here")]);
    pod.becomes("later/x", Some("here")).await;
    pod.cluster.remove("later");
    pod.becomes("later/x", None).await;
    pod.shows("later", &["..data"]).await;

    // What is no more, and was not optional, stays as it was; it is said once for each volume.
    pod.cluster.remove("conf");
    let message = "configmap \"conf\" not found".to_owned();
    assert_eq!(pod.complaint().await, ("conf".to_owned(), message.clone()));
    assert_eq!(pod.complaint().await, ("part".to_owned(), message));
    assert_eq!(pod.read("conf/a").as_deref(), Some("changed"));
    // A path that leads out is not written, and no reason not to go on with the others.
    pod.cluster.set("conf", &[("a", "again"), ("../../../../out", "x")]);
    let (volume, message) = pod.complaint().await;
    assert_eq!(
        (volume.as_str(), message.as_str()),
        ("conf", "\"../../../../out\" is no path of a file in a volume")
    );
    pod.becomes("part/deep/a", Some("again")).await;

    let mut other = Context::clone(&pod.hands.context);
    other.pod.metadata.labels = BTreeMap::from([("new".to_owned(), "label".to_owned())]);
    pod.current.send_replace(Hands { context: Arc::new(other), ..pod.hands.clone() });
    pod.becomes("down/labels", Some("new=\"label\"")).await;
    assert_eq!((pod.stamps("conf"), pod.stamps("part"), pod.stamps("down")), (1, 1, 1));
    pod.end().await;
}

#[tokio::test]
async fn what_is_mounted_by_subpath_does_not_change() {
    let cluster = Cluster::new();
    cluster.set("conf", &[("a", "1")]);
    let spec = "\
containers: [{name: a, image: x, volumeMounts: [{name: part, mountPath: /dir, subPath: deep}, {name: part, mountPath: /file, subPath: deep/a}]}]
volumes: [{name: part, configMap: {name: conf, items: [{key: a, path: deep/a}]}}]
";
    let pod = Pod::new(spec, cluster).await;
    let mounts = pod.fixture.mounts().unwrap();
    let mounted = || {
        let dir = std::fs::read_to_string(Path::new(&mounts[0].host_path).join("a")).unwrap();
        (dir, std::fs::read_to_string(&mounts[1].host_path).unwrap())
    };
    for number in ["2", "3", "4"] {
        pod.cluster.set("conf", &[("a", number)]);
        pod.becomes("part/deep/a", Some(number)).await;
        assert_eq!(mounted(), ("1".to_owned(), "1".to_owned()));
    }
    // That what is mounted, and that what is there now: what was between is gone, when the writer is done.
    let wait = async {
        while pod.stamps("part") != 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
    pod.end().await;
}

const TOKENS: &str = "\
serviceAccountName: robot
securityContext: {runAsUser: 1234}
containers: [{name: a, image: x}]
volumes:
- name: access
  projected:
    defaultMode: 420
    sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - serviceAccountToken: {path: vault/token, audience: vault}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]}
";

#[tokio::test]
async fn the_access_of_a_service_account() {
    let cluster = Cluster::new();
    cluster.set("kube-root-ca.crt", &[("ca.crt", "PEM")]);
    let pod = Pod::new(TOKENS, cluster).await;
    assert_eq!(pod.names("access"), ["..data", "ca.crt", "namespace", "token", "vault"]);
    assert_eq!(pod.read("access/token").as_deref(), Some("robot/:0"));
    assert_eq!(pod.read("access/vault/token").as_deref(), Some("robot/vault:1"));
    assert_eq!(pod.read("access/namespace").as_deref(), Some("default"));
    assert_eq!(pod.read("access/ca.crt").as_deref(), Some("PEM"));
    // The user that all containers run as, and nobody else.
    let of = |name: &str| {
        let meta = std::fs::metadata(pod.path(name)).unwrap();
        (meta.uid(), meta.mode() & 0o7777)
    };
    assert_eq!((of("access/token"), of("access/ca.crt")), ((1234, 0o600), (0, 0o644)));
    // Tokens are used again while they are good.
    pod.cluster.set("kube-root-ca.crt", &[("ca.crt", "PEM2")]);
    pod.becomes("access/ca.crt", Some("PEM2")).await;
    assert_eq!(pod.read("access/token").as_deref(), Some("robot/:0"));
    assert_eq!(pod.cluster.given.load(Ordering::SeqCst), 2);
    pod.end().await;
}

#[tokio::test]
async fn a_token_is_replaced_before_it_ends() {
    let cluster = Cluster::new();
    cluster.set("kube-root-ca.crt", &[]);
    *cluster.life.lock().unwrap() = Some(5);
    let spec = "\
containers: [{name: a, image: x}]
volumes: [{name: access, projected: {sources: [{serviceAccountToken: {path: token, expirationSeconds: 600}}]}}]
";
    let begin = std::time::Instant::now();
    let pod = Pod::new(spec, cluster).await;
    pod.becomes("access/token", Some("default/:1")).await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(3), "at 80 % of its life: {took:?}");
    pod.end().await;
}

#[tokio::test]
async fn a_pod_that_ends_waits_for_no_server() {
    vaquita_testing::require_root();
    let mut fixture =
        Fixture::new("containers: [{name: a, image: x}]\nvolumes: [{name: v, nfs: {server: s, path: /}}]");
    let helpers = vaquita_testing::temp_dir();
    let helper = helpers.path().join("mount.nfs");
    std::fs::write(&helper, "#!/bin/sh\nsleep 1000 & echo $! >\"$2.pid\"\nwait\n").unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut config = crate::agent::Config::clone(&fixture.context.config);
    config.helpers = vec![helpers.path().to_owned()];
    fixture.context.config = Arc::new(config);
    let (tell, _told) = mpsc::unbounded_channel();
    let hands = Hands {
        cri: cri::Cri::new(Client::connect(Path::new("/nowhere")).unwrap(), tell),
        context: Arc::new(fixture.context.clone()),
        objects: Cluster::new(),
        volumes: Arc::default(),
    };
    let preparing = tokio::spawn({
        let hands = hands.clone();
        async move { prepare(&hands).await }
    });
    let noted = fixture.path("v.pid");
    let pid = loop {
        match std::fs::read_to_string(&noted).map(|text| text.trim().parse::<i32>()) {
            Ok(Ok(pid)) => break pid,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    hands.volumes.give_up();
    let error = tokio::time::timeout(Duration::from_secs(10), preparing).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "volume v: the pod ends before its server has answered");
    // What the helper has started is killed too; who adopts it may not have waited for it yet.
    let is_alive = || {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
    };
    while is_alive() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
