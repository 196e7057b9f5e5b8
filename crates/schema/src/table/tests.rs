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
    assert!(size_of::<Field>() <= 64, "{}", size_of::<Field>());
}

/// What k8s-openapi, which is made from Kubernetes' own description of its API, says of every field.
#[test]
fn every_field_has_the_shape_of_kubernetes_own_description() {
    let shapes = include_str!(concat!(env!("OUT_DIR"), "/shapes.txt"));
    let mut seen = 0;
    for line in shapes.lines() {
        let [name, field, told] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let ty = type_named(name).unwrap_or_else(|| panic!("no type {name}"));
        let found = ty.field(field).unwrap_or_else(|| panic!("no field {line}"));
        let mut shape = written(&found.shape);
        // There every object has metadata, references have names, and some events have no time.
        let own = matches!(field, "metadata" | "name" | "eventTime");
        let required = if own { told.ends_with('!') } else { found.required };
        if required {
            shape.push('!');
        }
        assert_eq!(shape, told, "{name} {field}");
        seen += 1;
    }
    assert!(seen > 2500, "{seen}");
}

fn written(shape: &Shape) -> String {
    let meta = |name| format!("<io.k8s.apimachinery.pkg.{name}");
    let extensions = |name| format!("<io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.{name}");
    match shape {
        Shape::Bool => "boolean".to_owned(),
        Shape::Bytes => "string:byte".to_owned(),
        Shape::Duration | Shape::String => "string".to_owned(),
        Shape::Fields => meta("apis.meta.v1.FieldsV1"),
        Shape::Float => "number:double".to_owned(),
        Shape::Int32 => "integer:int32".to_owned(),
        Shape::Int64 => "integer:int64".to_owned(),
        Shape::IntOrString => meta("util.intstr.IntOrString"),
        Shape::Json => extensions("JSON"),
        Shape::List(of) => format!("[{}", written(of)),
        Shape::Map(of) => format!("{{{}", written(of)),
        Shape::MicroTime => meta("apis.meta.v1.MicroTime"),
        Shape::Object(ty) => format!("<{}", ty.name()),
        Shape::Quantity => meta("api.resource.Quantity"),
        Shape::Raw => meta("runtime.RawExtension"),
        Shape::SchemaOrArray => extensions("JSONSchemaPropsOrArray"),
        Shape::SchemaOrBool => extensions("JSONSchemaPropsOrBool"),
        Shape::SchemaOrStrings => extensions("JSONSchemaPropsOrStringArray"),
        Shape::Time => meta("apis.meta.v1.Time"),
    }
}
