//! What tests execute: the shim, when it is called `vaquita-shim`, and small programs for containers. It is static, so
//! it needs nothing in the root filesystem.

#![allow(clippy::disallowed_methods, reason = "files of the tests")]
#![allow(clippy::exit, clippy::unwrap_used, clippy::zombie_processes, reason = "a test program may die")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    if name == "vaquita-shim" {
        return vaquita_shim::server::main();
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match *args {
        ["say", out, err] => say(out, err),
        ["exit", code] => std::process::exit(code.parse().unwrap()),
        ["sleep"] => sleep(),
        ["lines", count, length, at_once] => lines(number(count), number(length), number(at_once)),
        ["hog", bytes] => hog(number(bytes)),
        ["cat"] => cat(),
        ["read", path] => read(path),
        ["reopen"] => std::fs::write("/dev/stdout", "opened\n").unwrap(),
        ["leave-child"] => leave_child(),
        ["unfinished-from-child"] => unfinished_from_child(),
        ["tty"] => tty(),
        ["overwrite", pid] => overwrite(pid),
        ["sizes"] => sizes(),
        ["client", pod_dir] => client(Path::new(pod_dir)),
        _ => panic!("no such program: {args:?}"),
    }
    ExitCode::SUCCESS
}

fn number(text: &str) -> usize {
    text.parse().unwrap()
}

fn say(out: &str, err: &str) {
    std::io::stdout().write_all(out.as_bytes()).unwrap();
    std::io::stderr().write_all(err.as_bytes()).unwrap();
}

fn sleep() {
    loop {
        std::thread::park();
    }
}

/// `count` lines of `length` bytes with a number in front, `at_once` of them with each write.
fn lines(count: usize, length: usize, at_once: usize) {
    let mut batch = Vec::new();
    for line in 0..count {
        let start = batch.len();
        write!(batch, "{line:010}").unwrap();
        batch.resize(start + length, b'x');
        batch.push(b'\n');
        if (line + 1) % at_once == 0 || line + 1 == count {
            // Not std's stdout, which writes line by line.
            write_all(&batch);
            batch.clear();
        }
    }
}

fn write_all(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = rustix::io::write(std::io::stdout().as_fd(), bytes).unwrap();
        bytes = &bytes[written..];
    }
}

/// Uses that much memory.
fn hog(bytes: usize) {
    let mut memory = vec![0u8; bytes];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
}

fn cat() {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = [0; 4096];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => write_all(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn read(path: &str) {
    write_all(&std::fs::read(path).unwrap());
}

/// Ends at once; a child goes on writing for ever.
fn leave_child() {
    write_all(b"parent\n");
    let mut child = Command::new("/proc/self/exe");
    child.args(["lines", "1000000000", "100", "1"]).spawn().unwrap();
}

/// Ends with a line begun; a child keeps the stream open and says nothing.
fn unfinished_from_child() {
    write_all(b"begun");
    Command::new("/proc/self/exe").arg("sleep").spawn().unwrap();
}

fn tty() {
    let stdin = std::io::stdin();
    let is_tty = rustix::termios::isatty(stdin.as_fd());
    let size = rustix::termios::tcgetwinsize(stdin.as_fd()).unwrap();
    write_all(format!("tty {is_tty} {}x{}\n", size.ws_row, size.ws_col).as_bytes());
}

/// Tries to write to the executable of that process, and of every process that runs from the same file, until there is a
/// file `/stop`; reports how many processes there were, how often it tried and how often it could.
fn overwrite(pid: &str) {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt as _;
    use vaquita_sys::mount::{Attr, Attributes};
    // Only to have it: it can be opened anew when nobody runs it any more.
    let open = |pid: &str| {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let exe = format!("/proc/{pid}/exe");
        rustix::fs::open(exe, flags, rustix::fs::Mode::empty()).map(File::from)
    };
    let which = |file: &File| file.metadata().map(|stat| (stat.dev(), stat.ino())).unwrap();
    let writable = Attr { clear: Attributes::RDONLY, ..Attr::default() };
    let held = open(pid).unwrap();
    let (mut seen, mut tried, mut won) = (std::collections::BTreeSet::new(), 0, 0);
    // Once more after the word to stop: the last of them have ended by then.
    for is_last in (0..).map(|_| Path::new("/stop").exists()) {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.parse::<u32>().is_ok()) else { continue };
            if open(name).is_ok_and(|exe| which(&exe) == which(&held)) {
                seen.insert(name.to_owned());
            }
        }
        tried += 1;
        won += usize::from(write_to(&held));
        won += usize::from(vaquita_sys::mount::mount_setattr(&held, "", false, &writable).is_ok());
        won += usize::from(
            vaquita_sys::mount::open_tree_clone(&held, "", false)
                .and_then(|copy| {
                    vaquita_sys::mount::mount_setattr(&copy, "", false, &writable).map(|()| copy)
                })
                .is_ok_and(|copy| write_to(&copy.into())),
        );
        std::fs::write("/seen", seen.len().to_string()).unwrap();
        if is_last {
            break;
        }
    }
    std::fs::write("/report.new", format!("{} {tried} {won}", seen.len())).unwrap();
    std::fs::rename("/report.new", "/report").unwrap();
}

/// Whether it could, by the name that procfs gives it.
fn write_to(held: &std::fs::File) -> bool {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    let _ = std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777));
    let file = std::fs::File::options().append(true).open(path);
    file.is_ok_and(|mut file| file.write_all(b"#").is_ok())
}

/// Says for each line that it reads how large the terminal is.
fn sizes() {
    write_all(b"ready\n");
    for line in std::io::stdin().lines() {
        let size = rustix::termios::tcgetwinsize(std::io::stdin().as_fd()).unwrap();
        write_all(format!("{} at {}x{}\n", line.unwrap(), size.ws_row, size.ws_col).as_bytes());
    }
}

/// A client that is killed while it waits for something that takes for ever.
fn client(pod_dir: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = vaquita_shim::client::Client::connect(pod_dir).await.unwrap();
        let mut events = client.events();
        client.state().await.unwrap();
        write_all(b"connected\n");
        while events.recv().await.is_some() {}
    });
}
