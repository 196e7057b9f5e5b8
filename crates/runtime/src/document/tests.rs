use oci_spec::runtime::Process;

use super::*;
use crate::Kind;

const SMALL: &str = r#"{"ociVersion":"1.3.0","process":{"user":{"uid":0,"gid":0},"cwd":"/","args":["true"]},"unheard":{"of":[1]}}"#;

fn refused(text: &[u8]) -> String {
    let error = parse_spec("config.json", text).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let message = error.to_string();
    assert!(message.starts_with("config.json: ") && message.len() < 4096, "{message}");
    assert!(!message.contains(|c: char| c.is_control()), "{message:?}");
    message
}

#[test]
fn a_document_that_ends_early_is_refused_at_each_byte() {
    assert!(parse_spec("config.json", SMALL.as_bytes()).is_ok());
    for end in 0..SMALL.len() {
        refused(&SMALL.as_bytes()[..end]);
    }
    refused(format!("{SMALL}{{}}").as_bytes());
}

#[test]
fn a_name_that_stands_twice_is_refused_in_maps_too() {
    let twice = SMALL.replace(r#"{"of":[1]}"#, r#"{"a":[{"b":1,"\u0062":2}]}"#);
    let message = refused(twice.as_bytes());
    assert!(message.contains("unheard.a[0]: \"b\" is there twice"), "{message}");
    let message = refused(br#"{"ociVersion":"1.0.0","ociVersion":"1.0.0"}"#);
    assert!(message.contains("\"ociVersion\" is there twice"), "{message}");
}

#[test]
fn deep_nesting_is_refused_before_the_stack_ends() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        for count in [200, 100_000] {
            let (open, close) = (open.repeat(count), close.repeat(count));
            let message = refused(SMALL.replace(r#"{"of":[1]}"#, &format!("{open}1{close}")).as_bytes());
            assert!(message.contains("recursion limit exceeded"), "{message}");
        }
    }
}

#[test]
fn versions() {
    for good in ["1.0.0", "1.3.0", "1.0.2-dev", "1.0.0-rc5+build.7", "1.999.0"] {
        assert!(version(good).is_ok(), "{good}");
    }
    for bad in [
        "", "1", "1.0", "1.0.0.0", "2.0.0", "0.9.0", "01.0.0", "1.00.0", "v1.0.0", "1..0", "1.0.0-",
        "1.0.0-\n", "1.0.x",
    ] {
        assert!(version(bad).is_err(), "{bad}");
    }
    assert!(refused(br#"{"process":null}"#).contains("ociVersion: missing"));
}

#[test]
fn what_is_no_unicode_is_refused() {
    for bad in [&br#""\ud800""#[..], b"\"\xff\"", b"\"\0\"", br#""\u00""#] {
        let mut text = br#"{"ociVersion":"1.0.0","hostname":"#.to_vec();
        text.extend_from_slice(bad);
        text.push(b'}');
        let message = refused(&text);
        assert!(message.contains("hostname"), "{message}");
    }
}

/// What is no regular file, or a longer one than any specification, is refused without being read.
#[test]
fn only_regular_files_of_bounded_length_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("good"), SMALL).unwrap();
    std::os::unix::fs::symlink("good", at("link")).unwrap();
    assert!(read_spec(&at("good")).is_ok() && read_spec(&at("link")).is_ok());

    File::create(at("huge")).unwrap().set_len(1 << 30).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), Mode::RUSR).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    for (name, what) in
        [("huge", "longer than"), ("zero", "a device"), ("fifo", "a pipe"), ("directory", "a directory")]
    {
        let error = read_spec(&at(name)).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{name}");
        assert!(error.to_string().contains(what), "{error}");
    }
    for name in ["absent", "good/x"] {
        assert!(matches!(read_spec(&at(name)).unwrap_err().kind(), Kind::Kernel(_)), "{name}");
    }
}

#[test]
fn a_process_is_a_document_too() {
    let process: Process = parse("process", br#"{"cwd":"/","user":{"uid":1,"gid":2}}"#).unwrap();
    assert_eq!(process.user().uid(), 1);
    let error = parse::<Process>("process", br#"{"cwd":"/","user":{"uid":4294967296,"gid":2}}"#).unwrap_err();
    assert!(error.to_string().starts_with("process: user.uid: "), "{error}");
}

#[test]
fn flags_of_a_scheduler_go_by_the_names_of_the_specification() {
    use oci_spec::runtime::LinuxSchedulerFlag::{SchedFlagDLOverrun, SchedFlagReclaim, SchedResetOnFork};
    let flags = r#"["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_DL_OVERRUN","SCHED_FLAG_RECLAIM"]"#;
    let process = format!(
        r#"{{"cwd":"/","args":["SCHED_FLAG_DL_OVERRUN"],"user":{{"uid":0,"gid":0}},"scheduler":{{"policy":"SCHED_DEADLINE","flags":{flags}}}}}"#
    );
    let wanted = [SchedResetOnFork, SchedFlagDLOverrun, SchedFlagReclaim];
    let parsed: Process = parse("process.json", process.as_bytes()).unwrap();
    assert_eq!(parsed.scheduler().as_ref().unwrap().flags().as_deref(), Some(&wanted[..]));
    assert_eq!(parsed.args().as_deref(), Some(&["SCHED_FLAG_DL_OVERRUN".to_owned()][..]));
    let spec = format!(r#"{{"ociVersion":"1.3.0","process":{process}}}"#);
    let parsed = parse_spec("config.json", spec.as_bytes()).unwrap();
    let scheduler = parsed.process().as_ref().unwrap().scheduler().clone().unwrap();
    assert_eq!(scheduler.flags().as_deref(), Some(&wanted[..]));
}

/// A list of its fields is no object.
#[test]
fn structures_are_objects() {
    for (process, path) in [
        (r#"["/"]"#, "process: invalid type: sequence"),
        (r#"{"cwd":"/","user":[0,0]}"#, "process: user: invalid type: sequence"),
        (r#"{"cwd":"/","user":{"uid":0,"gid":0},"capabilities":[]}"#, "process: capabilities: invalid type"),
        (
            r#"{"cwd":"/","user":{"uid":0,"gid":0},"rlimits":[["RLIMIT_CORE",0,0]]}"#,
            "process: rlimits[0]: invalid",
        ),
    ] {
        let error = parse::<Process>("process", process.as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with(path), "{error}");
    }
    let rlimits =
        r#"{"cwd":"/","user":{"uid":0,"gid":0},"rlimits":[{"type":"RLIMIT_CORE","soft":0,"hard":0}]}"#;
    assert_eq!(parse::<Process>("process", rlimits.as_bytes()).unwrap().rlimits().as_ref().unwrap().len(), 1);
}

#[test]
fn names_that_no_capability_has_are_found() {
    // The order of properties is not the same in every build of serde_json.
    let value = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap();
    let without = |text: &str| {
        without_unknown_capabilities(text.as_bytes())
            .map(|(bytes, names)| (value(&bytes), names.into_iter().collect::<Vec<_>>()))
    };
    for known in [
        "{}",
        r#"{"capabilities":{"bounding":["CAP_KILL"]}}"#,
        r#"{"capabilities":["X"]}"#,
        r#"{"capabilities":{"bounding":"X"}}"#,
        r#"{"capabilities":{"bounding":[7]}}"#,
        r#"{"other":{"capabilities":{"bounding":["X"]}}}"#,
        r#"{"capabilities":{"bounding":["X"]},"capabilities":{}}"#,
        r#"{"capabilities":{"bounding":["X"]}"#,
    ] {
        assert_eq!(without(known), None, "{known}");
    }
    let (text, names) =
        without(r#"{"capabilities":{"bounding":["X","CAP_KILL",7],"ambient":["CAP_Y","X"]}}"#).unwrap();
    assert_eq!(text, value(br#"{"capabilities":{"ambient":[],"bounding":["CAP_KILL",7]}}"#));
    assert_eq!(names, ["CAP_Y", "X"]);
    let (text, _) = without(r#"{"process":{"capabilities":{"effective":["X"]},"cwd":"/"}}"#).unwrap();
    assert_eq!(text, value(br#"{"process":{"capabilities":{"effective":[]},"cwd":"/"}}"#));
}
