use std::collections::HashMap;
use std::sync::Mutex;

use http::HeaderValue;
use serde_json::json;

use super::*;

#[derive(Clone, Default)]
struct Objects(Arc<Mutex<HashMap<String, Value>>>);

impl Objects {
    fn set(&self, key: &str, metadata: Option<Value>) {
        let mut all = self.0.lock().unwrap();
        match metadata {
            Some(metadata) => all.insert(key.to_owned(), metadata),
            None => all.remove(key),
        };
    }
}

impl Lookup for Objects {
    fn metadata(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.0.lock().unwrap().get(&format!("{resource}/{namespace}/{name}")).cloned()
    }
}

struct Case {
    access: Access,
    objects: Objects,
    signer: Signer,
}

impl Case {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let signer = Signer::from_pkcs8(key.serialized_der()).unwrap();
        let objects = Objects::default();
        objects.set("serviceaccounts/default/web", Some(json!({ "uid": "a" })));
        objects.set("pods/default/p", Some(json!({ "uid": "b" })));
        Self { access: Access::new(signer.clone(), Box::new(objects.clone())), objects, signer }
    }

    /// Whose token it is; `None` for 401.
    fn user(&self, claims: &Claims) -> Option<User> {
        let mut headers = HeaderMap::new();
        let token = self.signer.sign(claims).unwrap();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
        match self.access.authenticate(&headers, None) {
            Ok(user) => Some(user),
            Err(status) => {
                assert_eq!((status.code, status.message.as_str()), (401, "Unauthorized"));
                None
            }
        }
    }
}

fn claims() -> Claims {
    let now = Timestamp::now().as_second();
    let mut claims = Claims {
        aud: vec![ISSUER.to_owned()],
        exp: now + 600,
        iat: now,
        iss: ISSUER.to_owned(),
        jti: "j".to_owned(),
        nbf: now,
        sub: "system:serviceaccount:default:web".to_owned(),
        ..Claims::default()
    };
    claims.bound.namespace = "default".to_owned();
    claims.bound.serviceaccount = Reference { name: "web".to_owned(), uid: "a".to_owned() };
    claims.bound.pod = Some(Reference { name: "p".to_owned(), uid: "b".to_owned() });
    claims
}

fn as_user(name: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("impersonate-user", HeaderValue::from_static(name));
    headers
}

#[test]
fn a_token_tells_the_account_and_its_pod() {
    let user = Case::new().user(&claims()).unwrap();
    assert_eq!(user.name, "system:serviceaccount:default:web");
    assert_eq!(user.uid, "a");
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    assert_eq!(user.extra[CREDENTIAL_ID], ["JTI=j"]);
}

#[test]
fn a_token_ends_with_its_objects() {
    let case = Case::new();
    case.objects.set("pods/default/p", Some(json!({ "uid": "c" })));
    assert_eq!(case.user(&claims()), None);
    case.objects.set("pods/default/p", None);
    assert_eq!(case.user(&claims()), None);
    let ago = |seconds| (Timestamp::now() - jiff::SignedDuration::from_secs(seconds)).to_string();
    case.objects.set("pods/default/p", Some(json!({ "uid": "b", "deletionTimestamp": ago(30) })));
    assert!(case.user(&claims()).is_some());
    case.objects.set("pods/default/p", Some(json!({ "uid": "b", "deletionTimestamp": ago(90) })));
    assert_eq!(case.user(&claims()), None);
    case.objects.set("pods/default/p", Some(json!({ "uid": "b" })));
    assert!(case.user(&claims()).is_some());
    case.objects.set("serviceaccounts/default/web", None);
    assert_eq!(case.user(&claims()), None);
}

#[test]
fn nobody_is_unauthorized() {
    let case = Case::new();
    for value in [None, Some("Bearer "), Some("Bearer x"), Some("Basic YTpi"), Some("Bearer"), Some("")] {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let status = case.access.authenticate(&headers, None).unwrap_err();
        assert_eq!(status.code, 401, "{value:?}");
    }
    let refused = Peer::Refused("no".to_owned());
    assert_eq!(case.access.authenticate(&HeaderMap::new(), Some(&refused)).unwrap_err().code, 401);
    let expired = Peer::Known(Box::new(User::system("x")), Timestamp::now().as_second() - 1);
    assert_eq!(case.access.authenticate(&HeaderMap::new(), Some(&expired)).unwrap_err().code, 401);
}

#[test]
fn only_masters_are_somebody_else() {
    let case = Case::new();
    let admin = Peer::Known(Box::new(User::system("admin")), i64::MAX);
    let user = case.access.authenticate(&as_user("jane"), Some(&admin)).unwrap();
    assert_eq!((user.name.as_str(), user.groups.len()), ("jane", 1));
    let plain =
        User { name: "joe".to_owned(), groups: vec!["system:authenticated".to_owned()], ..User::default() };
    let plain = Peer::Known(Box::new(plain), i64::MAX);
    let status = case.access.authenticate(&as_user("jane"), Some(&plain)).unwrap_err();
    assert_eq!(status.code, 403);
    assert_eq!(
        status.message,
        "users \"jane\" is forbidden: User \"joe\" cannot impersonate resource \"users\" in API group \"\" at the cluster \
         scope"
    );
}

#[test]
fn what_is_forbidden_is_told_in_kubernetes_words() {
    let case = Case::new();
    let account = User::service_account("default", "default", "1");
    let list = Attributes { verb: "list", resource: "pods", namespace: "default", ..Attributes::default() };
    let status = case.access.authorize(&account, &list).unwrap_err();
    assert_eq!(
        status.message,
        "pods is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"pods\" in API group \
         \"\" in the namespace \"default\""
    );
    let path = Attributes { verb: "get", path: "/metrics", ..Attributes::default() };
    assert!(case.access.authorize(&account, &path).unwrap_err().message.starts_with("forbidden: User "));
    case.access.authorize(&User::system("node"), &list).unwrap();
}
