//! Client certificates.

use super::home::{Home, Machine};

const PODS: &str = "GET /api/v1/namespaces/default/pods";

#[tokio::test]
async fn nobody_is_let_in_without_saying_who_they_are() {
    let home = Home::start(Machine::default()).await;
    for path in ["/api", "/version", "/api/v1/pods", "/livez", "/vaquita/v1/backup", "/nothing"] {
        let (code, text) = home.ask(None, &format!("GET {path}"), "", "").await;
        assert_eq!(code, 401, "{path} {text}");
        assert!(text.contains(r#""message":"Unauthorized""#), "{text}");
    }
    assert_eq!(home.ask(Some(&home.admin()), PODS, "", "").await.0, 200);
    home.end().await;
}

#[tokio::test]
async fn a_certificate_says_who_and_what_for() {
    let home = Home::start(Machine::default()).await;
    let jane = home.pki.identity("jane", Some("dev")).unwrap();
    let (code, text) = home.ask(Some(&jane), PODS, "", "").await;
    assert_eq!(code, 403);
    assert!(
        text.contains(
            r#"User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""#
        ),
        "{text}"
    );
    let own = serde_json::json!({ "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1" });
    let (code, review) = home.post(&jane, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &own).await;
    assert_eq!(code, 201, "{review}");
    assert_eq!(review["status"]["userInfo"]["username"], "jane");
    assert_eq!(review["status"]["userInfo"]["groups"], serde_json::json!(["dev", "system:authenticated"]));
    home.end().await;
}

#[tokio::test]
async fn strangers_get_an_answer() {
    let home = Home::start(Machine::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let other = vaquita_apiserver::pki::Pki::open(&dir.path().join("pki"), &[]).unwrap();
    let forged = other.identity("kubernetes-admin", Some("system:masters")).unwrap();
    let (code, text) = home.ask(Some(&forged), PODS, "", "").await;
    assert_eq!(code, 401, "{text}");
    home.end().await;
}

#[tokio::test]
async fn only_who_may_do_everything_is_somebody_else() {
    let home = Home::start(Machine::default()).await;
    let headers = "impersonate-user: system:serviceaccount:default:web\r\n";
    let (code, text) = home.ask(Some(&home.admin()), PODS, headers, "").await;
    assert_eq!(code, 403);
    assert!(text.contains(r#"User \"system:serviceaccount:default:web\" cannot list"#), "{text}");
    let jane = home.pki.identity("jane", None).unwrap();
    let (code, text) = home.ask(Some(&jane), PODS, headers, "").await;
    assert_eq!(code, 403);
    assert!(text.contains(r#"User \"jane\" cannot impersonate resource \"serviceaccounts\""#), "{text}");
    home.end().await;
}

#[tokio::test]
async fn a_backup_is_for_masters() {
    let home = Home::start(Machine::default()).await;
    let jane = home.pki.identity("jane", None).unwrap();
    assert_eq!(home.ask(Some(&jane), "GET /vaquita/v1/backup", "", "").await.0, 403);
    let kubeconfig = home.pki.kubeconfig(&format!("https://{}", home.address)).unwrap();
    let mut bytes = Vec::new();
    let write = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    vaquita_apiserver::client::fetch(&kubeconfig, "/vaquita/v1/backup", write).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (saved, store) = (dir.path().join("saved"), dir.path().join("store.redb"));
    std::fs::write(&saved, bytes).unwrap();
    vaquita_store::Store::restore(&saved, &store).unwrap();
    let store = vaquita_store::Store::open(&store, vaquita_store::Options::default()).unwrap();
    let key = vaquita_store::Key::new("namespaces", "", "default");
    assert!(store.get(&key).is_some());
    let error = vaquita_apiserver::client::fetch(&kubeconfig, "/nothing", |_| Ok(())).await.unwrap_err();
    assert_eq!(error.code, 404);
    home.end().await;
}
