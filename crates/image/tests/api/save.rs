//! Images that are written as an archive: the same bytes, or an error.

use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use vaquita_image::{Image, Kind};

use crate::content::{Form, image, layer, noise};
use crate::registry::Registry;
use crate::{Place, impatient};

async fn saved(place: &Place, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let archive = place.store.save(&names).await.unwrap();
    let mut bytes = Vec::new();
    archive.write(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, archive.size());
    bytes
}

async fn loaded(archive: &[u8]) -> (Place, Vec<Image>) {
    let place = Place::new();
    let images = place.store.load(Cursor::new(archive.to_vec()), |_| {}).await.unwrap();
    (place, images)
}

fn tar(dir: &Path, args: &[&str]) {
    let status = Command::new("tar").current_dir(dir).args(args).status().unwrap();
    assert!(status.success(), "tar {args:?}");
}

/// Layers as GNU tar writes them, with everything that is easily lost.
fn odd_layers() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("d/e")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
    write("d/file", &noise(1, 70_000));
    write("d/empty", "");
    write(&format!("d/e/{}", "n".repeat(200)), "a long name");
    write("twice", "first");
    std::fs::hard_link(root.join("d/file"), root.join("link")).unwrap();
    std::os::unix::fs::symlink("d", root.join("s")).unwrap();
    rustix::fs::lsetxattr(root.join("twice"), "user.colour", b"green", rustix::fs::XattrFlags::empty())
        .unwrap();
    let holes = std::fs::File::create(root.join("holes")).unwrap();
    std::os::unix::fs::FileExt::write_at(&holes, b"one", 100_000).unwrap();
    std::os::unix::fs::FileExt::write_at(&holes, b"two", 900_000).unwrap();
    holes.set_len(1_000_000).unwrap();
    tar(dir.path(), &["--format=pax", "--xattrs", "--exclude=holes", "-cf", "pax.tar", "-C", "root", "."]);
    tar(dir.path(), &["--format=gnu", "-S", "-cf", "gnu.tar", "-C", "root", "."]);
    // The same names again, and files below a name that was a file.
    write("twice", "second");
    write("d/file", &noise(2, 5_000));
    tar(dir.path(), &["--format=gnu", "-rf", "gnu.tar", "-C", "root", "twice", "d"]);
    std::fs::remove_file(root.join("twice")).unwrap();
    std::fs::create_dir(root.join("twice")).unwrap();
    write("twice/below", "third");
    tar(dir.path(), &["--format=gnu", "-rf", "gnu.tar", "-C", "root", "./twice"]);
    std::fs::remove_dir_all(root.join("d")).unwrap();
    write("d", "fourth");
    tar(dir.path(), &["--format=gnu", "-rf", "gnu.tar", "-C", "root", "d"]);
    let mut unusual = layer(&[("plain", "x"), (".wh.twice", ""), ("dir/.wh..wh..opq", "")]);
    unusual.extend_from_slice(b"what nobody reads, behind the end");
    vec![
        std::fs::read(dir.path().join("pax.tar")).unwrap(),
        std::fs::read(dir.path().join("gnu.tar")).unwrap(),
        unusual,
        layer(&[]),
    ]
}

#[tokio::test]
async fn an_image_keeps_its_id() {
    let layers = odd_layers();
    for form in [Form::Gzip, Form::Plain, Form::Zstd] {
        let content = image(&layers, form);
        let registry = Registry::of(content.clone()).await;
        let place = Place::new();
        let reference = registry.reference("latest");
        let pulled = place.store.pull(&reference, None, &impatient()).await.unwrap();
        let bytes = saved(&place, &[&reference.to_string()]).await;
        let (second, images) = loaded(&bytes).await;
        assert_eq!((images[0].id, &images[0].repo_tags), (pulled.id, &pulled.repo_tags), "{form:?}");
        assert_eq!(
            saved(&second, &[&reference.to_string()]).await,
            bytes,
            "{form:?}: the archive is another"
        );
        for layer in &layers {
            let at = bytes.windows(layer.len()).any(|window| window == &layer[..]);
            assert!(at, "{form:?}: a layer is not in the archive as it was");
        }
    }
}

#[tokio::test]
async fn several_images_share_their_layers_and_keep_their_names() {
    let place = Place::new();
    let base = layer(&[("base", &noise(3, 100_000))]);
    let one = Registry::of(image(&[base.clone(), layer(&[("one", "1")])], Form::Gzip)).await;
    let two = Registry::of(image(&[base, layer(&[("two", "2")])], Form::Gzip)).await;
    let first = place.store.pull(&one.reference("a"), None, &impatient()).await.unwrap();
    place.store.pull(&two.reference("b"), None, &impatient()).await.unwrap();
    let tag = |name: &str| vaquita_image::Reference::parse(name).unwrap();
    place.store.tag(&first.id.to_string(), &tag("local/a:1")).await.unwrap();
    place.store.tag(&first.id.to_string(), &tag("local/a:2")).await.unwrap();
    let id = two.reference("b").to_string();
    let id = place.store.find(&id).unwrap().id.hex();
    let bytes = saved(&place, &["local/a:1", "local/a:2", &id[..12]]).await;
    assert!(bytes.len() < 150_000, "the base is there twice");
    let (_second, mut images) = loaded(&bytes).await;
    images.sort_by_key(|image| image.repo_tags.len());
    let names: Vec<&[String]> = images.iter().map(|image| &image.repo_tags[..]).collect();
    assert!(names[0].is_empty(), "{names:?}: asked for by id");
    let all: Vec<&str> = images.iter().flat_map(|image| &image.repo_tags).map(String::as_str).collect();
    assert!(all.contains(&"docker.io/local/a:1") && all.contains(&"docker.io/local/a:2"), "{all:?}");
    let error = place.store.save(&["local/none".into()]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_tree_that_was_changed_is_not_saved() {
    let files = [("a", "one"), ("b", "two"), ("d/", "")];
    type Change = fn(&Path);
    let changes: [(&str, Change); 5] = [
        ("other bytes", |fs| std::fs::write(fs.join("a"), "ONE").unwrap()),
        ("cut off", |fs| std::fs::write(fs.join("a"), "o").unwrap()),
        ("gone", |fs| std::fs::remove_file(fs.join("b")).unwrap()),
        ("leads out", |fs| {
            std::fs::remove_file(fs.join("b")).unwrap();
            std::os::unix::fs::symlink("/etc/hostname", fs.join("b")).unwrap();
        }),
        ("recipe", |fs| {
            let path = fs.parent().unwrap().join("recipe");
            let length = std::fs::metadata(&path).unwrap().len();
            std::fs::File::options().write(true).open(path).unwrap().set_len(length - 4).unwrap();
        }),
    ];
    for (name, change) in changes {
        let place = Place::new();
        let registry = Registry::of(image(&[layer(&files)], Form::Gzip)).await;
        let reference = registry.reference("latest");
        place.store.pull(&reference, None, &impatient()).await.unwrap();
        change(&place.dir.path().join("images/layers/1/fs"));
        let mut bytes = Vec::new();
        let written = match place.store.save(&[reference.to_string()]).await {
            Ok(archive) => archive.write(&mut bytes),
            Err(error) => Err(error),
        };
        let error = written.expect_err(name);
        assert_eq!(error.kind(), Kind::Corrupt, "{name}: {error}");
        let (second, rest) = (Place::new(), Cursor::new(bytes));
        assert!(second.store.load(rest, |_| {}).await.is_err(), "{name}: half an archive was taken");
    }
}

#[tokio::test]
async fn a_layer_without_a_recipe_says_so() {
    let place = Place::new();
    let registry = Registry::of(image(&[layer(&[("a", "1")])], Form::Gzip)).await;
    let reference = registry.reference("latest");
    place.store.pull(&reference, None, &impatient()).await.unwrap();
    let recipe = place.dir.path().join("images/layers/1/recipe");
    std::fs::write(&recipe, "").unwrap();
    let error = place.store.save(&[reference.to_string()]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    std::fs::remove_file(&recipe).unwrap();
    let error = place.store.save(&[reference.to_string()]).await.unwrap_err();
    assert!(error.to_string().contains("older version"), "{error}");
}
