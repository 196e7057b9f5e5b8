//! Changes of parts: patches of three kinds, labels, annotations; and explanations.

use serde_json::json;

use super::manifests::Session;
use super::{Cluster, Kubectl};
use crate::support::succeed;

const CONFIG: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {color: blue, size: '1'}\n";

#[test]
fn parts_are_changed_by_patches_labels_and_annotations() {
    let cluster = Cluster::up();
    for version in Kubectl::BOTH {
        let session = Session::of(&cluster, version);
        assert!(session.with(CONFIG, &["create", "-f", "-"]).0);
        patches(&session);
        wrong_patches(&session);
        labels(&session);
        pod(&session);
    }
    cluster.finish();
}

fn patches(session: &Session<'_>) {
    let patch = ["patch", "configmap", "app"];
    let with = |more: &[&'static str]| [patch.as_slice(), more].concat();
    let (done, nothing) = ("configmap/app patched\n", "configmap/app patched (no change)\n");
    session.prints(&with(&["-p", r#"{"data":{"new":"x"}}"#]), done);
    session.prints(&with(&["--type=merge", "-p", r#"{"data":{"new":null}}"#]), done);
    session.prints(&with(&["--type=merge", "-p", r#"{"data":{"new":null}}"#]), nothing);
    let replace =
        r#"[{"op":"test","path":"/data/size","value":"1"},{"op":"replace","path":"/data/size","value":"3"}]"#;
    session.prints(&with(&["--type=json", "-p", replace]), done);
    session.prints(&["get", "configmap", "app", "-o", "jsonpath={.data}"], r#"{"color":"blue","size":"3"}"#);
}

fn wrong_patches(session: &Session<'_>) {
    let patch = ["patch", "configmap", "app"];
    let with = |more: &[&'static str]| [patch.as_slice(), more].concat();
    let unfit = "The request is invalid: the server rejected our request due to an error in our request\n";
    for operation in [
        r#"[{"op":"test","path":"/data/size","value":"4"}]"#,
        r#"[{"op":"remove","path":"/data/nope"}]"#,
        r#"[{"op":"nope","path":"/data/nope"}]"#,
    ] {
        session.refuses(&with(&["--type=json", "-p", operation]), unfit);
    }
    session.refuses(
        &with(&["--type=merge", "-p", r#"{"metadata":{"name":"other"}}"#]),
        "Error from server (BadRequest): the name of the object (other) does not match the name on the URL (app)\n",
    );
    session.refuses(
        &with(&["--type=merge", "-p", r#"{"metadata":{"resourceVersion":"1"}}"#]),
        "Error from server (Conflict): Operation cannot be fulfilled on configmaps \"app\": the object has been \
         modified; please apply your changes to the latest version and try again\n",
    );
    session.refuses(
        &with(&["-p", "nope"]),
        "Error from server (BadRequest): json: cannot unmarshal string into Go value of type map[string]interface {}\n",
    );
    session.refuses(
        &with(&["-p", r#"{"data":{"new":1}}"#]),
        "The request is invalid: patch: Invalid value: \"map[data:map[new:1]]\": cannot convert int64 to string\n",
    );
    session.refuses(
        &["patch", "configmap", "absent", "-p", "{}"],
        "Error from server (NotFound): configmaps \"absent\" not found\n",
    );
    let unknown = session.output(&with(&["-p", r#"{"nope":{"new":1}}"#]));
    assert_eq!(succeed(&unknown), "configmap/app patched (no change)\n");
    assert_eq!(String::from_utf8_lossy(&unknown.stderr), "Warning: unknown field \"nope\"\n");
}

fn labels(session: &Session<'_>) {
    session.prints(&["label", "configmap", "app", "a=b"], "configmap/app labeled\n");
    session.refuses(
        &["label", "configmap", "app", "a=c"],
        "error: 'a' already has a value (b), and --overwrite is false\n",
    );
    session.prints(&["label", "configmap", "app", "a=c", "--overwrite"], "configmap/app labeled\n");
    session.prints(&["get", "configmap", "-l", "a in (b, c)", "-o", "name"], "configmap/app\n");
    session.prints(&["label", "configmap", "app", "a-"], "configmap/app unlabeled\n");
    session.prints(&["annotate", "configmap", "app", "x=y"], "configmap/app annotated\n");
    session.prints(&["annotate", "configmap", "app", "x-"], "configmap/app annotated\n");
    let refused = session.output(&["label", "configmap", "app", "a=b c"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("a valid label must be an empty string or consist of alphanumeric"), "{said}");
}

/// Lists of a pod are merged by their keys.
fn pod(session: &Session<'_>) {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  nodeSelector: {nowhere: 'true'}\n  \
               containers: [{name: a, image: 'a:1'}, {name: b, image: 'b:1'}]\n";
    assert!(session.with(pod, &["create", "-f", "-"]).0);
    let patch = r#"{"spec":{"containers":[{"name":"b","image":"b:2"}]}}"#;
    session.prints(&["patch", "pod", "web", "-p", patch], "pod/web patched\n");
    session.prints(&["get", "pod", "web", "-o", "jsonpath={.spec.containers[*].image}"], "a:1 b:2");
    session.refuses(
        &["patch", "pod", "web", "-p", r#"{"spec":{"containers":[{"image":"b:3"}]}}"#],
        "Error from server: map: map[image:b:3] does not contain declared merge key: name\n",
    );
    let set = ["set", "image", "pod/web", "a=a:9"];
    session.prints(&set, "pod/web image updated\n");
    session.prints(&["get", "pod", "web", "-o", "jsonpath={.spec.containers[*].image}"], "a:9 b:2");
}

#[test]
fn explain_tells_fields_with_kubernetes_own_words() {
    let cluster = Cluster::up();
    for version in Kubectl::BOTH {
        let explain = |what: &[&str]| succeed(&cluster.run(version, &[&["explain"], what].concat()));
        assert_eq!(
            explain(&["pod.spec.restartPolicy"]),
            "KIND:       Pod
VERSION:    v1

FIELD: restartPolicy <string>
ENUM:
    Always
    Never
    OnFailure

DESCRIPTION:
    Restart policy for all containers within the pod. One of Always, OnFailure,
    Never. In some contexts, only a subset of those values may be permitted.
    Default to Always. More info:
    https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy
    

"
        );
        let http = explain(&["pod.spec.containers.livenessProbe.httpGet"]);
        assert!(http.contains("\nFIELD: httpGet <HTTPGetAction>\n"), "{http}");
        assert!(http.contains("  port\t<IntOrString> -required-\n    Name or number of the port"), "{http}");
        let recursive = explain(&["cm", "--recursive"]);
        let fields = "FIELDS:\n  apiVersion\t<string>\n  binaryData\t<map[string]string>\n  data\t<map[string]string>\n  \
                      immutable\t<boolean>\n  kind\t<string>\n  metadata\t<ObjectMeta>\n    annotations\t<map[string]string>\n";
        assert!(recursive.contains(fields), "{recursive}");
        let lease = explain(&["leases.spec.renewTime"]);
        assert!(lease.starts_with("GROUP:      coordination.k8s.io\nKIND:       Lease\n"), "{lease}");
        let refused = cluster.run(version, &["explain", "pod.spec.nope"]);
        assert_eq!(String::from_utf8_lossy(&refused.stderr), "error: field \"nope\" does not exist\n");
    }
    let document: serde_json::Value =
        serde_json::from_str(&cluster.kubectl(&["get", "--raw", "/openapi/v3"])).unwrap();
    let url = document["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    let core: serde_json::Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", url])).unwrap();
    let key =
        "/components/schemas/io.k8s.api.core.v1.PodSpec/properties/containers/x-kubernetes-patch-merge-key";
    assert_eq!(core.pointer(key), Some(&json!("name")));
    cluster.finish();
}
