//! Limits really limit.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use vaquita_testing::Defer;

use crate::container::{Container, eventually, read};

const SPIN: &str = "while :; do :; done";

/// Two containers that both want all of one processor get of it as their shares say.
#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_cpu_time_is_shared_by_weight() {
    let container = |shares: u64| {
        let container = Container::new(SPIN).limit("cpu", json!({"shares": shares, "cpus": "0"}));
        container.start();
        container
    };
    let (light, heavy) = (container(512), container(2048));
    let weight = |container: &Container| container.file("cpu.weight").parse::<f64>().unwrap();
    let wanted = weight(&heavy) / weight(&light);
    assert!(wanted > 2.0, "{wanted}");
    let used = |container: &Container| container.count("cpu.stat", "usage_usec");
    let before = (used(&light), used(&heavy));
    let seen = eventually("three seconds of processor time", || {
        let (light, heavy) = (used(&light) - before.0, used(&heavy) - before.1);
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a few seconds")]
        (light + heavy > 3_000_000).then_some(heavy as f64 / light as f64)
    });
    assert!((seen / wanted - 1.0).abs() < 0.1, "{seen} instead of {wanted}");
}

#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_cpu_time_ends_with_the_quota() {
    let container = Container::new(SPIN).limit("cpu", json!({"quota": 20_000, "period": 100_000}));
    container.start();
    let began = Instant::now();
    let before = container.count("cpu.stat", "usage_usec");
    eventually("twenty periods that were cut short", || {
        (container.count("cpu.stat", "nr_throttled") >= 20).then_some(())
    });
    let used = container.count("cpu.stat", "usage_usec") - before;
    // A period that is under way may be counted in full at both ends.
    let allowed = u64::try_from(began.elapsed().as_micros()).unwrap() / 5 + 2 * 20_000;
    assert!(used <= allowed * 11 / 10, "{used} of {allowed} microseconds");
}

#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_memory_above_the_limit_kills() {
    let limits = json!({"limit": 16 << 20, "swap": 16 << 20});
    // The buffer of one block is touched as a whole.
    let container =
        Container::new("dd if=/dev/zero of=/dev/null bs=64M count=1; echo $?").limit("memory", limits);
    assert_eq!(container.run().lines().last(), Some("137"), "{}", container.output());
    assert_eq!(container.file("memory.max"), (16 << 20).to_string());
    assert_eq!(container.file("memory.swap.max"), "0");
    assert_eq!(container.count("memory.events", "oom_kill"), 1);
    assert!(container.file("memory.peak").parse::<u64>().unwrap() <= 16 << 20);
}

/// What the runtime does in the container's group before it executes the program is charged there.
#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_two_mebibytes_are_enough_to_start() {
    let container = Container::new("")
        .set("/process/args", json!(["/bin/true"]))
        .limit("memory", json!({"limit": 2 << 20, "swap": 2 << 20}));
    container.run();
    assert_eq!(container.count("memory.events", "oom_kill"), 0);
    assert_eq!(container.output(), "");
}

#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_the_number_of_processes_is_held() {
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo all";
    let container = Container::new(script).limit("pids", json!({"limit": 5}));
    let said = container.run();
    assert!(said.contains("can't fork"), "{said}");
    assert_eq!(container.file("pids.max"), "5");
    assert!(container.count("pids.events", "max") >= 1);
    assert_eq!(container.file("pids.peak"), "5");
}

/// Four mebibytes at two per second.
#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_writing_is_slowed_down() {
    let container = Container::new("dd if=/dev/zero of=/big bs=1M count=4 conv=fsync 2>&1; echo $?");
    let device = fs::metadata(container.bundle()).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let rate = json!([{"major": major, "minor": minor, "rate": 2 << 20}]);
    let container = container.limit("blockIO", json!({"throttleWriteBpsDevice": rate}));
    let began = Instant::now();
    assert_eq!(container.run().lines().last(), Some("0"), "{}", container.output());
    assert_eq!(
        container.file("io.max"),
        format!("{major}:{minor} rbps=max wbps=2097152 riops=max wiops=max")
    );
    assert!(began.elapsed().as_millis() > 1500, "{:?}", began.elapsed());
}

/// A process that is moved is counted where it came from first; one that is cloned into its group (`CLONE_INTO_CGROUP`) is
/// not. So where the maker is, no process besides the maker must ever be.
#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_the_first_process_is_cloned_into_its_group() {
    let container = Container::new("cat /proc/self/cgroup");
    let makers = PathBuf::from(format!("/sys/fs/cgroup/{}maker", container.id));
    fs::create_dir(&makers).unwrap();
    let _clean = Defer::new(|| fs::remove_dir(&makers).unwrap());
    fs::write(makers.join("pids.max"), "1").unwrap();
    let procs = fs::File::options().write(true).open(makers.join("cgroup.procs")).unwrap();
    container.create_by(|create| enter(create, procs));
    assert_eq!(read(&makers.join("pids.peak")), "1");
    assert_eq!(read(&makers.join("pids.events")), "max 0");
    assert_eq!(container.file("cgroup.procs"), container.pid());
    container.oci("start", &[]);
    container.wait_stopped();
    assert_eq!(container.output(), format!("0::{}\n", container.cgroup));
}

/// Lets a command begin in the group whose `cgroup.procs` this is.
#[expect(unsafe_code, reason = "std marks what runs between fork and exec so")]
fn enter(command: &mut std::process::Command, procs: fs::File) {
    // SAFETY: one write, which neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            rustix::io::write(&procs, b"0")?;
            Ok(())
        });
    }
}
