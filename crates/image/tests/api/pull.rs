//! Pulls: what works, and how each failure is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use vaquita_image::{Auth, Digest, Kind, Reference, Registries};

use crate::content::{Content, Form, INDEX, MANIFEST, image, layer, noise, with_config};
use crate::registry::{Ask, Registry, Reply};
use crate::{Place, impatient, read};

pub(crate) fn small() -> Content {
    image(
        &[
            layer(&[("bin/", ""), ("bin/sh", "x")]),
            layer(&[("etc/", ""), ("etc/passwd", "www:x:33:33::/:\n")]),
        ],
        Form::Gzip,
    )
}

pub(crate) fn basic() -> Auth {
    Auth::Basic { username: "user".into(), password: "secret".into() }
}

#[tokio::test]
async fn by_tag_and_by_digest() {
    for form in [Form::Gzip, Form::Zstd, Form::Plain] {
        let place = Place::new();
        let content = image(&[layer(&[("a", "1")]), layer(&[("b", "2")])], form);
        let registry = Registry::of(content.clone()).await;
        let reference = registry.reference("team/app");
        let pulled = place.store.pull(&reference, None, &impatient()).await.unwrap();
        let manifest = Digest::of(&content.manifest);
        assert_eq!(pulled.id, Digest::of(&content.config));
        assert_eq!(pulled.repo_tags, [format!("{}/team/app:latest", registry.address)]);
        assert_eq!(pulled.repo_digests, [format!("{}/team/app@{manifest}", registry.address)]);
        assert_eq!(
            (pulled.config.user.as_str(), &pulled.config.cmd[..]),
            ("www", &["/bin/sh".to_owned()][..])
        );
        let layers: usize = content.layers.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(pulled.size, (layers + content.manifest.len() + content.config.len()) as u64);
        let again = registry.reference(&format!("team/app@{manifest}"));
        let by_digest = place.store.pull(&again, None, &impatient()).await.unwrap();
        assert_eq!(by_digest, pulled);
        assert_eq!(registry.count("/blobs/"), 3, "nothing is fetched twice");
        assert_eq!(registry.count("/manifests/"), 2);
    }
}

#[tokio::test]
async fn an_index_leads_to_this_machine() {
    let place = Place::new();
    let mut content = small();
    let manifest = content.manifest.clone();
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let entry = |digest: &Digest, arch: &str| json!({"mediaType": MANIFEST, "digest": digest, "size": manifest.len(), "platform": {"os": "linux", "architecture": arch}});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [entry(&Digest::of(b"x"), "s390x"), entry(&Digest::of(&manifest), arch)]});
    let index = index.to_string().into_bytes();
    content.files.insert("manifests/latest".into(), (INDEX.into(), index.clone()));
    let registry = Registry::of(content).await;
    let pulled = place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
    assert_eq!(pulled.repo_digests, [format!("{}/a@{}", registry.address, Digest::of(&index))]);
}

#[tokio::test]
async fn one_download_for_all_who_ask() {
    let place = Place::new();
    let registry = Registry::of(image(&[layer(&[("a", &noise(1, 500_000))])], Form::Gzip)).await;
    let reference = registry.reference("a");
    let patience = impatient();
    let pulls = (0..8).map(|_| place.store.pull(&reference, None, &patience));
    let images = futures_join(pulls).await;
    assert!(images.iter().all(|image| image.as_ref().unwrap().id == images[0].as_ref().unwrap().id));
    assert_eq!(registry.count("/blobs/"), 2);
    // Another name for the same layers fetches none of them.
    place.store.pull(&registry.reference("b"), None, &impatient()).await.unwrap();
    assert_eq!(registry.count("/blobs/"), 2);
    assert!(place.store.pulls().is_empty());
}

async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        waiting.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => {
                done.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

#[tokio::test]
async fn missing_and_denied_are_told_apart() {
    let place = Place::new();
    let registry =
        Registry::start(|ask| Reply::status(if ask.path.contains("secret") { 401 } else { 404 })).await;
    let missing = place.store.pull(&registry.reference("nothing:1"), None, &impatient()).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    assert!(missing.to_string().contains(&format!("{}/nothing:1", registry.address)), "{missing}");
    let denied = place.store.pull(&registry.reference("secret"), None, &impatient()).await.unwrap_err();
    assert_eq!(denied.kind(), Kind::Denied);
    assert!(denied.to_string().contains("without credentials"), "{denied}");
}

#[tokio::test]
async fn a_registry_that_is_not_there() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = Reference::parse(&format!("{}/a", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    let error = place.store.pull(&reference, None, &impatient()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn basic_credentials() {
    let place = Place::new();
    let content = small();
    let registry = Registry::start(move |ask| match ask.authorization.as_deref() {
        Some("Basic dXNlcjpzZWNyZXQ=") => content.answer(ask),
        _ => Reply::status(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    let reference = registry.reference("a");
    assert_eq!(place.store.pull(&reference, None, &impatient()).await.unwrap_err().kind(), Kind::Denied);
    let wrong = Auth::Basic { username: "user".into(), password: "x".into() };
    assert_eq!(
        place.store.pull(&reference, Some(&wrong), &impatient()).await.unwrap_err().kind(),
        Kind::Denied
    );
    place.store.pull(&reference, Some(&basic()), &impatient()).await.unwrap();
}

/// A registry with a token realm of its own origin, which wants the credentials once.
fn token_registry(content: Content, realm: Arc<Mutex<String>>) -> impl Fn(&Ask) -> Reply + Send + Sync {
    move |ask| match ask.authorization.as_deref() {
        Some("Bearer t0ken") => content.answer(ask),
        _ => {
            let realm = realm.lock().unwrap();
            let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:other:push\"");
            Reply::status(401).header("www-authenticate", challenge)
        }
    }
}

#[tokio::test]
async fn bearer_tokens() {
    let place = Place::new();
    let realm = Registry::start(|ask| match ask.authorization.as_deref() {
        Some("Basic dXNlcjpzZWNyZXQ=") => Reply::status(200).body(r#"{"token":"t0ken"}"#),
        _ if ask.body.contains("refresh_token=refresh") => {
            Reply::status(200).body(r#"{"access_token":"t0ken"}"#)
        }
        _ => Reply::status(401),
    })
    .await;
    let url = Arc::new(Mutex::new(format!("http://{}/token", realm.address)));
    let registry = Registry::start(token_registry(small(), url)).await;
    let reference = registry.reference("team/app");
    place.store.pull(&reference, Some(&basic()), &impatient()).await.unwrap();
    let asked = realm.seen();
    assert_eq!(asked.len(), 1, "the token is kept for the whole pull");
    assert_eq!(asked[0].path, "/token?scope=repository:team/app:pull&service=s", "the scope is ours");
    let secrets = registry
        .seen()
        .iter()
        .filter(|ask| ask.authorization.as_ref().is_some_and(|a| a.contains("Basic")))
        .count();
    assert_eq!(secrets, 0, "the password goes to the realm alone");
    place.store.pull(&reference, Some(&Auth::IdentityToken("refresh".into())), &impatient()).await.unwrap();
    place.store.pull(&reference, Some(&Auth::RegistryToken("t0ken".into())), &impatient()).await.unwrap();
    assert_eq!(place.store.pull(&reference, None, &impatient()).await.unwrap_err().kind(), Kind::Denied);
}

#[tokio::test]
async fn a_loop_of_challenges_ends() {
    let place = Place::new();
    let realm = Registry::start(|_| Reply::status(200).body(r#"{"token":"never right"}"#)).await;
    let url = format!("http://{}/token", realm.address);
    let registry = Registry::start(move |_| {
        Reply::status(401).header("www-authenticate", format!("Bearer realm=\"{url}\",service=\"s\""))
    })
    .await;
    let error = place.store.pull(&registry.reference("a"), Some(&basic()), &impatient()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Denied | Kind::Invalid), "{error}");
    assert!(registry.seen().len() < 5 && realm.seen().len() < 5);
    for realm in ["file:///etc/passwd", "x", "http://"] {
        let registry = Registry::start(move |_| {
            Reply::status(401).header("www-authenticate", format!("Bearer realm=\"{realm}\""))
        })
        .await;
        let error = place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    }
}

/// T39: credentials stay with the registry, wherever it sends us.
#[tokio::test]
async fn redirects_carry_no_credentials() {
    let place = Place::new();
    let content = small();
    let storage = Registry::of(content.clone()).await;
    let elsewhere = format!("http://{}", storage.address);
    let registry = Registry::start(move |ask| match ask.authorization.as_deref() {
        None => Reply::status(401).header("www-authenticate", "Basic realm=\"x\""),
        Some(_) if ask.path.contains("/blobs/") => {
            Reply::status(307).header("location", format!("{elsewhere}{}?signed=1", ask.path))
        }
        Some(_) => content.answer(ask),
    })
    .await;
    place.store.pull(&registry.reference("a"), Some(&basic()), &impatient()).await.unwrap();
    assert!(storage.seen().iter().all(|ask| ask.authorization.is_none()));
    assert_eq!(storage.count("signed=1"), 3);
}

#[tokio::test]
async fn redirects_end() {
    let place = Place::new();
    for target in ["/v2/a/manifests/latest", "file:///etc/passwd", "", "gopher://x/"] {
        let registry = Registry::start(move |_| Reply::status(301).header("location", target)).await;
        let error = place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(registry.seen().len() < 10);
    }
}

#[tokio::test]
async fn a_broken_layer_is_taken_up_where_it_broke() {
    let place = Place::new();
    let content = image(&[layer(&[("big", &noise(7, 3_000_000))])], Form::Plain);
    let (digest, bytes) = content.layers[0].clone();
    let registry = Registry::start(move |ask| {
        let reply = content.answer(ask);
        let broken = ask.path.contains(&digest.to_string()) && ask.from.unwrap_or(0) < 2_000_000;
        Reply { breaks_after: broken.then_some(700_000), ..reply }
    })
    .await;
    place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
    let ranges: Vec<Option<usize>> = registry
        .seen()
        .iter()
        .filter(|ask| ask.path.contains(&digest.to_string()))
        .map(|ask| ask.from)
        .collect();
    assert_eq!(ranges[0], None);
    assert!(ranges.len() > 2 && ranges[1..].iter().all(Option::is_some), "{ranges:?}");
    assert!(bytes.len() > 2_000_000);
}

#[tokio::test]
async fn a_registry_without_ranges_starts_anew() {
    let place = Place::new();
    let content = image(&[layer(&[("big", &noise(8, 1_000_000))])], Form::Plain);
    let digest = content.layers[0].0.to_string();
    let tries = AtomicUsize::new(0);
    let registry = Registry::start(move |ask| {
        let reply = content.answer(&Ask { from: None, ..ask.clone() });
        let first = ask.path.contains(&digest) && tries.fetch_add(1, Ordering::Relaxed) == 0;
        Reply { breaks_after: first.then_some(300_000), ..reply }
    })
    .await;
    place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
}

#[tokio::test]
async fn a_layer_that_is_not_its_diff_id() {
    let place = Place::new();
    let config = json!({"architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"another")]}});
    let content = with_config(&[layer(&[("a", "1")])], Form::Gzip, config.to_string().into_bytes());
    let registry = Registry::of(content).await;
    let error = place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("when unpacked"), "{error}");
    assert!(place.names("layers").is_empty());
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_is_given_up() {
    let place = Place::new();
    let content = image(&[layer(&[("big", &noise(9, 1_000_000))])], Form::Plain);
    let digest = content.layers[0].0.to_string();
    let registry = Registry::start(move |ask| {
        let stalls = ask.path.contains(&digest);
        Reply { stalls_after: stalls.then_some(500_000), ..content.answer(ask) }
    })
    .await;
    let reference = registry.reference("a");
    let patient = Registries::default();
    {
        let pull = place.store.pull(&reference, None, &patient);
        tokio::pin!(pull);
        // Until half of it is there.
        loop {
            tokio::select! {
                result = &mut pull => panic!("{result:?}"),
                () = tokio::time::sleep(std::time::Duration::from_millis(1)) => {}
            }
            if place.store.pulls().first().is_some_and(|status| status.bytes_done >= 500_000) {
                break;
            }
        }
        let status = place.store.pulls().remove(0);
        assert_eq!((status.layers_done, status.layers_total), (0, 1));
        assert!(status.bytes_total > 1_000_000 && place.store.fs_info().unwrap().used_bytes >= 500_000);
    }
    while !place.store.pulls().is_empty() || !place.names("layers").is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn layers_lie_over_each_other() {
    let place = Place::new();
    let layers = [
        layer(&[
            ("./", ""),
            ("dir/", ""),
            ("dir/old", "1"),
            ("dir/both", "1"),
            ("gone", "1"),
            ("hidden/", ""),
            ("hidden/x", "1"),
        ]),
        // `dir` has no entry here: it must not lose what the layer below says of it.
        layer(&[("dir/both", "2"), (".wh.gone", ""), ("hidden/.wh..wh..opq", ""), ("hidden/y", "2")]),
    ];
    let registry = Registry::of(image(&layers, Form::Gzip)).await;
    let pulled = place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
    let snapshot = place.store.snapshot("container1", &pulled.id).unwrap();
    for readonly in [true, false] {
        let root = snapshot.mount(readonly).unwrap();
        assert_eq!(
            (read(&root, "dir/old"), read(&root, "dir/both"), read(&root, "hidden/y")),
            ("1".into(), "2".into(), "2".into())
        );
        let there = |name: &str| rustix::fs::statat(&root, name, rustix::fs::AtFlags::empty()).is_ok();
        assert!(!there("gone") && !there("hidden/x"));
        let stat = rustix::fs::statat(&root, "dir", rustix::fs::AtFlags::empty()).unwrap();
        assert_eq!((stat.st_mode & 0o7777, stat.st_mtime), (0o755, 1_000_000));
        let made = rustix::fs::mkdirat(&root, "new", rustix::fs::Mode::from_raw_mode(0o700));
        assert_eq!(made.is_ok(), !readonly);
        let user = vaquita_image::passwd::resolve(rustix::fd::AsFd::as_fd(&root), "7").unwrap();
        assert_eq!(user.uid, 7);
    }
    assert!(place.store.usage("container1").unwrap().inodes >= 2);
}
