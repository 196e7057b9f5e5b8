//! Processes beside a container's own.

use std::fs::File;
use std::io::{Read as _, Write as _};

use rustix::io::Errno;
use rustix::process::Pid;
use vaquita_shim::client::Execed;
use vaquita_shim::{Error, ExecRequest, Kind};
use vaquita_sys::signal::{Signal, send_to_pid};
use vaquita_testing::trace::{self, Program, Verdict};

use crate::support::{Pod, process, scratch};

#[tokio::test]
async fn output_and_exit_come_back() {
    let pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    let (mut stdout, theirs) = pipe();
    let execed = exec(&pod, "e", &["say", "out", "err"], [None, Some(theirs), None]).await.unwrap();
    let exit = execed.wait().await.unwrap();
    assert_eq!(exit.code, 0);
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "out");

    let exit = exec(&pod, "e", &["exit", "7"], [None, None, None]).await.unwrap().wait().await.unwrap();
    assert_eq!((exit.code, exit.signal), (7, None));
    assert!(exit.started_at_ns > 0 && exit.finished_at_ns >= exit.started_at_ns);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn input_goes_in() {
    let pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    let (stdin, mut ours) = pipe();
    let (mut stdout, theirs) = pipe();
    let execed = exec(&pod, "e", &["cat"], [Some(stdin), Some(theirs), None]).await.unwrap();
    ours.write_all(b"through").unwrap();
    drop(ours);
    assert_eq!(execed.wait().await.unwrap().code, 0);
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn it_runs_in_the_container() {
    let pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    let (mut stdout, theirs) = pipe();
    let execed = exec(&pod, "e", &["read", "/proc/1/cmdline"], [None, Some(theirs), None]).await.unwrap();
    assert_eq!(execed.wait().await.unwrap().code, 0);
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "/bin/program\0sleep\0");
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn failures_say_what_failed() {
    let pod = Pod::new().await;
    let error = exec(&pod, "e", &["sleep"], [None, None, None]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    pod.container("c", &["sleep"]).create().await.unwrap();
    let error = exec(&pod, "e", &["sleep"], [None, None, None]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::State);
    pod.client.start("c").await.unwrap();

    let mut missing = process(&[]);
    missing["args"] = serde_json::json!(["/no/such/program"]);
    let error = exec_process(&pod, "e", missing.to_string(), [None, None, None]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exec(Errno::NOENT), "{error}");
    let error = exec_process(&pod, "e", "{".to_owned(), [None, None, None]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");

    let running = exec(&pod, "e", &["sleep"], [None, None, None]).await.unwrap();
    assert_eq!(pod.client.state().await.unwrap().containers[0].execs, ["e"]);
    let error = exec(&pod, "e", &["sleep"], [None, None, None]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exists);
    pod.client.kill_exec("c", "e").await.unwrap();
    assert_eq!(running.wait().await.unwrap().signal, Some(9));
    pod.client.kill_exec("c", "e").await.unwrap();
    assert!(pod.client.state().await.unwrap().containers[0].execs.is_empty());
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_long_process_arrives() {
    let pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    let (mut stdout, theirs) = pipe();
    // Longer than a packet, so it travels in a memfd.
    let long = "x".repeat(100_000);
    let execed = exec(&pod, "e", &["say", &long, ""], [None, Some(theirs), None]).await.unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(execed.wait().await.unwrap().code, 0);
    assert!(reader.join().unwrap() == long);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_terminal_comes_back() {
    let pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    let mut spec = process(&["tty"]);
    spec["terminal"] = true.into();
    spec["consoleSize"] = serde_json::json!({"height": 10, "width": 20});
    let mut execed = exec_process(&pod, "e", spec.to_string(), [None, None, None]).await.unwrap();
    let mut console = File::from(execed.console.take().unwrap());
    // The terminal hands a line over in more than one piece at times.
    let mut text = [0; "tty true 10x20\r\n".len()];
    console.read_exact(&mut text).unwrap();
    assert_eq!(String::from_utf8_lossy(&text), "tty true 10x20\r\n");
    assert_eq!(execed.wait().await.unwrap().code, 0);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn many_at_once() {
    let pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    let mut sessions = Vec::new();
    for at in 0..50 {
        let client = pod.client.clone();
        sessions.push(tokio::spawn(async move {
            let request = ExecRequest {
                container: "c".to_owned(),
                exec_id: format!("e{at}"),
                process: process(&["exit", &at.to_string()]).to_string().into_bytes(),
            };
            let execed = client.exec(&request, [None, None, None]).await.unwrap();
            assert_eq!(execed.wait().await.unwrap().code, at);
        }));
    }
    for session in sessions {
        session.await.unwrap();
    }
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn sessions_end_with_their_container() {
    let pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    let execed = exec(&pod, "e", &["sleep"], [None, None, None]).await.unwrap();
    pod.client.delete("c").await.unwrap();
    assert_eq!(execed.wait().await.unwrap().signal, Some(9));
    pod.client.delete_sandbox().await.unwrap();
}

/// Who comes too late is told so, whatever step of the joining it is at which the container is found dead.
#[tokio::test]
async fn a_container_that_ends_meanwhile_does_not_run() {
    let pod = Pod::new().await;
    let mut refused = 0;
    for round in 0..40 {
        let id = format!("c{round}");
        let created = pod.run(&id, &["sleep"]).await;
        let request = ExecRequest {
            container: id.clone(),
            exec_id: "e".to_owned(),
            process: process(&["exit", "0"]).to_string().into_bytes(),
        };
        // The shim hears of both at once, in this order or the other.
        let exec = pod.client.exec(&request, [None, None, None]);
        send_to_pid(created.pid, Signal::KILL).unwrap();
        match exec.await {
            Ok(execed) => {
                let exit = execed.wait().await.unwrap();
                assert!(exit.code == 0 || exit.signal == Some(9), "{exit:?}");
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::State, "{error}");
                assert!(error.to_string().contains("does not run"), "{error}");
                refused += 1;
            }
        }
        pod.client.delete(&id).await.unwrap();
    }
    assert!(refused > 0, "no exec came too late");
    pod.client.delete_sandbox().await.unwrap();
}

/// CVE-2024-21626: when it comes into the container it has nothing open that is the shim's.
#[tokio::test]
async fn what_the_shim_has_open_is_closed_before_the_container_is_joined() {
    let pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    let dir = scratch();
    let end = dir.path().join("end");
    rustix::fs::mkfifoat(rustix::fs::CWD, &end, rustix::fs::Mode::RUSR).unwrap();
    let program = Program::new("/bin/cat").args([end.to_str().unwrap()]);
    let shim = Pid::from_raw(pod.shim()).unwrap();
    let (watches, is_watched) = tokio::sync::oneshot::channel();
    let traced = std::thread::spawn(move || {
        let mut watches = Some(watches);
        let mut open = Vec::new();
        let trace = trace::run(&program, &[shim], |call| {
            if let Some(watches) = watches.take() {
                watches.send(()).unwrap();
            }
            // The program and the shim are 0 and 1. The last thing before: it has its new session already.
            if call.process > 1 && call.number == SETSID {
                open.push(files(call.pid));
            }
            Verdict::Make
        });
        (trace.unwrap(), open)
    });
    is_watched.await.unwrap();
    let execed = exec(&pod, "e", &["exit", "0"], [None, None, None]).await.unwrap();
    assert_eq!(execed.wait().await.unwrap().code, 0);
    drop(File::options().write(true).open(&end).unwrap());
    let (trace, open) = traced.join().unwrap();
    assert_eq!(trace.end, trace::End::Exited(0), "{}", trace.errors);
    let [open] = &open[..] else { panic!("{open:?}") };
    let of = |kind: &str| open.iter().filter(|file| file.contains(kind)).count();
    assert_eq!(of("socket:"), 1, "not the handshake's alone: {open:?}");
    assert_eq!(
        of("eventpoll") + of("signalfd") + of(".log") + of("net:["),
        1,
        "its shim.log, as before: {open:?}"
    );
    assert_eq!(of("pidfd"), 1, "{open:?}");
    pod.client.delete_sandbox().await.unwrap();
}

/// setsid(2) on x86-64, where alone there is a tracer.
const SETSID: i64 = 112;

/// What a process has open.
fn files(pid: i32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.unwrap().path()).unwrap();
    entries.map(|entry| name(entry).display().to_string()).collect()
}

async fn exec(pod: &Pod, id: &str, args: &[&str], stdio: [Option<File>; 3]) -> Result<Execed, Error> {
    exec_process(pod, id, process(args).to_string(), stdio).await
}

async fn exec_process(
    pod: &Pod,
    id: &str,
    process: String,
    stdio: [Option<File>; 3],
) -> Result<Execed, Error> {
    let request =
        ExecRequest { container: "c".to_owned(), exec_id: id.to_owned(), process: process.into_bytes() };
    pod.client.exec(&request, stdio.map(|file| file.map(Into::into))).await
}

fn pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (read.into(), write.into())
}
