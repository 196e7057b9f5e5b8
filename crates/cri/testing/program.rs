//! What the tests' shims, unpackers and containers run.
#![allow(clippy::disallowed_methods, reason = "files of the tests")]

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let name = args.first().map(String::as_str).unwrap_or_default();
    if name == "vaquita-shim" {
        return vaquita_shim::server::main();
    }
    if name == vaquita_image::unpack::PROGRAM {
        return vaquita_image::unpack::main();
    }
    let args: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match args[..] {
        ["sleep"] => loop {
            std::thread::park();
        },
        ["count"] => count(),
        ["exit", code] => code.parse::<u8>().map_or(ExitCode::FAILURE, ExitCode::from),
        ["echo", text] => write(text.as_bytes()),
        ["env"] => {
            let text: String = std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
            write(text.as_bytes())
        }
        ["read", path] => std::fs::read(path).map_or(ExitCode::FAILURE, |bytes| write(&bytes)),
        // So many MiB that cannot be freed, and a word when they are there.
        ["hold", count] => {
            let memory = vec![b'y'; count.parse::<usize>().unwrap_or(0) << 20];
            write(b"held\n");
            loop {
                std::thread::park();
                std::hint::black_box(&memory);
            }
        }
        ["list", path] => list(path),
        ["owners", ref paths @ ..] => owners(paths),
        ["make", path, uid] => match make(path, uid) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = write(format!("{error}\n").as_bytes());
                ExitCode::FAILURE
            }
        },
        ["yes"] => {
            let line = [b'y'; 64 << 10];
            while std::io::stdout().write_all(&line).is_ok() {}
            ExitCode::FAILURE
        }
        // Both ends of a socket that a test wants to see refused.
        ["connect", path] => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        _ => ExitCode::from(2),
    }
}

/// Counts for ever, in a file that always has a number in it, and aloud.
fn count() -> ExitCode {
    for number in 1_u64.. {
        let text = format!("{number}\n");
        let written =
            std::fs::write("/count.next", &text).and_then(|()| std::fs::rename("/count.next", "/count"));
        if written.is_err() || write(text.as_bytes()) == ExitCode::FAILURE {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    ExitCode::FAILURE
}

/// Says of each file whose it is.
fn owners(paths: &[&str]) -> ExitCode {
    use std::os::unix::fs::MetadataExt;
    let line = |path: &&str| match std::fs::metadata(path) {
        Ok(metadata) => format!("{path} {}:{}\n", metadata.uid(), metadata.gid()),
        Err(error) => format!("{path} {error}\n"),
    };
    write(paths.iter().map(line).collect::<String>().as_bytes())
}

/// Says of each entry of a directory its type and permissions.
fn list(path: &str) -> ExitCode {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(path) else { return ExitCode::FAILURE };
    let mut lines: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let mode = entry.metadata().ok()?.mode();
            Some(format!("{} {mode:o}\n", entry.file_name().to_string_lossy()))
        })
        .collect();
    lines.sort();
    write(lines.concat().as_bytes())
}

/// Makes a file and gives it away.
fn make(path: &str, uid: &str) -> std::io::Result<()> {
    std::fs::write(path, "made")?;
    std::os::unix::fs::chown(path, uid.parse().ok(), None)
}

fn write(bytes: &[u8]) -> ExitCode {
    match std::io::stdout().write_all(bytes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
