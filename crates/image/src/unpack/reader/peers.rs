//! T43: what this reader finds in an archive is what GNU tar and Python's tarfile find in it, or it refuses the archive.

#![expect(clippy::disallowed_methods, reason = "archives of the tests")]

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tar::EntryType;

use super::*;
use crate::unpack::corpus::layer::Layer;
use crate::unpack::corpus::table;

/// Kind, mode, owner, size, time and name of each entry, as Python tells it.
const LIST: &str = r#"
import sys, tarfile
kinds = {tarfile.REGTYPE: "f", tarfile.AREGTYPE: "f", tarfile.CONTTYPE: "f", tarfile.GNUTYPE_SPARSE: "f", tarfile.DIRTYPE: "d",
         tarfile.SYMTYPE: "l", tarfile.LNKTYPE: "h", tarfile.CHRTYPE: "c", tarfile.BLKTYPE: "b", tarfile.FIFOTYPE: "p"}
for path in sys.argv[1:]:
    print("archive")
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            for e in archive:
                name = e.name.rstrip("/").encode("utf-8", "surrogateescape").hex()
                link = e.linkname.encode("utf-8", "surrogateescape").hex() if e.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
                size = e.size if kinds.get(e.type) == "f" else 0
                print(kinds.get(e.type, "?"), "%o" % (e.mode & 0o7777), e.uid, e.gid, size, int(e.mtime // 1), name, link)
    except Exception as error:
        print("error", error)
"#;

/// What this reader says, in the same form; `None` when it refuses.
fn ours(archive: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::new(archive);
    let mut lines = Vec::new();
    while let Some(entry) = reader.next().ok()? {
        let kind = match entry.kind {
            Type::Block => "b",
            Type::Char => "c",
            Type::Directory => "d",
            Type::Fifo => "p",
            Type::File => "f",
            Type::HardLink => "h",
            Type::Symlink => "l",
        };
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let name = &entry.path[..entry.path.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1)];
        let link = if matches!(kind, "h" | "l") { hex(&entry.link) } else { String::new() };
        lines.push(format!(
            "{kind} {:o} {} {} {} {} {} {link}",
            entry.mode,
            entry.uid,
            entry.gid,
            entry.size,
            entry.mtime.0,
            hex(name)
        ));
    }
    Some(lines)
}

fn pythons(paths: &[String]) -> Vec<Vec<String>> {
    let output = Command::new("python3").args(["-c", LIST]).args(paths).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("archive\n").skip(1).map(|part| part.lines().map(str::to_owned).collect()).collect()
}

/// Kind, mode, owner, size and name of each entry, as GNU tar tells it; links without their targets' own form.
fn gnus(path: &str) -> Vec<String> {
    let output = Command::new("tar")
        .args(["-tvPf", path, "--numeric-owner", "--full-time", "--utc", "--quoting-style=escape"])
        .env("LC_ALL", "C")
        .output()
        .expect("tar");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Our line as GNU tar's listing has it, up to the time.
fn as_gnu(line: &str) -> (String, String) {
    let field: Vec<&str> = line.split(' ').collect();
    let mode = u32::from_str_radix(field[1], 8).unwrap();
    let kind = if field[0] == "f" { "-" } else { field[0] };
    let bit = |at: u32, letter: char| if mode >> at & 1 == 1 { letter } else { '-' };
    let special = |at: u32, x: u32, letter: char| match (mode >> at & 1, mode >> x & 1) {
        (1, 1) => letter,
        (1, _) => letter.to_ascii_uppercase(),
        (_, 1) => 'x',
        _ => '-',
    };
    let bits: String = [
        bit(8, 'r'),
        bit(7, 'w'),
        special(11, 6, 's'),
        bit(5, 'r'),
        bit(4, 'w'),
        special(10, 3, 's'),
        bit(2, 'r'),
        bit(1, 'w'),
        special(9, 0, 't'),
    ]
    .iter()
    .collect();
    (format!("{kind}{bits} {}/{} ", field[2], field[3]), field[4].to_owned())
}

/// Compares what three readers say of each archive; returns how many this one takes.
fn compare(archives: &[Vec<u8>]) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<String> = (0..archives.len()).map(|n| path(dir.path(), n)).collect();
    for (path, archive) in paths.iter().zip(archives) {
        std::fs::write(path, archive).unwrap();
    }
    let mut taken = 0;
    for ((path, archive), theirs) in paths.iter().zip(archives).zip(pythons(&paths)) {
        let Some(ours) = ours(archive) else { continue };
        taken += 1;
        let show = || {
            let text = |block: &[u8]| {
                block.escape_ascii().to_string().replace("\\x00", "").chars().take(100).collect()
            };
            archive.chunks(512).map(text).collect::<Vec<String>>()
        };
        // Python takes an empty file with a slash behind its name for a directory only if the name is not extended.
        let as_python = |our: &String, their: &String| {
            our == their || our.strip_prefix('d').is_some_and(|rest| their.strip_prefix('f') == Some(rest))
        };
        let same =
            ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(our, their)| as_python(our, their));
        assert!(same, "ours: {ours:#?}\nPython's: {theirs:#?}\n{:#?}", show());
        let gnus = gnus(path);
        assert_eq!(ours.len(), gnus.len(), "GNU tar reads another archive: {gnus:#?} {:#?}", show());
        for (our, gnu) in ours.iter().zip(&gnus) {
            let (begin, size) = as_gnu(our);
            let rest = gnu.strip_prefix(&begin);
            let same =
                rest.is_some_and(|rest| rest.trim_start().starts_with(&size) || "cbh".contains(&our[..1]));
            assert!(same, "GNU tar: {gnu}\nours: {our}\n{:#?}", show());
        }
    }
    taken
}

fn path(dir: &Path, number: usize) -> String {
    dir.join(number.to_string()).to_str().unwrap().to_owned()
}

#[test]
fn t43_peers_list_the_same_of_the_corpus() {
    let streams = table::cases("/canary").into_iter().filter_map(|case| match case.stream {
        // Of a whiteout in a kind that has no content and the like each reader has its own idea, which is no matter here.
        table::Stream::Bytes(stream) if stream.get(257..262) == Some(b"ustar") => Some(stream),
        _ => None,
    });
    assert!(compare(&streams.collect::<Vec<_>>()) > 30);
}

/// An entry that may be odd: kind, name, link, content, mode, and something else about it.
fn entry() -> impl Strategy<Value = (u8, usize, usize, usize, u32, u8, u64)> {
    (0..9_u8, 0..5_usize, 0..4_usize, 0..1200_usize, 0..0o10000_u32, 0..16_u8, 0..3000_u64)
}

fn build(steps: &[(u8, usize, usize, usize, u32, u8, u64)]) -> Vec<u8> {
    let names = ["a", "b/c", "dir/", "./x/y", "long-name-that-goes-on"];
    let mut layer = Layer::default();
    for (kind, name, link, length, mode, odd, number) in steps {
        let (name, link) = (names[*name], ["a", "b/c", "/etc", "../x"][*link]);
        let content = vec![b'x'; *length];
        layer = match odd {
            0 => layer.pax(&[("path", format!("pax/{number}").as_bytes())]),
            1 => layer.pax(&[("size", length.to_string().as_bytes())]),
            2 => layer.pax(&[("size", number.to_string().as_bytes())]),
            3 => layer.pax(&[("mtime", format!("{number}.5").as_bytes()), ("uid", b"70000"), ("gid", b"")]),
            4 => layer.pax(&[("comment", b"x\n12 path=ev\n"), ("linkpath", b"elsewhere")]),
            5 => layer.pax(&[("path", b"first"), ("path", b"second")]),
            6 => layer.entry(
                EntryType::GNULongName,
                b"././@LongLink",
                b"",
                format!("{}\0", "n".repeat(150)).as_bytes(),
            ),
            7 => layer.entry(EntryType::XGlobalHeader, b"g", b"", b"13 comment=x\n"),
            8 => layer.entry(EntryType::XGlobalHeader, b"g", b"", b"10 path=x\n"),
            _ => layer,
        };
        let begin = layer.0.len();
        let (kind, content) = match kind {
            0..=3 => (EntryType::Regular, &content[..]),
            4 => (EntryType::Directory, &b""[..]),
            5 => (EntryType::Symlink, &b""[..]),
            6 => (EntryType::Link, &b""[..]),
            7 => (EntryType::Fifo, &b""[..]),
            _ => (EntryType::Regular, &b""[..]),
        };
        layer = layer.entry(
            kind,
            name.as_bytes(),
            if kind == EntryType::Regular { b"" } else { link.as_bytes() },
            content,
        );
        let rest = layer.0.split_off(begin + 512);
        layer = layer.with(|h| {
            h.set_mode(*mode);
            match odd {
                10 => h.set_size(*number),
                11 => h.set_mtime(*number),
                12 => h.set_uid(*number),
                13 => h.as_mut_bytes()[345..348].copy_from_slice(b"pre"),
                14 => h.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0"),
                15 => h.as_mut_bytes()[257..265].fill(0),
                _ => {}
            }
        });
        layer.0.extend_from_slice(&rest);
    }
    layer.end()
}

#[test]
fn t43_peers_list_the_same_of_any_archive() {
    let mut runner = TestRunner::default();
    let steps = proptest::collection::vec(entry(), 1..5);
    let archives: Vec<Vec<u8>> =
        (0..600).map(|_| build(&steps.new_tree(&mut runner).unwrap().current())).collect();
    let taken = compare(&archives);
    assert!(taken > 100, "{taken} of 600");
}

/// What they write, this reader takes.
#[test]
fn archives_of_peers_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("d/e")).unwrap();
    std::fs::write(tree.join("d/file"), vec![b'x'; 1000]).unwrap();
    std::fs::write(tree.join("n".repeat(120)), "long").unwrap();
    std::fs::hard_link(tree.join("d/file"), tree.join("hard")).unwrap();
    std::os::unix::fs::symlink("t".repeat(130), tree.join("link")).unwrap();
    let sparse = std::fs::File::create(tree.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"end", 3_000_000).unwrap();
    let mut archives = Vec::new();
    for format in ["gnu", "oldgnu", "pax", "ustar", "v7"] {
        for sparse in [false, true] {
            let path = dir.path().join("archive");
            let mut tar = Command::new("tar");
            tar.arg(format!("--format={format}")).arg("-C").arg(dir.path()).arg("-cf").arg(&path);
            if sparse && format.contains("gnu") {
                tar.arg("--sparse");
            }
            if matches!(format, "ustar" | "v7") {
                // They have no room for these.
                tar.args(["--exclude=nnn*", "--exclude=link"]);
            }
            assert!(tar.arg("tree").status().unwrap().success());
            archives.push(std::fs::read(&path).unwrap());
        }
    }
    assert_eq!(compare(&archives), archives.len());
}
