//! What every namespace has from its beginning: the service account `default`, and the certificate of the API server's
//! authority. `kube-system` has it once more, where Kubernetes' own components look for it to know their clients.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use vaquita_apiserver::kinds::{CONFIG_MAP, NAMESPACE, SERVICE_ACCOUNT};
use vaquita_apiserver::{Cluster, Reason, Status, Write};

use super::changes::{Change, Observer};
use super::queue::Queue;
use super::{gone_is_fine, work};

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
/// Namespace, name and field of the ConfigMap by which components know the authority of client certificates.
const CLIENTS_CA: (&str, &str, &str) =
    ("kube-system", "extension-apiserver-authentication", "client-ca-file");
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

pub(super) struct Accounts {
    queue: Arc<Queue<Box<str>>>,
    seen: Vec<Box<str>>,
}

pub(super) fn start(cluster: &Cluster, root_ca: String, tasks: &mut JoinSet<()>) -> Accounts {
    let queue = Arc::new(Queue::new());
    let worker = Worker {
        cluster: cluster.clone(),
        root_ca: root_ca.into(),
        write: Write::system("service-account-controller"),
    };
    let worker = Arc::new(worker);
    tasks.spawn(work("service accounts", Arc::clone(&queue), move |namespace: Box<str>| {
        let worker = Arc::clone(&worker);
        async move { worker.furnish(&namespace).await }
    }));
    Accounts { queue, seen: Vec::new() }
}

impl Observer for Accounts {
    fn observe(&mut self, change: &Change) {
        let (kind, object) = (change.kind(), &change.object);
        if *kind == NAMESPACE && !change.gone {
            self.seen.push(object.name().into());
        } else if (*kind == SERVICE_ACCOUNT && object.name() == ACCOUNT && change.gone)
            || (*kind == CONFIG_MAP && [ROOT_CA, CLIENTS_CA.1].contains(&object.name()))
        {
            self.seen.push(object.namespace().into());
        }
    }

    fn caught_up(&mut self) {
        self.seen.drain(..).for_each(|namespace| self.queue.add(namespace));
    }
}

struct Worker {
    cluster: Cluster,
    root_ca: Box<str>,
    write: Write,
}

impl Worker {
    async fn furnish(&self, namespace: &str) -> Result<(), Status> {
        let Ok(object) = self.cluster.get(&NAMESPACE, "", namespace) else { return Ok(()) };
        if object.value()["metadata"]["deletionTimestamp"].is_string() {
            return Ok(());
        }
        if self.cluster.get(&SERVICE_ACCOUNT, namespace, ACCOUNT).is_err() {
            let account = json!({ "metadata": { "name": ACCOUNT } });
            there(self.cluster.create(&SERVICE_ACCOUNT, namespace, account, &self.write).await)?;
        }
        let (annotation, description) = DESCRIPTION;
        let annotations = json!({ annotation: description });
        self.publish(namespace, ROOT_CA, annotations, json!({ "ca.crt": &*self.root_ca })).await?;
        if namespace == CLIENTS_CA.0 {
            self.publish(namespace, CLIENTS_CA.1, json!({}), self.authentication()).await?;
        }
        Ok(())
    }

    /// How components know their clients: by certificates, and by the headers of a proxy, of which there is none here.
    fn authentication(&self) -> Value {
        json!({
            "client-ca-file": &*self.root_ca,
            "requestheader-allowed-names": r#"["front-proxy-client"]"#,
            "requestheader-client-ca-file": &*self.root_ca,
            "requestheader-extra-headers-prefix": r#"["X-Remote-Extra-"]"#,
            "requestheader-group-headers": r#"["X-Remote-Group"]"#,
            "requestheader-uid-headers": r#"["X-Remote-Uid"]"#,
            "requestheader-username-headers": r#"["X-Remote-User"]"#,
        })
    }

    /// Brings data into a ConfigMap, and whatever else was put there out of it.
    async fn publish(
        &self,
        namespace: &str,
        name: &str,
        annotations: Value,
        data: Value,
    ) -> Result<(), Status> {
        if self.cluster.get(&CONFIG_MAP, namespace, name).is_err() {
            let map = json!({ "metadata": { "name": name, "annotations": annotations }, "data": data });
            return there(self.cluster.create(&CONFIG_MAP, namespace, map, &self.write).await);
        }
        let changed = self.cluster.modify(&CONFIG_MAP, namespace, name, None, &self.write, |map| {
            if map["data"] == data {
                return Ok(false);
            }
            map["data"] = data.clone();
            Ok(true)
        });
        gone_is_fine(changed.await)
    }
}

/// Someone else made it, or the namespace ends: both are well.
fn there<T>(created: Result<T, Status>) -> Result<(), Status> {
    match created {
        Err(error)
            if !matches!(error.reason, Reason::AlreadyExists | Reason::Forbidden | Reason::NotFound) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}
