//! A transaction log that is not what was written.

use vaquita_image::{Kind, Store};

use crate::content::{Form, image, layer, noise};
use crate::registry::Registry;
use crate::{Place, impatient, options, read};

/// Pseudo-random numbers, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// However the log is torn: what opens is a state that was recorded, or a new log beside layers and containers that are still there.
#[tokio::test]
async fn a_damaged_log_costs_no_layer_and_no_container() {
    let place = Place::new();
    let content = image(&[layer(&[("a", "1")]), layer(&[("b", &noise(4, 100_000))])], Form::Gzip);
    let registry = Registry::of(content.clone()).await;
    let reference = registry.reference("a");
    let pulled = place.store.pull(&reference, None, &impatient()).await.unwrap();
    place.store.snapshot("c", &pulled.id).unwrap();
    let Place { dir, store } = place;
    let states = [store.list(), Vec::new()];
    drop(store);
    let images = dir.path().join("images");
    let log = images.join("store.redb");
    let whole = std::fs::read(&log).unwrap();
    let mut numbers = Numbers(7);
    let (mut as_before, mut anew) = (0, 0);
    for round in 0..40 {
        let mut bytes = whole.clone();
        match round % 4 {
            0 => bytes.truncate(numbers.below(whole.len())),
            // Where it is in use; the rest of the file is empty.
            1 => (0..20).for_each(|_| bytes[numbers.below(65_536)] ^= 0x55),
            2 => {
                let at = numbers.below(65_536 - 4096);
                bytes[at..at + 4096].fill(0);
            }
            _ => {
                let at = numbers.below(65_536);
                bytes[at] = bytes[at].wrapping_add(1);
            }
        }
        std::fs::write(&log, &bytes).unwrap();
        let _ = std::fs::remove_file(log.with_extension("redb.damaged"));
        let store = Store::open(&images, options()).unwrap();
        let found = store.list();
        assert!(states.contains(&found), "round {round}: {found:?}");
        if found.is_empty() {
            anew += 1;
            assert!(log.with_extension("redb.damaged").metadata().is_ok(), "round {round}");
        } else {
            as_before += 1;
        }
        let root = store.open_snapshot("c").unwrap().mount(false).unwrap();
        assert_eq!((read(&root, "a").as_str(), read(&root, "b").len()), ("1", 100_000), "round {round}");
        drop(root);
        let asked =
            || content.layers.iter().map(|(digest, _)| registry.count(&digest.to_string())).sum::<usize>();
        assert_eq!(store.pull(&reference, None, &impatient()).await.unwrap().id, pulled.id);
        assert_eq!(asked(), 2, "round {round}: the layers are there");
        drop(store);
        assert_eq!(Store::open(&images, options()).unwrap().list().len(), 1);
    }
    assert!(as_before > 5 && anew > 5, "{as_before} {anew}");
}

#[tokio::test]
async fn a_layer_whose_directory_has_gone_takes_its_images_along() {
    let place = Place::new();
    let base = layer(&[("a", "1")]);
    let one = Registry::of(image(&[base.clone(), layer(&[("b", "2")])], Form::Gzip)).await;
    let two = Registry::of(image(&[base], Form::Gzip)).await;
    place.store.pull(&two.reference("two"), None, &impatient()).await.unwrap();
    let pulled = place.store.pull(&one.reference("one"), None, &impatient()).await.unwrap();
    assert_eq!(place.names("layers"), ["1", "2"]);
    std::fs::remove_dir_all(place.dir.path().join("images/layers/2")).unwrap();
    let place = place.reopen();
    let left: Vec<String> = place.store.list().iter().flat_map(|image| image.repo_tags.clone()).collect();
    assert_eq!(left, [two.reference("two").to_string()]);
    assert_eq!(place.store.snapshot("c", &pulled.id).unwrap_err().kind(), Kind::NotFound);
    place.store.pull(&one.reference("one"), None, &impatient()).await.unwrap();
    assert_eq!(place.reopen().store.list().len(), 2);
}
