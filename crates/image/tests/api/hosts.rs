//! Settings of registries: mirrors, credentials of the node, tokens that are kept.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vaquita_image::{Auth, Digest, Kind, Reference, Registries};

use crate::content::{Form, image, layer, noise};
use crate::pull::{basic, small};
use crate::registry::{Ask, Registry, Reply};
use crate::{Place, impatient};

/// Settings with `text` as the file of `registry`.
pub(crate) fn hosts(place: &Place, registry: &str, text: &str) -> Registries {
    let certs_dir = place.dir.path().join("certs.d");
    std::fs::create_dir_all(certs_dir.join(registry)).unwrap();
    std::fs::write(certs_dir.join(registry).join("hosts.toml"), text).unwrap();
    Registries { certs_dir: Some(certs_dir), ..impatient() }
}

/// An address where nobody listens.
fn dead() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn mirrors_are_asked_in_turn_and_get_no_credentials() {
    let place = Place::new();
    let content = small();
    let empty = Registry::start(|_| Reply::status(404)).await;
    let mirror = Registry::start({
        let content = content.clone();
        move |ask| content.answer(&Ask { path: ask.path.replace("/deep/er/v2/", "/v2/"), ..ask.clone() })
    })
    .await;
    let home = Registry::of(content).await;
    let dead = dead();
    let text = format!(
        "[host.\"http://{dead}\"]\n[host.\"http://{}\"]\n[host.\"http://{}/deep/er\"]\nheader = {{x-key = \"k3y\"}}\n",
        empty.address, mirror.address
    );
    let registries = hosts(&place, &home.address.to_string(), &text);
    let pulled = place.store.pull(&home.reference("a"), Some(&basic()), &registries).await.unwrap();
    assert!(home.seen().is_empty());
    assert_eq!(mirror.count(&format!("/deep/er/v2/a/manifests/latest?ns={}", home.address)), 1);
    assert!(mirror.seen().iter().all(|ask| ask.headers["x-key"] == "k3y"));
    assert!(mirror.seen().iter().chain(&empty.seen()).all(|ask| ask.authorization.is_none()));
    assert!(empty.seen().iter().all(|ask| !ask.headers.contains_key("x-key")));
    assert_eq!(pulled.repo_tags, [format!("{}/a:latest", home.address)]);
}

/// Each kind of request goes on where the last one ended: no mirror has to be whole.
#[tokio::test]
async fn what_one_does_not_have_another_has() {
    let place = Place::new();
    let content = image(&[layer(&[("big", &noise(5, 2_000_000))])], Form::Plain);
    let (layer, config) = (content.layers[0].0.to_string(), Digest::of(&content.config).to_string());
    let only = |part: &'static str| {
        let content = content.clone();
        move |ask: &Ask| if ask.path.contains(part) { content.answer(ask) } else { Reply::status(500) }
    };
    let manifests = Registry::start(only("/manifests/")).await;
    let breaks = Registry::start({
        let (content, layer) = (content.clone(), layer.clone());
        move |ask| {
            let here = ask.path.contains(&layer);
            let reply = if here { content.answer(ask) } else { Reply::status(404) };
            Reply { breaks_after: here.then_some(700_000), ..reply }
        }
    })
    .await;
    let home = Registry::start({
        let content = content.clone();
        move |ask| if ask.path.contains("/blobs/") { content.answer(ask) } else { Reply::status(404) }
    })
    .await;
    let text = format!("[host.\"http://{}\"]\n[host.\"http://{}\"]\n", manifests.address, breaks.address);
    let registries = hosts(&place, &home.address.to_string(), &text);
    place.store.pull(&home.reference("a"), None, &registries).await.unwrap();
    let asked: Vec<Option<usize>> =
        home.seen().iter().filter(|ask| ask.path.contains(&layer)).map(|ask| ask.from).collect();
    assert!(matches!(asked[..], [Some(1..=700_000)]), "the registry is asked for the rest alone: {asked:?}");
    assert_eq!(home.count(&config), 1);
}

#[tokio::test]
async fn a_mirror_that_may_not_resolve_is_asked_by_digest_only() {
    let place = Place::new();
    let content = small();
    let mirror = Registry::of(content.clone()).await;
    let home = Registry::of(content.clone()).await;
    let text = format!("[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n", mirror.address);
    let registries = hosts(&place, &home.address.to_string(), &text);
    place.store.pull(&home.reference("a"), None, &registries).await.unwrap();
    assert_eq!((mirror.count("/manifests/"), home.count("/manifests/latest")), (0, 1));
    assert_eq!((mirror.count("/blobs/"), home.count("/blobs/")), (3, 0));
    let by_digest = home.reference(&format!("b@{}", Digest::of(&content.manifest)));
    place.store.pull(&by_digest, None, &registries).await.unwrap();
    assert_eq!(mirror.count("/v2/b/manifests/"), 1);
}

#[tokio::test]
async fn an_error_names_all_that_were_asked() {
    let place = Place::new();
    let (dead, closed) = (dead(), Registry::start(|_| Reply::status(403)).await);
    let home = Registry::start(|_| Reply::status(404)).await;
    let text = format!("[host.\"http://{dead}\"]\n[host.\"http://{}\"]\n", closed.address);
    let registries = hosts(&place, &home.address.to_string(), &text);
    let error = place.store.pull(&home.reference("a"), None, &registries).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let told = error.to_string();
    for part in [
        format!("registry http://{}", home.address),
        format!("http://{dead}: connect"),
        format!("http://{}: ", closed.address),
    ] {
        assert_eq!(told.matches(&part).count(), 1, "{part}: {told}");
    }
    assert!(told.contains("403 Forbidden") && told.contains("refused"), "{told}");
    // Who says no is asked once.
    assert_eq!((home.seen().len(), closed.seen().len()), (1, 1));
    let busy = Registry::start(|_| Reply::status(503)).await;
    let text = format!("[host.\"http://{}\"]\n", busy.address);
    let registries = hosts(&place, &home.address.to_string(), &text);
    let error = place.store.pull(&home.reference("a"), None, &registries).await.unwrap_err();
    assert_eq!((error.kind(), busy.seen().len()), (Kind::NotFound, 1), "the registry's word counts");
}

#[tokio::test]
async fn settings_that_are_wrong_fail_their_registry_alone() {
    let place = Place::new();
    let home = Registry::of(small()).await;
    let registries = hosts(&place, "127.0.0.1:1", "server = ");
    let wrong = Reference::parse("127.0.0.1:1/a").unwrap();
    let error = place.store.pull(&wrong, None, &registries).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("certs.d/127.0.0.1:1/hosts.toml:1: "), "{error}");
    place.store.pull(&home.reference("a"), None, &registries).await.unwrap();
    // Files are looked at on each pull.
    hosts(&place, "127.0.0.1:1", &format!("server = \"http://{}\"", home.address));
    place.store.pull(&wrong, None, &registries).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again_when_it_says() {
    let place = Place::new();
    let content = small();
    let tries = AtomicUsize::new(0);
    let registry = Registry::start(move |ask| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::status(429).header("retry-after", "1"),
        1 => Reply::status(503).header("retry-after", "0"),
        _ => content.answer(ask),
    })
    .await;
    let started = std::time::Instant::now();
    place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
    assert!(started.elapsed() >= std::time::Duration::from_secs(1), "it was not left alone");
    let limited = Registry::start(|_| {
        Reply::status(429)
            .header("retry-after", "7200")
            .body(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"secret"}]}"#)
    })
    .await;
    let error = place.store.pull(&limited.reference("a"), None, &impatient()).await.unwrap_err();
    assert_eq!((error.kind(), limited.seen().len()), (Kind::Unavailable, 1));
    let told = error.to_string();
    assert!(told.contains("TOOMANYREQUESTS") && told.contains("7200s") && !told.contains("secret"), "{told}");
}

/// Credentials of the node: for pulls without any, and for mirrors, each its own.
#[tokio::test]
async fn the_node_s_own_credentials() {
    let place = Place::new();
    let content = small();
    let wants = |user: &'static str| {
        let content = content.clone();
        move |ask: &Ask| match ask.authorization.as_deref() {
            Some(basic) if basic == user => content.answer(ask),
            _ => Reply::status(401).header("www-authenticate", "Basic realm=\"x\""),
        }
    };
    let mirror = Registry::start(wants("Basic bTpt")).await;
    let home = Registry::start(wants("Basic aDpo")).await;
    let auth_file = place.dir.path().join("auth.json");
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"bTpt"}},"{}":{{"auth":"aDpo"}}}},"credsStore":"none"}}"#,
        mirror.address, home.address
    );
    std::fs::write(&auth_file, text).unwrap();
    let mut registries = hosts(
        &place,
        &home.address.to_string(),
        &format!("[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n", mirror.address),
    );
    registries.auth_file = Some(auth_file.clone());
    place.store.pull(&home.reference("a"), None, &registries).await.unwrap();
    assert!(mirror.count("/blobs/") > 0 && home.count("/manifests/") > 0);
    // What comes with a pull goes before, and to the registry alone.
    let refused = place.store.pull(&home.reference("b"), Some(&basic()), &registries).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied);
    let credentials = |registry: &Registry| -> Vec<String> {
        registry.seen().iter().filter_map(|ask| ask.authorization.clone()).collect()
    };
    assert!(credentials(&mirror).iter().all(|sent| sent == "Basic bTpt"));
    assert!(credentials(&home).iter().all(|sent| sent == "Basic aDpo" || sent == "Basic dXNlcjpzZWNyZXQ="));
    std::fs::write(&auth_file, "{\"auths\": \"s3cret\"}").unwrap();
    let error = place.store.pull(&home.reference("a"), None, &registries).await.unwrap_err();
    assert!(error.to_string().contains("auth.json") && !error.to_string().contains("s3cret"), "{error}");
}

/// Tokens are kept until they expire: for their registry, repository and user.
#[tokio::test]
async fn tokens_are_used_again() {
    let place = Place::new();
    let life = Arc::new(AtomicUsize::new(300));
    let realm = Registry::start({
        let life = Arc::clone(&life);
        move |ask| {
            assert!(ask.authorization.is_some());
            let life = life.load(Ordering::Relaxed);
            Reply::status(200).body(format!(r#"{{"token":"t0ken","expires_in":{life}}}"#))
        }
    })
    .await;
    let good = Arc::new(Mutex::new("Bearer t0ken"));
    let url = format!("http://{}/token", realm.address);
    let home = Registry::start({
        let (content, good) = (small(), Arc::clone(&good));
        move |ask| match ask.authorization.as_deref() {
            Some(token) if token == *good.lock().unwrap() => content.answer(ask),
            _ => {
                Reply::status(401).header("www-authenticate", format!("Bearer realm=\"{url}\",service=\"s\""))
            }
        }
    })
    .await;
    let registries = impatient();
    let pull = async |name: &str, password: &str| {
        let auth = Auth::Basic { username: "u".into(), password: password.into() };
        let pulled = place.store.pull(&home.reference(name), Some(&auth), &registries).await;
        (pulled.map(|_| ()).map_err(|e| e.kind()), realm.seen().len())
    };
    assert_eq!(pull("a", "x").await, (Ok(()), 1));
    assert_eq!(pull("a", "x").await, (Ok(()), 1), "the token is still good");
    assert_eq!(pull("b", "x").await, (Ok(()), 2), "another repository");
    assert_eq!(pull("a", "y").await, (Ok(()), 3), "another user");
    *good.lock().unwrap() = "Bearer another";
    assert_eq!(pull("a", "x").await, (Err(Kind::Denied), 4), "one that was revoked is fetched anew, once");
    *good.lock().unwrap() = "Bearer t0ken";
    life.store(0, Ordering::Relaxed);
    assert_eq!(pull("c", "x").await, (Ok(()), 5));
    assert_eq!(pull("c", "x").await, (Ok(()), 6), "one that has expired is not used");
}
