//! Manifests: made, applied, compared, replaced, edited; and what is wrong with them, in Kubernetes' words.

use std::process::Output;

use serde_json::json;

use super::{Cluster, Kubectl};
use crate::support::succeed;

const CONFIG: &str = "apiVersion: v1
kind: ConfigMap
metadata:
  name: app
  labels: {tier: web}
data:
  color: blue
  size: \"1\"
";

/// A pod that no node takes.
const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  nodeSelector: {nowhere: \"true\"}
  containers:
  - name: web
    image: example.com/web:1
    env:
    - {name: A, value: \"1\"}
    - {name: B, value: \"2\"}
";

/// One kubectl in a namespace of its own.
pub(super) struct Session<'a> {
    pub(super) cluster: &'a Cluster,
    version: Kubectl,
    namespace: String,
}

impl<'a> Session<'a> {
    pub(super) fn of(cluster: &'a Cluster, version: Kubectl) -> Self {
        let namespace = format!("{version:?}").to_lowercase();
        cluster.kubectl(&["create", "namespace", &namespace]);
        cluster.kubectl(&[
            "wait",
            "--for=create",
            "-n",
            &namespace,
            "serviceaccount/default",
            "--timeout=60s",
        ]);
        Self { cluster, version, namespace }
    }

    fn args<'b>(&'b self, args: &[&'b str]) -> Vec<&'b str> {
        ["-n", &self.namespace].into_iter().chain(args.iter().copied()).collect()
    }

    pub(super) fn output(&self, args: &[&str]) -> Output {
        self.cluster.run(self.version, &self.args(args))
    }

    /// What a command that succeeds prints.
    #[track_caller]
    pub(super) fn prints(&self, args: &[&str], wanted: &str) {
        assert_eq!(succeed(&self.output(args)), wanted, "{args:?}");
    }

    /// What a command that fails says.
    #[track_caller]
    pub(super) fn refuses(&self, args: &[&str], wanted: &str) {
        let output = self.output(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{args:?} succeeded");
        assert_eq!(said, wanted, "{args:?}");
    }

    /// A command with a manifest on its standard input: whether it succeeded, and all that it said.
    pub(super) fn with(&self, manifest: &str, args: &[&str]) -> (bool, String) {
        let output = self.cluster.run_with(self.version, manifest, &self.args(args));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stderr) + &text(&output.stdout))
    }

    fn edit(&self, editor: &str) -> String {
        let mut command = self.cluster.command(self.version, &self.args(&["edit", "configmap", "app"]));
        let output = command.env("KUBE_EDITOR", editor).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout) + &text(&output.stderr)
    }

    fn data(&self) -> serde_json::Value {
        self.cluster.get(&["-n", &self.namespace, "configmap", "app"])["data"].clone()
    }
}

#[test]
fn manifests_are_created_applied_compared_replaced_and_edited() {
    let cluster = Cluster::up();
    for version in Kubectl::BOTH {
        let session = Session::of(&cluster, version);
        life_of_a_config_map(&session);
        pods(&session);
        lists(&session);
    }
    cluster.finish();
}

fn life_of_a_config_map(session: &Session<'_>) {
    let file = session.cluster.node.write("app.yaml", CONFIG);
    session.prints(&["create", "-f", &file], "configmap/app created\n");
    session.refuses(
        &["create", "-f", &file],
        &format!(
            "Error from server (AlreadyExists): error when creating \"{file}\": configmaps \"app\" already exists\n"
        ),
    );
    let (applied, said) = session.with(CONFIG, &["apply", "-f", "-"]);
    assert!(applied && said.ends_with("configmap/app configured\n"), "{said}");
    assert!(said.starts_with("Warning: resource configmaps/app is missing the"), "{said}");
    session.prints(&["apply", "-f", &file], "configmap/app unchanged\n");

    let file = session.cluster.node.write("app.yaml", &CONFIG.replace("blue", "red"));
    let difference = session.output(&["diff", "-f", &file]);
    let text = String::from_utf8_lossy(&difference.stdout).into_owned();
    assert_eq!(difference.status.code(), Some(1), "{text}");
    assert!(
        text.contains(" data:\n-  color: blue\n+  color: red\n   size: \"1\"\n kind: ConfigMap\n"),
        "{text}"
    );
    session
        .prints(&["apply", "-f", &file, "--dry-run=server"], "configmap/app configured (server dry run)\n");
    assert_eq!(session.data()["color"], "blue");
    session.prints(&["apply", "-f", &file], "configmap/app configured\n");
    session.prints(&["diff", "-f", &file], "");
    // What another made stays, what is gone from the manifest goes.
    session
        .prints(&["patch", "configmap", "app", "-p", r#"{"data":{"other":"x"}}"#], "configmap/app patched\n");
    let file =
        session.cluster.node.write("app.yaml", &CONFIG.replace("blue", "red").replace("  size: \"1\"\n", ""));
    session.prints(&["apply", "-f", &file], "configmap/app configured\n");
    assert_eq!(session.data(), json!({ "color": "red", "other": "x" }));

    session.prints(&["replace", "-f", &file], "configmap/app replaced\n");
    assert_eq!(session.data(), json!({ "color": "red" }));
    let stale = CONFIG.replace("name: app", "name: app\n  resourceVersion: \"1\"");
    let (_, said) = session.with(&stale, &["replace", "-f", "-"]);
    assert_eq!(
        said,
        "Error from server (Conflict): error when replacing \"STDIN\": Operation cannot be fulfilled on \
         configmaps \"app\": the object has been modified; please apply your changes to the latest version and \
         try again\n"
    );
    assert_eq!(session.edit("sed -i s/red/green/"), "configmap/app edited\n");
    assert_eq!(session.data(), json!({ "color": "green" }));
    assert_eq!(session.edit("true"), "Edit cancelled, no changes made.\n");
}

fn pods(session: &Session<'_>) {
    let file = session.cluster.node.write("web.yaml", POD);
    session.prints(&["apply", "-f", &file], "pod/web created\n");
    session.prints(&["apply", "-f", &file], "pod/web unchanged\n");
    let file = session.cluster.node.write("web.yaml", &POD.replace("web:1", "web:2"));
    session.prints(&["apply", "-f", &file], "pod/web configured\n");
    let (_, said) = session.with(&POD.replace("value: \"1\"", "value: \"9\""), &["apply", "-f", "-"]);
    assert!(
        said.starts_with(
            "The Pod \"web\" is invalid: spec: Forbidden: pod updates may not change fields other than \
             `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
             `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
             (allow it to be set to 1 if it was previously negative)\n"
        ),
        "{said}"
    );
}

fn lists(session: &Session<'_>) {
    let list = "apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: l1}}
- {apiVersion: v1, kind: Secret, metadata: {name: l2}, stringData: {a: b}}
";
    let made = "configmap/l1 created\nsecret/l2 created\n".to_owned();
    assert_eq!(session.with(list, &["apply", "-f", "-"]), (true, made));
    let (applied, said) = session.with(&list.replace("stringData", "strData"), &["apply", "-f", "-"]);
    assert!(!applied, "{said}");
    assert!(
        said.contains("ValidationError(Secret): unknown field \"strData\" in io.k8s.api.core.v1.Secret"),
        "{said}"
    );
    let nope = "apiVersion: v1\nkind: Nope\nmetadata: {name: a}\n";
    assert_eq!(
        session.with(nope, &["apply", "-f", "-"]).1,
        "error: resource mapping not found for name: \"a\" namespace: \"\" from \"STDIN\": no matches for kind \
         \"Nope\" in version \"v1\"\nensure CRDs are installed first\n"
    );
    let folder = session.cluster.node.path("kustomized");
    std::fs::create_dir_all(&folder).unwrap();
    let kustomization = "configMapGenerator: [{name: made, literals: [a=1]}]\nlabels: [{pairs: {by: k}}]\n";
    std::fs::write(folder.join("kustomization.yaml"), kustomization).unwrap();
    let made = succeed(&session.output(&["apply", "-k", &folder.display().to_string()]));
    assert!(made.starts_with("configmap/made-") && made.ends_with(" created\n"), "{made}");
    let listed = succeed(&session.output(&["get", "configmap", "-l", "by=k", "-o", "name"]));
    assert!(listed.starts_with("configmap/made-"), "{listed}");
}

#[test]
fn what_is_wrong_with_a_manifest_is_refused_warned_of_or_ignored() {
    let cluster = Cluster::up();
    for version in Kubectl::BOTH {
        let session = Session::of(&cluster, version);
        let wrong = CONFIG.replace("\ndata:", "\ndat: 1\nfoo: 1\ndata:");
        let strict = "Error from server (BadRequest): error when creating \"STDIN\": ConfigMap in version \"v1\" \
                      cannot be handled as a ConfigMap: strict decoding error: unknown field \"dat\", unknown field \"foo\"\n";
        assert_eq!(session.with(&wrong, &["create", "-f", "-"]), (false, strict.to_owned()));
        let validated = session.with(&wrong, &["create", "-f", "-", "--validate=strict"]);
        assert_eq!(validated, (false, strict.to_owned()));
        let warned =
            "Warning: unknown field \"dat\"\nWarning: unknown field \"foo\"\nconfigmap/app created\n";
        assert_eq!(
            session.with(&wrong, &["create", "-f", "-", "--validate=warn"]),
            (true, warned.to_owned())
        );
        let ignored = session.with(&wrong, &["apply", "-f", "-", "--validate=ignore"]);
        assert!(ignored.0 && ignored.1.ends_with("configmap/app configured\n"), "{}", ignored.1);
        assert_eq!(session.data(), json!({ "color": "blue", "size": "1" }));

        let pod = POD.replace("    image:", "    imag: x\n    image:");
        assert_eq!(
            session.with(&pod, &["apply", "-f", "-"]).1,
            "Error from server (BadRequest): error when creating \"STDIN\": Pod in version \"v1\" cannot be \
             handled as a Pod: strict decoding error: unknown field \"spec.containers[0].imag\"\n"
        );
        let pod = POD.replace("{name: A, value: \"1\"}", "{name: A, value: 1}");
        assert_eq!(
            session.with(&pod, &["create", "-f", "-"]).1,
            "Error from server (BadRequest): error when creating \"STDIN\": Pod in version \"v1\" cannot be \
             handled as a Pod: json: cannot unmarshal number into Go struct field \
             EnvVar.spec.containers.env.value of type string\n"
        );
        let pod = POD.replace("image: example.com/web:1", "image: \"\"");
        assert_eq!(
            session.with(&pod, &["create", "-f", "-"]).1,
            "The Pod \"web\" is invalid: spec.containers[0].image: Required value\n"
        );
        let twice =
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"twice"},"data":{"a":"1","a":"2"}}"#;
        // kubectl's own reading of JSON as YAML drops the first.
        assert_eq!(
            session.with(twice, &["create", "-f", "-", "--validate=strict"]).1,
            "configmap/twice created\n"
        );
    }
    cluster.finish();
}
