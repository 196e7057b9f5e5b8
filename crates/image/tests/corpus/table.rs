//! Layers that mean harm, and the verdict on each: `docs/security.md` has the same table.
#![allow(dead_code, reason = "each test that includes it uses a part")]
#![allow(clippy::too_many_lines, reason = "a table")]

use std::io::Write;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use tar::EntryType;

use super::layer::Layer;

/// A layer and what becomes of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) stream: Stream,
    /// Most bytes and entries that it may have.
    pub(crate) limits: (u64, u64),
    pub(crate) verdict: Verdict,
}

pub(crate) enum Stream {
    Bytes(Vec<u8>),
    /// Too much to keep in memory.
    Written(fn(&mut dyn Write) -> std::io::Result<()>),
}

pub(crate) enum Verdict {
    /// It is unpacked: what that means, and whether it is so below this directory.
    Unpacked(&'static str, fn(&Path) -> bool),
    /// It is refused, in these words among others.
    Refused(&'static str),
}

use Stream::{Bytes, Written};
use Verdict::{Refused, Unpacked};

const LIMITS: (u64, u64) = (64 << 20, 10_000);

impl Case {
    fn new(name: &'static str, stream: Vec<u8>, verdict: Verdict) -> Self {
        Self { name, stream: Bytes(stream), limits: LIMITS, verdict }
    }

    /// Its line of the table.
    pub(crate) fn line(&self) -> String {
        let verdict = match self.verdict {
            Unpacked(what, _) => format!("unpacked: {what}"),
            Refused(words) => format!("refused: \"{words}\""),
        };
        format!("| {} | {verdict} |", self.name)
    }
}

/// All cases; `canary` is a directory outside, with `file` in it.
pub(crate) fn cases(canary: &str) -> Vec<Case> {
    [
        names(),
        links(canary),
        whiteouts(canary),
        kinds(),
        attributes(),
        numbers(),
        sizes(),
        sparse(),
        compressed(),
        many(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn new() -> Layer {
    Layer::default()
}

fn text(path: std::path::PathBuf) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn names() -> Vec<Case> {
    let case = Case::new;
    let raw = |name: &[u8]| new().entry(EntryType::Regular, name, b"", b"x").end();
    let pax = |name: &[u8]| new().pax(&[("path", name)]).file("f", "").end();
    vec![
        case(
            "an absolute name",
            raw(b"/etc/passwd"),
            Unpacked("below the layer's root", |fs| text(fs.join("etc/passwd")) == "x"),
        ),
        case("`..` at the beginning", raw(b"../x"), Refused("the path contains \"..\"")),
        case("`..` in the middle", raw(b"a/../../x"), Refused("the path contains \"..\"")),
        case("`..` that stays inside", raw(b"a/../x"), Refused("the path contains \"..\"")),
        case("no name", raw(b""), Refused("the root is not a directory")),
        case(
            "a newline, no UTF-8",
            raw(b"a\n\xff"),
            Unpacked("with that name", |fs| {
                std::fs::exists(
                    fs.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a\n\xff")),
                )
                .unwrap()
            }),
        ),
        case("a NUL byte in an extended name", pax(b"a\0b"), Refused("contains a NUL byte")),
        case("a name of 4096 bytes", pax("x/".repeat(2048).as_bytes()), Refused("longer than 4095 bytes")),
        case("a component of 256 bytes", pax(&[b'x'; 256]), Refused("a component is longer than 255 bytes")),
        case(
            "a name of 3 MiB",
            new()
                .entry(EntryType::GNULongName, b"././@LongLink", b"", &vec![b'n'; 3 << 20])
                .file("f", "")
                .end(),
            Refused("larger than 1 MiB"),
        ),
        case(
            "a long name of either kind",
            new()
                .entry(EntryType::GNULongName, b"././@LongLink", b"", b"a\0")
                .pax(&[("path", b"b")])
                .file("f", "")
                .end(),
            Refused("two long names"),
        ),
        case(
            "directories 100,000 deep",
            pax("d/".repeat(100_000).as_bytes()),
            Refused("longer than 4095 bytes"),
        ),
        case(
            "deeper than a path may be, by a link",
            new()
                .pax(&[("path", "d/".repeat(2000).as_bytes())])
                .dir("d")
                .pax(&[("linkpath", "d/".repeat(2000).as_bytes())])
                .symlink("l", "x")
                .pax(&[("path", format!("l/{}", "d/".repeat(100)).as_bytes())])
                .dir("d")
                .end(),
            Refused("longer than 4095 bytes"),
        ),
        case(
            "a file used as a directory",
            new().file("f", "").file("f/x", "").end(),
            Refused("used as a directory"),
        ),
    ]
}

fn links(canary: &str) -> Vec<Case> {
    let case = Case::new;
    let up = format!("{}{canary}", "../".repeat(20));
    let through = |target: &str| new().symlink("l", target).file("l/file", "evil").end();
    let stays = "the path is made below the layer's root";
    let deep = "d/".repeat(1000);
    let bomb = (0..400).fold(
        new()
            .pax(&[("path", deep.as_bytes())])
            .dir("d")
            .pax(&[("linkpath", deep.as_bytes())])
            .symlink("l", "x"),
        |layer, n| {
            layer.file(&format!("l/{}", n % 2), "").file(&format!("a{n}/b"), "").file("a0", "").dir("a0")
        },
    );
    vec![
        case(
            "a link out, then a file through it",
            through(canary),
            Unpacked(stays, |fs| fs.join("l").is_symlink()),
        ),
        case("the same, by `..`", through(&up), Unpacked(stays, |fs| fs.join("l").is_symlink())),
        case(
            "a link out, then a file in its place",
            new().symlink("f", &format!("{canary}/file")).file("f", "evil").end(),
            Unpacked("the file replaces the link", |fs| text(fs.join("f")) == "evil"),
        ),
        case(
            "a link out, then a directory in its place with another mode (T40)",
            new().symlink("d", canary).dir("d").with(|h| h.set_mode(0o777)).end(),
            Unpacked("the directory replaces the link", |fs| {
                fs.join("d").symlink_metadata().unwrap().is_dir()
            }),
        ),
        case(
            "a link that is exchanged between entries (T41)",
            new()
                .dir("d")
                .file("d/a", "")
                .symlink("d", canary)
                .file("d/file", "evil")
                .dir("d")
                .file("d/b", "")
                .end(),
            Unpacked("every entry is put where the path leads then, below the root", |fs| {
                fs.join("d/b").exists()
            }),
        ),
        case(
            "a hard link to a file outside (T42)",
            new().hardlink("x", &format!("{canary}/file")).end(),
            Refused("is not in this layer"),
        ),
        case(
            "a hard link to a file outside, by a link",
            new().symlink("s", canary).hardlink("y", "s/file").end(),
            Refused("is not in this layer"),
        ),
        case(
            "a hard link with `..`",
            new().hardlink("y", "../canary/file").end(),
            Refused("the path contains \"..\""),
        ),
        case(
            "a hard link to a file of a layer below",
            new().hardlink("y", "etc/passwd").end(),
            Refused("is not in this layer"),
        ),
        case(
            "a hard link to a link out, then a file in its place",
            new().symlink("s", &format!("{canary}/file")).hardlink("h", "s").file("h", "evil").end(),
            Unpacked("links are linked, not followed", |fs| {
                fs.join("s").is_symlink() && text(fs.join("h")) == "evil"
            }),
        ),
        case(
            "a hard link to a directory",
            new().dir("d").hardlink("h", "d").end(),
            Refused("a hard link to the directory"),
        ),
        case(
            "a hard link to itself",
            new().file("f", "x").hardlink("f", "f").end(),
            Unpacked("the file stays", |fs| text(fs.join("f")) == "x"),
        ),
        case(
            "links in a ring",
            new().symlink("a", "b").symlink("b", "a").file("a/x", "").end(),
            Refused("too many symbolic links"),
        ),
        case(
            "links through deep directories, many times",
            bomb.end(),
            Refused("too long to follow them all"),
        ),
        case("a link without target", new().symlink("l", "").end(), Refused("the link's target is empty")),
        case(
            "`/dev`, `/proc`, `/sys` and `/etc` as links to the host's, with files in them",
            new()
                .symlink("dev", "/dev")
                .symlink("proc", "/proc/self/root")
                .symlink("sys", "/sys")
                .symlink("etc", "../../../../../../../../etc")
                .file("etc/vaquita", "x")
                .file("proc/x", "x")
                .end(),
            Refused("too many symbolic links"),
        ),
        case(
            "the same, without files",
            new()
                .symlink("dev", "/dev")
                .symlink("proc", "/proc")
                .symlink("sys", "/sys")
                .symlink("etc", "/etc")
                .end(),
            Unpacked("as links; who uses them does so below the container's root", |fs| {
                fs.join("etc").is_symlink()
            }),
        ),
    ]
}

fn whiteouts(canary: &str) -> Vec<Case> {
    let case = Case::new;
    vec![
        case("`.wh.`", new().file(".wh.", "").end(), Refused("a whiteout of no name")),
        case("`.wh..` and `.wh...`", new().file("a/.wh..", "").end(), Refused("a whiteout of no name")),
        case(
            "a whiteout as a directory",
            new().file(".wh.a/b", "").end(),
            Refused("a whiteout is used as a directory"),
        ),
        case(
            "`.wh..wh..opq` at the root",
            new().file(".wh..wh..opq", "").end(),
            Unpacked("the root is opaque", opaque),
        ),
        case(
            "opaque over a link out",
            new().symlink("l", canary).file("l/.wh..wh..opq", "").end(),
            Unpacked("the directory is made below the layer's root and is opaque", |fs| {
                fs.join("l").is_symlink()
            }),
        ),
        case(
            "a whiteout over a link out",
            new().symlink("l", canary).file("l/.wh.file", "").end(),
            Unpacked("below the layer's root", |fs| fs.join("l").is_symlink()),
        ),
        case(
            "a whiteout of what the layer has",
            new().file("f", "x").file(".wh.f", "").end(),
            Unpacked("the layer's own file stays", |fs| text(fs.join("f")) == "x"),
        ),
        case(
            "bookkeeping of aufs",
            new().file(".wh..wh.plnk/1.2", "x").end(),
            Unpacked("left out", |fs| std::fs::read_dir(fs).unwrap().count() == 0),
        ),
    ]
}

fn opaque(dir: &Path) -> bool {
    let dir = std::fs::File::open(dir).unwrap();
    vaquita_sys::fs::xattr(dir, "trusted.overlay.opaque", 16).unwrap().is_some()
}

/// The file `n` itself.
fn n(fs: &Path) -> std::fs::Metadata {
    fs.join("n").symlink_metadata().unwrap()
}

fn kinds() -> Vec<Case> {
    let case = Case::new;
    let node = |kind, major, minor| {
        new().entry(kind, b"n", b"", b"").with(|h| {
            h.set_device_major(major).unwrap();
            h.set_device_minor(minor).unwrap();
        })
    };
    vec![
        case(
            "a block device",
            node(EntryType::Block, 8, 0).end(),
            Unpacked("a node; a container's device rules say who may open it", |fs| {
                n(fs).file_type().is_block_device()
            }),
        ),
        case(
            "a character device",
            node(EntryType::Char, 1, 1).end(),
            Unpacked("a node", |fs| n(fs).file_type().is_char_device()),
        ),
        case(
            "a character device 0:0",
            node(EntryType::Char, 0, 0).end(),
            Unpacked("a node, which overlayfs takes for a whiteout", |fs| n(fs).rdev() == 0),
        ),
        case(
            "a device without a number",
            new()
                .entry(EntryType::Char, b"n", b"", b"")
                .with(|h| h.as_mut_bytes()[329..345].fill(b'x'))
                .end(),
            Refused("malformed device number"),
        ),
        case(
            "a fifo",
            new().entry(EntryType::Fifo, b"n", b"", b"").end(),
            Unpacked("a fifo", |fs| n(fs).file_type().is_fifo()),
        ),
        case(
            "a kind that nobody knows, a socket",
            new().entry(EntryType::new(b's'), b"n", b"", b"").end(),
            Refused("unknown entry type"),
        ),
        case(
            "a part of an archive of several volumes",
            new().entry(EntryType::new(b'M'), b"n", b"", b"").end(),
            Refused("unknown entry type"),
        ),
        case(
            "a directory with content",
            new().dir("d").with(|h| h.set_size(512)).pad(&new().file("hidden", "").0).end(),
            Refused("an entry that is no file has content"),
        ),
        case(
            "set-user-ID, set-group-ID",
            new().file_of_mode("n", "x", 0o6755).end(),
            Unpacked("kept", |fs| n(fs).mode() & 0o7777 == 0o6755),
        ),
        case(
            "a directory, then a file, then a directory",
            new().dir("x").file("x/a", "").file("x", "").dir("x").file("x/b", "").end(),
            Unpacked("the last counts", |fs| fs.join("x/b").exists() && !fs.join("x/a").exists()),
        ),
    ]
}

fn attributes() -> Vec<Case> {
    let case = Case::new;
    let with =
        |key: &str, value: &[u8]| new().pax(&[(&format!("SCHILY.xattr.{key}"), value)]).file("f", "").end();
    vec![
        case(
            "a file capability, with a newline in it",
            with("security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0"),
            Unpacked("kept", |fs| {
                let file = std::fs::File::open(fs.join("f")).unwrap();
                vaquita_sys::fs::xattr(file, "security.capability", 64).unwrap().is_some()
            }),
        ),
        case(
            "`trusted.overlay.redirect`",
            with("trusted.overlay.redirect", b"/etc"),
            Refused("an attribute that belongs to overlayfs"),
        ),
        case(
            "`trusted.overlay.opaque`",
            with("trusted.overlay.opaque", b"y"),
            Refused("an attribute that belongs to overlayfs"),
        ),
        case(
            "other attributes of `trusted`, `system` and `security`",
            with("security.selinux", b"x"),
            Unpacked("without them", |fs| {
                let file = std::fs::File::open(fs.join("f")).unwrap();
                vaquita_sys::fs::xattr(file, "security.selinux", 64).unwrap().is_none()
            }),
        ),
        case(
            "attributes of more than 64 KiB",
            with("user.a", &[b'x'; 70_000]),
            Refused("its attributes are larger than 64 KiB"),
        ),
        case(
            "a name of an attribute of 300 bytes",
            with(&format!("user.{}", "a".repeat(300)), b"x"),
            Refused("fsetxattr"),
        ),
    ]
}

fn numbers() -> Vec<Case> {
    let case = Case::new;
    let pax = |key, value: &str| new().pax(&[(key, value.as_bytes())]).file("f", "").end();
    vec![
        case("a uid of 2^32", pax("uid", "4294967296"), Refused("malformed uid")),
        case("the uid that means none, 2^32 - 1", pax("uid", "4294967295"), Refused("malformed uid")),
        case("a negative gid", pax("gid", "-1"), Refused("malformed gid")),
        case(
            "a mode that is no number",
            new().file("f", "").with(|h| h.as_mut_bytes()[100..108].fill(b'x')).end(),
            Refused("malformed mode"),
        ),
        case("a time that is no number", pax("mtime", "never"), Refused("malformed mtime")),
        case("a time beyond 2^63", pax("mtime", "9223372036854775808"), Refused("malformed mtime")),
        case(
            "a time before 1970",
            pax("mtime", "-1.5"),
            Unpacked("with that time", |fs| fs.join("f").metadata().unwrap().mtime() == -2),
        ),
        case(
            "a checksum that is wrong",
            {
                let mut l = new().file("f", "").end();
                l[3] ^= 1;
                l
            },
            Refused("the checksum of a header is wrong"),
        ),
        case(
            "no archive, but text",
            b"not a tar at all, but text of some length".to_vec(),
            Refused("cut off in a header"),
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let case = Case::new;
    let hidden = new().file("hidden", "evil").0;
    let pax = |size: &str| {
        new().pax(&[("size", size.as_bytes())]).file("f", "").pad(&hidden).file("after", "1").end()
    };
    let own = |size: u64| new().file("f", "").with(|h| h.set_size(size)).end();
    let content = new().file("f", "content").end();
    vec![
        case(
            "an extended size that hides an entry in content (T43)",
            pax("1024"),
            Unpacked("the extended size counts", |fs| {
                !fs.join("hidden").exists() && text(fs.join("after")) == "1"
            }),
        ),
        case(
            "an extended size that comes twice",
            new().pax(&[("size", b"0"), ("size", b"1024")]).file("f", "").pad(&hidden).end(),
            Unpacked("the last counts", |fs| !fs.join("hidden").exists()),
        ),
        case(
            "a size within another record",
            new().pax(&[("comment", b"x\n13 size=1024\n")]).file("f", "").pad(&hidden).end(),
            Unpacked("it is a part of that record", |fs| text(fs.join("hidden")) == "evil"),
        ),
        case(
            "a hard link with content",
            new().file("a", "").pax(&[("size", b"1024")]).hardlink("f", "a").pad(&hidden).end(),
            Refused("a hard link has content"),
        ),
        case("a negative extended size", pax("-1"), Refused("malformed size")),
        case("an extended size of 2^64", pax("18446744073709551616"), Refused("malformed size")),
        case("an extended size that is no number", pax("1024x"), Refused("malformed size")),
        case(
            "an extended header for all entries with a size",
            new()
                .entry(EntryType::XGlobalHeader, b"g", b"", b"13 size=1024\n")
                .file("f", "")
                .pad(&hidden)
                .end(),
            Refused("a global header of the layer sets size"),
        ),
        case(
            "an extended header that is malformed",
            new().entry(EntryType::XHeader, b"x", b"", b"99 size=1024\n").file("f", "").end(),
            Refused("an extended header is malformed"),
        ),
        case(
            "two extended headers",
            new().pax(&[("size", b"0")]).pax(&[("size", b"1024")]).file("f", "").pad(&hidden).end(),
            Refused("two extended headers"),
        ),
        case(
            "an extended header and nothing behind it",
            new().pax(&[("path", b"a")]).end(),
            Refused("between an extended header and its entry"),
        ),
        case("a size of 1 TiB without the bytes", own(1 << 40), Refused("the layer holds more than")),
        case("a size of 2^63", own(1 << 63), Refused("malformed size")),
        case(
            "more bytes than the limit",
            new().pax(&[("size", b"67108865")]).file("f", "").end(),
            Refused("the layer holds more than"),
        ),
        case("cut off in the content", content[..514].to_vec(), Refused("cut off in the content")),
        case("cut off in a header", content[..100].to_vec(), Refused("cut off in a header")),
        case(
            "cut off before the end's two blocks",
            content[..1024].to_vec(),
            Unpacked("as if they were there", |fs| text(fs.join("f")) == "content"),
        ),
        case(
            "another archive behind the end",
            [content.clone(), new().file("hidden", "evil").end()].concat(),
            Unpacked("what is behind the end only counts for the digest", |fs| !fs.join("hidden").exists()),
        ),
        case(
            "an empty block, then another entry",
            [&content[..1024], &[0; 512], &new().file("hidden", "").end()].concat(),
            Refused("an empty block is followed by another entry"),
        ),
    ]
}

/// A sparse file as old GNU tar writes it.
fn gnu_sparse(real: u64, map: &[(u64, u64)], on_tape: u64) -> Vec<u8> {
    let (first, rest) = map.split_at(map.len().min(4));
    let octal = |n: u64| format!("{n:011o}\0");
    let put = |bytes: &mut [u8], pieces: &[(u64, u64)]| {
        for (at, (offset, length)) in pieces.iter().enumerate() {
            bytes[24 * at..24 * at + 12].copy_from_slice(octal(*offset).as_bytes());
            bytes[24 * at + 12..24 * at + 24].copy_from_slice(octal(*length).as_bytes());
        }
    };
    let mut layer = new().entry(EntryType::GNUSparse, b"f", b"", b"").with(|h| {
        h.set_size(on_tape);
        let bytes = h.as_mut_bytes();
        bytes[257..265].copy_from_slice(b"ustar  \0");
        put(&mut bytes[386..482], first);
        bytes[482] = u8::from(!rest.is_empty());
        bytes[483..495].copy_from_slice(octal(real).as_bytes());
    });
    let mut chunks = rest.chunks(21).peekable();
    while let Some(chunk) = chunks.next() {
        let mut block = [0; 512];
        put(&mut block[..504], chunk);
        block[504] = u8::from(chunks.peek().is_some());
        layer.0.extend_from_slice(&block);
    }
    layer.pad(&vec![b'x'; usize::try_from(on_tape.min(4096)).unwrap()]).end()
}

fn sparse() -> Vec<Case> {
    let case = Case::new;
    let huge: Vec<(u64, u64)> = (0..60_000).map(|n| (n * 1024, 0)).collect();
    vec![
        case(
            "a sparse file of GNU tar",
            gnu_sparse(5_000_000, &[(1_000_000, 3), (4_999_990, 10)], 13),
            Unpacked("with its holes", |fs| {
                let meta = fs.join("f").metadata().unwrap();
                meta.len() == 5_000_000 && meta.blocks() < 100
            }),
        ),
        case(
            "a sparse file of 8 GiB without a byte",
            gnu_sparse(0o77_777_777_777, &[], 0),
            Refused("the layer holds more than"),
        ),
        case(
            "a sparse file with a map of 1.4 MiB",
            gnu_sparse(0o77_777_777_777, &huge, 0),
            Refused("larger than 1 MiB"),
        ),
        case(
            "a sparse file whose pieces overlap",
            gnu_sparse(5000, &[(0, 10), (5, 10)], 20),
            Refused("contradicts itself"),
        ),
        case(
            "a sparse file with a piece behind its end",
            gnu_sparse(10, &[(5, 10)], 10),
            Refused("contradicts itself"),
        ),
        case(
            "a sparse file with less content than its map says",
            gnu_sparse(5000, &[(0, 100)], 50),
            Refused("another size than its content"),
        ),
        case(
            "a sparse file in the PAX format without its map",
            new().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")]).file("f", "").end(),
            Refused("the map of a sparse file is malformed"),
        ),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compressed() -> Vec<Case> {
    let case = Case::new;
    let layer = new().file("f", &"text ".repeat(10_000)).end();
    let (gz, zst) = (gzip(&layer), zstd::encode_all(&layer[..], 3).unwrap());
    let (one, two) = layer.split_at(700);
    let garbled = |good: &[u8]| {
        let mut garbled = good.to_vec();
        let middle = garbled.len() / 2;
        garbled[middle..].iter_mut().for_each(|b| *b ^= 0x5a);
        garbled
    };
    let whole = |fs: &Path| text(fs.join("f")).len() == 50_000;
    let window =
        |log: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3][..], &[0x01, 0x00, 0x00]].concat();
    vec![
        case("gzip in two members", [gzip(one), gzip(two)].concat(), Unpacked("one stream", whole)),
        case("gzip that is cut off", gz[..gz.len() / 2].to_vec(), Refused("cannot be decompressed")),
        case("gzip that is garbled (T44)", garbled(&gz), Refused("cannot be decompressed")),
        case(
            "gzip with something else behind it",
            [&gz[..], b"garbage"].concat(),
            Refused("cannot be decompressed"),
        ),
        case(
            "zstd in two frames, one to be skipped",
            [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2][..], &zst].concat(),
            Unpacked("one stream", whole),
        ),
        case("zstd that is cut off", zst[..zst.len() / 2].to_vec(), Refused("cannot be decompressed")),
        case("zstd that is garbled", garbled(&zst), Refused("cannot be decompressed")),
        case("zstd with a window of 2 GiB", window(31), Refused("cannot be decompressed")),
        case("zstd with a window of 64 MiB", window(26), Refused("cannot be decompressed")),
        case("xz", b"\xfd7zXZ\0\0".to_vec(), Refused("compressed with xz are not supported")),
        case("bzip2", b"BZh91AY".to_vec(), Refused("compressed with bzip2 are not supported")),
        Case {
            name: "a file of 10 GiB of zeros in 10 MB",
            stream: Written(|out| zeros(out, &new().file("f", "").with(|h| h.set_size(10 << 30)))),
            limits: LIMITS,
            verdict: Refused("the layer holds more than"),
        },
        Case {
            name: "10 GiB of zeros behind the end, in 10 MB",
            stream: Written(|out| zeros(out, &new().file("f", ""))),
            limits: LIMITS,
            verdict: Refused("the layer is larger than"),
        },
    ]
}

/// 10 GiB of zeros behind the layer, compressed: 16 MiB again and again.
fn zeros(out: &mut dyn Write, layer: &Layer) -> std::io::Result<()> {
    out.write_all(&gzip(&layer.0))?;
    let zeros = gzip(&vec![0; 16 << 20]);
    (0..640).try_for_each(|_| out.write_all(&zeros))
}

fn many() -> Vec<Case> {
    let many_dirs = |out: &mut dyn Write| {
        (0..70_000).try_for_each(|n| out.write_all(&new().file(&format!("{n}/f"), "").0))
    };
    let million = |out: &mut dyn Write| {
        let template = new().file("x", "").0;
        let mut out = std::io::BufWriter::new(out);
        for n in 0..1_000_000_u32 {
            let mut block = template.clone();
            let name = format!("{:03}/{n}", n / 1000);
            block[..name.len()].copy_from_slice(name.as_bytes());
            let sum: u32 = block
                .iter()
                .enumerate()
                .map(|(at, b)| u32::from(if (148..156).contains(&at) { b' ' } else { *b }))
                .sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            out.write_all(&block)?;
        }
        out.write_all(&[0; 1024])?;
        out.flush()
    };
    let deep = |out: &mut dyn Write| {
        // Each a directory deeper than the last, by a link to it: a path of 200,000 bytes in the end.
        let mut path = String::new();
        for _ in 0..100_000 {
            path.push_str("d/");
            out.write_all(&new().pax(&[("path", path.as_bytes())]).dir("d").0)?;
        }
        Ok(())
    };
    vec![
        Case {
            name: "70,000 directories without entries of their own",
            stream: Written(many_dirs),
            limits: (1 << 30, 100_000),
            verdict: Refused("too many directories without an entry of their own"),
        },
        Case {
            name: "more entries than the limit",
            stream: Bytes((0..11).fold(new(), |l, n| l.file(&n.to_string(), "")).end()),
            limits: (10_000, 10),
            verdict: Refused("the layer has more than 10 entries"),
        },
        Case {
            name: "1,000,000 empty files",
            stream: Written(million),
            limits: (1 << 30, 4_000_000),
            verdict: Unpacked("all of them", |fs| std::fs::read_dir(fs.join("999")).unwrap().count() == 1000),
        },
        Case {
            name: "directories 100,000 deep, one after another",
            stream: Written(deep),
            limits: (64 << 30, 4_000_000),
            verdict: Refused("longer than 4095 bytes"),
        },
    ]
}
