//! Containers that runc and crun make: all that the built-in ones can.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustix::io::Errno;
use vaquita_shim::client::Client;
use vaquita_shim::{AttachRequest, ExecRequest, ExitRecord, Kind, SignalScope, Status};
use vaquita_testing::crun;

use crate::support::{Pod, process, shown, until};

#[tokio::test]
async fn runc_makes_starts_and_forgets_a_container() {
    life(Path::new("/usr/sbin/runc")).await;
}

#[tokio::test]
async fn crun_makes_starts_and_forgets_a_container() {
    let dir = crate::support::scratch();
    life(&crun(dir.path())).await;
}

async fn life(runtime: &Path) {
    let mut pod = Pod::new().await;
    let created = pod.container("c", &["say", "out\n", "err\n"]).runtime(runtime).create().await.unwrap();
    let state = pod.client.state().await.unwrap();
    assert_eq!((state.containers[0].status, state.containers[0].pid), (Status::Created, created.pid));
    let namespace = |pid: i32, name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    let pause = state.sandbox.unwrap().pid;
    for name in ["net", "ipc", "uts"] {
        assert_eq!(namespace(created.pid, name), namespace(pause, name), "{name}");
    }
    assert_ne!(namespace(created.pid, "mnt"), namespace(pod.shim(), "mnt"));
    assert!(!is_mounted(&pod.bundle("c")), "nothing is mounted where the host sees it");
    pod.client.start("c").await.unwrap();
    let exit = pod.exit_of("c").await;
    assert_eq!((exit.code, exit.signal), (0, None));
    assert!(exit.started_at_ns > 0);
    assert_eq!(ExitRecord::read(&pod.bundle("c")).unwrap().unwrap(), ExitRecord::from(&exit));
    let mut log = shown(&pod.log("c"));
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out"]);
    assert_eq!(pod.client.start("c").await.unwrap_err().kind(), Kind::State);
    pod.client.signal("c", 15, SignalScope::Init).await.unwrap();
    assert!(pod.bundle("c").join("runtime/state").exists());
    pod.client.delete("c").await.unwrap();
    assert!(!pod.bundle("c").join("runtime").exists());

    // One after the other, and one that was never started.
    pod.container("d", &["exit", "3"]).runtime(runtime).run().await;
    assert_eq!(pod.exit_of("d").await.code, 3);
    pod.container("e", &["sleep"]).runtime(runtime).create().await.unwrap();
    pod.container("f", &["sleep"]).runtime(runtime).run().await;
    pod.client.signal("f", 9, SignalScope::Init).await.unwrap();
    assert_eq!(pod.exit_of("f").await.signal, Some(9));
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn runc_executes_in_a_container() {
    execs(Path::new("/usr/sbin/runc")).await;
}

#[tokio::test]
async fn crun_executes_in_a_container() {
    let dir = crate::support::scratch();
    execs(&crun(dir.path())).await;
}

async fn execs(runtime: &Path) {
    let mut pod = Pod::new().await;
    pod.container("c", &["sleep"]).runtime(runtime).run().await;
    let request = |id: &str, args: &[&str]| ExecRequest {
        container: "c".to_owned(),
        exec_id: id.to_owned(),
        process: process(args).to_string().into_bytes(),
    };
    let (read, write) = std::io::pipe().unwrap();
    let stdio = [None, Some(write.into()), None];
    let session = pod.client.exec(&request("1", &["say", "hello", ""]), stdio).await.unwrap();
    assert!(session.console.is_none());
    assert_eq!(session.wait().await.unwrap().code, 0);
    assert_eq!(std::io::read_to_string(read).unwrap(), "hello");
    let session = pod.client.exec(&request("2", &["exit", "7"]), [None, None, None]).await.unwrap();
    assert_eq!(session.wait().await.unwrap().code, 7);

    // As after a restart of the daemon.
    pod.client = Client::connect(&pod.dir()).await.unwrap();
    pod.events = pod.client.events();
    let mut terminal = process(&["tty"]);
    terminal["terminal"] = true.into();
    terminal["consoleSize"] = serde_json::json!({"height": 24, "width": 80});
    let asked = ExecRequest { process: terminal.to_string().into_bytes(), ..request("3", &[]) };
    let session = pod.client.exec(&asked, [None, None, None]).await.unwrap();
    let mut console = File::from(session.console.as_ref().unwrap().try_clone().unwrap());
    assert_eq!(session.wait().await.unwrap().code, 0);
    let mut seen = [0; 100];
    let length = console.read(&mut seen).unwrap();
    assert!(seen[..length].starts_with(b"tty true "), "{:?}", String::from_utf8_lossy(&seen[..length]));

    let session = pod.client.exec(&request("4", &["sleep"]), [None, None, None]).await.unwrap();
    pod.client.kill_exec("c", "4").await.unwrap();
    assert_eq!(session.wait().await.unwrap().signal, Some(9));
    let mut missing = process(&[]);
    missing["args"] = serde_json::json!(["/bin/nothing"]);
    let asked = ExecRequest { process: missing.to_string().into_bytes(), ..request("5", &[]) };
    let error = pod.client.exec(&asked, [None, None, None]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exec(Errno::NOENT), "{error}");
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn runc_gives_a_terminal() {
    terminal(Path::new("/usr/sbin/runc")).await;
}

#[tokio::test]
async fn crun_gives_a_terminal() {
    let dir = crate::support::scratch();
    terminal(&crun(dir.path())).await;
}

async fn terminal(runtime: &Path) {
    let mut pod = Pod::new().await;
    pod.container("c", &["sizes"]).tty().stdin().runtime(runtime).create().await.unwrap();
    pod.client.resize("c", 132, 50).await.unwrap();
    let request = AttachRequest { container: "c".to_owned(), stdin: true, stdout: true, stderr: true };
    let attached = pod.client.attach(&request).await.unwrap();
    pod.client.start("c").await.unwrap();
    rustix::io::write(attached.stdin.as_ref().unwrap(), b"a\n\x04").unwrap();
    assert_eq!(pod.exit_of("c").await.code, 0);
    assert!(shown(&pod.log("c")).contains(&"stdout F a at 50x132\r".to_owned()), "{:?}", pod.log("c"));
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn what_a_runtime_cannot_do_is_told_and_leaves_nothing() {
    let pod = Pod::new().await;
    let runc = Path::new("/usr/sbin/runc");
    let mut missing = pod.container("c", &[]).runtime(runc);
    missing.set_args(&["/bin/nothing"]);
    let error = missing.create().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exec(Errno::NOENT), "{error}");
    assert!(error.message().contains("runc"), "{error}");
    assert!(pod.client.state().await.unwrap().containers.is_empty());
    let error = pod.container("c", &["sleep"]).runtime(Path::new("/nothing")).create().await.unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NOENT), "{error}");
    // One that says nothing of why.
    let error = pod.container("c", &["sleep"]).runtime(Path::new("/bin/false")).create().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    // The name is free again.
    pod.container("c", &["sleep"]).runtime(runc).run().await;
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_runtime_that_hangs_goes_with_the_pod() {
    let pod = Pod::new().await;
    let dir = crate::support::scratch();
    let (runtime, pid) = (dir.path().join("runtime"), dir.path().join("pid"));
    let wait = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 1000", pid.display());
    let script = format!("#!/bin/sh\ncase \"$*\" in *\" create \"*) {wait} ;; esac\n");
    std::fs::write(&runtime, script).unwrap();
    std::fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let client = pod.client.clone();
    let creation = pod.container("c", &["sleep"]).runtime(&runtime).create();
    let deletion = async {
        until("the runtime is called", || pid.exists()).await;
        // It is given ten seconds.
        assert_eq!(client.delete("c").await.unwrap_err().kind(), Kind::Busy);
        client.delete("c").await.unwrap();
    };
    let (created, ()) = tokio::join!(creation, deletion);
    assert_eq!(created.unwrap_err().kind(), Kind::Unavailable);
    let pid = std::fs::read_to_string(&pid).unwrap();
    until("the runtime is gone", || !Path::new(&format!("/proc/{}", pid.trim())).exists()).await;
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_container_is_deleted_although_its_runtime_is_gone() {
    let pod = Pod::new().await;
    let dir = crate::support::scratch();
    let runtime = dir.path().join("runtime");
    std::fs::copy("/usr/sbin/runc", &runtime).unwrap();
    let created = pod.container("c", &["sleep"]).runtime(&runtime).run().await;
    std::fs::remove_file(&runtime).unwrap();
    pod.client.signal("c", 9, SignalScope::All).await.unwrap();
    until("it has ended", || !Path::new(&format!("/proc/{}", created.pid)).exists()).await;
    pod.client.delete("c").await.unwrap();
    assert!(!pod.bundle("c").join("runtime").exists());
    assert!(std::fs::read_to_string(pod.dir().join("shim.log")).unwrap().contains("without its runtime"));
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
#[ignore = "needs cgroup v2 and systemd: hack/vm"]
async fn systemd_makes_the_scope_of_a_container() {
    for program in ["/usr/sbin/runc", "/usr/bin/crun"] {
        let mut pod = Pod::new().await;
        let created = pod.container("c", &["sleep"]).scope(Path::new(program)).run().await;
        let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", created.pid)).unwrap();
        // crun makes a group below it for the container.
        let scope = format!("0::/{}.slice/vaquita-c.scope", pod.tag);
        assert!(cgroup.starts_with(&scope), "{program}: {cgroup}");
        pod.client.signal("c", 9, SignalScope::All).await.unwrap();
        assert_eq!(pod.exit_of("c").await.signal, Some(9));
        pod.client.delete("c").await.unwrap();
        let slice = format!("/sys/fs/cgroup/{}.slice", pod.tag);
        until("systemd has removed it", || !Path::new(&slice).join("vaquita-c.scope").exists()).await;
        pod.client.delete_sandbox().await.unwrap();
        let stopped =
            std::process::Command::new("systemctl").args(["stop", &format!("{}.slice", pod.tag)]).status();
        assert!(stopped.unwrap().success());
        until("systemd has removed the slice", || !Path::new(&slice).exists()).await;
    }
}

fn is_mounted(below: &Path) -> bool {
    let table = vaquita_sys::mount::mountinfo().unwrap();
    table.iter().any(|mount| format!("{mount:?}").contains(&below.display().to_string()))
}
