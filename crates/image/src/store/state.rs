//! What there is, in memory: every list and look-up is answered from here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Digest, Image, Reference};

use super::db::{ImageRecord, LayerRecord};

/// Fewest digits of an id that are taken for one.
const SHORT_ID: usize = 4;

/// An unpacked layer. It is used as long as somebody besides [`State::layers`] holds it.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) chain: Digest,
    pub(crate) record: LayerRecord,
    /// Directories that take after the layers below, in hex; see [`super::layout::Layout::inherit`].
    pub(crate) implicit: Vec<String>,
    /// It is in the log. One that is not was brought by a pull that has not ended yet, or that was cancelled or killed: the
    /// next pull takes it up.
    recorded: AtomicBool,
}

impl Layer {
    /// A layer that the log has.
    pub(crate) fn recorded(chain: Digest, record: LayerRecord) -> Self {
        Self { chain, record, implicit: Vec::new(), recorded: AtomicBool::new(true) }
    }

    /// A layer that is whole and verified, and that no image has yet.
    pub(crate) fn fresh(chain: Digest, record: LayerRecord, implicit: Vec<String>) -> Self {
        Self { chain, record, implicit, recorded: AtomicBool::new(false) }
    }

    pub(crate) fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Acquire)
    }

    /// The log has it now.
    pub(crate) fn set_recorded(&self) {
        self.recorded.store(true, Ordering::Release);
    }
}

/// An image with what it holds.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) image: Arc<Image>,
    /// Lowest first.
    pub(crate) layers: Vec<Arc<Layer>>,
    pub(crate) blobs: Vec<Digest>,
}

/// A snapshot with what it holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// `None` where the record was lost.
    pub(crate) image: Option<Digest>,
    pub(crate) layers: Vec<Arc<Layer>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) images: BTreeMap<Digest, Stored>,
    pub(crate) layers: HashMap<Digest, Arc<Layer>>,
    pub(crate) snapshots: BTreeMap<String, Held>,
    /// Manifests and configurations of images that are about to be recorded; each as often as somebody is at it.
    pub(crate) coming: Vec<Digest>,
    pub(crate) pins: Pins,
}

/// Which images are pinned: by the settings of this start, whatever is recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pins(Arc<[String]>);

impl Pins {
    /// Says of an image whether it is pinned, by the names that it has now.
    pub(crate) fn apply(&self, image: &mut Image) {
        let mut names = image.repo_tags.iter().chain(&image.repo_digests);
        image.pinned = names.any(|name| self.0.iter().any(|pattern| matches(pattern, name)));
    }
}

/// `name`, `begins*` or `*inside*`.
fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(inside), _) => name.contains(inside.trim_end_matches('*')),
        (None, Some(begin)) => name.starts_with(begin),
        // As short as in a manifest, too.
        (None, None) => {
            let full = Reference::parse(pattern).ok().and_then(|reference| match reference.digest() {
                Some(digest) => Some(reference.repo_digest(digest)),
                None => reference.repo_tag(),
            });
            name == pattern || full.is_some_and(|full| name == full)
        }
    }
}

impl State {
    pub(crate) fn with_pins(patterns: &[String]) -> Self {
        Self { pins: Pins(patterns.into()), ..Self::default() }
    }

    /// By id, by the beginning of an id, by reference.
    pub(crate) fn find(&self, name: &str) -> Option<&Stored> {
        if let Ok(id) = Digest::parse(name) {
            return self.images.get(&id);
        }
        if let Some(id) = Digest::from_hex(name) {
            return self.images.get(&id);
        }
        self.by_reference(name).or_else(|| self.by_short_id(name))
    }

    fn by_reference(&self, name: &str) -> Option<&Stored> {
        let reference = Reference::parse(name).ok()?;
        let wanted = match reference.digest() {
            Some(digest) => reference.repo_digest(digest),
            None => reference.repo_tag()?,
        };
        let has = |stored: &&Stored| {
            stored.image.repo_tags.contains(&wanted) || stored.image.repo_digests.contains(&wanted)
        };
        self.images.values().find(has)
    }

    fn by_short_id(&self, name: &str) -> Option<&Stored> {
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        if digits.len() < SHORT_ID || digits.len() > 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut matching = self.images.values().filter(|stored| stored.image.id.hex().starts_with(digits));
        let first = matching.next()?;
        matching.next().is_none().then_some(first)
    }

    /// Forgets the layers that nobody uses and that `which` says, and returns them.
    pub(crate) fn forget_unused(&mut self, mut which: impl FnMut(&Layer) -> bool) -> Vec<Arc<Layer>> {
        let mut unused = Vec::new();
        self.layers.retain(|_, layer| {
            // The map's own is the only one: nobody else can get another meanwhile, for that takes the map.
            let stays = Arc::strong_count(layer) > 1 || !which(layer);
            if !stays {
                unused.push(Arc::clone(layer));
            }
            stays
        });
        unused
    }

    /// Takes back layers that were forgotten and are there all the same.
    pub(crate) fn remember(&mut self, layers: Vec<Arc<Layer>>) {
        for layer in layers {
            self.layers.entry(layer.chain).or_insert(layer);
        }
    }

    /// These are recorded, or not wanted any more.
    pub(crate) fn came(&mut self, blobs: &[Digest]) {
        for blob in blobs {
            if let Some(at) = self.coming.iter().position(|coming| coming == blob) {
                self.coming.swap_remove(at);
            }
        }
    }

    /// Whether an image has this manifest or configuration, or will have it in a moment.
    pub(crate) fn uses_blob(&self, blob: &Digest) -> bool {
        self.coming.contains(blob) || self.images.values().any(|stored| stored.blobs.contains(blob))
    }

    /// The layers of these chain ids, or `None` when one is missing.
    pub(crate) fn stack(&self, chain: &[Digest]) -> Option<Vec<Arc<Layer>>> {
        chain.iter().map(|id| self.layers.get(id).cloned()).collect()
    }

    /// Puts an image in, or adds names to the one that is there; takes its tags away from others. Returns the records
    /// that changed.
    pub(crate) fn put(&mut self, stored: Stored) -> Vec<ImageRecord> {
        let id = stored.image.id;
        let tags = stored.image.repo_tags.clone();
        let mut merged = match self.images.remove(&id) {
            Some(old) => merge(&old, &stored),
            None => stored,
        };
        self.pins.apply(Arc::make_mut(&mut merged.image));
        let mut changed = vec![record(&merged)];
        self.images.insert(id, merged);
        for (other, stored) in &mut self.images {
            if *other != id && stored.image.repo_tags.iter().any(|tag| tags.contains(tag)) {
                let mut image = Image::clone(&stored.image);
                image.repo_tags.retain(|tag| !tags.contains(tag));
                self.pins.apply(&mut image);
                stored.image = Arc::new(image);
                changed.push(record(stored));
            }
        }
        changed
    }
}

pub(crate) fn record(stored: &Stored) -> ImageRecord {
    ImageRecord {
        image: Image::clone(&stored.image),
        chain: stored.layers.iter().map(|layer| layer.chain).collect(),
        blobs: stored.blobs.clone(),
    }
}

fn merge(old: &Stored, new: &Stored) -> Stored {
    let mut image = Image::clone(&old.image);
    union(&mut image.repo_tags, &new.image.repo_tags);
    union(&mut image.repo_digests, &new.image.repo_digests);
    let mut blobs = old.blobs.clone();
    union(&mut blobs, &new.blobs);
    Stored { image: Arc::new(image), layers: old.layers.clone(), blobs }
}

fn union<T: Clone + Ord>(into: &mut Vec<T>, from: &[T]) {
    into.extend_from_slice(from);
    into.sort();
    into.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(seed: &str, tags: &[&str]) -> Stored {
        let id = Digest::of(seed.as_bytes());
        Stored {
            image: Arc::new(Image {
                id,
                repo_tags: tags.iter().map(ToString::to_string).collect(),
                repo_digests: vec![format!("docker.io/library/x@{id}")],
                size: 1,
                config: crate::ImageConfig::default(),
                pinned: false,
                artifact_type: String::new(),
                created: String::new(),
                stored_at: 0,
            }),
            layers: Vec::new(),
            blobs: vec![id],
        }
    }

    #[test]
    fn images_are_found_by_every_name() {
        let mut state = State::default();
        let stored = image("a", &["docker.io/library/x:latest"]);
        let id = stored.image.id;
        state.put(stored);
        let names = [
            id.to_string(),
            id.hex(),
            id.hex()[..12].to_owned(),
            format!("sha256:{}", &id.hex()[..12]),
            "x".to_owned(),
            "docker.io/library/x:latest".to_owned(),
            format!("x@{id}"),
        ];
        for name in names {
            assert!(state.find(&name).is_some(), "{name}");
        }
        for name in ["y", "x:1", "abc", "", "sha256:", &Digest::of(b"b").to_string()] {
            assert!(state.find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn names_pin_an_image_and_go_with_it() {
        for (pattern, pins) in [
            ("docker.io/library/x:latest", true),
            ("x", true),
            ("x:2", false),
            ("docker.io/lib*", true),
            ("quay.io/*", false),
            ("*ibrary/x*", true),
            ("*other*", false),
            ("", false),
        ] {
            let mut state = State::with_pins(&[pattern.to_owned()]);
            state.put(image("a", &["docker.io/library/x:latest"]));
            assert_eq!(state.find("x").unwrap().image.pinned, pins, "{pattern}");
        }
        let mut state = State::with_pins(&["x:1".to_owned()]);
        state.put(image("a", &["docker.io/library/x:1"]));
        state.put(image("b", &["docker.io/library/x:1"]));
        assert!(state.find("x:1").unwrap().image.pinned);
        assert!(!state.find(&Digest::of(b"a").to_string()).unwrap().image.pinned, "the name has moved");
    }

    #[test]
    fn a_tag_moves_to_the_newer_image() {
        let mut state = State::default();
        state.put(image("a", &["docker.io/library/x:latest", "docker.io/library/x:1"]));
        let changed = state.put(image("b", &["docker.io/library/x:latest"]));
        assert_eq!(changed.len(), 2);
        assert_eq!(state.find("x").unwrap().image.id, Digest::of(b"b"));
        assert_eq!(state.find("x:1").unwrap().image.id, Digest::of(b"a"));
        state.put(image("a", &["docker.io/library/y:latest"]));
        assert_eq!(state.find("y").unwrap().image.repo_tags.len(), 2);
    }
}
