//! Tokens for service accounts: the `token` subresource.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{Bound, Claims, ISSUER, Reference, User};
use crate::{Access, Cluster, Details, FieldError, Reason, Status, names, time};

/// The bounds of a token's life in seconds (`ValidateTokenRequest`), and what it is where nothing is asked.
const SHORTEST: i64 = 10 * 60;
const LONGEST: i64 = 1 << 32;
const USUAL: i64 = 60 * 60;

const GROUP: &str = "authentication.k8s.io";

/// Answers a TokenRequest (authentication.k8s.io/v1) for a service account: the same with the token in its status.
///
/// A token ends exactly when it says. kube-apiserver prolongs those that kubelet asks for in silence to a year.
///
/// # Errors
/// 404 where there is no such account or object to bind to, 409 for another one of the same name, 422 for a time that is too short or
/// too long.
pub fn request(
    cluster: &Cluster,
    access: &Access,
    namespace: &str,
    name: &str,
    mut body: Value,
) -> Result<Value, Status> {
    let now = Timestamp::now();
    let account = object(cluster, "serviceaccounts", namespace, name)?;
    let uid = text(&account, "/metadata/uid");
    let own = Own { namespace, name, uid: &uid };
    own.check(&body)?;
    let audiences = list(&body, "/spec/audiences");
    let audiences = if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences };
    let seconds = body.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(USUAL);
    check_seconds(seconds)?;

    let second = now.as_second();
    let claims = Claims {
        aud: audiences.clone(),
        exp: second.saturating_add(seconds),
        iat: second,
        iss: ISSUER.to_owned(),
        jti: names::uid(),
        bound: bind(cluster, &own, body.pointer("/spec/boundObjectRef"))?,
        nbf: second,
        sub: User::service_account(namespace, name, &uid).name,
    };
    let token = access.signer().sign(&claims).ok_or_else(|| Status::internal("failed to generate token"))?;
    let end = Timestamp::from_second(claims.exp).unwrap_or(Timestamp::MAX);
    let reference = body.pointer_mut("/spec/boundObjectRef").map(Value::take).unwrap_or_default();
    Ok(json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": { "name": name, "namespace": namespace, "uid": uid, "creationTimestamp": time::format(now) },
        "spec": { "audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": reference },
        "status": { "token": token, "expirationTimestamp": time::format(end) },
    }))
}

/// The account that a token is for.
struct Own<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

impl Own<'_> {
    /// What the request says of the account must be true.
    fn check(&self, body: &Value) -> Result<(), Status> {
        for (field, want, what) in [("name", self.name, "name"), ("namespace", self.namespace, "namespace")] {
            let given = text(body, &format!("/metadata/{field}"));
            if !given.is_empty() && given != want {
                let why = format!("must match the service account {what} if specified");
                let error = FieldError::invalid(format!("metadata.{field}"), given, why);
                return Err(Status::invalid_named(GROUP, "TokenRequest", self.name, &[error]));
            }
        }
        let given = text(body, "/metadata/uid");
        if !given.is_empty() && given != self.uid {
            let why = format!(
                "the UID in the token request ({given}) does not match the UID of the service account ({})",
                self.uid
            );
            return Err(conflict(GROUP, "TokenRequest", self.name, &why));
        }
        Ok(())
    }
}

fn check_seconds(seconds: i64) -> Result<(), Status> {
    let why = match seconds {
        i64::MIN..SHORTEST => "may not specify a duration less than 10 minutes",
        SHORTEST..=LONGEST => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
    Err(Status::invalid_named(GROUP, "TokenRequest", "", &[error]))
}

/// What the token ends with.
fn bind(cluster: &Cluster, own: &Own<'_>, reference: Option<&Value>) -> Result<Bound, Status> {
    let mut bound = Bound {
        namespace: own.namespace.to_owned(),
        serviceaccount: Reference { name: own.name.to_owned(), uid: own.uid.to_owned() },
        ..Bound::default()
    };
    let Some(reference) = reference.filter(|reference| !reference.is_null()) else { return Ok(bound) };
    let name = text(reference, "/name");
    let (version, kind) = (text(reference, "/apiVersion"), text(reference, "/kind"));
    let found = match (version.as_str(), kind.as_str()) {
        ("v1", "Pod") => {
            let pod = object(cluster, "pods", own.namespace, &name)?;
            if text(&pod, "/spec/serviceAccountName") != own.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    own.name
                )));
            }
            bound.node = node_of(cluster, &pod);
            refer(&pod, &name, &mut bound.pod)
        }
        ("v1", "Secret") => {
            refer(&object(cluster, "secrets", own.namespace, &name)?, &name, &mut bound.secret)
        }
        ("v1", "Node") => refer(&object(cluster, "nodes", "", &name)?, &name, &mut bound.node),
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", &version));
            let what = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(what));
        }
    };
    let wanted = text(reference, "/uid");
    if !wanted.is_empty() && wanted != found {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        );
        return Err(conflict("", &kind, &name, &why));
    }
    Ok(bound)
}

fn refer(object: &Value, name: &str, place: &mut Option<Reference>) -> String {
    let uid = text(object, "/metadata/uid");
    *place = Some(Reference { name: name.to_owned(), uid: uid.clone() });
    uid
}

/// The node that a pod is on, for those who read the token.
fn node_of(cluster: &Cluster, pod: &Value) -> Option<Reference> {
    let name = text(pod, "/spec/nodeName");
    if name.is_empty() {
        return None;
    }
    let uid =
        object(cluster, "nodes", "", &name).map(|node| text(&node, "/metadata/uid")).unwrap_or_default();
    Some(Reference { name, uid })
}

/// An object of the core group.
fn object(cluster: &Cluster, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let kind = cluster.kind("", "v1", resource).ok_or_else(Status::no_such_path)?;
    Ok(cluster.get(kind, namespace, name)?.value())
}

fn conflict(group: &str, kind: &str, name: &str, why: &str) -> Status {
    let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let message = format!("Operation cannot be fulfilled on {qualified} {name:?}: {why}");
    Status::plain(409, Reason::Conflict, message).with_details(Details {
        name: name.to_owned(),
        group: group.to_owned(),
        kind: kind.to_owned(),
        ..Details::default()
    })
}

pub(crate) fn text(value: &Value, path: &str) -> String {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub(crate) fn list(value: &Value, path: &str) -> Vec<String> {
    let items = value.pointer(path).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// How those who verify tokens themselves find the keys (OpenID Connect Discovery 1.0), as kube-apiserver tells it.
pub fn discovery() -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// The keys (RFC 7517).
pub fn keys(access: &Access) -> Value {
    access.signer().key_set()
}
