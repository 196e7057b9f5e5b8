//! Containers of an ordinary user.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::bundle::Bundle;

/// The user: one who owns nothing on any machine.
const NOBODY: u32 = 65534;

/// A bundle that belongs to the user, as `spec --rootless` makes it.
struct Own {
    bundle: Bundle,
    program: PathBuf,
}

impl Own {
    fn new(script: &str) -> Self {
        let bundle = Bundle::new(script);
        // The program where the user can reach it, which the directory of a build need not be.
        let program = bundle.path("vaquita-oci");
        if std::fs::hard_link(env!("CARGO_BIN_EXE_vaquita"), &program).is_err() {
            std::fs::copy(env!("CARGO_BIN_EXE_vaquita"), &program).unwrap();
        }
        std::fs::remove_file(bundle.path("config.json")).unwrap();
        std::fs::create_dir(bundle.root()).unwrap();
        for path in [bundle.path(""), bundle.path("rootfs"), bundle.root()] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let own = Self { bundle, program };
        own.good(["spec", "--rootless"]);
        own.bundle.change(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["process"]["args"] = json!(["sh", "-c", script]);
        });
        own
    }

    fn oci<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let [mut stdout, mut stderr] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.bundle.root()).current_dir(self.bundle.path("")).stdin(Stdio::null());
        command.args(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        command.uid(NOBODY).gid(NOBODY).env_clear().env("PATH", "/usr/bin:/bin");
        command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let status = command.status().unwrap();
        let [stdout, stderr] = [&mut stdout, &mut stderr].map(|file| {
            let mut bytes = Vec::new();
            std::io::Seek::rewind(file).unwrap();
            std::io::Read::read_to_end(file, &mut bytes).unwrap();
            bytes
        });
        Output { status, stdout, stderr }
    }

    #[track_caller]
    fn good<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = self.oci(args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn bad<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = self.oci(args);
        assert!(!output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    }

    fn status(&self, id: &str) -> String {
        let state: Value = serde_json::from_str(&self.good(["state", id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }
}

#[test]
fn an_ordinary_user_runs_a_container() {
    let own =
        Own::new("id -u; cat /proc/self/uid_map; ls -ln /proc/1/exe | cut -c1; touch /mine 2>&1; exit 5");
    own.bundle.change(|spec| spec["root"]["readonly"] = json!(true));
    let output = own.oci(["run", "c"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["0"]);
    assert_eq!(lines[1], ["0", "65534", "1"]);
    assert!(said.contains("Read-only file system"), "{said}");
    assert_eq!(std::fs::read_dir(own.bundle.root()).unwrap().count(), 0);
}

#[test]
fn an_ordinary_user_creates_starts_enters_kills_and_deletes_a_container() {
    let own = Own::new("sleep 1000");
    own.good(["create", "c"]);
    assert_eq!(own.status("c"), "created");
    let said = own.bad(["exec", "c", "true"]);
    assert!(said.contains("start it first"), "{said}");
    own.good(["start", "c"]);
    assert_eq!(own.status("c"), "running");
    assert_eq!(own.good(["exec", "c", "id", "-u"]).trim(), "0");
    assert_eq!(
        own.good(["exec", "c", "sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '"]).trim(),
        "sleep 1000"
    );
    let said = own.bad(["exec", "--additional-gids", "7", "c", "true"]);
    assert!(said.contains("additionalGids") && said.contains("newgidmap"), "{said}");
    own.good(["kill", "c", "KILL"]);
    crate::support::eventually("stopped", || (own.status("c") == "stopped").then_some(()));
    own.good(["delete", "c"]);
}

#[test]
fn what_an_ordinary_user_cannot_have_is_refused_by_name() {
    let own = Own::new("true");
    for (pointer, value, name) in [
        ("/linux/resources", json!({"pids": {"limit": 5}}), "no control group is delegated"),
        ("/linux/uidMappings/0/hostID", json!(0), "the caller's own id 65534"),
        ("/hooks", json!({"startContainer": [{"path": "/bin/true"}]}), "hooks.startContainer"),
        ("/process/user/additionalGids", json!([5]), "additionalGids"),
    ] {
        let mut before = Value::Null;
        own.bundle.change(|spec| {
            before = spec.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[key] = value;
        });
        let said = own.bad(["run", "c"]);
        assert!(said.contains(name), "{pointer}: {said}");
        own.bundle.change(|spec| *spec = before);
    }
    own.bundle.change(|spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "user");
        spec["linux"]["uidMappings"] = json!([]);
        spec["linux"]["gidMappings"] = json!([]);
    });
    let said = own.bad(["run", "c"]);
    assert!(said.contains("needs a user namespace"), "{said}");
    assert_eq!(std::fs::read_dir(own.bundle.root()).unwrap().count(), 0);
}

/// CVE-2023-25809: the host's cgroups below a bind of /sys without a cgroup namespace, where that is shared.
#[test]
fn t09_no_path_to_a_cgroup_is_writable_in_a_rootless_container() {
    let script = "while read -r _ where _ options _; do case $where in /sys*) echo $where $options;; esac; done < /proc/self/mounts";
    let own = Own::new(script);
    own.bundle.change(|spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "cgroup");
        // As other tools write it, where the option is of the top mount only.
        for mount in spec["mounts"].as_array_mut().unwrap() {
            if mount["destination"] == "/sys" {
                mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
            }
        }
    });
    let said = own.good(["run", "c"]);
    let mounts: Vec<&str> = said.lines().collect();
    let has_cgroup = Path::new("/sys/fs/cgroup/cgroup.procs").exists()
        || mounts.iter().any(|line| line.starts_with("/sys/fs/cgroup/"));
    assert!(has_cgroup, "{said}");
    for line in mounts {
        let options = line.split_once(' ').unwrap().1;
        assert!(options.split(',').any(|option| option == "ro"), "{line}");
    }
}
