//! Pulls that do not come to their end, and pulls that share what comes in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vaquita_image::{Kind, Reference, Registries, Store};

use crate::content::{Content, Form, image, layer, noise};
use crate::registry::{Registry, Reply};
use crate::{Place, impatient, read};

/// A registry that stops in the middle of one blob until it is told to go on.
async fn stalling(content: &Content, blob: usize, after: usize) -> (Registry, Arc<AtomicBool>) {
    let (content, digest) = (content.clone(), content.layers[blob].0.to_string());
    let goes_on = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&goes_on);
    let registry = Registry::start(move |ask| {
        let stalls = ask.path.contains(&digest) && !told.load(Ordering::Relaxed);
        Reply { stalls_after: stalls.then_some(after), ..content.answer(ask) }
    })
    .await;
    (registry, goes_on)
}

/// Pulls until `enough`, and gives up then.
async fn pull_until(store: &Store, reference: &Reference, enough: impl Fn() -> bool) {
    let patient = Registries::default();
    let pull = store.pull(reference, None, &patient);
    tokio::pin!(pull);
    while !enough() {
        tokio::select! {
            result = &mut pull => panic!("{result:?}"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
}

async fn at_rest(place: &Place, layers: usize) {
    while !place.store.pulls().is_empty() || place.names("layers").len() != layers {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Where the requests for a layer began.
fn begins(registry: &Registry, content: &Content, layer: usize) -> Vec<usize> {
    let digest = content.layers[layer].0.to_string();
    let asks = registry.seen().into_iter().filter(|ask| ask.path.contains(&digest));
    asks.map(|ask| ask.from.unwrap_or(0)).collect()
}

#[tokio::test]
async fn a_cancelled_pull_goes_on_where_it_ended() {
    for reopens in [false, true] {
        let mut place = Place::new();
        let content = image(&[layer(&[("small", "1")]), layer(&[("big", &noise(9, 1_000_000))])], Form::Gzip);
        let (registry, goes_on) = stalling(&content, 1, 300_000).await;
        let reference = registry.reference("a");
        let store = place.store.clone();
        let bytes = || store.pulls().first().map_or(0, |status| status.bytes_done);
        let small = content.layers[0].1.len() as u64;
        let enough = || {
            bytes() == 300_000 + small && place.names("notes").len() == 1 && place.names("partial").len() == 1
        };
        pull_until(&place.store, &reference, enough).await;
        // The layer that was whole stays whole.
        at_rest(&place, 1).await;
        assert_eq!(place.names("partial"), [content.layers[1].0.hex()]);
        let partial = place.dir.path().join("images/partial").join(content.layers[1].0.hex());
        assert_eq!(std::fs::metadata(&partial).unwrap().len(), 300_000);
        assert!(place.store.list().is_empty());
        goes_on.store(true, Ordering::Relaxed);
        drop(store);
        if reopens {
            place = place.reopen();
        }
        let pulled = place.store.pull(&reference, None, &impatient()).await.unwrap();
        assert_eq!(begins(&registry, &content, 0), [0]);
        assert_eq!(begins(&registry, &content, 1), [0, 300_000]);
        assert!(place.names("partial").is_empty());
        let root = place.store.snapshot("c", &pulled.id).unwrap().mount(true).unwrap();
        assert_eq!((read(&root, "small").as_str(), read(&root, "big")), ("1", noise(9, 1_000_000)));
        let place = place.reopen();
        assert_eq!(place.store.list().len(), 1);
    }
}

#[tokio::test]
async fn what_was_kept_and_is_wrong_is_fetched_again_once() {
    let place = Place::new();
    let content = image(&[layer(&[("big", &noise(9, 1_000_000))])], Form::Gzip);
    let registry = Registry::of(content.clone()).await;
    let (digest, bytes) = &content.layers[0];
    let partial = place.dir.path().join("images/partial").join(digest.hex());
    let mut wrong = bytes[..200_000].to_vec();
    wrong[100_000] ^= 1;
    std::fs::write(&partial, &wrong).unwrap();
    place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
    assert_eq!(begins(&registry, &content, 0), [200_000, 0]);
    assert!(!partial.exists());
    // Longer than the layer is.
    let place = Place::new();
    let partial = place.dir.path().join("images/partial").join(digest.hex());
    std::fs::write(&partial, vec![0; bytes.len() + 1]).unwrap();
    place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
    assert_eq!(begins(&registry, &content, 0), [200_000, 0, 0]);
    // Whole: the registry is not asked.
    let place = Place::new();
    let partial = place.dir.path().join("images/partial").join(digest.hex());
    std::fs::write(&partial, bytes).unwrap();
    place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
    assert_eq!(begins(&registry, &content, 0), [200_000, 0, 0]);
    // What the registry itself has wrong is not asked for again.
    let mut bad = content.clone();
    bad.files.get_mut(&format!("blobs/{digest}")).unwrap().1[300_000] ^= 1;
    let registry = Registry::of(bad).await;
    let place = Place::new();
    let error = place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap_err();
    assert_eq!((error.kind(), begins(&registry, &content, 0)), (Kind::Corrupt, vec![0]));
    assert!(place.names("partial").is_empty() && place.names("layers").is_empty());
}

#[tokio::test]
async fn leftovers_go_after_a_day_or_when_the_disk_is_short() {
    let place = Place::new();
    let content = image(&[layer(&[("small", "1")]), layer(&[("big", &noise(9, 1_000_000))])], Form::Gzip);
    let (registry, _) = stalling(&content, 1, 300_000).await;
    let partial = place.dir.path().join("images/partial").join(content.layers[1].0.hex());
    let there = || partial.metadata().is_ok_and(|meta| meta.len() == 300_000);
    let enough = || there() && place.names("notes").len() == 1 && place.names("partial").len() == 1;
    pull_until(&place.store, &registry.reference("a"), enough).await;
    at_rest(&place, 1).await;
    let place = place.reopen();
    assert_eq!((place.names("partial").len(), place.names("layers").len()), (1, 1));
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
    std::fs::File::open(&partial).unwrap().set_modified(long_ago).unwrap();
    let place = place.reopen();
    assert_eq!((place.names("partial").len(), place.names("layers").len()), (0, 1));
    // Nothing is spared: nothing stays.
    let mut options = crate::options();
    options.spare_percent = 100;
    let Place { dir, store } = place;
    drop(store);
    let place = Place { store: Store::open(&dir.path().join("images"), options).unwrap(), dir };
    assert_eq!((place.names("layers").len(), place.names("notes").len()), (0, 0));
}

/// The same compressed layer in two images, on top of different others, and twice in one image.
#[tokio::test]
async fn a_layer_comes_once_for_all_who_wait_for_it() {
    let place = Place::new();
    let shared = layer(&[("shared", &noise(3, 500_000))]);
    let one = image(&[layer(&[("one", "1")]), shared.clone(), shared.clone()], Form::Gzip);
    let mut content = image(&[layer(&[("two", "2")]), shared], Form::Gzip);
    let (_, manifest) = content.files.remove("manifests/latest").unwrap();
    content.files.insert("manifests/two".into(), (crate::content::MANIFEST.into(), manifest));
    content.files.extend(one.files.clone());
    let (registry, goes_on) = stalling(&content, 1, 200_000).await;
    let (store, settings) = (&place.store, impatient());
    let references = [registry.reference("a"), registry.reference("b:two"), registry.reference("c")];
    let [a, b, c] = references.each_ref().map(|reference| store.pull(reference, None, &settings));
    let release = async {
        // Until all of them wait for it, and its connection is given up.
        while store.pulls().iter().filter(|pull| pull.layers_done == 1).count() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        goes_on.store(true, Ordering::Relaxed);
    };
    let (a, b, c, ()) = tokio::join!(a, b, c, release);
    for (pulled, top) in [(a, "one"), (b, "two"), (c, "one")] {
        let root = store.snapshot(top, &pulled.unwrap().id).unwrap().mount(true).unwrap();
        assert_eq!((read(&root, top).len(), read(&root, "shared").len()), (1, 500_000));
    }
    assert_eq!(begins(&registry, &content, 1), [0, 200_000]);
    assert_eq!(begins(&registry, &one, 0), [0]);
    assert!(place.names("partial").is_empty());
    assert_eq!(place.names("layers").len(), 5);
}

/// A pull waits for the layers that it shares with another one, and for nothing else of that.
#[tokio::test]
async fn a_slow_image_holds_up_no_other_on_the_same_base() {
    let place = Place::new();
    let base = layer(&[("base", "0")]);
    let slow = image(&[base.clone(), layer(&[("slow", &noise(3, 500_000))])], Form::Gzip);
    let quick = image(&[base, layer(&[("quick", "2")])], Form::Gzip);
    let (slow_registry, _) = stalling(&slow, 1, 200_000).await;
    let quick_registry = Registry::of(quick.clone()).await;
    let reference = slow_registry.reference("a");
    let patient = Registries::default();
    tokio::select! {
        result = place.store.pull(&reference, None, &patient) => panic!("{result:?}"),
        () = async {
            while place.store.pulls().first().is_none_or(|pull| pull.layers_done == 0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            place.store.pull(&quick_registry.reference("b"), None, &patient).await.unwrap();
        } => {}
    }
    assert!(begins(&quick_registry, &quick, 0).is_empty(), "the base was there");
    at_rest(&place, 2).await;
    // The image goes, and with it what it shares with a pull that has ended.
    place.store.remove(&quick_registry.reference("b").to_string()).await.unwrap();
    assert_eq!(place.names("layers").len(), 0);
}

/// An image that goes while another pull has taken up its layers takes none of them along.
#[tokio::test]
async fn a_removal_leaves_the_layers_of_a_running_pull() {
    let place = Place::new();
    let base = layer(&[("base", "0")]);
    let slow = image(&[base.clone(), layer(&[("slow", &noise(3, 500_000))])], Form::Gzip);
    let (registry, goes_on) = stalling(&slow, 1, 200_000).await;
    let small = Registry::of(image(&[base], Form::Gzip)).await;
    let settings = impatient();
    let small = small.reference("small");
    place.store.pull(&small, None, &settings).await.unwrap();
    let reference = registry.reference("a");
    let pull = place.store.pull(&reference, None, &settings);
    let remove = async {
        while place.store.pulls().first().is_none_or(|pull| pull.layers_done == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        place.store.remove(&small.to_string()).await.unwrap();
        goes_on.store(true, Ordering::Relaxed);
    };
    let (pulled, ()) = tokio::join!(pull, remove);
    let root = place.store.snapshot("c", &pulled.unwrap().id).unwrap().mount(true).unwrap();
    assert_eq!((read(&root, "base").as_str(), read(&root, "slow").len()), ("0", 500_000));
    let place = place.reopen();
    assert_eq!((place.store.list().len(), place.names("layers").len()), (1, 2));
}
