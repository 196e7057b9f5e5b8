//! Questions about access that are asked as if an object were made: who am I, may I, whose token is this.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{ISSUER, Rule, User};
use crate::tokens::{list, text};
use crate::{Access, Attributes, FieldError, Status, time};

/// A kind that can only be created, and is answered at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReviewKind {
    /// API group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// The name in paths.
    pub plural: &'static str,
    /// The name of the type.
    pub kind: &'static str,
    /// Whether it is asked in a namespace.
    pub namespaced: bool,
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// All of them.
pub const KINDS: &[ReviewKind] = &[
    kind(AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview", false),
    kind(AUTHENTICATION, "tokenreviews", "TokenReview", false),
    kind(AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview", true),
    kind(AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
    kind(AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
    kind(AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview", false),
];

const fn kind(group: &'static str, plural: &'static str, kind: &'static str, namespaced: bool) -> ReviewKind {
    ReviewKind { group, version: "v1", plural, kind, namespaced }
}

/// Answers a question. `None`: there is no such kind.
pub fn create(
    access: &Access,
    user: &User,
    group: &str,
    plural: &str,
    namespace: &str,
    body: Value,
) -> Option<Result<Value, Status>> {
    let kind = KINDS.iter().find(|kind| kind.group == group && kind.plural == plural)?;
    let status = match plural {
        "selfsubjectreviews" => Ok(json!({ "userInfo": user.to_value() })),
        "tokenreviews" => token(access, &body),
        "selfsubjectaccessreviews" => may(access, user, &body),
        "selfsubjectrulesreviews" => rules(access, user, &body),
        "subjectaccessreviews" => subject(&body).and_then(|user| may(access, &user, &body)),
        _ => local(&body, namespace).and_then(|()| may(access, &subject(&body)?, &body)),
    };
    Some(status.map(|status| answer(kind, &body, namespace, status)))
}

fn answer(kind: &ReviewKind, body: &Value, namespace: &str, status: Value) -> Value {
    let mut metadata = json!({});
    if kind.plural == "selfsubjectreviews" {
        metadata["creationTimestamp"] = json!(time::format(Timestamp::now()));
    }
    if kind.namespaced {
        metadata["namespace"] = json!(namespace);
    }
    let mut answer = json!({
        "kind": kind.kind,
        "apiVersion": format!("{}/{}", kind.group, kind.version),
        "metadata": metadata,
    });
    match kind.plural {
        "selfsubjectreviews" => {}
        // It is asked for, not told.
        "selfsubjectrulesreviews" => answer["spec"] = json!({}),
        _ => answer["spec"] = body.get("spec").cloned().unwrap_or_else(|| json!({})),
    }
    answer["status"] = status;
    answer
}

/// TokenReview: whose token it is.
fn token(access: &Access, body: &Value) -> Result<Value, Status> {
    let token = text(body, "/spec/token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = list(body, "/spec/audiences");
    let audiences = if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences };
    Ok(match access.token_user(&token, &audiences, Timestamp::now().as_second()) {
        Ok((user, audiences)) => {
            json!({ "authenticated": true, "user": user.to_value(), "audiences": audiences })
        }
        Err(why) => json!({ "user": {}, "error": format!("[invalid bearer token, {why}]") }),
    })
}

/// Whether somebody may, by the attributes in the body.
fn may(access: &Access, user: &User, body: &Value) -> Result<Value, Status> {
    let resource = body.pointer("/spec/resourceAttributes").filter(|value| value.is_object());
    let path = body.pointer("/spec/nonResourceAttributes").filter(|value| value.is_object());
    let field = |value: &Value, name: &str| text(value, &format!("/{name}"));
    let fields: Vec<String> = match (resource, path) {
        (Some(resource), None) => {
            let names = ["verb", "group", "version", "resource", "subresource", "namespace", "name"];
            names.iter().map(|name| field(resource, name)).collect()
        }
        (None, Some(path)) => vec![field(path, "verb"), field(path, "path")],
        _ => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let given = resource.cloned().unwrap_or_default();
            return Err(invalid(FieldError::invalid("spec.resourceAttributes", given, why)));
        }
    };
    let what = match &fields[..] {
        [verb, path] => Attributes { verb, path, ..Attributes::default() },
        [verb, group, version, resource, subresource, namespace, name] => {
            Attributes { verb, group, version, resource, subresource, namespace, name, path: "" }
        }
        _ => Attributes::default(),
    };
    Ok(match access.authorizer().allows(user, &what) {
        Some(reason) if reason.is_empty() => json!({ "allowed": true }),
        Some(reason) => json!({ "allowed": true, "reason": reason }),
        None => json!({ "allowed": false }),
    })
}

/// Who is asked about.
fn subject(body: &Value) -> Result<User, Status> {
    let user = User {
        name: text(body, "/spec/user"),
        uid: text(body, "/spec/uid"),
        groups: list(body, "/spec/groups"),
        extra: body
            .pointer("/spec/extra")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.clone(), list(values, "")))
            .collect(),
    };
    match user.name.is_empty() && user.groups.is_empty() {
        true => Err(invalid(FieldError::invalid(
            "spec.user",
            "",
            "at least one of user or group must be specified",
        ))),
        false => Ok(user),
    }
}

/// What is asked about in a namespace must be of that namespace.
fn local(body: &Value, namespace: &str) -> Result<(), Status> {
    if let Some(path) = body.pointer("/spec/nonResourceAttributes").filter(|value| value.is_object()) {
        let given = json!({ "Path": text(path, "/path"), "Verb": text(path, "/verb") });
        let why = "disallowed on this kind of request";
        return Err(invalid(FieldError::invalid("spec.nonResourceAttributes", given, why)));
    }
    let given = text(body, "/spec/resourceAttributes/namespace");
    match given == namespace {
        true => Ok(()),
        false => {
            let path = "spec.resourceAttributes.namespace";
            Err(invalid(FieldError::invalid(path, given, "must match metadata.namespace")))
        }
    }
}

/// Kubernetes names no kind there.
fn invalid(error: FieldError) -> Status {
    Status::invalid_named(AUTHORIZATION, "", "", &[error])
}

/// SelfSubjectRulesReview: everything that the user may in a namespace.
fn rules(access: &Access, user: &User, body: &Value) -> Result<Value, Status> {
    let namespace = text(body, "/spec/namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let rules = access.authorizer().rules(user, &namespace);
    let (of_paths, of_resources): (Vec<&Rule>, Vec<&Rule>) =
        rules.iter().partition(|rule| rule.resources.is_empty());
    let resources: Vec<Value> = of_resources
        .iter()
        .map(|rule| json!({ "verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources }))
        .collect();
    let paths: Vec<Value> =
        of_paths.iter().map(|rule| json!({ "verbs": rule.verbs, "nonResourceURLs": rule.paths })).collect();
    Ok(json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": false }))
}
