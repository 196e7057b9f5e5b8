//! Hostile and odd layers with the verdict on each. What is outside the layer's directory must be the same afterwards.

#![expect(clippy::disallowed_methods, reason = "layers of the tests")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use tar::{EntryType, Header};
use vaquita_testing::require_root;

use super::*;

#[path = "../../tests/corpus/layer.rs"]
pub(super) mod layer;
#[path = "../../tests/corpus/table.rs"]
pub(super) mod table;

use layer::Layer;

/// A directory to unpack into, with a canary beside it.
struct Place {
    dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Place {
    fn new() -> Self {
        require_root();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("layer/fs")).unwrap();
        let canary = dir.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("file"), "untouched").unwrap();
        std::os::unix::fs::symlink("file", canary.join("link")).unwrap();
        let before = vaquita_testing::tree(&canary);
        Self { dir, before }
    }

    fn layer(&self) -> PathBuf {
        self.dir.path().join("layer/fs")
    }

    /// Makes the layer's directory anew.
    fn empty(&self) {
        fs::remove_dir_all(self.dir.path().join("layer")).unwrap();
        fs::create_dir_all(self.layer()).unwrap();
    }

    fn canary(&self) -> String {
        self.dir.path().join("canary").display().to_string()
    }

    /// Unpacks, and looks at the canary.
    fn unpack(&self, stream: &[u8]) -> Result<Unpacked, Error> {
        self.unpack_with(stream, Limits { bytes: 64 << 20, entries: 10_000 })
    }

    fn unpack_with(&self, stream: &[u8], limits: Limits) -> Result<Unpacked, Error> {
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(stream).unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
        let home = || OwnedFd::from(File::open(self.dir.path().join("layer")).unwrap());
        let result = run(input, home(), limits);
        assert_eq!(
            vaquita_testing::tree(&self.dir.path().join("canary")),
            self.before,
            "the canary was changed"
        );
        if let Ok(unpacked) = &result {
            let replay = Replay::open(home(), limits.bytes).unwrap();
            let mut again = Vec::new();
            replay.write(&mut again).unwrap();
            assert_eq!(Digest::of(&again), unpacked.diff_id, "the stream cannot be made again");
        }
        let _ = fs::remove_dir_all(self.dir.path().join("layer/replaced"));
        result
    }

    fn kind(&self, stream: &[u8]) -> Kind {
        self.unpack(stream).expect_err("unpacked").kind()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.layer().join(name)).unwrap()
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    vaquita_sys::fs::xattr(File::open(path).unwrap(), name, 1024).unwrap()
}

#[test]
fn an_honest_layer_keeps_everything() {
    let place = Place::new();
    let layer = Layer::default()
        .dir("./")
        .dir("bin/")
        .file_of_mode("bin/su", "x", 0o4755)
        .dir("tmp")
        .with(|h| h.set_mode(0o1777))
        .symlink("bin/sh", "/bin/su")
        .hardlink("bin/su2", "bin/su")
        .entry(EntryType::Fifo, b"pipe", b"", b"")
        .entry(EntryType::Char, b"null", b"", b"")
        .with(|h| {
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        })
        .pax(&[("mtime", b"1234.5"), ("SCHILY.xattr.user.a", b"b\0c"), ("uid", b"70000")])
        .file("owned", "content")
        .pax(&[("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0")])
        .file("ping", "")
        .end();
    let unpacked = place.unpack(&layer).unwrap();
    assert_eq!(unpacked.diff_id, Digest::of(&layer));
    assert!(unpacked.implicit.is_empty(), "{:?}", unpacked.implicit);
    let meta = |name: &str| fs::symlink_metadata(place.layer().join(name)).unwrap();
    assert_eq!(meta("bin/su").mode() & 0o7777, 0o4755);
    assert_eq!(meta("bin/su").nlink(), 2);
    assert_eq!(meta("tmp").mode() & 0o7777, 0o1777);
    assert_eq!(fs::read_link(place.layer().join("bin/sh")).unwrap(), Path::new("/bin/su"));
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!(meta("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(
        (meta("owned").mtime(), meta("owned").mtime_nsec(), meta("owned").uid()),
        (1234, 500_000_000, 70_000)
    );
    assert_eq!(xattr(&place.layer().join("owned"), "user.a").as_deref(), Some(&b"b\0c"[..]));
    assert!(xattr(&place.layer().join("ping"), "security.capability").is_some());
    // Times of directories are those of their entries, although files were added later.
    assert_eq!(
        (meta("bin").mtime(), meta("").mtime(), meta("tmp").mtime()),
        (1_000_000, 1_000_000, 1_000_000)
    );
}

/// S4: the table of `docs/security.md`, in this process; `tests/process` has the unpacker's own do it, and all of them.
#[test]
fn every_verdict_holds() {
    let place = Place::new();
    let mut wrong = Vec::new();
    for case in table::cases(&place.canary()) {
        let table::Stream::Bytes(stream) = &case.stream else { continue };
        let (bytes, entries) = case.limits;
        place.empty();
        let result = place.unpack_with(stream, Limits { bytes, entries });
        let verdict = match (result, &case.verdict) {
            (Ok(_), table::Verdict::Unpacked(_, holds)) if holds(&place.layer()) => continue,
            (Err(error), table::Verdict::Refused(words)) if error.to_string().contains(words) => continue,
            (Ok(_), _) => "unpacked".to_owned(),
            (Err(error), _) => {
                error.to_string().chars().rev().take(200).collect::<String>().chars().rev().collect()
            }
        };
        wrong.push(format!("{}\n    is {verdict}", case.line()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_page_has_the_table() {
    let page = include_str!("../../../../docs/security.md");
    let (_, rest) = page.split_once("| a layer with | verdict |\n|---|---|\n").expect("the table's head");
    let there: Vec<&str> = rest.lines().take_while(|line| line.starts_with('|')).collect();
    let lines: Vec<String> = table::cases("/canary").iter().map(table::Case::line).collect();
    assert!(there == lines, "the table in docs/security.md must be:\n{}", lines.join("\n"));
}

/// T40, T41, T42: links that lead out, and what is done through them.
#[test]
fn links_lead_nowhere() {
    let place = Place::new();
    let canary = place.canary();
    let up = "../../../../../../../../../..";
    for target in [canary.clone(), format!("{up}{canary}"), "../canary".to_owned()] {
        let through = Layer::default().symlink("l", &target).file("l/file", "evil").dir("l").end();
        // A directory takes the link's place, or the path is made below the root: both stay inside.
        let _ = place.unpack(&through);
        fs::remove_dir_all(place.layer()).unwrap();
        fs::create_dir(place.layer()).unwrap();
        let over = Layer::default()
            .symlink("f", &format!("{target}/file"))
            .file("f", "evil")
            .symlink("g", &format!("{target}/file"))
            .hardlink("h", "g")
            .file("h", "evil")
            .entry(EntryType::Fifo, b"g", b"", b"")
            .end();
        place.unpack(&over).unwrap();
        assert_eq!((place.read("f"), place.read("h")), ("evil".into(), "evil".into()));
        // chmod and chown through a link.
        let chmod = Layer::default().symlink("d", &target).dir("d").with(|h| h.set_mode(0o777)).end();
        place.unpack(&chmod).unwrap();
        assert!(fs::symlink_metadata(place.layer().join("d")).unwrap().is_dir());
        let hard = Layer::default().hardlink("x", &format!("{target}/file")).end();
        assert_eq!(place.kind(&hard), Kind::Invalid);
        let through = Layer::default().symlink("s", &target).hardlink("y", "s/file").end();
        assert_eq!(place.kind(&through), Kind::Invalid);
        fs::remove_dir_all(place.layer()).unwrap();
        fs::create_dir(place.layer()).unwrap();
    }
    let ring = Layer::default().symlink("a", "b").symlink("b", "a").file("a/x", "").end();
    assert_eq!(place.kind(&ring), Kind::Invalid);
}

#[test]
fn links_inside_are_followed_below_the_root() {
    let place = Place::new();
    let layer = Layer::default()
        .dir("usr")
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .file("lib/a", "1")
        .symlink("abs", "/usr/lib")
        .file("abs/b", "2")
        .symlink("var", "../../run/x")
        .file("var/c", "3")
        .end();
    let unpacked = place.unpack(&layer).unwrap();
    assert_eq!(
        (place.read("usr/lib/a"), place.read("usr/lib/b"), place.read("run/x/c")),
        ("1".into(), "2".into(), "3".into())
    );
    // The root itself, `run` and `run/x` had no entries.
    assert_eq!(unpacked.implicit, ["", "72756e", "72756e2f78"]);
}

/// Maps in extended headers; what GNU tar writes is in tests/api/trees.rs.
#[test]
fn maps_of_sparse_files_hold_together() {
    let place = Place::new();
    let unpack = |records: &[(&str, &str)], content: &str| {
        let records: Vec<(String, &[u8])> =
            records.iter().map(|(name, value)| (format!("GNU.sparse.{name}"), value.as_bytes())).collect();
        let records: Vec<(&str, &[u8])> = records.iter().map(|(name, value)| (&name[..], *value)).collect();
        place.unpack(&Layer::default().pax(&records).file("made-up", content).end())
    };
    let good = [
        ("name", "f"),
        ("major", "0"),
        ("minor", "1"),
        ("size", "9"),
        ("map", "2,1,5,2"),
        ("numblocks", "2"),
    ];
    unpack(&good, "abc").unwrap();
    assert_eq!(place.read("f"), "\0\0a\0\0bc\0\0");
    unpack(&[("name", "all-holes"), ("size", "4"), ("map", "")], "").unwrap();
    assert_eq!(place.read("all-holes"), "\0\0\0\0");
    let in_content = |map: &str, content: &str| format!("{map:\0<512}{content}");
    let one = [("major", "1"), ("minor", "0"), ("realsize", "5"), ("name", "g")];
    unpack(&one, &in_content("1\n3\n2\n", "xy")).unwrap();
    assert_eq!(place.read("g"), "\0\0\0xy");
    let wrong: &[(&[(&str, &str)], &str)] = &[
        (&[("size", "9"), ("map", "2,1,5")], "abc"),
        (&[("size", "9"), ("map", "5,2,2,1")], "abc"),
        (&[("size", "9"), ("map", "2,2,3,1")], "abc"),
        (&[("size", "9"), ("map", "2,1,8,2")], "abc"),
        (&[("size", "9"), ("map", "2,1")], "abc"),
        (&[("size", "9"), ("map", "2,-1,5,4")], "abc"),
        (&[("size", "9"), ("map", "2,1,5,2"), ("numblocks", "3")], "abc"),
        (&[("size", "9"), ("map", "0,9223372036854775807,9223372036854775807,1")], "abc"),
        (&[("map", "0,3")], "abc"),
        (&[("size", "9"), ("offset", "0"), ("offset", "3"), ("numbytes", "3")], "abc"),
        (&[("size", "9"), ("numbytes", "3"), ("offset", "0")], "abc"),
        (&[("size", "3"), ("name", "f")], "abc"),
        (&[("major", "1"), ("minor", "0"), ("realsize", "5")], "1\n3\n2\n"),
        (&[("major", "1"), ("minor", "0"), ("realsize", "5")], &in_content("9223372036854775807\n", "")),
        (
            &[("major", "1"), ("minor", "0"), ("realsize", "5")],
            &in_content("000000000000000000000000001\n0\n0\n", ""),
        ),
        (&[("major", "1"), ("minor", "0"), ("realsize", "5")], &in_content("x\n", "")),
    ];
    for (records, content) in wrong {
        assert_eq!(unpack(records, content).unwrap_err().kind(), Kind::Corrupt, "{records:?}");
    }
    assert_eq!(unpack(&[("major", "2"), ("size", "3")], "abc").unwrap_err().kind(), Kind::Unsupported);
    let link = Layer::default().pax(&[("GNU.sparse.name", b"f")]).symlink("l", "t").end();
    assert_eq!(place.kind(&link), Kind::Corrupt);
}

#[test]
fn malformed_entries_are_refused() {
    let place = Place::new();
    let invalid = [
        Layer::default().file("../x", "").end(),
        Layer::default().file("a/../../x", "").end(),
        Layer::default().file("", "").end(),
        Layer::default().file(".wh.", "").end(),
        Layer::default().file(".wh...", "").end(),
        Layer::default().file("f", "").file("f/x", "").end(),
        Layer::default().symlink("l", "").end(),
        Layer::default().dir("d").hardlink("h", "d").end(),
        Layer::default().hardlink("h", "missing").end(),
        Layer::default().hardlink("h", "../x").end(),
        Layer::default().entry(EntryType::new(b'Z'), b"z", b"", b"").end(),
        Layer::default().pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")]).file("f", "").end(),
        Layer::default().pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")]).file("f", "").end(),
        Layer::default().pax(&[("SCHILY.xattr.user.big", &[b'x'; 70_000])]).file("f", "").end(),
        Layer::default().pax(&[("path", "x/".repeat(2100).as_bytes())]).file("f", "").end(),
        Layer::default().pax(&[("uid", b"4294967296")]).file("f", "").end(),
        Layer::default().pax(&[("uid", b"-1")]).file("f", "").end(),
        Layer::default().pax(&[("mtime", b"never")]).file("f", "").end(),
    ];
    for (number, layer) in invalid.iter().enumerate() {
        assert_eq!(place.kind(layer), Kind::Invalid, "layer {number}");
    }
    let mut flipped = Layer::default().file("f", "x").end();
    flipped[3] ^= 1;
    assert_eq!(place.kind(&flipped), Kind::Corrupt);
    assert_eq!(place.kind(&Layer::default().file("f", "content").end()[..514]), Kind::Corrupt);
    assert_eq!(place.kind(b"not a tar at all, but text of some length"), Kind::Corrupt);
}

#[test]
fn bounds_hold() {
    let place = Place::new();
    let small = Limits { bytes: 10_000, entries: 10 };
    let big = Layer::default().file("f", &"x".repeat(20_000)).end();
    assert_eq!(place.unpack_with(&big, small).unwrap_err().kind(), Kind::Invalid);
    // A size that is a lie, without the content.
    let lie = Layer::default().file("f", "").with(|h| h.set_size(1 << 40)).end();
    assert_eq!(place.kind(&lie), Kind::Invalid);
    let many = (0..11).fold(Layer::default(), |layer, n| layer.file(&n.to_string(), "")).end();
    assert_eq!(place.unpack_with(&many, small).unwrap_err().kind(), Kind::Invalid);
    let name = vec![b'n'; 3 << 20];
    let mut gnu =
        Layer::default().entry(EntryType::GNULongName, b"././@LongLink", b"", &name).file("f", "").end();
    gnu[257..265].copy_from_slice(b"ustar  \0");
    let mut header = Header::new_old();
    header.as_mut_bytes().copy_from_slice(&gnu[..512]);
    header.set_cksum();
    gnu[..512].copy_from_slice(header.as_bytes());
    assert_eq!(place.kind(&gnu), Kind::Corrupt);
    // 64 MiB of zeros in 64 KiB: stopped at the limit.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![0; 80 << 20]).unwrap();
    assert_eq!(place.kind(&bomb.finish().unwrap()), Kind::Invalid);
}

/// T44: whatever is cut off or garbled ends with an error.
#[test]
fn broken_compression_is_an_error() {
    let place = Place::new();
    let layer = Layer::default().file("f", &"text ".repeat(10_000)).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&layer).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&layer[..], 3).unwrap();
    for good in [&gzip, &zstd] {
        assert_eq!(place.unpack(good).unwrap().diff_id, Digest::of(&layer));
        for cut in [5, good.len() / 2, good.len() - 1] {
            assert_eq!(place.kind(&good[..cut]), Kind::Corrupt, "cut at {cut}");
        }
        let mut garbled = good.clone();
        let middle = garbled.len() / 2;
        garbled[middle..].iter_mut().for_each(|b| *b ^= 0x5a);
        assert_eq!(place.kind(&garbled), Kind::Corrupt);
    }
    // Members and frames one after another are one stream.
    let (one, rest) = layer.split_at(700);
    let members: Vec<u8> = [one, rest]
        .iter()
        .flat_map(|part| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap()
        })
        .collect();
    assert_eq!(place.unpack(&members).unwrap().diff_id, Digest::of(&layer));
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &zstd].concat();
    assert_eq!(place.unpack(&skippable).unwrap().diff_id, Digest::of(&layer));
    // A window of 2 GiB.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    assert_eq!(place.kind(&window), Kind::Corrupt);
    assert_eq!(place.kind(b"\xfd7zXZ\0\0"), Kind::Unsupported);
    assert_eq!(place.kind(b"BZh91AY"), Kind::Unsupported);
    // No bytes at all are a layer of nothing.
    assert_eq!(place.unpack(b"").unwrap().inodes, 0);
}

#[test]
fn whiteouts_take_the_form_of_overlayfs() {
    let place = Place::new();
    let layer = Layer::default()
        .file("a/.wh.gone", "")
        .file("b/.wh..wh..opq", "")
        .file("b/new", "")
        .file(".wh.dir", "")
        .dir("dir")
        .dir("later")
        .file(".wh.later", "")
        .file("kept", "x")
        .file(".wh.kept", "")
        .file(".wh..wh.plnk/1.2", "")
        .end();
    place.unpack(&layer).unwrap();
    let gone = fs::symlink_metadata(place.layer().join("a/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |name: &str| xattr(&place.layer().join(name), "trusted.overlay.opaque").is_some();
    assert!(opaque("b") && opaque("dir") && opaque("later") && !opaque("a"));
    assert_eq!(place.read("kept"), "x");
    assert_eq!(fs::read_dir(place.layer()).unwrap().count(), 5);
    let root = Layer::default().file(".wh..wh..opq", "").end();
    place.unpack(&root).unwrap();
    assert!(opaque(""));
}

/// Some builders name everything that a directory had, when they put something else in its place.
#[test]
fn what_is_below_a_file_need_not_be_deleted() {
    let place = Place::new();
    let layer = Layer::default()
        .file("file", "x")
        .file("file/.wh.one", "")
        .file("file/.wh..wh..opq", "")
        .file("file/deep/.wh.two", "")
        .file(".wh.gone", "")
        .file("gone/.wh.three", "")
        .dir("dir")
        .symlink("link", "dir")
        .file("link/.wh.four", "")
        .end();
    place.unpack(&layer).unwrap();
    assert_eq!(place.read("file"), "x");
    for gone in ["gone", "dir/four"] {
        assert!(
            fs::symlink_metadata(place.layer().join(gone)).unwrap().file_type().is_char_device(),
            "{gone}"
        );
    }
    assert_eq!(fs::read_dir(place.layer()).unwrap().count(), 4);
}

#[test]
fn a_name_may_come_again_as_something_else() {
    let place = Place::new();
    let layer = Layer::default()
        .dir("x")
        .dir("x/deep")
        .file("x/deep/file", "1")
        .file("x", "now a file")
        .dir("x")
        .file("x/again", "2")
        .symlink("x/again", "elsewhere")
        .file("x/again", "3")
        .hardlink("x/again", "x/again")
        .end();
    place.unpack(&layer).unwrap();
    assert_eq!(place.read("x/again"), "3");
    assert!(!place.layer().join("x/deep").exists());
}

#[test]
fn odd_names_are_kept() {
    let place = Place::new();
    let layer = Layer::default()
        .entry(EntryType::Regular, b"new\nline", b"", b"1")
        .entry(EntryType::Regular, b"\xff\xfe", b"", b"2")
        .file("/absolute", "3")
        .file("old-directory/", "")
        .file("blank", "")
        .with(|h| h.as_mut_bytes()[100..124].fill(0))
        .symlink("etc", "/etc")
        .symlink("proc", "/proc/self/root")
        .pax(&[("path", "long/".repeat(40).as_bytes())])
        .dir("x")
        .end();
    place.unpack(&layer).unwrap();
    assert_eq!((place.read("new\nline"), place.read("absolute")), ("1".into(), "3".into()));
    assert!(place.layer().join("old-directory").is_dir());
    assert!(place.layer().join("long/".repeat(40)).is_dir());
}

/// T43: the size in an extended header wins, as with GNU tar; what is hidden in the content stays content.
#[test]
fn the_extended_size_wins() {
    let place = Place::new();
    let hidden = Layer::default().file("hidden", "evil").0;
    let layer = Layer::default()
        .pax(&[("size", hidden.len().to_string().as_bytes())])
        .file("f", "")
        .pad(&hidden)
        .file("after", "1")
        .end();
    place.unpack(&layer).unwrap();
    assert_eq!(fs::metadata(place.layer().join("f")).unwrap().len(), hidden.len() as u64);
    assert!(!place.layer().join("hidden").exists());
    assert_eq!(place.read("after"), "1");
}

#[test]
fn deep_trees_are_made_and_removed() {
    let place = Place::new();
    let path = "d/".repeat(2000);
    let layer = Layer::default().pax(&[("path", path.as_bytes())]).dir("x").end();
    place.unpack(&layer).unwrap();
    let over = Layer::default().file("d", "").end();
    place.unpack(&over).unwrap();
    assert_eq!(fs::metadata(place.layer().join("d")).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(place.layer()).unwrap().count(), 1);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Any sequence of entries over a few names ends, and stays inside.
    #[test]
    fn any_sequence_stays_inside(steps in proptest::collection::vec((0..7_u8, 0..6_usize, 0..8_usize), 0..24)) {
        let place = Place::new();
        let canary = place.canary();
        let names = ["a", "b", "a/b", "a/b/c", "b/a", "a/.wh.b"];
        let targets = ["a", "b", "../canary", "/", "a/b", &canary, "..", "../../../../../../.."];
        let mut layer = Layer::default();
        for (kind, name, target) in steps {
            let (name, target) = (names[name], targets[target]);
            layer = match kind {
                0 | 1 => layer.file(name, "x"),
                2 => layer.dir(name),
                3 | 4 => layer.symlink(name, target),
                5 => layer.hardlink(name, target),
                _ => layer.entry(EntryType::Fifo, name.as_bytes(), b"", b""),
            };
        }
        let _ = place.unpack(&layer.end());
    }
}
