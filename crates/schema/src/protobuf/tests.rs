use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Bodies as kubectl 1.36 sends them (1.32 sends the same), and what they mean.
fn recorded() -> Vec<(&'static [u8], Value)> {
    vec![
        (
            // kubectl create namespace ns1
            b"k8s\0\n\x0f\n\x02v1\x12\x09Namespace\x12\x1b\n\x13\n\x03ns1\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\0\x1a\x02\n\0\x1a\0\"\0",
            json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "ns1"}}),
        ),
        (
            // kubectl create configmap cm1 --from-literal=a=1 --from-literal=b='<&>'
            b"k8s\0\n\x0f\n\x02v1\x12\x09ConfigMap\x12'\n\x13\n\x03cm1\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\x06\n\x01a\x12\x011\x12\x08\n\x01b\x12\x03<&>\x1a\0\"\0",
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "cm1"}, "data": {"a": "1", "b": "<&>"}}),
        ),
        (
            // kubectl create token sa1 --audience=a --audience=b --duration=3600s --bound-object-kind=Pod --bound-object-name=p --bound-object-uid=u-1
            b"k8s\0\n(\n\x18authentication.k8s.io/v1\x12\x0cTokenRequest\x126\n\x10\n\0\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\x1c\n\x01a\n\x01b\x1a\x11\n\x03Pod\x12\x02v1\x1a\x01p\"\x03u-1 \x90\x1c\x1a\x04\n\0\x12\0\x1a\0\"\0",
            json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {
                "audiences": ["a", "b"],
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u-1"},
                "expirationSeconds": 3600,
            }}),
        ),
        (
            // kubectl auth can-i create deployments.apps/foo --subresource=scale
            b"k8s\0\n2\n\x17authorization.k8s.io/v1\x12\x17SelfSubjectAccessReview\x12R\n\x10\n\0\x12\0\x1a\0\"\0*\x002\x008\0B\0\x124\n2\n\x07default\x12\x06create\x1a\x04apps\"\0*\x0bdeployments2\x05scale:\x03foo\x1a\x08\x08\0\x12\0\x1a\0 \0\x1a\0\"\0",
            json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {"resourceAttributes": {
                "namespace": "default", "verb": "create", "group": "apps", "resource": "deployments", "subresource": "scale", "name": "foo",
            }}}),
        ),
        (
            // kubectl auth whoami
            b"k8s\0\n-\n\x18authentication.k8s.io/v1\x12\x11SelfSubjectReview\x12\x1a\n\x10\n\0\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\x06\n\x04\n\0\x12\0\x1a\0\"\0",
            json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}),
        ),
        (
            // kubectl create quota q1 --hard=pods=100,cpu=1500m,memory=1.5Gi --scopes=BestEffort
            b"k8s\0\n\x13\n\x02v1\x12\x0dResourceQuota\x12W\n\x12\n\x02q1\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12?\n\x0e\n\x03cpu\x12\x07\n\x051500m\n\x12\n\x06memory\x12\x08\n\x061536Mi\n\x0d\n\x04pods\x12\x05\n\x03100\x12\nBestEffort\x1a\0\x1a\0\"\0",
            json!({"kind": "ResourceQuota", "apiVersion": "v1", "metadata": {"name": "q1"}, "spec": {
                "hard": {"cpu": "1500m", "memory": "1536Mi", "pods": "100"}, "scopes": ["BestEffort"],
            }}),
        ),
        (
            // kubectl create pdb pdb2 --selector='app in (web,api),!x' --max-unavailable=1
            b"k8s\0\n \n\x09policy/v1\x12\x13PodDisruptionBudget\x12V\n\x14\n\x04pdb2\x12\0\x1a\0\"\0*\x002\x008\0B\0\x122\x12(\x12\x13\n\x03app\x12\x02In\x1a\x03api\x1a\x03web\x12\x11\n\x01x\x12\x0cDoesNotExist\x1a\x06\x08\0\x10\x01\x1a\0\x1a\n\x08\0\x18\0 \0(\x000\0\x1a\0\"\0",
            json!({"kind": "PodDisruptionBudget", "apiVersion": "policy/v1", "metadata": {"name": "pdb2"}, "spec": {
                "maxUnavailable": 1,
                "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["api", "web"]}, {"key": "x", "operator": "DoesNotExist"}]},
            }}),
        ),
        (
            // kubectl create priorityclass pc1 --value=1000 --description=hi --global-default=true --preemption-policy=Never
            b"k8s\0\n%\n\x14scheduling.k8s.io/v1\x12\x0dPriorityClass\x12%\n\x13\n\x03pc1\x12\0\x1a\0\"\0*\x002\x008\0B\0\x10\xe8\x07\x18\x01\"\x02hi*\x05Never\x1a\0\"\0",
            json!({"kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1", "metadata": {"name": "pc1"},
                "value": 1000, "globalDefault": true, "description": "hi", "preemptionPolicy": "Never"}),
        ),
        (
            // kubectl create service loadbalancer svc4 --tcp=80:http
            b"k8s\0\n\x0d\n\x02v1\x12\x07Service\x12r\n!\n\x04svc4\x12\0\x1a\0\"\0*\x002\x008\0B\0Z\x0b\n\x03app\x12\x04svc4\x12I\n\x1e\n\x0780-http\x12\x03TCP\x18P\"\n\x08\x01\x10\0\x1a\x04http(\0\x12\x0b\n\x03app\x12\x04svc4\x1a\0\"\x0cLoadBalancer:\0B\0R\0Z\0`\0h\0\x1a\x02\n\0\x1a\0\"\0",
            json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "svc4", "labels": {"app": "svc4"}}, "spec": {
                "ports": [{"name": "80-http", "protocol": "TCP", "port": 80, "targetPort": "http"}],
                "selector": {"app": "svc4"}, "type": "LoadBalancer",
            }}),
        ),
    ]
}

#[test]
fn reads_what_kubectl_sends() {
    for (bytes, expected) in recorded() {
        let (api_version, kind, value) = decode(bytes).unwrap();
        assert_eq!(
            (&*api_version, &*kind),
            (expected["apiVersion"].as_str().unwrap(), expected["kind"].as_str().unwrap())
        );
        assert_eq!(value, expected);
    }
}

/// A message's field of bytes: a string, a message, an entry of a map.
fn field(number: usize, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len()), content.to_vec()].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 128 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn body(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &meta), field(2, message)].concat()
}

fn read(api_version: &str, kind: &str, message: &[u8]) -> Value {
    let (_, _, mut value) = decode(&body(api_version, kind, message)).unwrap();
    value.as_object_mut().unwrap().shift_remove("kind");
    value.as_object_mut().unwrap().shift_remove("apiVersion");
    value
}

#[test]
fn special_types_come_as_in_json() {
    // Lease: spec.renewTime is set, spec.acquireTime is there and empty.
    let lease = field(
        2,
        &[
            field(1, b"me"),
            b"\x10\x28".to_vec(),
            field(3, b""),
            field(4, b"\x08\x80\xea\x9e\xd7\x06\x10\xc0\xc4\x07"),
        ]
        .concat(),
    );
    assert_eq!(
        read("coordination.k8s.io/v1", "Lease", &lease),
        json!({"spec": {"holderIdentity": "me", "leaseDurationSeconds": 40, "renewTime": "2026-11-01T21:54:08.000123Z"}})
    );
    // Secret: data is bytes, stringData text.
    let secret = [
        field(2, &[field(1, b"k"), field(2, b"\xff\0")].concat()),
        field(4, &[field(1, b"t"), field(2, b"x")].concat()),
    ]
    .concat();
    assert_eq!(read("v1", "Secret", &secret), json!({"data": {"k": "/wA="}, "stringData": {"t": "x"}}));
    // A pod's volume: volumeSource is a message of its own on the wire, and none in JSON.
    let volume =
        field(2, &field(1, &[field(1, b"v"), field(2, &field(19, &field(1, &field(1, b"cm"))))].concat()));
    assert_eq!(
        read("v1", "Pod", &volume),
        json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "cm"}}]}})
    );
    // A zero behind a pointer is a value, an empty message behind one too; others are nothing.
    let pod = field(
        2,
        &[
            field(1, &[field(1, b"e"), field(2, &field(2, b""))].concat()),
            b"\x20\x00".to_vec(),
            b"\x58\x00".to_vec(),
            field(14, b""),
        ]
        .concat(),
    );
    assert_eq!(
        read("v1", "Pod", &pod),
        json!({"spec": {"volumes": [{"name": "e", "emptyDir": {}}], "terminationGracePeriodSeconds": 0, "securityContext": {}}})
    );
    // Raw JSON of a ControllerRevision, and a negative number.
    let revision =
        [field(2, &field(1, b"{\"a\":1}")), b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec()]
            .concat();
    assert_eq!(read("apps/v1", "ControllerRevision", &revision), json!({"data": {"a": 1}, "revision": -1}));
    // A map to lists, which on the wire are messages.
    let extra =
        field(2, &field(5, &[field(1, b"k"), field(2, &[field(1, b"x"), field(1, b"y")].concat())].concat()));
    assert_eq!(
        read("authorization.k8s.io/v1", "SubjectAccessReview", &extra),
        json!({"spec": {"extra": {"k": ["x", "y"]}}})
    );
}

#[test]
fn delete_options_come_under_any_group() {
    let options = [b"\x08\x00".to_vec(), field(2, &field(1, b"u")), field(4, b"Background")].concat();
    for group in ["v1", "meta.k8s.io/v1", "policy/v1"] {
        assert_eq!(
            read(group, "DeleteOptions", &options),
            json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}, "propagationPolicy": "Background"})
        );
    }
}

#[test]
fn what_is_not_an_object_is_refused() {
    for (bytes, kind, message) in [
        (
            b"{}".to_vec(),
            Kind::Malformed,
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        ),
        (MAGIC.to_vec(), Kind::Unsupported, "no kind \"\" is registered for version \"\" in scheme"),
        (
            body("v1", "Nothing", b""),
            Kind::Unsupported,
            "no kind \"Nothing\" is registered for version \"v1\" in scheme",
        ),
        (body("v1", "ConfigMap", b"\x0a\x05x"), Kind::Malformed, "unexpected EOF"),
        (
            body("v1", "ConfigMap", b"\x08\x01"),
            Kind::Malformed,
            "proto: wrong wireType = 0 for field metadata",
        ),
        (
            body("v1", "ConfigMap", &field(1, &field(1, b"\xff"))),
            Kind::Malformed,
            "proto: a string field contains invalid UTF-8",
        ),
        (
            body("v1", "ConfigMap", &field(15, b"x")),
            Kind::Malformed,
            "unknown field number 15 in io.k8s.api.core.v1.ConfigMap: it is not in Kubernetes 1.36",
        ),
        (
            [&body("v1", "ConfigMap", b"")[..], &field(3, b"gzip")].concat(),
            Kind::Unsupported,
            "the content encoding \"gzip\" of a protobuf body is not supported",
        ),
    ] {
        let error = decode(&bytes).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
    }
    // What holds nothing says nothing, known or not.
    assert_eq!(read("v1", "ConfigMap", b"\x7a\x00\x78\x00"), json!({}));
}

/// Two bytes on the wire become a hundred in memory; there is an end to it.
#[test]
fn many_values_are_too_many() {
    let bytes = body("v1", "Pod", &field(2, &[0x12, 0x00].repeat(MAX_VALUES + 1)));
    assert_eq!(decode(&bytes).unwrap_err().kind(), Kind::TooLarge);
}

/// A JSON schema may hold a schema, and so on; recursion has an end before the stack has.
#[test]
fn messages_lie_so_deep_and_no_deeper() {
    let mut schema = Vec::new();
    for _ in 0..2000 {
        // JSONSchemaProps.not
        schema = field(28, &schema);
    }
    let ty = type_named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    let error = Decoder { values: 0 }.message(&schema, ty, &mut Map::new(), 0).unwrap_err();
    assert_eq!(error.to_string(), "protobuf: messages lie more than 64 deep in each other");
}

proptest! {
    #[test]
    fn any_bytes_are_an_object_or_an_error(message in prop::collection::vec(any::<u8>(), 0..200), kind in 0..6usize) {
        let (api_version, kind) = [("v1", "Pod"), ("v1", "Event"), ("v1", "DeleteOptions"), ("apps/v1", "ControllerRevision"), ("coordination.k8s.io/v1", "Lease"), ("authorization.k8s.io/v1", "SubjectAccessReview")][kind];
        let _ = decode(&body(api_version, kind, &message[..message.len().min(127)]));
        let _ = decode(&[MAGIC, &message].concat());
    }

    #[test]
    fn a_damaged_body_is_an_object_or_an_error(which in 0..9usize, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = recorded()[which].0.to_vec();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        let _ = decode(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = decode(&bytes);
    }
}
