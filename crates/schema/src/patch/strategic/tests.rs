use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::type_of;

fn pod() -> &'static Type {
    type_of("", "v1", "Pod").unwrap()
}

fn spec(object: Value, patch: Value) -> Result<Value, String> {
    let patched = strategic(&json!({"spec": object}), &json!({"spec": patch}), pod())
        .map_err(|error| error.to_string())?;
    Ok(patched["spec"].clone())
}

fn names(list: &Value) -> String {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

fn containers(names: &str) -> Value {
    names.split_whitespace().map(|name| json!({"name": name})).collect()
}

#[test]
fn maps_are_merged_and_null_removes() {
    for (object, patch, expected) in [
        (json!({"nodeName": "a"}), json!({"hostname": "h"}), json!({"nodeName": "a", "hostname": "h"})),
        (
            json!({"nodeName": "a", "hostname": "h"}),
            json!({"nodeName": null, "subdomain": null}),
            json!({"hostname": "h"}),
        ),
        (
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"b": "2"}}),
            json!({"nodeSelector": {"a": "1", "b": "2"}}),
        ),
        (
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "replace", "b": "2"}}),
            json!({"nodeSelector": {"b": "2"}}),
        ),
        (
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "delete"}}),
            json!({"nodeSelector": {}}),
        ),
        (json!({}), json!({"nodeSelector": {"$patch": "delete"}}), json!({})),
        (
            json!({}),
            json!({"securityContext": {"runAsUser": null, "runAsGroup": 1}}),
            json!({"securityContext": {"runAsGroup": 1}}),
        ),
        (json!({"hostname": {"odd": 1}}), json!({"hostname": "h"}), json!({"hostname": "h"})),
    ] {
        assert_eq!(spec(object.clone(), patch.clone()).unwrap(), expected, "{object} {patch}");
    }
}

#[test]
fn lists_without_a_strategy_are_replaced() {
    let object = json!({"tolerations": [{"key": "a"}], "containers": [{"name": "c", "command": ["x", "y"]}]});
    let patched =
        spec(object, json!({"tolerations": [{"key": "b"}], "containers": [{"name": "c", "command": ["z"]}]}))
            .unwrap();
    assert_eq!(
        patched,
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "c", "command": ["z"]}]})
    );
}

#[test]
fn items_are_merged_by_their_key() {
    let object = json!({"containers": [
        {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}], "ports": [{"containerPort": 80, "name": "http"}]},
        {"name": "b", "image": "1"},
    ]});
    let patch = json!({"containers": [
        {"name": "b", "image": "2"},
        {"name": "a", "env": [{"name": "Y", "value": "2"}], "ports": [{"containerPort": 80, "name": "web"}]},
        {"name": "n", "image": "3"},
    ]});
    let patched = spec(object, patch).unwrap();
    assert_eq!(
        patched,
        json!({"containers": [
            {"name": "b", "image": "2"},
            {"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}], "ports": [{"containerPort": 80, "name": "web"}]},
            {"name": "n", "image": "3"},
        ]})
    );
}

#[test]
fn items_can_be_deleted_and_lists_replaced() {
    let object = json!({"containers": containers("a b c")});
    let delete = spec(
        object.clone(),
        json!({"containers": [{"name": "b", "$patch": "delete"}, {"name": "none", "$patch": "delete"}]}),
    )
    .unwrap();
    assert_eq!(names(&delete["containers"]), "a c");
    let replace = spec(object, json!({"containers": [{"name": "d"}, {"$patch": "replace"}]})).unwrap();
    assert_eq!(replace, json!({"containers": [{"name": "d"}]}));
}

/// What `kubectl apply` sends: the order of the patch stands; what only the server has keeps its place between.
#[test]
fn set_element_order_orders_the_list() {
    for (object, patch, order, expected) in [
        ("a b c", "", "c b a", "c b a"),
        ("a b c", "c", "c a b", "c a b"),
        ("a b", "c", "a b c", "a b c"),
        ("a s b", "n", "a n b", "a n s b"),
        ("s a b", "", "b a", "s b a"),
        ("a b s", "", "b a", "b a s"),
        ("a b s", "b", "b", "a b s"),
        ("", "a b", "a b", "a b"),
        ("a b c", "", "", "a b c"),
    ] {
        let mut body = json!({"$setElementOrder/containers": containers(order)});
        if !patch.is_empty() {
            body["containers"] = containers(patch);
        }
        let object = if object.is_empty() { json!({}) } else { json!({"containers": containers(object)}) };
        let patched = spec(object.clone(), body.clone()).unwrap();
        assert_eq!(names(&patched["containers"]), expected, "{object} {body}");
    }
    let patched = spec(
        json!({"containers": containers("a b c")}),
        json!({
            "$setElementOrder/containers": containers("c a"),
            "containers": [{"name": "b", "$patch": "delete"}],
        }),
    );
    assert_eq!(names(&patched.unwrap()["containers"]), "c a");
}

#[test]
fn lists_of_values_are_sets() {
    let with = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    for (object, patch, expected) in [
        (with(json!(["a", "b"])), with(json!(["c", "b"])), with(json!(["c", "a", "b"]))),
        (
            with(json!(["a", "b"])),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "z"]}}),
            with(json!(["b"])),
        ),
        (
            with(json!(["a", "b"])),
            json!({"metadata": {"$setElementOrder/finalizers": ["c", "a"], "finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["b"]}}),
            with(json!(["c", "a"])),
        ),
        (
            json!({"metadata": {}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
            json!({"metadata": {}}),
        ),
        (with(json!(["a"])), json!({"metadata": {"finalizers": null}}), json!({"metadata": {}})),
    ] {
        assert_eq!(strategic(&object, &patch, pod()).unwrap(), expected, "{object} {patch}");
    }
}

#[test]
fn retain_keys_clears_the_others() {
    let object =
        json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}, {"name": "w", "emptyDir": {}}]});
    let patch = json!({"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}, "emptyDir": null}]});
    let patched = spec(object, patch).unwrap();
    assert_eq!(
        patched,
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}, {"name": "w", "emptyDir": {}}]})
    );
    let deployment = type_of("apps", "v1", "Deployment").unwrap();
    let patched = strategic(
        &json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        &json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        deployment,
    );
    assert_eq!(patched.unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn a_field_may_say_that_it_is_replaced() {
    let budget = type_of("policy", "v1", "PodDisruptionBudget").unwrap();
    let object = json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}});
    let patched =
        strategic(&object, &json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}}), budget).unwrap();
    assert_eq!(patched, json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}}));
}

#[test]
fn what_does_not_fit_is_refused_in_the_words_of_kubernetes() {
    let object =
        json!({"containers": [{"name": "a", "image": "1"}], "nodeSelector": {"a": "1"}, "hostname": "h"});
    for (patch, kind, message) in [
        (
            json!({"containers": [{"image": "x"}]}),
            Kind::Patch,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (
            json!({"containers": [{"$patch": "delete"}]}),
            Kind::Patch,
            "map: map[$patch:delete] does not contain declared merge key: name",
        ),
        (
            json!({"containers": [{"name": "a", "$patch": "burn"}]}),
            Kind::Patch,
            "unknown patch type: burn in map: map[$patch:burn name:a]",
        ),
        (
            json!({"containers": [{"name": "a", "$patch": "merge"}]}),
            Kind::Patch,
            "merging lists cannot yet be specified in the patch",
        ),
        (
            json!({"nodeSelector": {"$patch": "merge"}}),
            Kind::Patch,
            "unknown patch type: merge in map: map[$patch:merge]",
        ),
        (
            json!({"containers": ["a"]}),
            Kind::Patch,
            "list element types are not identical: [[map[image:1 name:a]] [a]]",
        ),
        (
            json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}),
            Kind::Patch,
            "The order in patch list:\n[map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
        ),
        (
            json!({"$setElementOrder/none": [{"name": "b"}]}),
            Kind::Patch,
            "unable to find api field in struct PodSpec for the json field \"none\"",
        ),
        (
            json!({"$setElementOrder/containers": "b"}),
            Kind::Patch,
            "expected a []interface {}, but received a string",
        ),
        (json!({"$setElementOrder": []}), Kind::Malformed, "invalid patch format of setElementOrder list"),
        (json!({"$deleteFromPrimitiveList": []}), Kind::Malformed, "invalid patch format of primitive list"),
        (json!({"$retainKeys": "a"}), Kind::Malformed, "invalid patch format of retainKeys"),
        (
            json!({"$retainKeys": ["a"], "hostname": "h"}),
            Kind::Malformed,
            "invalid patch format of retainKeys",
        ),
    ] {
        let error = strategic(&json!({"spec": object}), &json!({"spec": patch}), pod()).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
    }
    let lists = json!({"metadata": {"finalizers": [["a"]]}});
    let error = strategic(&lists, &lists, pod()).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Unprocessable, "lists of lists are not supported")
    );
    let refused = strategic(&json!({}), &json!([]), pod()).unwrap_err().to_string();
    assert_eq!(refused, "json: cannot unmarshal array into Go value of type map[string]interface {}");
}

/// A hundred thousand items against as many: quadratic work would take hours.
#[test]
fn large_lists_take_linear_work() {
    let list =
        |from: usize| (from..from + 100_000).map(|i| json!({"name": i.to_string()})).collect::<Value>();
    let patch = json!({"$setElementOrder/containers": list(50_000), "containers": list(50_000)});
    let patched = spec(json!({"containers": list(0)}), patch).unwrap();
    assert_eq!(patched["containers"].as_array().unwrap().len(), 150_000);
}

fn items() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-f]", "[xyz]", 0..5).prop_map(|items| {
        items.into_iter().map(|(name, image)| json!({"name": name, "image": image})).collect()
    })
}

/// Anything that might stand in a patch of a pod's spec, well formed or not.
fn wild() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i8>().prop_map(Value::from),
        "(a|b|delete|replace|merge)".prop_map(Value::from)
    ];
    let key = "(containers|volumes|name|nodeSelector|[$]patch|[$]retainKeys|[$]setElementOrder/containers|[$]deleteFromPrimitiveList/containers|env|ports)";
    leaf.prop_recursive(4, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn patching_twice_is_patching_once(object in items(), patch in items()) {
        let once = spec(json!({"containers": object}), json!({"containers": patch})).unwrap();
        let twice = spec(once.clone(), json!({"containers": patch})).unwrap();
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn every_item_of_both_is_there_once(object in items(), patch in items()) {
        let merged = spec(json!({"containers": object}), json!({"containers": patch})).unwrap();
        let mut found: Vec<&str> = merged["containers"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
        found.sort_unstable();
        let mut wanted: Vec<&str> = object.as_array().unwrap().iter().chain(patch.as_array().unwrap()).map(|item| item["name"].as_str().unwrap()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        prop_assert_eq!(found, wanted);
        for item in patch.as_array().unwrap() {
            prop_assert!(merged["containers"].as_array().unwrap().contains(item));
        }
    }

    #[test]
    fn nothing_panics(object in wild(), patch in wild()) {
        let _ = spec(object, patch);
    }
}
