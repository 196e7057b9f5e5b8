//! Every layer that means harm (`tests/corpus`), through the unpacker's own process: the verdict, what it took, and that
//! nothing outside has changed.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use vaquita_image::unpack;

use crate::table::{Stream, Verdict, cases};

/// Resident memory of the process at its peak.
const MEMORY: i64 = 64 << 20;
/// Processor time, many times what a million files take without optimization: something ends at all.
const SECONDS: i64 = 300;

pub(crate) fn every_verdict_holds() {
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    fs::create_dir_all(canary.join("dir")).unwrap();
    fs::write(canary.join("file"), "untouched").unwrap();
    fs::write(canary.join("dir/file"), "untouched").unwrap();
    std::os::unix::fs::symlink("file", canary.join("link")).unwrap();
    let before = vaquita_testing::tree(outside.path());
    for case in cases(canary.to_str().unwrap()) {
        // In memory where there is such a place: a million files take minutes on a disk that is busy.
        let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let root = home.path().join("fs");
        fs::create_dir(&root).unwrap();
        let (report, memory, seconds) = unpack(home.path(), &case.stream, case.limits);
        match &case.verdict {
            Verdict::Unpacked(what, holds) => {
                assert!(report.starts_with("{\"done\":"), "{}: {report}", case.name);
                assert!(holds(&root), "{}: not {what}", case.name);
            }
            Verdict::Refused(words) => {
                let quoted = words.replace('"', "\\\"");
                let is = report.starts_with("{\"failed\":")
                    && report.replace("\\\\\\\"", "\\\"").contains(&quoted);
                assert!(is, "{}: {report}", case.name);
            }
        }
        if std::env::var_os("VAQUITA_CORPUS_SHOW").is_some() {
            println!("{:6} KiB {seconds:3} s  {}", memory >> 10, case.name);
        }
        assert!(memory < MEMORY && seconds < SECONDS, "{}: {memory} bytes, {seconds} s", case.name);
        let (bytes, files) = content(home.path());
        assert!(bytes <= case.limits.0, "{}: {bytes} bytes in {files} files", case.name);
        assert_eq!(
            vaquita_testing::tree(outside.path()),
            before,
            "{}: something outside has changed",
            case.name
        );
    }
}

/// What the unpacker says of `stream`, its peak of resident memory, and its seconds of processor time.
#[expect(clippy::zombie_processes, reason = "wait4 waits, and says what it took")]
fn unpack(home: &Path, stream: &Stream, (bytes, entries): (u64, u64)) -> (String, i64, i64) {
    let ours = peak();
    let mut child = Command::new("/proc/self/exe")
        .arg0(unpack::PROGRAM)
        .args([bytes.to_string(), entries.to_string()])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(File::open(home).unwrap()))
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // One that refuses a layer does not read it to its end.
    let _ = match stream {
        Stream::Bytes(bytes) => input.write_all(bytes),
        Stream::Written(write) => write(&mut input),
    };
    drop(input);
    let mut report = String::new();
    child.stdout.take().unwrap().read_to_string(&mut report).unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    // SAFETY: plain data, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    // SAFETY: both pointers are to live variables; the child was not waited for.
    assert_eq!(unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) }, pid);
    assert_eq!(status, 0, "{report}");
    // Until it executed the program it had our memory, which counts as its own.
    let memory = if usage.ru_maxrss > ours { usage.ru_maxrss * 1024 } else { 0 };
    (report, memory, usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
}

/// The most memory that this process has had, in KiB.
fn peak() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Bytes on disk of all regular files, but the recipe, and how many there are. Small files take a block.
fn content(dir: &Path) -> (u64, u64) {
    let (mut bytes, mut files) = (0, 0);
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        // What is deeper than a path can be is made of directories alone.
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.map(Result::unwrap) {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                todo.push(entry.path());
            } else if meta.is_file() {
                (bytes, files) = (bytes + meta.len().min(meta.blocks() * 512), files + 1);
            }
        }
    }
    (bytes, files)
}
