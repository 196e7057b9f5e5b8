//! Registries that mean harm (S5): every pull ends in bounded time with an error that says what the registry did, nothing
//! of it can be seen, and other pulls go on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use vaquita_image::{Auth, Digest, Kind, Reference, Registries};

use crate::content::{Content, Form, INDEX, MANIFEST, image, layer, noise};
use crate::hosts::hosts;
use crate::registry::{Ask, Registry, Reply};
use crate::wire::{Act, Wire};
use crate::{Place, impatient};

/// Far beyond what any of these pulls takes: who meets it hangs.
const HANG: Duration = Duration::from_secs(60);
/// What the kernel's buffers of a connection on loopback may hold, beyond what is read.
const BUFFERS: u64 = 16 << 20;

fn small() -> Content {
    image(
        &[layer(&[("bin/", ""), ("bin/sh", "x")]), layer(&[("etc/", ""), ("etc/motd", "hello")])],
        Form::Gzip,
    )
}

/// What a registry does wrong.
struct Misdeed {
    name: &'static str,
    kind: Kind,
    /// What the error must say.
    says: &'static str,
    answer: fn(&Content, &Ask) -> Vec<Act>,
}

const fn misdeed(
    name: &'static str,
    kind: Kind,
    says: &'static str,
    answer: fn(&Content, &Ask) -> Vec<Act>,
) -> Misdeed {
    Misdeed { name, kind, says, answer }
}

/// Which document or blob is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Manifest,
    Config,
    Layer,
}

fn is(content: &Content, ask: &Ask, what: What) -> bool {
    match what {
        What::Manifest => ask.path.contains("/manifests/"),
        What::Config => ask.path.contains(&Digest::of(&content.config).to_string()),
        What::Layer => ask.path.contains(&content.layers[1].0.to_string()),
    }
}

/// Answers as it should, but for one thing, whose decent answer it may change.
fn but(content: &Content, ask: &Ask, what: What, act: impl FnOnce(Reply) -> Vec<Act>) -> Vec<Act> {
    let reply = content.answer(ask);
    if is(content, ask, what) { act(reply) } else { reply.sent() }
}

/// With other bytes in the place of one document.
fn instead(content: &Content, ask: &Ask, what: What, change: impl FnOnce(&mut Vec<u8>)) -> Vec<Act> {
    but(content, ask, what, |mut reply| {
        change(&mut reply.body);
        // The digest in the header is that of what the registry should have sent.
        reply.headers.retain(|(name, _)| *name != "docker-content-digest");
        reply.sent()
    })
}

fn slow_body(reply: &Reply) -> Vec<Act> {
    let (head, body) = reply.wire();
    vec![Act::Send(head), Act::Drip(body)]
}

fn endless(mut reply: Reply) -> Vec<Act> {
    reply.headers.push(("transfer-encoding", "chunked".into()));
    let (head, _) = reply.wire();
    let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
    vec![Act::Send(head), Act::Repeat(chunk)]
}

fn announced(mut reply: Reply, length: &str) -> Vec<Act> {
    reply.headers.push(("content-length", length.to_owned()));
    let (head, body) = reply.wire();
    vec![Act::Send(head), Act::Send(body), Act::Close]
}

fn flip(bytes: &mut [u8]) {
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
}

fn manifest_with(layers: &serde_json::Value, config: &serde_json::Value) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
        .to_string()
        .into_bytes()
}

fn descriptor(kind: &str, size: u64) -> serde_json::Value {
    json!({"mediaType": kind, "digest": Digest::of(b"x"), "size": size})
}

/// Not by way of JSON values, which takes a while for many.
fn manifest_of(layers: usize) -> Vec<u8> {
    let (layer, config) = (descriptor(LAYER, 1).to_string(), descriptor(CONFIG, 1));
    let layers = vec![layer; layers].join(",");
    format!("{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{config},\"layers\":[{layers}]}}")
        .into_bytes()
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

const MISDEEDS: &[Misdeed] = &[
    misdeed("a head at a byte every 50 ms", Kind::Timeout, "no answer within", |content, ask| {
        let (head, _) = content.answer(ask).wire();
        vec![Act::Drip(head)]
    }),
    misdeed("a manifest at a byte every 50 ms", Kind::Timeout, "fewer than 65536 bytes", |content, ask| {
        but(content, ask, What::Manifest, |reply| slow_body(&reply))
    }),
    misdeed("a layer at a byte every 50 ms", Kind::Timeout, "fewer than 65536 bytes", |content, ask| {
        but(content, ask, What::Layer, |reply| slow_body(&reply))
    }),
    misdeed("no answer at all", Kind::Timeout, "no answer within", |_, _| vec![Act::Stall]),
    misdeed("a layer that stands still", Kind::Timeout, "no bytes within", |content, ask| {
        but(content, ask, What::Layer, |reply| {
            let (head, body) = reply.wire();
            vec![Act::Send(head), Act::Send(body[..10].to_vec()), Act::Stall]
        })
    }),
    misdeed("interim answers without end", Kind::Timeout, "no answer within", |_, _| {
        vec![Act::Repeat(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100))]
    }),
    misdeed("a manifest without end", Kind::Invalid, "longer than 4194304 bytes", |content, ask| {
        but(content, ask, What::Manifest, endless)
    }),
    misdeed(
        "a configuration without end",
        Kind::Invalid,
        "image configuration is longer than",
        |content, ask| but(content, ask, What::Config, endless),
    ),
    misdeed("a layer without end", Kind::Corrupt, "longer than its", |content, ask| {
        but(content, ask, What::Layer, endless)
    }),
    misdeed("headers without end", Kind::Unavailable, "message head is too large", |_, _| {
        vec![Act::Send(b"HTTP/1.1 200 OK\r\n".to_vec()), Act::Repeat(b"x-flood: 1\r\n".repeat(1000))]
    }),
    misdeed("one header without end", Kind::Unavailable, "message head is too large", |_, _| {
        vec![Act::Send(b"HTTP/1.1 200 OK\r\nx-flood: ".to_vec()), Act::Repeat(vec![b'x'; 16 << 10])]
    }),
    misdeed("a manifest of another digest", Kind::Corrupt, "has the digest", |content, ask| {
        but(content, ask, What::Manifest, |mut reply| {
            reply.body.push(b' ');
            reply.sent()
        })
    }),
    misdeed("a configuration of another digest", Kind::Corrupt, "has the digest", |content, ask| {
        instead(content, ask, What::Config, |bytes| flip(bytes))
    }),
    misdeed("a layer of another digest", Kind::Corrupt, "has the digest", |content, ask| {
        instead(content, ask, What::Layer, |bytes| flip(bytes))
    }),
    misdeed("a shorter layer", Kind::Corrupt, "the registry announces", |content, ask| {
        instead(content, ask, What::Layer, |bytes| bytes.truncate(20))
    }),
    misdeed("a longer layer", Kind::Corrupt, "the registry announces", |content, ask| {
        instead(content, ask, What::Layer, |bytes| bytes.extend([0; 1000]))
    }),
    misdeed(
        "a layer announced longer than it is",
        Kind::Corrupt,
        "the registry announces",
        |content, ask| but(content, ask, What::Layer, |reply| announced(reply, "99999999999")),
    ),
    misdeed(
        "a manifest announced longer than it is",
        Kind::Unavailable,
        "before message length reached",
        |content, ask| but(content, ask, What::Manifest, |reply| announced(reply, "100000")),
    ),
    misdeed("a length that is not a number", Kind::Unavailable, "invalid content-length", |content, ask| {
        but(content, ask, What::Manifest, |reply| announced(reply, "-1"))
    }),
    misdeed("two lengths", Kind::Unavailable, "invalid content-length", |content, ask| {
        but(content, ask, What::Manifest, |reply| announced(reply, "5\r\ncontent-length: 6"))
    }),
    misdeed("something else than HTTP", Kind::Unavailable, "invalid HTTP version", |_, _| {
        vec![Act::Send(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), Act::Close]
    }),
    misdeed("a connection that is always reset", Kind::Unavailable, "onnection", |_, _| vec![Act::Reset]),
    misdeed("a layer that is always cut off", Kind::Unavailable, "cannot pull", |content, ask| {
        but(content, ask, What::Layer, |reply| {
            let (head, body) = reply.wire();
            vec![Act::Send(head), Act::Send(body[..10].to_vec()), Act::Reset]
        })
    }),
    misdeed("the same range again and again", Kind::Corrupt, "another range", |content, ask| {
        but(content, ask, What::Layer, |reply| {
            let mut first = content.answer(&Ask { from: None, ..ask.clone() });
            if ask.from.is_none() {
                let (head, body) = reply.wire();
                return vec![Act::Send(head), Act::Send(body[..10].to_vec()), Act::Reset];
            }
            first.status = 206;
            first.headers.push(("content-range", format!("bytes 0-{}/*", first.body.len() - 1)));
            first.sent()
        })
    }),
    misdeed("a redirect to itself", Kind::Invalid, "redirects more than 5 times", |_, ask| {
        Reply::status(301).header("location", ask.path.clone()).sent()
    }),
    misdeed("a redirect to a file", Kind::Invalid, "not a URL of HTTP", |content, ask| {
        but(content, ask, What::Layer, |_| Reply::status(307).header("location", "file:///etc/shadow").sent())
    }),
    misdeed("a redirect to nowhere", Kind::Invalid, "redirects to nowhere", |_, _| Reply::status(302).sent()),
    misdeed("a manifest of 5 MiB", Kind::Invalid, "longer than 4194304 bytes", |content, ask| {
        instead(content, ask, What::Manifest, |bytes| bytes.resize(5 << 20, b' '))
    }),
    misdeed("a manifest of 100,000 layers", Kind::Invalid, "longer than 4194304 bytes", |content, ask| {
        instead(content, ask, What::Manifest, |bytes| *bytes = manifest_of(100_000))
    }),
    misdeed(
        "a manifest of 20,000 layers",
        Kind::Invalid,
        "20000 layers, more than the 500",
        |content, ask| instead(content, ask, What::Manifest, |bytes| *bytes = manifest_of(20_000)),
    ),
    misdeed("an index of 10,000 images", Kind::Invalid, "10000 manifests, more than 1000", |content, ask| {
        but(content, ask, What::Manifest, |_| {
            let manifests = vec![descriptor(MANIFEST, 1); 10_000];
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
            Reply::status(200).header("content-type", INDEX).body(index.to_string()).sent()
        })
    }),
    misdeed("a manifest nested 100,000 deep", Kind::Invalid, "manifest is malformed", |content, ask| {
        instead(content, ask, What::Manifest, |bytes| {
            *bytes = format!("{{\"schemaVersion\":2,\"x\":{}", "[".repeat(100_000)).into_bytes();
        })
    }),
    misdeed("a layer of 4 EiB", Kind::Invalid, "4611686018427387904 bytes, more than", |content, ask| {
        instead(content, ask, What::Manifest, |bytes| {
            let config = json!({"mediaType": CONFIG, "digest": Digest::of(&content.config), "size": content.config.len()});
            *bytes = manifest_with(&json!([descriptor(LAYER, 1 << 62), descriptor(LAYER, 1)]), &config);
        })
    }),
    misdeed("a layer of less than nothing", Kind::Invalid, "manifest", |content, ask| {
        instead(content, ask, What::Manifest, |bytes| {
            let layer = json!({"mediaType": LAYER, "digest": Digest::of(b"x"), "size": -1});
            *bytes = manifest_with(&json!([layer]), &descriptor(CONFIG, 1));
        })
    }),
    misdeed("a configuration of 5 MiB", Kind::Invalid, "image configuration", |content, ask| {
        instead(content, ask, What::Manifest, |bytes| {
            *bytes = manifest_with(&json!([]), &descriptor(CONFIG, 5 << 20));
        })
    }),
    misdeed("a manifest that is called an index", Kind::Invalid, "ambiguous", |content, ask| {
        but(content, ask, What::Manifest, |mut reply| {
            reply.headers.retain(|(name, _)| *name != "content-type");
            reply.header("content-type", INDEX).sent()
        })
    }),
    misdeed("a manifest and an index in one", Kind::Invalid, "ambiguous", |content, ask| {
        instead(content, ask, What::Manifest, |bytes| {
            *bytes = json!({"schemaVersion": 2, "layers": [], "manifests": []}).to_string().into_bytes();
        })
    }),
    misdeed("a layer from elsewhere", Kind::Unsupported, "fetched from elsewhere", |content, ask| {
        instead(content, ask, What::Manifest, |bytes| {
            let mut layer = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 1);
            layer["urls"] = json!(["http://127.0.0.1:1/layer"]);
            *bytes = manifest_with(&json!([layer]), &descriptor(CONFIG, 1));
        })
    }),
    misdeed("a page for people", Kind::Invalid, "manifest", |content, ask| {
        instead(content, ask, What::Manifest, |bytes| *bytes = b"<html>".to_vec())
    }),
    misdeed("a digest that is a path", Kind::Invalid, "manifest is malformed", |content, ask| {
        instead(content, ask, What::Manifest, |bytes| {
            let layer = json!({"mediaType": LAYER, "digest": "sha256:../../../etc/shadow", "size": 1});
            *bytes = manifest_with(&json!([layer]), &descriptor(CONFIG, 1));
        })
    }),
    misdeed("a compressed manifest", Kind::Invalid, "manifest", |content, ask| {
        but(content, ask, What::Manifest, |reply| {
            // Twice as much as a manifest may have, if somebody inflates it; nobody asked for it.
            let bomb = crate::content::compress(&vec![b' '; 8 << 20], Form::Gzip);
            Reply::status(200)
                .header("content-encoding", "gzip")
                .body(bomb)
                .header("x", reply.status.to_string())
                .sent()
        })
    }),
    misdeed("a missing layer", Kind::NotFound, "does not exist", |content, ask| {
        but(content, ask, What::Layer, |_| Reply::status(404).sent())
    }),
    misdeed("errors of the server", Kind::Unavailable, "503", |_, _| Reply::status(503).sent()),
    misdeed("a wait of a year", Kind::Unavailable, "429", |_, _| {
        Reply::status(429).header("retry-after", "31536000").sent()
    }),
    misdeed("a teapot", Kind::Invalid, "418", |_, _| Reply::status(418).sent()),
];

/// All at once, each on a store of its own, beside a pull of another image from another registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_hostile_registry_may_try() {
    let mut running = tokio::task::JoinSet::new();
    for misdeed in MISDEEDS {
        running.spawn(async move {
            let name = misdeed.name;
            tokio::time::timeout(HANG, attempt(misdeed)).await.unwrap_or_else(|_| panic!("{name}: it hangs"));
        });
    }
    let mut failed = 0;
    while let Some(result) = running.join_next().await {
        failed += usize::from(result.is_err());
    }
    assert_eq!(failed, 0, "the panics above tell which");
}

async fn attempt(Misdeed { name, kind, says, answer }: &'static Misdeed) {
    let place = Place::new();
    let content = small();
    let registry = Wire::start(move |ask| answer(&content, ask)).await;
    let good = Registry::of(image(&[layer(&[("other", name)])], Form::Zstd)).await;
    let (reference, other) = (registry.reference("a"), good.reference("b"));
    let address = registry.address.to_string();
    let mut settings = hosts(&place, &address, &format!("server = \"http://{address}\""));
    if *kind != Kind::Timeout {
        // A machine with much to do is no misdeed.
        (settings.timeouts.answer, settings.timeouts.stall) = (HANG, HANG);
    }
    let (bad, good) = tokio::join!(
        place.store.pull(&reference, None, &settings),
        place.store.pull(&other, None, &settings)
    );
    good.unwrap_or_else(|error| panic!("{name}: the other pull: {error}"));
    let error = bad.expect_err(name);
    let text = error.to_string();
    assert_eq!(error.kind(), *kind, "{name}: {text}");
    assert!(text.contains(says), "{name}: {text}");
    assert!(text.contains(&registry.address.to_string()), "{name}: {text}");
    assert!(text.len() < 1000 && !text.contains('\n'), "{name}: {text}");
    assert_eq!(place.store.list().len(), 1, "{name}");
    assert!(place.store.pulls().is_empty(), "{name}");
    assert_eq!(
        (place.names("tmp").len(), place.names("blobs/sha256").len()),
        (0, 2),
        "{name}: something stays"
    );
    // What may come whole another time is kept for then.
    let may_stay = matches!(kind, Kind::Unavailable | Kind::Timeout);
    let left = (place.names("layers").len(), place.names("partial").len());
    assert!(may_stay || left == (1, 0), "{name}: something stays: {left:?}");
    // Where time is the bound, bytes are not.
    assert!(
        *kind == Kind::Timeout || registry.sent() < (5 << 20) * 4 + BUFFERS,
        "{name}: {} bytes were taken",
        registry.sent()
    );
    assert!(registry.seen().len() <= 24, "{name}: asked {} times", registry.seen().len());
}

/// A chain of indexes, each of which names the next.
#[tokio::test]
async fn indexes_are_not_followed_for_ever() {
    let place = Place::new();
    let mut files = std::collections::BTreeMap::new();
    let mut last = small().manifest;
    for _ in 0..1000 {
        let entry = json!({"mediaType": INDEX, "digest": Digest::of(&last), "size": last.len(),
            "platform": {"os": "linux", "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }}});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        files.insert(Digest::of(&last).to_string(), last);
        last = index.to_string().into_bytes();
    }
    files.insert("latest".into(), last);
    let registry = Wire::start(move |ask| {
        let name = ask.path.rsplit('/').next().unwrap_or_default();
        let body = files.get(name).cloned().unwrap_or_default();
        Reply::status(200).header("content-type", INDEX).body(body).sent()
    })
    .await;
    let error = place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.to_string().contains("nested more than"), "{error}");
    assert!(registry.seen().len() < 10);
}

/// A stream that the network cuts after each number of bytes in turn: once, and the pull goes on where it was; always, and
/// it ends with an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_that_breaks_at_every_byte() {
    let content = image(&[layer(&[("a", &noise(3, 300))])], Form::Plain);
    let longest = content.files.values().map(|(_, bytes)| bytes.len()).max().unwrap_or_default() + 400;
    let places: Arc<Vec<Place>> = Arc::new((0..4).map(|_| Place::in_memory()).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let (places, next, content) = (Arc::clone(&places), Arc::clone(&next), content.clone());
        workers.spawn(async move {
            let place = &places[worker];
            loop {
                let cut = next.fetch_add(1, Ordering::Relaxed);
                if cut > longest {
                    break;
                }
                broken_once(place, &content, cut).await;
                // A few of these take as long as all of those.
                if cut % 50 == 0 {
                    broken_always(place, &content, cut).await;
                }
            }
        });
    }
    while let Some(result) = workers.join_next().await {
        result.unwrap();
    }
}

fn cut_off(reply: &Reply, at: usize) -> Option<Vec<Act>> {
    let (head, body) = reply.wire();
    let all = [head, body].concat();
    (at < all.len()).then(|| vec![Act::Send(all[..at].to_vec()), Act::Reset])
}

async fn broken_once(place: &Place, content: &Content, cut: usize) {
    let files = content.clone();
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    let registry = Wire::start(move |ask| {
        let reply = files.answer(ask);
        let first = seen.lock().unwrap().insert(ask.path.clone());
        first.then(|| cut_off(&reply, cut)).flatten().unwrap_or_else(|| reply.sent())
    })
    .await;
    let pulled = place.store.pull(&registry.reference("a"), None, &impatient()).await;
    let image = pulled.unwrap_or_else(|error| panic!("broken after {cut} bytes: {error}"));
    place.store.remove(&image.id.to_string()).await.unwrap();
}

async fn broken_always(place: &Place, content: &Content, cut: usize) {
    let files = content.clone();
    let registry = Wire::start(move |ask| {
        let reply = files.answer(&Ask { from: None, ..ask.clone() });
        cut_off(&reply, cut).unwrap_or_else(|| reply.sent())
    })
    .await;
    match place.store.pull(&registry.reference("a"), None, &impatient()).await {
        Ok(image) => drop(place.store.remove(&image.id.to_string()).await.unwrap()),
        Err(error) => assert_eq!(error.kind(), Kind::Unavailable, "broken after {cut} bytes: {error}"),
    }
    assert!(place.store.list().is_empty() && place.names("tmp").is_empty(), "broken after {cut} bytes");
}

/// A registry that never goes on holds up nobody else, not even who pulls the same layers from elsewhere.
#[tokio::test]
async fn other_pulls_do_not_wait_for_one_that_stands_still() {
    let place = Place::new();
    let content = small();
    let files = content.clone();
    let silent = Wire::start(move |ask| {
        but(&files, ask, What::Layer, |reply| {
            let (head, body) = reply.wire();
            vec![Act::Send(head), Act::Send(body[..10].to_vec()), Act::Stall]
        })
    })
    .await;
    let good = Registry::of(content).await;
    let (patient, there, here) = (Registries::default(), silent.reference("a"), good.reference("a"));
    let standing = place.store.pull(&there, None, &patient);
    tokio::pin!(standing);
    while silent.seen().len() < 4 {
        tokio::select! {
            result = &mut standing => panic!("it should stand still: {result:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    tokio::select! {
        result = &mut standing => panic!("it should stand still: {result:?}"),
        result = place.store.pull(&here, None, &patient) => drop(result.unwrap()),
    }
    assert_eq!(place.store.pulls().len(), 1);
}

/// Who is configured to be reached by HTTPS is never asked in clear, whatever it says, and gets no credentials in clear.
#[tokio::test]
async fn https_is_not_given_up() {
    let place = Place::new();
    let dir = tempfile::tempdir().unwrap();
    let (tls, ca) = crate::tls::certificate(dir.path(), false);
    let clear = Registry::of(small()).await;
    let (elsewhere, realm) = (clear.address, clear.address);
    let auth = Auth::Basic { username: "user".into(), password: "secret".into() };
    let registry = Registry::start_with(Some(tls), move |ask| {
        if ask.path.contains("/realm/") {
            let challenge = format!("Bearer realm=\"http://{realm}/token\",service=\"s\"");
            return Reply::status(401).header("www-authenticate", challenge);
        }
        Reply::status(307).header("location", format!("http://{elsewhere}{}", ask.path))
    })
    .await;
    let host = registry.address.to_string();
    let text = format!("ca = \"{}\"", ca.display());
    let settings = hosts(&place, &host, &text);
    for (name, says) in [("a", "from HTTPS to HTTP"), ("realm/a", "not reached by HTTPS")] {
        let reference = Reference::parse(&format!("{host}/{name}")).unwrap();
        let error = place.store.pull(&reference, Some(&auth), &settings).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    // A server that speaks no TLS where TLS was asked for.
    let host = clear.address.to_string();
    let settings = hosts(&place, &host, &text);
    let reference = Reference::parse(&format!("{host}/a")).unwrap();
    let error = place.store.pull(&reference, Some(&auth), &settings).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(clear.seen().is_empty(), "{:?}", clear.seen());
}

/// A registry elsewhere cannot make us ask this machine or its link: not by a redirect, not by a token realm.
#[test]
fn a_registry_elsewhere_does_not_lead_back_here() {
    vaquita_testing::require_root();
    // A network namespace of this thread alone, where an address that is not loopback can be had for nothing.
    std::thread::spawn(|| {
        vaquita_sys::ns::unshare(vaquita_sys::process::CloneFlags::NEWNET).unwrap();
        let ip = |arguments: &str| {
            let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(status.success(), "ip {arguments}");
        };
        ip("link set lo up");
        ip("address add 192.0.2.1/32 dev lo");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(led_back());
    })
    .join()
    .unwrap();
}

async fn led_back() {
    let place = Place::new();
    let auth = Auth::Basic { username: "user".into(), password: "secret".into() };
    let inner = Registry::of(small()).await;
    let port = inner.address.port();
    let targets = [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("0.0.0.0:{port}"),
        "169.254.169.254".to_owned(),
        "[fe80::1]".to_owned(),
    ];
    for target in targets {
        let to = target.clone();
        let outer = Wire::start_at("192.0.2.1:0", move |ask| {
            if ask.path.contains("/realm/") {
                let challenge = format!("Bearer realm=\"http://{to}/token\",service=\"s\"");
                return Reply::status(401).header("www-authenticate", challenge).sent();
            }
            Reply::status(307).header("location", format!("http://{to}{}", ask.path)).sent()
        })
        .await;
        let address = outer.address.to_string();
        let settings = hosts(&place, &address, &format!("server = \"http://{address}\""));
        for name in ["a", "realm/a"] {
            let error = place.store.pull(&outer.reference(name), Some(&auth), &settings).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{target} {name}: {error}");
            assert!(error.to_string().contains("refused"), "{target} {name}: {error}");
        }
    }
    assert!(inner.seen().is_empty(), "{:?}", inner.seen());
}
