use super::*;

#[test]
fn a_pod_has_the_fields_of_kubernetes() {
    let pod = type_of("", "v1", "Pod").unwrap();
    assert_eq!(pod.name, "io.k8s.api.core.v1.Pod");
    assert_eq!(pod.go(), "v1.Pod");
    assert_eq!(pod.kind, Some(Gvk { group: "", version: "v1", kind: "Pod" }));
    let names: Vec<_> = pod.fields.iter().map(|field| field.name).collect();
    assert_eq!(names, ["apiVersion", "kind", "metadata", "spec", "status"]);
    assert_eq!(pod.numbered(2).map(|field| field.name), Some("spec"));

    let spec = type_named("io.k8s.api.core.v1.PodSpec").unwrap();
    let containers = spec.field("containers").unwrap();
    assert!(containers.required && containers.always && !containers.pointer);
    assert_eq!((containers.number, containers.go().as_str()), (2, "[]v1.Container"));
    assert_eq!((containers.strategy(), containers.merge_key()), (Strategy::Merge, Some("name")));
    assert_eq!(containers.list().keys().collect::<Vec<_>>(), ["name"]);
    let Shape::List(of) = &containers.shape else { panic!("{:?}", containers.shape) };
    assert_eq!(**of, Shape::Object(reference("io.k8s.api.core.v1", "Container").unwrap()));
    let policy = spec.field("restartPolicy").unwrap();
    assert_eq!(policy.go(), "v1.RestartPolicy");
    assert_eq!(policy.values("io.k8s.api.core.v1"), Some(vec!["Always", "Never", "OnFailure"]));
    assert_eq!(spec.field("volumes").unwrap().strategy(), Strategy::MergeRetainKeys);
    assert!(spec.field("Containers").is_none(), "names are case sensitive");
}

#[test]
fn embedded_types_are_flat_in_json_and_messages_in_protobuf() {
    let volume = type_named("io.k8s.api.core.v1.Volume").unwrap();
    assert_eq!(volume.field("emptyDir").unwrap().embedded_in(), Some("VolumeSource"));
    assert_eq!(
        (volume.embedded[0].number, volume.embedded[0].ty.name()),
        (2, "io.k8s.api.core.v1.VolumeSource")
    );
    assert!(volume.numbered(2).is_none());
    let rule = type_named("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations").unwrap();
    assert_eq!(rule.field("apiGroups").unwrap().embedded_in(), Some("RuleWithOperations.Rule"));
}

#[test]
fn kinds_are_found_by_group_and_version() {
    assert_eq!(type_of("apps", "v1", "Deployment").unwrap().name, "io.k8s.api.apps.v1.Deployment");
    assert_eq!(type_of("policy", "v1", "Eviction").unwrap().go(), "v1.Eviction");
    let options = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
    assert_eq!(type_of("apps", "v1", "DeleteOptions").unwrap().name, options);
    assert_eq!(type_of("meta.k8s.io", "v1", "DeleteOptions").unwrap().name, options);
    assert!(type_of("", "v1", "Deployment").is_none());
    assert!(type_of("", "v1", "Container").is_none(), "a container is no object by itself");
    assert!(type_of("", "v2", "Pod").is_none());
    assert!(type_named("").is_none() && type_named("Pod").is_none());
}

#[test]
fn every_type_can_be_read() {
    for ty in all() {
        let read = ty.read();
        assert_eq!(read.name, ty.name());
        for pair in read.fields.windows(2) {
            assert!(pair[0].name < pair[1].name, "{}: {} and {}", read.name, pair[0].name, pair[1].name);
        }
    }
}

#[test]
fn a_field_is_small() {
    assert!(size_of::<Field>() <= 48, "{}", size_of::<Field>());
}
