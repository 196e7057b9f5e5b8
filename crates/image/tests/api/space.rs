//! What the store takes on the disk.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use vaquita_image::Registries;

use crate::content::{Form, image, layer, noise};
use crate::registry::{Registry, Reply};
use crate::{Place, impatient};

/// As du(1) has it at every moment: with xattrs, holes, links, directories that grew, and what comes in.
#[tokio::test]
async fn figures_are_exact() {
    let place = Place::new();
    let exact = |when: &str| {
        let info = place.store.fs_info().unwrap();
        assert_eq!(info.used_bytes, place.du(), "{when}");
        info
    };
    let empty = exact("empty");
    let mut files: Vec<(String, String)> =
        (0..500).map(|n| (format!("dir/{n:0>100}"), "x".repeat(n))).collect();
    files.push(("big".into(), noise(1, 700_001)));
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&name[..], &text[..])).collect();
    let content = image(&[layer(&files), rich_layer(), layer(&[("top", &noise(2, 900_000))])], Form::Gzip);
    let top = content.layers[2].0.to_string();
    let slow = content.clone();
    let registry = Registry::start(move |ask| {
        let stalls = ask.path.contains(&top);
        Reply { stalls_after: stalls.then_some(400_000), ..slow.answer(ask) }
    })
    .await;
    let reference = registry.reference("a");
    let patient = Registries::default();
    let whole = content.layers[0].1.len() + content.layers[1].1.len() + 400_000;
    let during = tokio::select! {
        result = place.store.pull(&reference, None, &patient) => panic!("{result:?}"),
        during = async {
            while place.store.pulls().first().is_none_or(|pull| {
                (pull.layers_done, pull.bytes_done) != (2, whole as u64)
            }) || place.names("partial").len() != 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // The unpacker of the third layer may still be writing.
            loop {
                let (before, info, after) = (place.du(), place.store.fs_info().unwrap(), place.du());
                if before == after {
                    assert_eq!(info.used_bytes, before, "during a pull");
                    break info;
                }
            }
        } => during,
    };
    let grown = during.used_bytes - empty.used_bytes;
    assert!(grown > 700_000 + 2 * 400_000, "layers, what is unpacked, and what has come in: {grown}");
    assert!(during.inodes_used > empty.inodes_used + 500);
    while place.names("layers").len() > 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    exact("cancelled");
    let registry = Registry::of(content).await;
    let pulled = place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
    let there = exact("there");
    place.store.snapshot("c", &pulled.id).unwrap();
    std::fs::write(place.dir.path().join("images/snapshots/c/upper/x"), noise(1, 10_000)).unwrap();
    assert_eq!(exact("with a snapshot").used_bytes, there.used_bytes);
    let usage = place.store.usage("c").unwrap();
    // A directory takes a block of ext4, and nothing of a tmpfs.
    let upper = std::fs::metadata(place.dir.path().join("images/snapshots/c/upper")).unwrap().blocks() * 512;
    assert_eq!((usage.bytes, usage.inodes), (upper + 12288, 2));
    place.store.remove_snapshot("c").unwrap();
    let log = || {
        std::os::unix::fs::MetadataExt::blocks(
            &place.dir.path().join("images/store.redb").metadata().unwrap(),
        ) * 512
    };
    let log_before = log();
    let freed = place.store.remove(&pulled.id.to_string()).await.unwrap();
    let after = exact("removed");
    let less = there.used_bytes - log_before - (after.used_bytes - log());
    assert_eq!(less, freed.bytes, "what was freed is what is free");
    let place = place.reopen();
    assert_eq!(place.store.fs_info().unwrap().used_bytes, place.du());
}

/// Extended attributes that take a block of their own, a hard link, a link whose target takes a block, a replaced file.
fn rich_layer() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |kind, size| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header
    };
    let value = "v".repeat(1500);
    archive.append_pax_extensions([("SCHILY.xattr.user.name", value.as_bytes())]).unwrap();
    archive.append_data(&mut header(tar::EntryType::Regular, 1), "attributes", &b"x"[..]).unwrap();
    archive.append_link(&mut header(tar::EntryType::Link, 0), "linked", "attributes").unwrap();
    archive.append_link(&mut header(tar::EntryType::Symlink, 0), "long", "/t".repeat(40)).unwrap();
    for text in [&[b'1'; 5000][..], b"2"] {
        let size = text.len() as u64;
        archive.append_data(&mut header(tar::EntryType::Regular, size), "twice", text).unwrap();
    }
    archive.into_inner().unwrap()
}
