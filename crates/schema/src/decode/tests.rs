use serde_json::json;

use super::*;
use crate::{type_named, type_of};

fn read(kind: (&str, &str), text: &str, strictness: Strictness) -> Result<Decoded, Error> {
    json(text.as_bytes(), type_of(kind.0, "v1", kind.1).unwrap(), strictness)
}

fn pod(text: &str) -> Result<Value, String> {
    read(("", "Pod"), text, Strictness::Strict)
        .map(|decoded| decoded.value)
        .map_err(|error| error.to_string())
}

#[test]
fn an_object_comes_out_as_go_writes_it() {
    let value = pod(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{},"creationTimestamp":null},
        "spec":{"containers":[{"name":"c","image":"","command":[],"stdin":false,"ports":[{"containerPort":80}],
        "resources":{"limits":{"cpu":0.5,"memory":"1024Mi"}}}],"volumes":[{"name":"v","emptyDir":{}}],
        "terminationGracePeriodSeconds":0,"hostNetwork":false,"nodeSelector":{}}}"#,
    );
    assert_eq!(
        value.unwrap(),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {
            "containers": [{"name": "c", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}],
            "volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 0}, "status": {}})
    );
    let value = pod(r#"{"spec":{"containers":[{}]}}"#).unwrap();
    assert_eq!(value["spec"]["containers"], json!([{"name": "", "resources": {}}]));
}

#[test]
fn strict_errors_have_the_words_of_kubernetes() {
    let text = r#"{"metadata":{"name":"a","name":"b","labels":{"x":"1","x":"2"}},"Kind":"Pod",
        "spec":{"containers":[{"name":"c","foo":1,"env":[{"name":"A","value":"1","name":"B"}]}],"bar":{"deep":[]}}}"#;
    assert_eq!(
        pod(text).unwrap_err(),
        "strict decoding error: duplicate field \"metadata.name\", duplicate field \"metadata.labels.x\", \
         unknown field \"Kind\", unknown field \"spec.containers[0].foo\", duplicate field \
         \"spec.containers[0].env[0].name\", unknown field \"spec.bar\""
    );
    let warned = read(("", "Pod"), text, Strictness::Warn).unwrap();
    assert_eq!(warned.warnings.len(), 6);
    assert_eq!(warned.warnings[3], "unknown field \"spec.containers[0].foo\"");
    assert_eq!(warned.value["metadata"], json!({"name": "b", "labels": {"x": "2"}}));
    assert_eq!(warned.value["spec"].get("bar"), None);
    assert!(read(("", "Pod"), text, Strictness::Ignore).unwrap().warnings.is_empty());
    let error = read(("", "Pod"), text, Strictness::Strict).unwrap_err();
    assert_eq!(error.kind(), Kind::Strict);
}

#[test]
fn values_of_wrong_types_are_told_as_go_tells_them() {
    for (text, why) in [
        (
            r#"{"spec":{"containers":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"containers":[{"ports":[{"containerPort":"80"}]}]}}"#,
            "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            r#"{"spec":{"containers":[{"ports":[{"containerPort":1.0}]}]}}"#,
            "json: cannot unmarshal number 1.0 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"restartPolicy":true}}"#,
            "json: cannot unmarshal bool into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            r#"{"spec":{"volumes":[{"name":"a","hostPath":"/x"}]}}"#,
            "json: cannot unmarshal string into Go struct field Volume.spec.volumes.VolumeSource.hostPath of type v1.HostPathVolumeSource",
        ),
        (
            r#"{"metadata":{"creationTimestamp":1}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
        (
            r#"{"metadata":{"creationTimestamp":"now"}}"#,
            "parsing time \"now\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"now\" as \"2006\"",
        ),
        (
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (r"[1]", "json: cannot unmarshal array into Go value of type v1.Pod"),
    ] {
        assert_eq!(pod(text).unwrap_err(), why, "{text}");
    }
    let error = read(("", "Secret"), r#"{"data":{"a":"b!c"}}"#, Strictness::Strict).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.kind()),
        ("illegal base64 data at input byte 1", Kind::Type)
    );
}

#[test]
fn malformed_text_is_told_as_go_tells_it() {
    for (text, why) in [
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
        ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
        ("{\"a\" 1}", "invalid character '1' after object key"),
        ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ("[1 2]", "invalid character '2' after array element"),
        ("01", "invalid character '1' after top-level value"),
        ("-x", "invalid character 'x' in numeric literal"),
        ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ("tru ", "invalid character ' ' in literal true (expecting 'e')"),
        ("\"\n\"", "invalid character '\\n' in string literal"),
        ("\"\\q\"", "invalid character 'q' in string escape code"),
        ("'a'", "invalid character '\\'' looking for beginning of value"),
    ] {
        let error = scan::valid(text.as_bytes()).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.kind()), (why, Kind::Malformed), "{text}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(pod(&deep).unwrap_err(), "exceeded max depth");
    assert_eq!(
        peek(b"x").unwrap_err().to_string(),
        "couldn't get version/kind; json parse error: invalid character 'x' looking for beginning of value"
    );
    assert_eq!(
        peek(br#"{"kind":"Pod","apiVersion":"v1","a":{"kind":1}}"#).unwrap(),
        ("v1".to_owned(), "Pod".to_owned())
    );
    assert!(
        peek(br#"{"kind":1}"#)
            .unwrap_err()
            .to_string()
            .ends_with("into Go struct field .kind of type string")
    );
    let long = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(MAX_BYTES));
    assert_eq!(read(("", "ConfigMap"), &long, Strictness::Strict).unwrap_err().kind(), Kind::TooLarge);
}

#[test]
fn nulls_are_nothing_where_go_has_nothing() {
    let value =
        pod(r#"{"metadata":null,"spec":{"containers":[null],"priority":null,"volumes":null,"hostname":null,
        "overhead":{"cpu":null}}}"#);
    let value = value.unwrap();
    assert_eq!(value["metadata"], json!({}));
    assert_eq!(
        value["spec"],
        json!({"containers": [{"name": "", "resources": {}}], "overhead": {"cpu": "0"}})
    );
}

#[test]
fn raw_fields_keep_their_bytes_but_for_space() {
    let text = r#"{"metadata":{"name":"r"},"revision":3,"data":{ "a" : "x\u0026y & z", "n": 1.50 }}"#;
    let decoded = read(("apps", "ControllerRevision"), text, Strictness::Strict).unwrap();
    assert_eq!(decoded.value, json!({"metadata": {"name": "r"}, "revision": 3}));
    let [(name, raw)] = &decoded.raw[..] else { panic!("{:?}", decoded.raw) };
    assert_eq!((*name, raw.get()), ("data", r#"{"a":"x\u0026y \u0026 z","n":1.50}"#));
}

#[test]
fn lists_and_secrets_and_ports() {
    let text = r#"{"items":[{"data":{"a":"MQ=="}},{"data":{"b":null},"stringData":{"c":"d"}}]}"#;
    let list = read(("", "SecretList"), text, Strictness::Strict).unwrap().value;
    assert_eq!(
        list,
        json!({"items": [{"data": {"a": "MQ=="}, "metadata": {}},
            {"data": {"b": ""}, "stringData": {"c": "d"}, "metadata": {}}], "metadata": {}})
    );
    let text = r#"{"spec":{"ports":[{"port":80,"targetPort":"http"},{"port":81,"targetPort":8080}]}}"#;
    let service = read(("", "Service"), text, Strictness::Strict).unwrap().value;
    assert_eq!(service["spec"]["ports"][1], json!({"port": 81, "targetPort": 8080}));
    assert_eq!(service["status"], json!({"loadBalancer": {}}));
    let lease = type_named("io.k8s.api.coordination.v1.Lease").unwrap();
    let text = br#"{"spec":{"renewTime":"2026-11-21T21:00:00.000001+01:00"}}"#;
    let lease = json(text, lease, Strictness::Strict).unwrap().value;
    assert_eq!(lease["spec"]["renewTime"], "2026-11-21T20:00:00.000001Z");
}

#[test]
fn yaml_is_read_as_kubernetes_reads_it() {
    let ty = type_of("", "v1", "ConfigMap").unwrap();
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  b: |\n    x\n  1: z\n";
    let read = yaml(text.as_bytes(), ty, Strictness::Strict).unwrap().value;
    assert_eq!(
        read,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"b": "x\n", "1": "z"}})
    );
    let pod = type_of("", "v1", "Pod").unwrap();
    let text = "spec:\n  containers:\n  - name: a\n    name: b\n  volumes:\n  - name: v\n    configMap: {defaultMode: 0644}\n  priority: 1.0\n";
    let decoded = yaml(text.as_bytes(), pod, Strictness::Warn).unwrap();
    assert_eq!(decoded.value["spec"]["volumes"][0]["configMap"]["defaultMode"], 420);
    assert_eq!(decoded.value["spec"]["priority"], 1);
    assert_eq!(decoded.value["spec"]["containers"][0]["name"], "b");
    assert_eq!(decoded.warnings, ["yaml: unmarshal errors:\n  line 4: key \"name\" already set in map"]);
    assert_eq!(yaml(text.as_bytes(), pod, Strictness::Strict).unwrap_err().kind(), Kind::Strict);
    assert_eq!(yaml(b"a: [", pod, Strictness::Ignore).unwrap_err().kind(), Kind::Malformed);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &(1..12)
            .map(|n| {
                format!(
                    "b{n}: &b{n} [{}]\n",
                    vec![if n == 1 { "*a".to_owned() } else { format!("*b{}", n - 1) }; 9].join(",")
                )
            })
            .collect::<String>();
    assert_eq!(yaml(bomb.as_bytes(), pod, Strictness::Ignore).unwrap_err().kind(), Kind::Malformed);
}

#[test]
fn an_object_made_otherwise_is_checked() {
    let ty = type_of("apps", "v1", "ControllerRevision").unwrap();
    let mut value =
        json!({"metadata": {"name": "a", "labels": {}}, "data": {"x": []}, "revision": 1, "y": 2});
    assert_eq!(check(&mut value, ty, Strictness::Warn).unwrap(), ["unknown field \"y\""]);
    assert_eq!(value, json!({"metadata": {"name": "a"}, "data": {"x": []}, "revision": 1}));
}

#[test]
fn a_strategic_patch_has_words_of_its_own_for_wrong_types() {
    let ty = type_of("apps", "v1", "Deployment").unwrap();
    for (spec, why) in [
        (json!({"replicas": "3"}), "unrecognized type: int32"),
        (json!({"replicas": 1.5}), "cannot convert float64 to int32"),
        (json!({"paused": "yes"}), "unrecognized type: bool"),
        (json!({"selector": "x"}), "cannot restore struct from: string"),
        (json!({"selector": {"matchLabels": {"a": 1}}}), "cannot convert int64 to string"),
        (json!({"selector": {"matchLabels": [1]}}), "cannot restore map from slice"),
        (json!({"strategy": {"type": 1}}), "cannot convert int64 to v1.DeploymentStrategyType"),
        (json!({"template": {"spec": {"containers": {}}}}), "cannot restore slice from map"),
    ] {
        let mut value = json!({ "spec": spec });
        let error = convert(&mut value, ty, Strictness::Warn).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.kind()), (why, Kind::Type), "{value}");
    }
    let mut value = json!({"spec": {"replicas": 2.0}});
    convert(&mut value, ty, Strictness::Strict).unwrap();
    assert_eq!(value["spec"]["replicas"], 2);
}

proptest::proptest! {
    #[test]
    fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(0_u8.., 0..64)) {
        let ty = type_of("", "v1", "Pod").unwrap();
        let _ = (json(&bytes, ty, Strictness::Strict), yaml(&bytes, ty, Strictness::Strict), peek(&bytes));
    }

    #[test]
    fn well_formed_text_is_what_serde_takes(text in "[\\[\\]{}:,\"a\\\\u0-9eE.+tnf \\-]{0,24}") {
        let ours = scan::valid(text.as_bytes()).is_ok();
        let serde = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        assert_eq!(ours, serde, "{text}");
    }

    #[test]
    fn a_mangled_pod_never_panics(at in 0_usize..400, byte in 0_u8..) {
        let mut text = br#"{"metadata":{"name":"a","labels":{"x":"\u00e4"}},"spec":{"containers":[{"name":"c","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":0.5}},"livenessProbe":{"httpGet":{"port":"x"}}}],"volumes":[{"name":"v","emptyDir":{}}]}}"#.to_vec();
        let at = at % text.len();
        text[at] = byte;
        let ty = type_of("", "v1", "Pod").unwrap();
        if let Ok(decoded) = json(&text, ty, Strictness::Warn) {
            let again = serde_json::to_vec(&decoded.value).unwrap();
            assert_eq!(json(&again, ty, Strictness::Strict).unwrap().value, decoded.value);
        }
    }
}
