//! Containers of an ordinary user.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::bundle::{Bundle, to_its_end};

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
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.bundle.root()).current_dir(self.bundle.path("")).stdin(Stdio::null());
        command.args(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        command.uid(NOBODY).gid(NOBODY).env_clear().env("PATH", "/usr/bin:/bin");
        to_its_end(command)
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

/// Groups that were given to the user, in every hierarchy; they are gone when this is.
struct Delegated {
    dirs: Vec<PathBuf>,
}

impl Delegated {
    fn new(tag: &str) -> Self {
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mounts =
            lines.filter(|fields| fields[2].starts_with("cgroup")).map(|fields| fields[1].to_owned());
        let this = Self { dirs: mounts.map(|mount| Path::new(&mount).join(tag)).collect() };
        for dir in &this.dirs {
            // The caller's own group, too: a process is moved between groups that are both the user's.
            for dir in [dir.clone(), dir.join("engine")] {
                std::fs::create_dir(&dir).unwrap();
                // A set of no CPUs takes no process.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let above = std::fs::read(dir.parent().unwrap().join(file));
                    if let (Ok(value), true) = (above, dir.to_str().unwrap().contains("/cpuset/")) {
                        std::fs::write(dir.join(file), value).unwrap();
                    }
                }
                for name in ["", "cgroup.procs", "tasks", "cgroup.subtree_control"] {
                    let path = dir.join(name);
                    if path.exists() {
                        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
                    }
                }
            }
        }
        this
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for dir in &self.dirs {
            for dir in [dir.join("engine"), dir.clone()] {
                if let Err(error) = std::fs::remove_dir(&dir)
                    && !std::thread::panicking()
                {
                    panic!("{dir:?}: {error}");
                }
            }
        }
    }
}

/// Whether it can be made there, or must be moved there, a process that is added is in the container's group.
#[test]
fn what_an_ordinary_user_executes_is_in_the_containers_group() {
    let own = Own::new("sleep 1000");
    let tag = own.bundle.tag.clone();
    let delegated = Delegated::new(&tag);
    own.bundle.change(|spec| {
        spec["linux"]["cgroupsPath"] = json!(format!("/{tag}/c"));
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "cgroup");
    });
    let engine: Vec<PathBuf> = delegated.dirs.iter().map(|dir| dir.join("engine/cgroup.procs")).collect();
    // From the group that was given to the user.
    let inside = |args: &[&str]| {
        let script = r#"for file in $GROUPS_OF_IT; do echo $$ > $file || exit 99; done; exec setpriv --reuid 65534 \
            --regid 65534 --clear-groups "$@""#;
        let files: Vec<&str> = engine.iter().map(|file| file.to_str().unwrap()).collect();
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&own.program).arg("--root").arg(own.bundle.root()).args(args);
        command.env("GROUPS_OF_IT", files.join(" ")).current_dir(own.bundle.path("")).stdin(Stdio::null());
        let [out, err] = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        command.stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap());
        let status = command.status().unwrap();
        let said = std::fs::read_to_string(err.path()).unwrap();
        assert!(status.success(), "{args:?}: {said}");
        std::fs::read_to_string(out.path()).unwrap()
    };
    inside(&["run", "-d", "c"]);
    let said = inside(&["exec", "c", "cat", "/proc/self/cgroup"]);
    let path = format!(":/{tag}/c");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() >= delegated.dirs.len(), "{said}");
    assert!(lines.iter().all(|line| line.ends_with(&path)), "{said}");
    inside(&["delete", "--force", "c"]);
}

/// As engines of ordinary users call it: root of a user namespace, to whom no group was given.
#[test]
fn root_of_a_user_namespace_does_without_the_groups_that_it_may_not_make() {
    let own = Own::new("id -u");
    own.bundle.change(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "user");
        spec["linux"]["uidMappings"] = json!([]);
        spec["linux"]["gidMappings"] = json!([]);
    });
    let inside = |flags: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(&own.program).arg("--root").arg(own.bundle.root());
        command.args(flags).args(["run", "c"]).uid(NOBODY).gid(NOBODY).stdin(Stdio::null());
        command.current_dir(own.bundle.path("")).env_clear().env("PATH", "/usr/bin:/bin");
        command.output().unwrap()
    };
    for flags in [&[][..], &["--rootless", "auto"], &["--rootless=true"]] {
        let output = inside(flags);
        assert!(output.status.success(), "{flags:?}: {output:?}");
        assert_eq!(output.stdout, b"0\n");
    }
    let said = String::from_utf8(inside(&["--rootless=false"]).stderr).unwrap();
    assert!(said.contains("control group: mkdirat(") && said.contains("Permission denied"), "{said}");
    // A limit is not left out.
    own.bundle.change(|spec| spec["linux"]["resources"]["pids"] = json!({"limit": 5}));
    let said = String::from_utf8(inside(&[]).stderr).unwrap();
    assert!(said.contains("no control group is delegated"), "{said}");
    assert_eq!(std::fs::read_dir(own.bundle.root()).unwrap().count(), 0);
}

#[test]
fn root_of_the_host_has_no_permissions_to_ignore() {
    let bundle = Bundle::new("true");
    let said = bundle.bad(1, ["--rootless=true", "run", "c"]);
    assert!(said.contains("--rootless true") && said.contains("give auto or false"), "{said}");
    bundle.good(["--rootless=false", "run", "c"]);
    assert!(bundle.bad(1, ["--rootless=maybe", "list"]).contains("'maybe'"));
}
