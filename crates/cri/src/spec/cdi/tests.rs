use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use serde_json::{Value, json};

use super::*;
use crate::spec::cdi::apply::Context;

const GPU: &str = r#"
cdiVersion: "0.7.0"
kind: vendor.com/gpu
containerEdits:
  env: [ALL=1]
  additionalGids: [0, 44]
devices:
- name: "0"
  annotations: {a: b}
  containerEdits:
    env: [GPU=0, PATH=/gpu]
    deviceNodes:
    - {path: /dev/gpu0, hostPath: /dev/host-gpu0, fileMode: 0660, permissions: rw, uid: 7}
    - {path: /dev/gpuctl, type: c, major: 10, minor: 20}
    mounts:
    - {hostPath: /usr/lib/gpu, containerPath: /usr/lib/gpu, options: [ro, nosuid]}
    - {hostPath: /etc/gpu, containerPath: /etc}
- name: "1"
  containerEdits:
    env: [GPU=1]
"#;

fn catalogue(dirs: &[&[&str]]) -> Catalogue {
    let mut catalogue = Catalogue::default();
    for (number, texts) in dirs.iter().enumerate() {
        let files = texts.iter().enumerate();
        let files = files.map(|(file, text)| {
            (format!("/{number}/{file}.yaml").into(), Format::Yaml, Ok((*text).to_owned()))
        });
        catalogue.add(format!("/{number}").into(), files.collect());
    }
    catalogue
}

fn device(name: &str, value: &str) -> String {
    let containers = json!({"env": [format!("V={value}")]});
    let devices = json!([{"name": name, "containerEdits": containers}]);
    json!({"cdiVersion": "0.3.0", "kind": "v.com/c", "devices": devices}).to_string()
}

fn context<'a>() -> Context<'a> {
    Context {
        look: &|path| {
            let mut device = LinuxDevice::default();
            device.set_typ(LinuxDeviceType::C).set_major(1).set_minor(3);
            match path.to_str() {
                Some("/dev/host-gpu0") => Ok(device),
                _ => Err(Error::invalid(format!("{}: not there", path.display()))),
            }
        },
        is_built_in: true,
        has_own_users: false,
    }
}

fn base() -> Spec {
    serde_json::from_value(json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 5, "gid": 6}, "args": ["x"], "cwd": "/", "env": ["PATH=/bin", "B=c"]},
        "mounts": [
            {"destination": "/etc/gpu", "type": "bind", "source": "/old"},
            {"destination": "/usr/lib/gpu", "type": "bind", "source": "/old"},
        ],
        "linux": {
            "devices": [{"path": "/dev/gpu0", "type": "c", "major": 9, "minor": 9}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        },
    }))
    .unwrap()
}

fn applied(text: &str, names: &[&str], context: &Context<'_>) -> Result<Value> {
    let mut spec = base();
    catalogue(&[&[text]]).resolve(names.iter().copied())?.apply(&mut spec, context)?;
    Ok(serde_json::to_value(spec).unwrap())
}

#[test]
fn the_edits_of_a_file_and_of_its_device() {
    let names = ["vendor.com/gpu=0", "vendor.com/gpu=0"];
    let spec = applied(GPU, &names, &context()).unwrap();
    assert_eq!(spec["process"]["env"], json!(["PATH=/gpu", "B=c", "ALL=1", "GPU=0"]));
    assert_eq!(
        spec["linux"]["devices"],
        json!([
            {"path": "/dev/gpu0", "type": "c", "major": 1, "minor": 3, "fileMode": 0o660, "uid": 7, "gid": 6},
            {"path": "/dev/gpuctl", "type": "c", "major": 10, "minor": 20, "uid": 5, "gid": 6},
        ])
    );
    assert_eq!(
        spec["linux"]["resources"]["devices"],
        json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
            {"allow": true, "type": "c", "major": 10, "minor": 20, "access": "rwm"},
        ])
    );
    let bind = |at: &str, from: &str, options: &[&str]| json!({"destination": at, "type": "bind", "source": from, "options": options});
    assert_eq!(
        spec["mounts"],
        json!([
            bind("/etc", "/etc/gpu", &["rbind"]),
            {"destination": "/etc/gpu", "type": "bind", "source": "/old"},
            bind("/usr/lib/gpu", "/usr/lib/gpu", &["rbind", "ro", "nosuid"]),
        ])
    );
    let edits = catalogue(&[&[GPU]]).resolve(["vendor.com/gpu=1", "vendor.com/gpu=0"]).unwrap();
    assert_eq!(edits.groups().collect::<Vec<_>>(), [44], "the file's edits come once");
    assert_eq!(edits.env.unwrap(), ["ALL=1", "GPU=1", "GPU=0", "PATH=/gpu"]);
}

#[test]
fn nothing_asked_for_changes_nothing() {
    let untouched = serde_json::to_value(base()).unwrap();
    assert_eq!(applied(GPU, &[], &context()).unwrap(), untouched);
}

#[test]
fn the_last_directory_wins_and_one_contradicts_itself() {
    let (a, b, other) = (device("a", "first"), device("a", "last"), device("b", "first"));
    let value =
        |dirs: &[&[&str]], name: &str| catalogue(dirs).resolve([name]).map(|edits| edits.env.unwrap());
    assert_eq!(value(&[&[&a, &other], &[&b]], "v.com/c=a").unwrap(), ["V=last"]);
    assert_eq!(value(&[&[&a, &other], &[&b]], "v.com/c=b").unwrap(), ["V=first"]);
    assert_eq!(value(&[&[&a, &b], &[&b]], "v.com/c=a").unwrap(), ["V=last"], "nobody asks the first");
    let error = value(&[&[&b], &[&a, &b]], "v.com/c=a").unwrap_err();
    assert_eq!(error.kind(), Kind::Precondition);
    assert!(error.to_string().contains("/1/0.yaml and /1/1.yaml"), "{error}");
    assert_eq!(value(&[&[&a, &b, &other]], "v.com/c=b").unwrap(), ["V=first"], "others do not suffer");
}

#[test]
fn an_unknown_device_is_an_error_that_says_where_it_was_looked_for() {
    let a = device("a", "x");
    let error = catalogue(&[&["kind: ["], &[&a]]).resolve(["v.com/c=z"]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let text = error.to_string();
    assert!(text.contains("v.com/c=z") && text.contains("/0, /1") && text.contains("/0/0.yaml"), "{text}");
    for bad in [
        "",
        "gpu",
        "v.com/c",
        "v.com/c=",
        "/c=a",
        "v.com/=a",
        "v.com/c/d=a",
        "v.com/c=a=b",
        "1v/c=a",
        "v/c=../a",
    ] {
        assert_eq!(catalogue(&[]).resolve([bad]).unwrap_err().kind(), Kind::Invalid, "{bad}");
    }
}

#[test]
fn files_that_make_no_sense_have_no_devices() {
    let good = json!({
        "cdiVersion": "1.0.0", "kind": "v.com/c",
        "devices": [{"name": "a", "containerEdits": {"env": ["A=b"]}}],
    });
    let with = |pointer: &str, value: Value| {
        let mut all = good.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        all.pointer_mut(parent).unwrap()[key] = value;
        Document::parse(&all.to_string(), Format::Json).map(|_| ())
    };
    with("/kind", json!("v.com/c")).unwrap();
    let edits = "/devices/0/containerEdits";
    let edit = |name: &str, value: Value| (format!("{edits}/{name}"), value);
    for ((pointer, value), text) in [
        (("/cdiVersion".into(), json!("0.2.0")), "cdiVersion"),
        (("/cdiVersion".into(), json!("2.0.0")), "cdiVersion"),
        (("/kind".into(), json!("c")), "kind"),
        (("/kind".into(), json!("v.com/-c")), "class"),
        (("/new".into(), json!(1)), "new"),
        (("/devices".into(), json!([])), "no devices"),
        (("/devices/0/name".into(), json!("a b")), "device name"),
        ((edits.into(), json!({})), "no containerEdits"),
        (edit("env", json!(["A"])), "env"),
        (edit("env", json!(["=A"])), "env"),
        (edit("netDevices", json!([{"hostInterfaceName": "eth1", "name": ""}])), "netDevices"),
        (edit("netDevices", json!([{"name": "eth1"}])), "hostInterfaceName"),
        (edit("netDevices", json!([{"hostInterfaceName": "a", "name": "b"}])), "takes 1.1.0"),
        (edit("intelRdt", json!({"closID": ".."})), "closID"),
        (edit("intelRdt", json!({"closId": "x"})), "closId"),
        (edit("intelRdt", json!({"schemata": ["MB:0=50"]})), "takes 1.1.0"),
        (edit("deviceNodes", json!([{"path": "dev/x"}])), "absolute"),
        (edit("deviceNodes", json!([{"path": "/dev/x", "type": "a"}])), "type"),
        (edit("deviceNodes", json!([{"path": "/dev/x", "permissions": "x"}])), "permissions"),
        (edit("mounts", json!([{"hostPath": "", "containerPath": "/x"}])), "hostPath"),
        (edit("hooks", json!([{"hookName": "never", "path": "/x"}])), "hookName"),
        (edit("hooks", json!([{"hookName": "poststop", "path": "x"}])), "absolute"),
        (edit("additionalGids", json!([4_294_967_295u32])), "additionalGids"),
    ] {
        let error = with(&pointer, value).expect_err(&pointer);
        assert!(error.contains(text), "{pointer}: {error}");
    }
    let twice = r#"{"cdiVersion": "0.3.0", "kind": "v.com/c", "devices": [
        {"name": "a", "containerEdits": {"env": ["A=b"]}}, {"name": "a", "containerEdits": {"env": ["A=c"]}}]}"#;
    assert!(Document::parse(twice, Format::Json).unwrap_err().contains("twice"));
}

#[test]
fn a_file_keeps_to_its_version() {
    for (since, before, change) in [
        ("0.4.0", "0.3.0", r#""mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "bind"}]"#),
        ("0.5.0", "0.4.0", r#""deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/b"}]"#),
        ("0.7.0", "0.6.0", r#""additionalGids": [1]"#),
        ("0.7.0", "0.6.0", r#""intelRdt": {"closID": "a"}"#),
        ("1.1.0", "1.0.0", r#""intelRdt": {"enableMonitoring": true}"#),
        ("1.1.0", "1.0.0", r#""netDevices": [{"hostInterfaceName": "eth1", "name": "net1"}]"#),
    ] {
        let parse = |version: &str| {
            let text = format!(
                r#"{{"cdiVersion": "{version}", "kind": "v.com/c", "devices": [{{"name": "a", "containerEdits": {{{change}}}}}]}}"#
            );
            Document::parse(&text, Format::Json)
        };
        parse(since).unwrap();
        assert!(parse(before).unwrap_err().contains(since));
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    let one = |edits: &str| {
        format!(
            r#"{{"cdiVersion": "1.0.0", "kind": "v.com/c", "devices": [{{"name": "a", "containerEdits": {{{edits}}}}}]}}"#
        )
    };
    let names = ["v.com/c=a"];
    let hook =
        one(r#""hooks": [{"hookName": "createContainer", "path": "/bin/h", "args": ["h"], "timeout": 3}]"#);
    let done = applied(&hook, &names, &context()).unwrap();
    assert_eq!(done["hooks"], json!({"createContainer": [{"path": "/bin/h", "args": ["h"], "timeout": 3}]}));

    for (edits, text) in [
        (r#""intelRdt": {"closID": "x", "enableCMT": true}"#, "enableMonitoring"),
        (r#""deviceNodes": [{"path": "/dev/none"}]"#, "/dev/none: not there"),
        (r#""deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/host-gpu0", "type": "b"}]"#, "type"),
        (r#""mounts": [{"hostPath": "/a", "containerPath": "/a/../b"}]"#, "/a/../b"),
        (r#""mounts": [{"hostPath": "a", "containerPath": "/a"}]"#, "not absolute"),
    ] {
        let error = applied(&one(edits), &names, &context()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let own = Context { has_own_users: true, ..context() };
    let node = |more: &str| {
        one(&format!(r#""deviceNodes": [{{"path": "/dev/x", "hostPath": "/dev/host-gpu0"{more}}}]"#))
    };
    let done = applied(&node(""), &names, &own).unwrap();
    assert_eq!(done["linux"]["devices"][1], json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3}));
    assert!(
        applied(&node(r#", "uid": 3"#), &names, &own).unwrap_err().to_string().contains("userns_options")
    );
}

#[test]
fn what_came_with_1_1() {
    let text = r#"
cdiVersion: "1.1.0"
kind: v.com/c
containerEdits:
  intelRdt: {closID: all, l3CacheSchema: "L3:0=f"}
  netDevices: [{hostInterfaceName: eth5, name: net0}]
devices:
- name: a
  containerEdits:
    intelRdt: {closID: fast, schemata: ["L3:0=ff", "MB:0=50"], enableMonitoring: true}
    netDevices: [{hostInterfaceName: eth7, name: net1}]
- name: b
  containerEdits: {env: [A=b]}
"#;
    let spec = applied(text, &["v.com/c=a"], &context()).unwrap();
    assert_eq!(spec["linux"]["netDevices"], json!({"eth5": {"name": "net0"}, "eth7": {"name": "net1"}}));
    assert_eq!(
        spec["linux"]["intelRdt"],
        json!({"closID": "fast", "schemata": ["L3:0=ff", "MB:0=50"], "enableMonitoring": true}),
        "the device's class, and nothing of the file's"
    );
    let spec = applied(text, &["v.com/c=b"], &context()).unwrap();
    assert_eq!(spec["linux"]["intelRdt"], json!({"closID": "all", "l3CacheSchema": "L3:0=f"}));
    let other = Context { is_built_in: false, ..context() };
    let error = applied(text, &["v.com/c=b"], &other).unwrap_err();
    assert!(error.kind() == Kind::Unsupported && error.to_string().contains("netDevices"), "{error}");
}
