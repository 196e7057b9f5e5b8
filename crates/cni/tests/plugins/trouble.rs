//! Plugins that do not behave.

use std::time::Duration;

use vaquita_cni::{Kind, cached};

use crate::place::{Place, ended, pod, runs};

#[tokio::test]
async fn what_is_no_result_is_an_error_that_says_so() {
    let place = Place::new();
    place.configure("1.0.0", "", r#"{"type": "odd"}"#);
    let cni = place.cni();
    for (number, (script, kind, message)) in [
        ("echo hello", Kind::Corrupt, "is not JSON"),
        (":", Kind::Corrupt, "is not JSON"),
        ("echo '[]'", Kind::Corrupt, "is not a JSON object"),
        (r#"echo '{"cniVersion": "2.0.0"}'"#, Kind::Corrupt, "was not asked for"),
        (r#"echo '{"ips": [{"address": "x"}]}'"#, Kind::Corrupt, "is not an address"),
        ("echo broken >&2; exit 3", Kind::Plugin, "exit status: 3 and said \"broken\""),
        ("exit 3", Kind::Plugin, "said nothing"),
        ("kill -9 $$", Kind::Plugin, "signal: 9"),
        (r#"printf '%s' '{"code": 100, "msg": "a\nb"}'; exit 1"#, Kind::Plugin, "a b (code 100)"),
        (
            "while :; do echo 0123456789012345678901234567890123456789; done",
            Kind::Corrupt,
            "more than 1048576",
        ),
        ("yes >&2 & echo '{}'; sleep 0.1; kill $!; exit 1", Kind::Plugin, "said"),
    ]
    .into_iter()
    .enumerate()
    {
        place.plugin("odd", script);
        let error = cni.attach(&pod(&format!("p{number}"))).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{script}: {error}");
        assert!(error.to_string().contains(message), "{script}: {error}");
        assert!(error.to_string().contains("plugin odd (ADD)") && error.to_string().len() < 3000, "{error}");
    }
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_all_it_started() {
    let mut place = Place::new();
    place.timeout = Duration::from_secs(3);
    place
        .plugin("hang", r#"[ "$CNI_COMMAND" = DEL ] && exit 0; sleep 600 & echo "$! $$" >"$dir/pids"; wait"#);
    place.configure("1.0.0", "", r#"{"type": "hang"}"#);
    let cni = place.cni();
    let error = cni.attach(&pod("one")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    assert_eq!(error.to_string(), "plugin hang (ADD): was killed because it did not end within 3 s");
    for pid in place.written("pids").await.split(' ') {
        ended(pid).await;
    }
    place.timeout = Duration::from_secs(60);
    place.cni().detach("one", None).await.unwrap();
}

/// Fifty pods at once; the plugin of one waits until it is let go, which happens after all others are connected.
#[tokio::test]
async fn a_plugin_that_hangs_delays_its_own_pod_only() {
    let place = Place::new();
    place.plugin(
        "slow",
        r#"[ "$CNI_COMMAND $CNI_CONTAINERID" = "ADD p7" ] && cat "$dir/gate" >/dev/null
[ "$CNI_COMMAND" = ADD ] && echo '{}'; exit 0"#,
    );
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.path("gate"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    place.configure("1.0.0", "", r#"{"type": "slow"}"#);
    let cni = std::sync::Arc::new(place.cni());
    let mut others = tokio::task::JoinSet::new();
    let attach = |number: u32| {
        let cni = cni.clone();
        async move { cni.attach(&pod(&format!("p{number}"))).await.map(drop) }
    };
    let stuck = tokio::spawn(attach(7));
    for number in (0..50).filter(|number| *number != 7) {
        others.spawn(attach(number));
    }
    while let Some(done) = others.join_next().await {
        done.unwrap().unwrap();
    }
    assert!(!stuck.is_finished());
    let gate = place.path("gate");
    tokio::task::spawn_blocking(move || std::fs::write(gate, "go")).await.unwrap().unwrap();
    stuck.await.unwrap().unwrap();
    assert_eq!(cached(&place.cache()).unwrap().len(), 50);
}

/// A service that a plugin starts for its network: it delays nobody, and is nobody's to end.
#[tokio::test]
async fn one_who_begins_a_session_and_holds_the_pipes_is_left_alone() {
    let place = Place::new();
    place.plugin(
        "fork",
        r#"[ "$CNI_COMMAND" = DEL ] && exit 0
setsid sh -c 'echo $$ >"'"$dir"'/pid"; exec sleep 600' & while [ ! -s "$dir/pid" ]; do sleep 0.01; done; echo '{}'"#,
    );
    place.configure("1.0.0", "", r#"{"type": "fork"}"#);
    place.cni().attach(&pod("one")).await.unwrap();
    let pid = place.written("pid").await;
    let number = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    let _service = vaquita_testing::Defer::new(|| {
        let _ = rustix::process::kill_process(number, rustix::process::Signal::KILL);
    });
    assert_eq!(vaquita_cni::running(&place.cache()).unwrap(), []);
    place.cni().detach("one", None).await.unwrap();
    assert!(runs(&pid));
}

#[tokio::test]
async fn a_plugin_need_not_read_what_it_is_told() {
    let place = Place::new();
    place.plugin("deaf", "");
    std::fs::write(place.path("bin").join("deaf"), "#!/bin/sh\necho '{}'\n").unwrap();
    let long = format!(r#"{{"type": "deaf", "x": "{}"}}"#, "x".repeat(500_000));
    place.configure("1.0.0", "", &long);
    place.cni().attach(&pod("one")).await.unwrap();
}

/// As after `kill -9`: the plugin of the former process still runs when the next one begins to take back.
#[test]
fn an_add_that_goes_on_without_us_is_over_before_its_del() {
    let mut place = Place::new();
    place.plugin(
        "slow",
        r#"[ "$CNI_COMMAND" = DEL ] && exit 0
trap '' PIPE; echo $$ >"$dir/pid"; [ "$CNI_CONTAINERID" = hangs ] && sleep 600
sleep 0.5; echo "$CNI_CONTAINERID is over" >>"$dir/log"; echo '{}'"#,
    );
    place.configure("1.0.0", "", r#"{"type": "slow"}"#);
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let give_up = |place: &Place, id: &'static str| {
        let _ = std::fs::remove_file(place.path("pid"));
        let (before, cni) = (runtime(), place.cni());
        before.spawn(async move { cni.attach(&pod(id)).await.map(drop) });
        let pid = before.block_on(place.written("pid"));
        before.shutdown_background();
        pid
    };
    let slow = give_up(&place, "slow");
    runtime().block_on(async {
        assert!(runs(&slow));
        place.cni().detach("slow", None).await.unwrap();
        assert_eq!(place.log(), ["ADD slow slow", "slow is over", "DEL slow slow"]);
    });
    place.forget_log();
    place.timeout = Duration::from_secs(2);
    let hangs = give_up(&place, "hangs");
    runtime().block_on(async {
        let cni = place.cni();
        cni.detach("hangs", None).await.unwrap();
        assert!(!runs(&hangs));
        assert_eq!(place.log(), ["ADD slow hangs", "DEL slow hangs"]);
    });
    assert!(cached(&place.cache()).unwrap().is_empty());
}

/// What only looks goes with whoever wanted to know.
#[tokio::test]
async fn a_question_that_is_given_up_leaves_no_plugin() {
    let place = Place::new();
    place.plugin("hang", r#"sleep 600 & echo "$!" >"$dir/pid"; wait"#);
    place.configure("1.1.0", "", r#"{"type": "hang"}"#);
    let cni = place.cni();
    let pid = tokio::select! {
        _ = cni.status() => unreachable!("it hangs"),
        pid = place.written("pid") => pid,
    };
    ended(&pid).await;
}
