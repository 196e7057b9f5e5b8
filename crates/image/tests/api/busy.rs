//! Pulls that stand still are nobody else's affair.

use std::time::Duration;

use vaquita_image::{Reference, Registries};

use crate::Place;
use crate::content::{Form, image, layer, noise};
use crate::registry::{Registry, Reply};

/// More layers stand still than there are threads for what blocks; whoever needs such a thread gets it all the same.
#[test]
fn layers_that_stand_still_keep_nobody_waiting() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).max_blocking_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let place = Place::new();
        let there = Registry::of(image(&[layer(&[("here", "x")])], Form::Gzip)).await;
        let present =
            place.store.pull(&there.reference("present"), None, &Registries::default()).await.unwrap();

        let layers: Vec<Vec<u8>> =
            (0..3).map(|n| layer(&[("big", &noise(n, 200_000)), (&format!("{n}"), "")])).collect();
        let content = image(&layers, Form::Plain);
        let digests: Vec<String> = content.layers.iter().map(|(digest, _)| digest.to_string()).collect();
        let stalling = Registry::start(move |ask| {
            let stalls = digests.iter().any(|digest| ask.path.contains(digest));
            Reply { stalls_after: stalls.then_some(100_000), ..content.answer(ask) }
        })
        .await;
        let (store, reference) = (place.store.clone(), stalling.reference("stalls"));
        let pull = tokio::spawn(async move { store.pull(&reference, None, &Registries::default()).await });
        while !place.store.pulls().iter().any(|status| status.bytes_done >= 200_000) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }

        let others = async {
            let other = Reference::parse("localhost/other:1").unwrap();
            place.store.tag(&present.id.to_string(), &other).await.unwrap();
            place.store.snapshot("container", &present.id).unwrap();
            place.store.pull(&there.reference("present"), None, &Registries::default()).await.unwrap();
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            place.store.remove_snapshot("container").unwrap();
            place.store.remove(&present.id.to_string()).await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(20), others)
            .await
            .expect("others wait for pulls that stand still");
        assert!(!pull.is_finished());
        pull.abort();
        while !place.store.pulls().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}
