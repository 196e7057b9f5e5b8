//! Containers that attack their shim.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use vaquita_shim::ExecRequest;
use vaquita_sys::signal::{Signal, send_to_pid};

use crate::support::{PROGRAM, Pod, process, shim_of, until};

/// How often the container is entered while it attacks.
const EXECS: usize = 100;
const NAME: &CStr = c"vaquita-t01";

/// T01, CVE-2019-5736: a container that sees the host's processes and has every power it could use opens the program that
/// the shim and its creators run from, and writes to it once nobody runs it any more. It can look, and that is all.
#[tokio::test]
async fn t01_the_shims_program_cannot_be_overwritten() {
    let program = std::fs::read(PROGRAM).unwrap();
    let dir = vaquita_testing::temp_dir();
    let path = dir.path().join("program");
    std::fs::copy(PROGRAM, &path).unwrap();
    let file = File::open(&path).unwrap();
    let (won, after) = attack(vaquita_sys::process::read_only(&file).unwrap(), file).await;
    assert_eq!(won, 0, "it could write");
    assert!(after == program, "the program was changed");
}

/// The same where the kernel cannot give the file a mount of its own.
#[tokio::test]
async fn t01_the_copy_of_the_shims_program_cannot_be_overwritten() {
    let program = std::fs::read(PROGRAM).unwrap();
    let exe = vaquita_sys::process::sealed_copy(NAME, &program).unwrap();
    let (won, after) = attack(exe.try_clone().unwrap(), exe.into()).await;
    assert_eq!(won, 0, "it could write");
    assert!(after == program, "the program was changed");
}

/// That the attack is one: a file in memory without seals is lost to it, and so is one on the disk.
#[tokio::test]
async fn t01_a_program_that_is_not_sealed_is_overwritten() {
    let program = std::fs::read(PROGRAM).unwrap();
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(rustix::fs::memfd_create(NAME, flags).unwrap());
    copy.write_all(&program).unwrap();
    let dir = vaquita_testing::temp_dir();
    let path = dir.path().join("program");
    std::fs::copy(PROGRAM, &path).unwrap();
    for file in [copy, File::open(&path).unwrap()] {
        let (won, after) = attack(file.try_clone().unwrap().into(), file).await;
        assert!(won > 0 && after != program, "won {won} times");
    }
}

/// How often the attacker could write, and what the program is then.
async fn attack(exe: OwnedFd, program: File) -> (usize, Vec<u8>) {
    let pod = Pod::of(|| exe).await;
    pod.create_sandbox().await.unwrap();
    pod.container("attacker", &["overwrite", &pod.shim().to_string()]).powerful().run().await;
    until("the attack begins", || pod.file("seen").exists()).await;
    for number in 0..EXECS {
        // Every second program is the shim's own, by the way that the kernel shows it: it runs inside then.
        let mut inside = process(&["exit", "7"]);
        if number % 2 == 0 {
            inside["args"] = serde_json::json!(["/proc/self/exe", "exit", "7"]);
        }
        let id = format!("e{number}");
        let request = ExecRequest {
            container: "attacker".to_owned(),
            exec_id: id.clone(),
            process: inside.to_string().into_bytes(),
        };
        let execed = pod.client.exec(&request, [None, None, None]).await.unwrap();
        assert_eq!(execed.wait().await.unwrap().code, 7);
    }
    // A file that is run cannot be written anyway; whoever holds it waits for the end of the last one.
    send_to_pid(pod.shim(), Signal::KILL).unwrap();
    until("the shim is gone", || shim_of(&pod.dir()).is_none()).await;
    std::fs::write(pod.file("stop"), "").unwrap();
    until("the report", || pod.file("report").exists()).await;
    let report = std::fs::read_to_string(pod.file("report")).unwrap();
    let numbers: Vec<usize> = report.split(' ').map(|number| number.parse().unwrap()).collect();
    let [seen, tried, won] = numbers[..] else { panic!("{report:?}") };
    assert!(seen > 2 && tried > 2, "no attack: {report}");
    let mut after = vec![0; usize::try_from(program.metadata().unwrap().len()).unwrap()];
    program.read_exact_at(&mut after, 0).unwrap();
    (won, after)
}
