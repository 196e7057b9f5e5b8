//! What engines rely on, without one: the command line and a bundle.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::{Place, Said};

/// A bundle with busybox, and a runtime with state of its own.
#[derive(Debug)]
struct Bundle {
    place: Place,
    config: Value,
}

impl Bundle {
    fn new(args: &[&str]) -> Self {
        let place = Place::new();
        for dir in ["bin", "proc", "dev"] {
            std::fs::create_dir_all(place.path("bundle/rootfs").join(dir)).unwrap();
        }
        std::fs::copy("/bin/busybox", place.path("bundle/rootfs/bin/busybox")).unwrap();
        for name in ["head", "sh", "sleep", "test", "true"] {
            std::os::unix::fs::symlink("busybox", place.path("bundle/rootfs/bin").join(name)).unwrap();
        }
        let config = json!({
            "ociVersion": "1.3.0",
            "process": { "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } },
            "root": { "path": "rootfs" },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": {
                "cgroupsPath": format!("{}/bundle", place.group()),
                "resources": {},
                "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "network" }]
            }
        });
        Self { place, config }
    }

    fn oci(&self, args: &[&str]) -> Said {
        std::fs::write(self.place.path("bundle/config.json"), self.config.to_string()).unwrap();
        // A container inherits these streams: pipes would be held open by it.
        let files = [self.place.path("out"), self.place.path("err")];
        let [out, err] = files.each_ref().map(|file| std::fs::File::create(file).unwrap());
        let mut command = Command::new(self.place.runtime());
        command.arg("--root").arg(self.place.path("oci")).args(args).current_dir(self.place.path("bundle"));
        let status = command.stdout(out).stderr(err).status().unwrap();
        let [stdout, stderr] = files.map(|file| std::fs::read(file).unwrap());
        Said::new(&Output { status, stdout, stderr })
    }

    fn finish(self) {
        let left = std::fs::read_dir(self.place.path("oci")).into_iter().flatten().count();
        assert_eq!(left, 0, "the runtime still has containers");
        self.place.remove_groups();
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.place.sweep();
        }
    }
}

/// Engines read limits, memory kills and statistics by the process id that `create` gives them.
#[test]
fn a_created_container_is_in_its_cgroup_before_it_is_started() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    let pid_file = bundle.place.path("pid");
    bundle.oci(&["create", "--pid-file", pid_file.to_str().unwrap(), "c"]).ok();
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let groups = std::fs::read_to_string(PathBuf::from("/proc").join(pid).join("cgroup")).unwrap();
    let group = format!("{}/bundle", bundle.place.group());
    let outside: Vec<_> = groups.lines().filter(|line| !line.ends_with(&group)).collect();
    assert!(outside.is_empty(), "{outside:?}");
    bundle.oci(&["delete", "--force", "c"]).ok();
    bundle.finish();
}

#[test]
fn a_program_that_is_missing_or_cannot_be_executed_fails_the_creation() {
    let mut bundle = Bundle::new(&["absent"]);
    let said = bundle.oci(&["create", "c"]);
    assert_eq!(said.code, 1);
    let reason = "execve(\"absent\", looked for in \"/bin\"): ENOENT (No such file or directory)";
    assert_eq!(said.err, format!("vaquita-oci: create c: {reason}\n"));
    std::fs::write(bundle.place.path("bundle/rootfs/text"), "no program").unwrap();
    bundle.config["process"]["args"] = json!(["/text"]);
    let said = bundle.oci(&["create", "c"]);
    assert_eq!(said.err, "vaquita-oci: create c: execve(\"/text\"): EACCES (Permission denied)\n");
    bundle.finish();
}

/// Its mounts are in no namespace: they are gone with it, and the host's table never had them (`Place` compares it). Older
/// kernels take no mounts there, and then there is no container.
#[test]
fn a_container_in_the_mount_namespace_of_the_host_has_its_own_root_and_leaves_no_mount() {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["linux"]["namespaces"] = json!([{ "type": "pid" }]);
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
    if vaquita_testing::kernel() < [6, 15] {
        let said = bundle.oci(&["create", "c"]);
        assert!(said.err.contains("a container needs Linux 6.15"), "{said:?}");
        bundle.finish();
        return;
    }
    bundle.oci(&["create", "c"]).ok();
    bundle.oci(&["start", "c"]).ok();
    let said =
        bundle.oci(&["exec", "c", "sh", "-c", "echo /*; head -c 1 /proc/kcore; test -e /proc/1/stat"]).ok();
    assert_eq!(said, "/bin /dev /proc\n");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&bundle.place.tag), "{mounts}");
    bundle.oci(&["delete", "--force", "c"]).ok();
    bundle.finish();
}

/// What the runtime itself needs is charged to the container only as far as it must be.
#[test]
fn a_container_limited_to_two_mib_of_memory_runs_a_static_program() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["linux"]["resources"]["memory"] = json!({ "limit": 2 << 20 });
    for id in ["a", "b", "c"] {
        bundle.oci(&["run", id]).ok();
        bundle.oci(&["create", id]).ok();
        bundle.oci(&["start", id]).ok();
        bundle.oci(&["delete", "--force", id]).ok();
    }
    bundle.finish();
}
