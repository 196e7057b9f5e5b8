//! Checkpoint and restore with a CRIU that works.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::container::{Container, eventually, host, read, succeed};

/// Counts in a file, and says so now and then.
const COUNTER: &str =
    "i=0; while :; do i=$((i+1)); echo $i >/tmp/next; mv /tmp/next /tmp/count; sleep 0.1; done";

fn counter() -> Container {
    host("criu", &["check"]);
    let container = Container::new(COUNTER)
        .set("/linux/maskedPaths", json!(["/proc/timer_list", "/proc/acpi", "/proc/nothing"]))
        .set("/linux/readonlyPaths", json!(["/proc/sys"]))
        .limit("memory", json!({"limit": 64 << 20}));
    std::os::unix::fs::symlink("busybox", container.bundle().join("rootfs/bin/mv")).unwrap();
    container
}

fn count(container: &Container) -> u64 {
    let file = container.bundle().join("rootfs/tmp/count");
    eventually("a first count", || std::fs::read_to_string(&file).ok()?.trim().parse().ok())
}

#[track_caller]
fn goes_on(container: &Container) {
    let before = count(container);
    eventually("it to count on", || (count(container) > before).then_some(()));
}

/// Runs it again from the files. Its streams are the caller's.
fn restore(container: &Container, images: &Path) {
    let bundle = container.bundle().to_str().unwrap();
    let arguments = ["--detach", "--bundle", bundle, "--image-path", images.to_str().unwrap()];
    let mut restore = container.command("restore", &arguments);
    let log = std::fs::File::create(container.bundle().join("restored")).unwrap();
    restore.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let said = || read(&container.bundle().join("restored"));
    assert!(restore.status().unwrap().success(), "{}", said());
}

#[test]
#[ignore = "needs CRIU: hack/vm"]
fn systemd_a_container_goes_on_where_it_was_written() {
    let container = counter();
    container.start();
    let images = container.bundle().join("images");
    goes_on(&container);
    container.oci("checkpoint", &["--image-path", images.to_str().unwrap()]);
    assert!(!container.command("state", &[]).output().unwrap().status.success(), "it is deleted");
    assert!(!container.group().exists());
    let written = count(&container);
    restore(&container, &images);
    eventually("it to count on", || (count(&container) > written).then_some(()));
    assert_eq!(container.state()["status"], "running");
    // In its cgroup, with its limits, and others can enter.
    assert_eq!(container.file("memory.max"), (64 << 20).to_string());
    assert!(container.file("cgroup.procs").lines().any(|pid| pid == container.pid()));
    let mut exec = container.command("exec", &[]);
    let output = exec.args(["cat", "/proc/self/cgroup"]).output().unwrap();
    succeed(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("0::{}\n", container.cgroup));
    crate::devices::make_disk(&container);
    let mut exec = container.command("exec", &[]);
    let output = exec.args(["dd", "if=/disk", "of=/dev/null", "count=1"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Operation not permitted"), "devices are denied as before: {said}");
    container.oci("delete", &["--force"]);
    assert!(!container.group().exists());
}

#[test]
#[ignore = "needs CRIU: hack/vm"]
fn systemd_a_container_may_go_on_after_it_was_written() {
    let container = counter();
    container.start();
    let path = |name: &str| container.bundle().join(name).to_str().unwrap().to_owned();
    container.oci("checkpoint", &["--pre-dump", "--image-path", &path("before")]);
    goes_on(&container);
    let arguments = ["--leave-running", "--parent-path", "../before", "--image-path", &path("images")];
    container.oci("checkpoint", &arguments);
    goes_on(&container);
    container.oci("delete", &["--force"]);
    restore(&container, Path::new(&path("images")));
    goes_on(&container);
}

/// As in a pod: some namespaces are another's, and a directory of the host's is bound where a symbolic link leads.
#[test]
#[ignore = "needs CRIU: hack/vm"]
fn systemd_a_container_goes_on_in_the_namespaces_of_another() {
    let holder = Container::new("while :; do sleep 1000; done");
    holder.start();
    let namespace = |kind: &str| format!("/proc/{}/ns/{kind}", holder.pid());
    let mut container = counter();
    let namespaces = container.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|one| !["network", "ipc", "uts"].contains(&one["type"].as_str().unwrap()));
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        namespaces.push(json!({"type": kind, "path": namespace(file)}));
    }
    container.config.as_object_mut().unwrap().remove("hostname");
    let data = container.bundle().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "of the host").unwrap();
    std::os::unix::fs::symlink("tmp", container.bundle().join("rootfs/link")).unwrap();
    container.config["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/link/data", "source": data.to_str().unwrap(), "options": ["rbind"]
    }));
    container.start();
    let images = container.bundle().join("images");
    goes_on(&container);
    container.oci("checkpoint", &["--image-path", images.to_str().unwrap()]);
    let written = count(&container);
    restore(&container, &images);
    eventually("it to count on", || (count(&container) > written).then_some(()));
    for kind in ["net", "ipc", "uts"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(of(&container.pid()), of(&holder.pid()), "{kind}");
    }
    let mut exec = container.command("exec", &[]);
    let output = exec.args(["cat", "/link/data/file"]).output().unwrap();
    succeed(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "of the host");
    container.oci("delete", &["--force"]);
    holder.oci("delete", &["--force"]);
}

/// Both ends of a pipe are not in the container.
#[test]
#[ignore = "needs CRIU: hack/vm"]
fn systemd_what_it_says_goes_where_restore_was_told() {
    let container = counter().set(
        "/process/args",
        json!([
            "/bin/sh",
            "-c",
            "while ! [ -e /tmp/go ]; do sleep 0.1; done; echo gone; echo >/tmp/count 7; sleep 1000"
        ]),
    );
    let (reader, writer) = std::io::pipe().unwrap();
    container.create_by(|create| {
        create.stdout(writer.try_clone().unwrap()).stderr(writer);
    });
    container.oci("start", &[]);
    let images = container.bundle().join("images");
    container.oci("checkpoint", &["--image-path", images.to_str().unwrap()]);
    drop(reader);
    restore(&container, &images);
    std::fs::write(container.bundle().join("rootfs/tmp/go"), "").unwrap();
    assert_eq!(count(&container), 7);
    assert_eq!(read(&container.bundle().join("restored")), "gone");
}

#[test]
#[ignore = "needs CRIU: hack/vm"]
fn systemd_a_restore_that_fails_leaves_nothing() {
    let container = counter();
    container.start();
    let images = container.bundle().join("images");
    container.oci("checkpoint", &["--image-path", images.to_str().unwrap()]);
    std::fs::remove_file(images.join("pstree.img")).unwrap();
    let bundle = container.bundle().to_str().unwrap();
    let arguments = ["--detach", "--bundle", bundle, "--image-path", images.to_str().unwrap()];
    let output = Command::output(&mut container.command("restore", &arguments)).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("restore.log"), "{said}");
    assert!(!said.contains("Restoring FAILED"), "it says why: {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!container.command("state", &[]).output().unwrap().status.success());
    assert!(!container.group().exists());
}
