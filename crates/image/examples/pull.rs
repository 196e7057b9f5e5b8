//! Pulls one image into a store and says how long it took: `pull STORE-DIRECTORY REFERENCE`.

#![allow(clippy::disallowed_methods, reason = "files of the host")]
#![allow(clippy::print_stdout, clippy::print_stderr)] // a program, not the library

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use vaquita_image::{Options, Reference, Registries, Store, unpack};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.first().is_some_and(|name| name == unpack::PROGRAM) {
        return unpack::main();
    }
    let [_, dir, reference] = &arguments[..] else {
        eprintln!("usage: pull STORE-DIRECTORY REFERENCE");
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let pulled =
        runtime.map_err(|e| e.to_string()).and_then(|runtime| runtime.block_on(pull(dir, reference)));
    match pulled {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn pull(dir: &str, reference: &str) -> Result<(), String> {
    let store = Store::open(Path::new(dir), Options::default()).map_err(|e| e.to_string())?;
    let reference = Reference::parse(reference).map_err(|e| e.to_string())?;
    let idle = peak();
    let start = Instant::now();
    let image = store.pull(&reference, None, &Registries::default()).await.map_err(|e| e.to_string())?;
    println!(
        "{} {} bytes in {:.3} s, peak {} KiB over {} KiB idle, {:?}",
        image.id,
        image.size,
        start.elapsed().as_secs_f64(),
        peak().saturating_sub(idle),
        idle,
        store.fs_info()
    );
    Ok(())
}

/// The largest resident size that this process had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
