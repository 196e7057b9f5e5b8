use std::io::Write as _;

use super::*;
use crate::event::Stream;

fn texts(lines: Vec<parse::Line>) -> Vec<String> {
    lines.into_iter().map(|line| format!("{:?} {}", line.stream, line.text)).collect()
}

#[test]
fn records() {
    let mut lines = Lines::default();
    let text = "2026-11-21T02:00:00.123456789Z stdout F one\n2026-11-21T02:00:00Z stdout P tw\n2026-11-21T02:00:00Z stderr F err\n2026-11-21T02:00:00Z stdout F:x o\nnonsense\n2026-11-21T02:00:00+01:00 stdout F \n2026-11-21T02:00:00Z stdout P end";
    let mut all = lines.feed(text.as_bytes());
    assert_eq!(all[0].time, Some("2026-11-21T02:00:00.123456789Z".parse().unwrap()));
    all.extend(lines.finish());
    assert_eq!(texts(all), ["Stdout one", "Stderr err", "Stdout two", "Stdout ", "Stdout end"]);
}

proptest::proptest! {
    #[test]
    fn chunks_make_no_difference(cuts in proptest::collection::vec(1..40_usize, 0..40), bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100)) {
        let mut text = b"2026-11-21T02:00:00Z stdout F one\n2026-11-21T02:00:00Z stdout P tw\n2026-11-21T02:00:00Z stdout F o\n".to_vec();
        text.extend_from_slice(&bytes);
        let whole = { let mut lines = Lines::default(); let mut all = lines.feed(&text); all.extend(lines.finish()); all };
        let mut lines = Lines::default();
        let mut all = Vec::new();
        let mut rest = text.as_slice();
        for cut in cuts {
            let (head, tail) = rest.split_at(cut.min(rest.len()));
            all.extend(lines.feed(head));
            rest = tail;
        }
        all.extend(lines.feed(rest));
        all.extend(lines.finish());
        proptest::prop_assert_eq!(all, whole);
    }
}

#[test]
fn tails() {
    let dir = vaquita_testing::temp_dir();
    let path = dir.path().join("log");
    let mut file = File::create(&path).unwrap();
    for number in 0..5000 {
        writeln!(file, "2026-11-21T02:00:00.123456789Z stdout F line {number}").unwrap();
    }
    assert_eq!(tail(&path, 3, 2048), "line 4997\nline 4998\nline 4999\n");
    assert_eq!(tail(&path, 80, 15), "4998\nline 4999\n");
    assert_eq!(tail(&dir.path().join("none"), 80, 2048), "");
}

#[tokio::test(start_paused = true)]
async fn follows_through_rotation_to_the_end() {
    let dir = vaquita_testing::temp_dir();
    let path = dir.path().join("0.log");
    let (events, mut received) = mpsc::channel(4);
    let (done, stop) = watch::channel(false);
    let target = Target { pod: "p".to_owned(), container: "a".to_owned(), events };
    let task = tokio::spawn(follow(path.clone(), target, stop));
    let mut next = async || match received.recv().await.unwrap().kind {
        EventKind::Log { line, stream: Stream::Stdout, .. } => line,
        other => panic!("{other:?}"),
    };
    let write = |text: &str| {
        let mut file = File::options().append(true).create(true).open(&path).unwrap();
        writeln!(file, "2026-11-21T02:00:00Z stdout F {text}").unwrap();
    };
    write("one");
    assert_eq!(next().await, "one");
    write("two");
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    write("three");
    assert_eq!(next().await, "two");
    assert_eq!(next().await, "three");
    write("four");
    done.send(true).unwrap();
    assert_eq!(next().await, "four");
    task.await.unwrap();
}
