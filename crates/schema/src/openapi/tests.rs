use super::*;

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS: Part<'_> =
    Part { name: "status", group: "", version: "v1", kind: "Pod", verbs: &["get", "patch", "update"] };
const PODS: Served<'_> = Served {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    namespaced: true,
    verbs: ALL,
    parts: &[STATUS],
};
const LEASES: Served<'_> = Served {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    namespaced: true,
    verbs: ALL,
    parts: &[],
};
const NODES: Served<'_> = Served {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    namespaced: false,
    verbs: ALL,
    parts: &[],
};

fn document(path: &str) -> Value {
    serde_json::from_slice(&v3(path, &[PODS, NODES, LEASES]).unwrap()).unwrap()
}

#[test]
fn the_index_has_every_group_version_with_a_hash_of_its_own() {
    let before = index(&[PODS, LEASES]);
    let url =
        |index: &Value, path: &str| index["paths"][path]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(url(&before, "api/v1").starts_with("/openapi/v3/api/v1?hash="));
    let after = index(&[PODS, NODES, LEASES]);
    assert_ne!(url(&before, "api/v1"), url(&after, "api/v1"));
    let leases = "apis/coordination.k8s.io/v1";
    assert_eq!(url(&before, leases), url(&after, leases));
    assert!(v3("apis/apps/v1", &[PODS]).is_none());
}

#[test]
fn kubectl_finds_what_it_looks_for() {
    let api = document("api/v1");
    let pod = &api["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"];
    let patch = &pod["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "", "version": "v1", "kind": "Pod"})
    );
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
    let parameters = patch["parameters"].as_array().unwrap();
    assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation"));
    assert_eq!(pod["put"]["operationId"], "replaceCoreV1NamespacedPod");
    assert_eq!(pod["delete"]["x-kubernetes-action"], "delete");
    assert!(api["paths"].get("/api/v1/nodes/{name}").is_some());
    assert!(api["paths"].get("/api/v1/namespaces/{namespace}/pods/{name}/status").is_some());
    assert_eq!(api["paths"]["/api/v1/pods"]["get"]["operationId"], "listCoreV1PodForAllNamespaces");
    let schemas = &api["components"]["schemas"];
    let spec = &schemas["io.k8s.api.core.v1.PodSpec"];
    let containers = &spec["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(containers["items"]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    assert!(
        containers["description"].as_str().unwrap().starts_with("List of containers belonging to the pod.")
    );
    assert_eq!(spec["properties"]["restartPolicy"]["enum"], json!(["Always", "Never", "OnFailure"]));
    assert_eq!(spec["required"], json!(["containers"]));
    assert_eq!(
        schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
        json!([{"group": "", "kind": "Pod", "version": "v1"}])
    );
}

#[test]
fn every_reference_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    found.push(to.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let two: Value = serde_json::from_slice(&v2(&[PODS, NODES, LEASES])).unwrap();
    for document in [document("api/v1"), document("apis/coordination.k8s.io/v1"), two] {
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}

#[test]
fn every_type_has_a_schema() {
    let kinds: Vec<_> = crate::table::all().filter_map(|ty| ty.get().kind).collect();
    let rows: Vec<Served<'_>> = kinds
        .iter()
        .filter(|kind| !kind.group.is_empty())
        .map(|kind| Served {
            group: kind.group,
            version: kind.version,
            kind: kind.kind,
            plural: kind.kind,
            ..NODES
        })
        .collect();
    let document: Value = serde_json::from_slice(&v2(&rows)).unwrap();
    assert!(document["definitions"].as_object().unwrap().len() > 600);
}

#[test]
fn the_binary_form_holds_what_kubectl_checks_lists_by() {
    let document = v2_protobuf(&[PODS]);
    let has = |text: &[u8]| document.windows(text.len()).any(|window| window == text);
    assert!(document.starts_with(b"\x0a\x032.0\x12"));
    assert!(has(b"\x0a\x16io.k8s.api.core.v1.Pod\x12"));
    assert!(has(b"#/definitions/io.k8s.api.core.v1.PodSpec"));
    assert!(has(b"- group: \"\"\n  kind: PodList\n  version: v1\n"));
    // A message of PodSpec's length needs lengths of two bytes and more.
    assert!(document.len() > 20_000, "{}", document.len());
}
