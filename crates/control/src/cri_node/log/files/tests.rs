use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;

struct Log(TempDir);

impl Log {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("0.log")
    }

    fn write(&self, name: &str, text: &str) {
        let mut file = File::options().create(true).append(true).open(self.0.path().join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn pack(&self, name: &str, text: &str) {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(text.as_bytes()).unwrap();
        std::fs::write(self.0.path().join(name), packer.finish().unwrap()).unwrap();
    }

    fn tail(&self, lines: Option<u64>) -> String {
        read(&mut Reader::open(&self.path(), lines, None).unwrap())
    }
}

fn read(reader: &mut Reader) -> String {
    let mut all = Vec::new();
    while let Some(piece) = reader.next().unwrap() {
        all.extend(piece);
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn all_files_are_read_in_order() {
    let log = Log::new();
    log.write("0.log.20260102-000000", "c\nd\n");
    log.pack("0.log.20260101-000000.gz", "a\nb\n");
    log.write("0.log", "e\nf\n");
    for other in ["0.log.20260103-000000.tmp", "1.log", "0.log.old", "0.log.20260103-00000x"] {
        log.write(other, "no\n");
    }
    // Being compressed: both are there.
    log.pack("0.log.20260102-000000.gz", "ha");
    assert_eq!(log.tail(None), "a\nb\nc\nd\ne\nf\n");
    let want = ["", "f\n", "e\nf\n", "d\ne\nf\n", "c\nd\ne\nf\n", "b\nc\nd\ne\nf\n", "a\nb\nc\nd\ne\nf\n"];
    for (lines, want) in want.iter().enumerate() {
        assert_eq!(log.tail(Some(lines as u64)), *want, "{lines}");
    }
    assert_eq!(log.tail(Some(99)), want[6]);
}

#[test]
fn old_files_are_left_out() {
    let log = Log::new();
    log.write("0.log.20260102-000000", "a\n");
    log.write("0.log", "b\n");
    let later = Timestamp::now() + jiff::SignedDuration::from_secs(60);
    assert_eq!(read(&mut Reader::open(&log.path(), None, Some(later)).unwrap()), "b\n");
}

#[test]
fn a_long_file_is_read_from_its_end() {
    let log = Log::new();
    let text: String = (0..50_000).map(|line| format!("{line}\n")).collect();
    log.write("0.log", &text);
    assert_eq!(log.tail(Some(2)), "49998\n49999\n");
    assert_eq!(log.tail(Some(40_000)).lines().next(), Some("10000"));
    assert_eq!(log.tail(None), text);
}

#[test]
fn it_goes_on_after_rotation() {
    let log = Log::new();
    log.write("0.log", "a\n");
    let mut reader = Reader::open(&log.path(), None, None).unwrap();
    assert_eq!(read(&mut reader), "a\n");
    assert!(!reader.has_more());
    log.write("0.log", "b\n");
    assert!(reader.has_more());
    std::fs::rename(log.path(), log.0.path().join("0.log.20260102-000000")).unwrap();
    assert_eq!(read(&mut reader), "b\n");
    assert!(!reader.has_more());
    log.write("0.log.20260102-000000", "c\n");
    log.write("0.log", "d\n");
    assert!(reader.has_more());
    assert_eq!(read(&mut reader), "c\nd\n");
    File::options().write(true).truncate(true).open(log.path()).unwrap();
    log.write("0.log", "e");
    assert_eq!(read(&mut reader), "e");
}

#[test]
fn a_file_that_is_not_there_yet_is_waited_for() {
    let log = Log::new();
    let mut reader = Reader::open(&log.path(), Some(5), None).unwrap();
    assert_eq!(reader.next().unwrap(), None);
    log.write("0.log", "a\n");
    assert!(reader.has_more());
    assert_eq!(read(&mut reader), "a\n");
}
