use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pod() -> Value {
    json!({"metadata": {"name": "a", "labels": {"x": "1", "a/b": "2"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[test]
fn json_patch_applies_its_operations_in_order() {
    for (patch, path, expected) in [
        (json!([]), "/metadata/name", json!("a")),
        (
            json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "j"}]),
            "/spec/containers/0/image",
            json!("j"),
        ),
        (
            json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "d"}}]),
            "/spec/containers/1/name",
            json!("d"),
        ),
        (
            json!([{"op": "add", "path": "/spec/containers/0", "value": {"name": "d"}}]),
            "/spec/containers/1/name",
            json!("c"),
        ),
        (json!([{"op": "remove", "path": "/metadata/labels/a~1b"}]), "/metadata/labels", json!({"x": "1"})),
        (
            json!([{"op": "copy", "from": "/metadata/name", "path": "/metadata/labels/n"}]),
            "/metadata/labels/n",
            json!("a"),
        ),
        (
            json!([{"op": "move", "from": "/metadata/labels/x", "path": "/metadata/labels/y"}]),
            "/metadata/labels/y",
            json!("1"),
        ),
        (
            json!([{"op": "test", "path": "/metadata/name", "value": "a"}, {"op": "remove", "path": "/spec"}]),
            "/metadata/name",
            json!("a"),
        ),
    ] {
        let patched = json(&pod(), &patch).unwrap();
        assert_eq!(patched.pointer(path), Some(&expected), "{patch}");
    }
}

#[test]
fn json_patch_that_does_not_apply_is_refused_without_details() {
    for patch in [
        json!([{"op": "test", "path": "/metadata/name", "value": "b"}]),
        json!([{"op": "remove", "path": "/metadata/labels/none"}]),
        json!([{"op": "replace", "path": "/metadata/labels/none", "value": "x"}]),
        json!([{"op": "replace", "path": "/spec/containers/1/image", "value": "j"}]),
        json!([{"op": "add", "path": "/spec/none/x", "value": 1}]),
        json!([{"op": "add", "path": "/spec/containers/7", "value": {}}]),
        json!([{"op": "move", "from": "/spec", "path": "/spec/containers/0"}]),
        json!([{"op": "copy", "from": "/none", "path": "/x"}]),
        json!([{"op": "leap", "path": "/x"}]),
        json!([{"op": "remove"}]),
        json!([{"op": "remove", "path": "no-slash"}]),
        json!([{}]),
    ] {
        let error = json(&pod(), &patch).unwrap_err();
        assert_eq!(error.kind(), Kind::Unprocessable, "{patch}");
        assert_eq!(error.to_string(), "the server rejected our request due to an error in our request");
    }
}

#[test]
fn what_is_no_patch_is_malformed() {
    for (patch, message) in [
        (
            json!({"op": "remove"}),
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ),
        (
            json!(["remove"]),
            "error decoding patch: json: cannot unmarshal string into Go value of type handlers.jsonPatchOp",
        ),
    ] {
        let error = json(&pod(), &patch).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Malformed, message));
    }
    let error = merge(&pod(), &json!([1])).unwrap_err();
    let message =
        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}";
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Malformed, message));
    let many =
        Value::Array(vec![json!({"op": "test", "path": "/metadata/name", "value": "a"}); MAX_OPERATIONS + 1]);
    let error = json(&pod(), &many).unwrap_err();
    let message = "The allowed maximum operations in a JSON patch is 10000, got 10001";
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::TooLarge, message));
}

/// Forty doublings would be a terabyte, and a hundred nestings a stack.
#[test]
fn a_small_json_patch_cannot_make_a_large_object() {
    let double = [
        json!({"op": "copy", "from": "/metadata", "path": "/metadata/labels/m"}),
        json!({"op": "copy", "from": "/spec", "path": "/metadata/s"}),
    ];
    let doublings: Vec<Value> = double.iter().cycle().take(200).cloned().collect();
    assert_eq!(json(&pod(), &Value::Array(doublings)).unwrap_err().kind(), Kind::Unprocessable);
    let list = json!({"a": [1]});
    let copies: Vec<Value> =
        (0..40).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/a/{i}")})).collect();
    assert_eq!(json(&list, &Value::Array(copies)).unwrap_err().kind(), Kind::Unprocessable);
    let deep = "/x".repeat(MAX_DEPTH);
    let nest: Vec<Value> =
        (1..=MAX_DEPTH).map(|i| json!({"op": "add", "path": deep[..2 * i], "value": {}})).collect();
    assert_eq!(json(&list, &Value::Array(nest)).unwrap_err().kind(), Kind::Unprocessable);
}

/// The table of RFC 7396, appendix A, as far as both sides are objects.
#[test]
fn merge_patch_follows_its_rfc() {
    for (object, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        assert_eq!(merge(&object, &patch).unwrap(), expected, "{object} {patch}");
    }
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[abc]", tree(), 0..4)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

proptest! {
    #[test]
    fn merging_twice_is_merging_once(object in object(), patch in object()) {
        let once = merge(&object, &patch).unwrap();
        prop_assert_eq!(&merge(&once, &patch).unwrap(), &once);
    }

    #[test]
    fn a_json_patch_never_panics(object in object(), operations in prop::collection::vec(("(add|remove|replace|move|copy|test)", "(/[abc01-]?){0,4}", "(/[abc01-]?){0,4}", tree()), 0..8)) {
        let patch = operations.into_iter().map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value})).collect();
        let _ = json(&object, &Value::Array(patch));
    }
}
