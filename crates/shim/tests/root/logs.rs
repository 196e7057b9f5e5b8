//! Output: complete, in order, never torn.

use std::time::Duration;

use vaquita_shim::Namespaces;

use crate::support::{Pod, output, records, shown};

#[tokio::test]
async fn streams_and_tags() {
    let mut pod = Pod::new().await;
    pod.run_to_end("c", &["say", "one\r\ntwo", ""]).await;
    assert_eq!(shown(&pod.log("c")), ["stdout F one\r", "stdout P two"]);
    pod.run_to_end("d", &["say", "", "error\n"]).await;
    assert_eq!(shown(&pod.log("d")), ["stderr F error"]);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_burst_is_in_the_file_before_the_exit_is_told() {
    let mut pod = Pod::new().await;
    // 100 MB.
    let exit = pod.run_to_end("c", &["lines", "1000000", "99", "650"]).await;
    assert_eq!(exit.code, 0);
    check_lines(&pod.log("c"), 1_000_000);
    let state = pod.client.state().await.unwrap();
    assert_eq!(state.containers[0].log_lost_bytes, 0);
    pod.client.delete_sandbox().await.unwrap();
}

/// R11, more often than each second.
#[tokio::test]
async fn rotation_loses_and_tears_nothing() {
    let mut pod = Pod::new().await;
    pod.run("c", &["lines", "2000000", "60", "7"]).await;
    let path = pod.log_path("c");
    let mut files = Vec::new();
    let exit = loop {
        let rotated = path.with_extension(format!("{}", files.len()));
        std::fs::rename(&path, &rotated).unwrap();
        files.push(rotated);
        match pod.client.reopen_log("c").await {
            Ok(()) => assert!(path.exists()),
            Err(_) => break pod.exit_of("c").await,
        }
        // As fast as it goes, but not for ever: an exit ends it.
        if let Ok(exit) = tokio::time::timeout(Duration::from_millis(5), pod.exit_of("c")).await {
            files.push(path);
            break exit;
        }
    };
    assert_eq!(exit.code, 0);
    let all: Vec<_> = files.iter().flat_map(|file| records(&std::fs::read(file).unwrap())).collect();
    check_lines(&all, 2_000_000);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_line_left_unfinished_by_a_parent_is_in_the_file() {
    let mut pod = Pod::empty().await;
    pod.create_sandbox_with(Namespaces { pid: true, ..pod.namespaces() }).await.unwrap();
    pod.container("c", &["unfinished-from-child"]).shared_pid().run().await;
    pod.exit_of("c").await;
    assert_eq!(shown(&pod.log("c")), ["stdout P begun"]);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_terminal_is_logged_as_standard_output() {
    let mut pod = Pod::new().await;
    pod.container("c", &["tty"]).tty().run().await;
    let exit = pod.exit_of("c").await;
    assert_eq!(exit.code, 0);
    assert_eq!(shown(&pod.log("c")), ["stdout F tty true 24x80\r"]);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn no_log_is_no_obstacle() {
    let mut pod = Pod::new().await;
    pod.container("c", &["lines", "10000", "99", "100"]).no_log().run().await;
    assert_eq!(pod.exit_of("c").await.code, 0);
    assert!(!pod.log_path("c").exists());
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn standard_input_is_empty_or_stays_open() {
    let mut pod = Pod::new().await;
    assert_eq!(pod.run_to_end("closed", &["cat"]).await.code, 0);
    pod.container("open", &["cat"]).stdin().run().await;
    let state = pod.client.state().await.unwrap();
    assert_eq!(state.containers[1].status, vaquita_shim::Status::Running);
    pod.client.delete_sandbox().await.unwrap();
}

/// Two files at most of what is beyond all measure, whose end is complete, and kubelet's files stay.
#[tokio::test]
async fn a_log_with_a_limit_does_not_fill_the_disk() {
    const LIMIT: u64 = 4 << 20;
    let mut pod = Pod::new().await;
    let theirs = pod.log_path("c").with_extension("log.20010101-000000");
    std::fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    std::fs::write(&theirs, "theirs").unwrap();
    pod.container("c", &["lines", "500000", "99", "650"]).log_limit(LIMIT).run().await;
    assert_eq!(pod.exit_of("c").await.code, 0);
    let mut files: Vec<_> = std::fs::read_dir(theirs.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| *path != theirs)
        .collect();
    files.sort();
    let [current, rotated] = &files[..] else { panic!("{files:?}") };
    assert_eq!(*current, pod.log_path("c"));
    let length = |path| std::fs::metadata(path).unwrap().len();
    assert!((LIMIT..LIMIT + (1 << 20)).contains(&length(rotated)) && length(current) < LIMIT + (1 << 20));
    assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
    let mut all = records(&std::fs::read(rotated).unwrap());
    all.extend(pod.log("c"));
    let number = |record: &crate::support::Record| -> usize {
        std::str::from_utf8(&record.content[..10]).unwrap().parse().unwrap()
    };
    // The first may be the last part of a line that began in a file that is gone.
    let lines: Vec<_> = all.iter().skip(1).filter(|record| record.content.len() == 99).map(number).collect();
    assert_eq!(*lines.last().unwrap(), 499_999);
    assert_eq!(lines.last().unwrap() - lines[0] + 1, lines.len(), "nothing is missing between them");
    pod.client.delete_sandbox().await.unwrap();
}

/// Lines that come one by one are gathered: with a wake-up for each, both sides would be several times slower.
#[tokio::test]
async fn output_takes_few_system_calls() {
    let mut pod = Pod::new().await;
    let mut calls = async |id: &str, at_once: u64| {
        let before = io_calls(pod.shim());
        pod.run_to_end(id, &["lines", "200000", "99", &at_once.to_string()]).await;
        // Those of a child count as its parent's when it is reaped.
        io_calls(pod.shim()) - before - 200_000 / at_once
    };
    let of_blocks = calls("blocks", 655).await;
    assert!(of_blocks <= 20 * 64, "{of_blocks} reads and writes for 20 MB in 64 KiB writes");
    // A busy stream is looked at once a millisecond, however many lines come in it.
    let start = std::time::Instant::now();
    let of_lines = calls("lines", 1).await;
    let looks = u64::try_from(start.elapsed().as_millis()).unwrap();
    assert!(of_lines <= 3 * looks + 2000, "{of_lines} reads and writes for 200,000 lines in {looks} ms");
    pod.client.delete_sandbox().await.unwrap();
}

/// How often a process has read and written so far (proc_pid_io(5)).
fn io_calls(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let field = |name: &str| -> u64 {
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
    };
    field("syscr:") + field("syscw:")
}

fn check_lines(log: &[crate::support::Record], count: usize) {
    let output = output(log);
    let mut lines = output.split_inclusive(|byte| *byte == b'\n');
    for number in 0..count {
        let line = lines.next().unwrap_or_else(|| panic!("line {number} is lost"));
        assert!(line.starts_with(format!("{number:010}x").as_bytes()), "line {number} is lost or torn");
    }
    assert!(lines.next().is_none());
}
