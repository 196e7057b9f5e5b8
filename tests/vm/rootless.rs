//! Containers of an ordinary user, to whom systemd delegates cgroups.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;

use serde_json::json;
use vaquita_testing::Defer;

use crate::container::{Container, eventually, host, read, succeed};

const MANAGER: &str = "/user.slice/user-1000.slice/user@1000.service";

/// As the user `ordinary`: `script` is a line of shell in which `$oci` is the command line, `$b` the bundle.
fn as_user(scope: bool, driver: &str, bundle: &Path, script: &str) -> Output {
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        "1000",
        "--regid",
        "1000",
        "--init-groups",
        "env",
        "XDG_RUNTIME_DIR=/run/user/1000",
    ]);
    if scope {
        command.args(["systemd-run", "--user", "--scope", "--quiet", "--property", "Delegate=yes"]);
    }
    let oci = format!("oci='{0}/vaquita-oci --root {0}/state {driver}'; b={0}; {script}", bundle.display());
    command.args(["sh", "-c", &oci]).current_dir("/").output().unwrap()
}

/// The user has one systemd, which each test starts and stops.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Creates a bundle of the user, runs it, and looks at what holds for it.
fn limits_hold(scope: bool, driver: &str) {
    let container = Container::new("while :; do sleep 1; done")
        .limit("memory", json!({"limit": 32 << 20, "swap": 32 << 20}))
        .limit("pids", json!({"limit": 9}));
    let mut config = container.config.clone();
    config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    config["linux"]["resources"].as_object_mut().unwrap().remove("devices");
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let bundle = dir.path();
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_vaquita"), bundle.join("vaquita-oci")).unwrap();
    host("cp", &["-a", container.bundle().join("rootfs").to_str().unwrap(), bundle.to_str().unwrap()]);
    host("chown", &["-R", "1000:1000", bundle.to_str().unwrap()]);
    fs::set_permissions(bundle, fs::Permissions::from_mode(0o755)).unwrap();
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    host("systemctl", &["start", "user@1000.service"]);
    let _clean = Defer::new(|| {
        host("systemctl", &["stop", "user@1000.service"]);
    });

    let id = &container.id;
    let script = format!(
        "set -e; $oci run --detach --bundle $b {id} </dev/null >/dev/null 2>&1; \
         pid=$($oci state {id} | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'); \
         g=/sys/fs/cgroup$(sed s/^0::// /proc/$pid/cgroup); echo $g; cat $g/memory.max $g/memory.swap.max $g/pids.max; \
         set +e; $oci exec {id} dd if=/dev/zero of=/dev/null bs=64M count=1; echo exec $?; \
         $oci exec {id} sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do sleep 3 & done; echo all'; \
         grep -h -E '^(oom_kill|max) ' $g/memory.events $g/pids.events; set -e; \
         $oci update --memory 67108864 --memory-swap 67108864 --pids-limit 20 {id}; cat $g/memory.max $g/pids.max; \
         $oci pause {id}; $oci resume {id}; $oci kill {id} KILL; $oci delete --force {id}; \
         [ ! -e $g ] && echo gone"
    );
    let output = as_user(scope, driver, bundle, &script);
    succeed(&output);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with(&format!("/sys/fs/cgroup{MANAGER}/")), "{said}");
    assert_eq!(lines[1..4], ["33554432", "0", "9"], "{said}");
    assert_eq!(lines[4], "exec 137", "{said}{complaints}");
    assert!(lines.contains(&"oom_kill 1"), "{said}");
    assert!(!lines.contains(&"all"), "{said}");
    assert!(said.ends_with("67108864\n20\ngone\n"), "{said}{complaints}");
    eventually("the unit to go", || {
        let units = as_user(false, "", bundle, "systemctl --user list-units --all --type=scope --no-legend");
        (!String::from_utf8_lossy(&units.stdout).contains(id.as_str())).then_some(())
    });
    assert_eq!(read(Path::new("/proc/self/cgroup")).lines().count(), 1);
}

#[test]
#[ignore = "needs systemd: hack/vm"]
fn systemd_an_ordinary_users_limits_hold_in_a_scope() {
    limits_hold(true, "--systemd-cgroup");
    limits_hold(true, "");
}

/// From a group of root's, from where an ordinary user can move nothing: its systemd does.
#[test]
#[ignore = "needs systemd: hack/vm"]
fn systemd_an_ordinary_users_limits_hold_from_anywhere() {
    limits_hold(false, "--systemd-cgroup");
}
