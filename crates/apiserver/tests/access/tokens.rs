//! Tokens of service accounts.

use serde_json::{Value, json};
use vaquita_apiserver::{DeleteOptions, Write};

use super::home::{Home, Machine};

const WHO: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

async fn token(home: &Home, account: &str, spec: &Value) -> (u16, Value) {
    let body = json!({ "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec });
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
    home.post(&home.admin(), &path, &body).await
}

fn text(answer: &Value) -> String {
    answer["status"]["token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn account(home: &Home, name: &str) -> Value {
    home.create("serviceaccounts", json!({ "metadata": { "name": name } })).await
}

async fn delete(home: &Home, plural: &str, name: &str) {
    let kind = home.cluster.kind("", "v1", plural).unwrap();
    let options = DeleteOptions { grace: Some(0), ..DeleteOptions::default() };
    home.cluster.delete(kind, "default", name, &options, &Write::system("test")).await.unwrap();
}

#[tokio::test]
async fn a_token_opens_the_api_until_its_account_goes() {
    let home = Home::start(Machine::default()).await;
    let made = account(&home, "web").await;
    let (code, answer) = token(&home, "web", &json!({})).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    let token = text(&answer);
    assert_eq!(home.ask_by(&token, "GET /api").await.0, 200);
    let (code, said) = home.ask_by(&token, "GET /api/v1/namespaces/default/pods").await;
    assert_eq!(code, 403);
    assert!(
        said.contains(r#"pods is forbidden: User \"system:serviceaccount:default:web\" cannot list"#),
        "{said}"
    );
    for bad in [format!("{token}x"), token[..token.len() - 3].to_owned(), "x.y.z".to_owned()] {
        assert_eq!(home.ask_by(&bad, "GET /api").await.0, 401, "{bad}");
    }
    delete(&home, "serviceaccounts", "web").await;
    assert_eq!(home.ask_by(&token, "GET /api").await.0, 401);
    // Another one by the same name is not the same.
    account(&home, "web").await;
    assert_eq!(home.ask_by(&token, "GET /api").await.0, 401);
    home.end().await;
}

#[tokio::test]
async fn a_token_ends_with_its_pod() {
    let home = Home::start(Machine::default()).await;
    account(&home, "default").await;
    let pod = home.pod("p", None).await;
    let reference = json!({ "kind": "Pod", "apiVersion": "v1", "name": "p" });
    let (code, answer) = token(&home, "default", &json!({ "boundObjectRef": reference })).await;
    assert_eq!(code, 201, "{answer}");
    let bound = text(&answer);
    let review = json!({ "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": { "token": bound } });
    let (_, seen) = home.post(&home.admin(), WHO, &review).await;
    let user = &seen["status"]["user"];
    assert_eq!(seen["status"]["authenticated"], true, "{seen}");
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-uid"][0], pod["metadata"]["uid"]);
    delete(&home, "pods", "p").await;
    let (_, seen) = home.post(&home.admin(), WHO, &review).await;
    assert_eq!(seen["status"]["user"], json!({}), "{seen}");
    assert!(seen["status"]["error"].as_str().unwrap().contains("invalid bearer token"), "{seen}");
    assert_eq!(home.ask_by(&bound, "GET /api").await.0, 401);
    home.end().await;
}

#[tokio::test]
async fn a_token_for_others_does_not_open_the_api() {
    let home = Home::start(Machine::default()).await;
    account(&home, "web").await;
    let (_, answer) = token(&home, "web", &json!({ "audiences": ["vault"] })).await;
    let token = text(&answer);
    assert_eq!(home.ask_by(&token, "GET /api").await.0, 401);
    let review = |audiences: Value| {
        json!({
            "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
            "spec": { "token": token, "audiences": audiences },
        })
    };
    let (_, seen) = home.post(&home.admin(), WHO, &review(json!(["vault", "other"]))).await;
    assert_eq!(seen["status"]["audiences"], json!(["vault"]), "{seen}");
    let (_, seen) = home.post(&home.admin(), WHO, &review(json!(["other"]))).await;
    assert_eq!(seen["status"].get("authenticated"), None, "{seen}");
    home.end().await;
}

#[tokio::test]
async fn requests_that_cannot_be_met_are_refused_in_words() {
    let home = Home::start(Machine::default()).await;
    account(&home, "default").await;
    account(&home, "web").await;
    home.pod("p", None).await;
    let pod = |uid: &str| json!({ "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid } });
    let cases = [
        ("nobody", json!({}), 404, "serviceaccounts \"nobody\" not found"),
        ("web", json!({ "expirationSeconds": 599 }), 422, "may not specify a duration less than 10 minutes"),
        ("web", json!({ "expirationSeconds": 4_294_967_297_i64 }), 422, "larger than 2^32 seconds"),
        ("web", pod(""), 400, "cannot bind token for serviceaccount \"web\" to pod running with different"),
        ("default", pod("other"), 409, "the UID in the bound object reference (other) does not match"),
        (
            "web",
            json!({ "boundObjectRef": { "kind": "Lease", "apiVersion": "v1", "name": "x" } }),
            400,
            "cannot bind token to object of type /v1, Kind=Lease",
        ),
    ];
    for (account, spec, want, why) in cases {
        let (code, answer) = token(&home, account, &spec).await;
        assert_eq!(code, want, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(why), "{answer}");
    }
    home.end().await;
}

#[tokio::test]
async fn what_one_may_is_told() {
    let home = Home::start(Machine::default()).await;
    let jane = home.pki.identity("jane", None).unwrap();
    let review = |kind: &str, spec: Value| json!({ "kind": kind, "apiVersion": "authorization.k8s.io/v1", "spec": spec });
    let list = json!({ "verb": "list", "resource": "pods", "namespace": "default" });
    let may = review("SelfSubjectAccessReview", json!({ "resourceAttributes": list }));
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(home.post(&jane, path, &may).await.1["status"], json!({ "allowed": false }));
    assert_eq!(home.post(&home.admin(), path, &may).await.1["status"], json!({ "allowed": true }));
    let (code, said) = home.post(&jane, path, &review("SelfSubjectAccessReview", json!({}))).await;
    assert_eq!(code, 422, "{said}");

    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let other = review(
        "SubjectAccessReview",
        json!({ "user": "joe", "groups": ["system:masters"], "resourceAttributes": list }),
    );
    assert_eq!(home.post(&jane, path, &other).await.0, 403);
    assert_eq!(home.post(&home.admin(), path, &other).await.1["status"]["allowed"], true);
    let path = "/apis/authorization.k8s.io/v1/namespaces/other/localsubjectaccessreviews";
    let local = review("LocalSubjectAccessReview", json!({ "user": "joe", "resourceAttributes": list }));
    let (code, said) = home.post(&home.admin(), path, &local).await;
    assert_eq!(code, 422);
    assert!(said["message"].as_str().unwrap().contains("must match metadata.namespace"), "{said}");

    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let rules = review("SelfSubjectRulesReview", json!({ "namespace": "default" }));
    let (_, said) = home.post(&jane, path, &rules).await;
    assert_eq!(said["status"]["resourceRules"].as_array().unwrap().len(), 2, "{said}");
    assert_eq!(said["status"]["incomplete"], false);
    home.end().await;
}
