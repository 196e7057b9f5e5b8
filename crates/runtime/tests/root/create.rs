//! What a container gets, as it sees it itself.

use serde_json::json;

use crate::harness::{Bundle, is_mounted_below};

#[test]
fn a_container_has_what_it_asked_for() {
    let outcome = Bundle::new(
        "pid\nids\nhostname\nsession\nfds\ncwd\numask\nenv PATH\nstatus CapEff\nstatus CapInh\nstatus CapBnd\nstatus NoNewPrivs\nstatus Seccomp\nexit 7",
    )
    .run();
    assert_eq!(outcome.of("pid"), "1");
    assert_eq!(outcome.of("ids"), "0 0 []");
    assert_eq!(outcome.of("hostname"), "probe");
    assert_eq!(outcome.of("session"), "true");
    assert_eq!(outcome.of("fds"), "0 1 2");
    assert_eq!(outcome.of("cwd"), "/");
    assert_eq!(outcome.of("umask"), "22");
    assert_eq!(outcome.of("status CapEff"), "0000000000000021");
    assert_eq!(outcome.of("status CapBnd"), "0000000000000021");
    assert_eq!(outcome.of("status CapInh"), "0000000000000000");
    assert_eq!(outcome.of("status NoNewPrivs"), "1");
    assert_eq!(outcome.of("status Seccomp"), "2");
    assert_eq!((outcome.exit.code, outcome.exit.signal), (7, None));
}
