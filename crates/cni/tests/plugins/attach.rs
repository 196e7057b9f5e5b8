//! ADD, DEL and CHECK of one attachment.

use std::path::Path;

use serde_json::json;
use vaquita_cni::{Kind, Phase, cached};

use crate::place::{GOOD, Place, pod};

const NETNS: &str = "/proc/self/ns/net";

#[tokio::test]
async fn plugins_are_chained_and_undone_in_reverse() {
    let place = Place::new();
    place.plugin("bridge", r#"echo '{"interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": [{"address": "10.1.0.2/24", "interface": 0}]}'"#);
    place.plugin(
        "portmap",
        r#"[ "$CNI_COMMAND" = ADD ] && echo '{"ips": [{"address": "10.1.0.3/24"}], "by": "portmap"}' || :"#,
    );
    let chain = r#"{"type": "bridge"}, {"type": "portmap", "capabilities": {"mac": true, "ips": true}}"#;
    place.configure("1.0.0", "", chain);
    let cni = place.cni();
    let mut wanted = pod("one");
    wanted.capabilities.mac([2, 0, 0, 0, 0, 1]);
    wanted.capabilities.aliases(&["nobody asks".into()]);
    let outcome = cni.attach(&wanted).await.unwrap();
    assert_eq!(outcome.addresses("eth0"), ["10.1.0.3".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(outcome.document()["by"], "portmap");
    let told = place.told("portmap", "ADD");
    assert_eq!(told["prevResult"]["ips"][0]["address"], "10.1.0.2/24");
    assert_eq!(told["prevResult"]["cniVersion"], "1.0.0");
    assert_eq!(told["runtimeConfig"], json!({"mac": "02:00:00:00:00:01"}));
    assert_eq!((&told["name"], &told["cniVersion"]), (&json!("net"), &json!("1.0.0")));
    assert!(place.told("bridge", "ADD").get("prevResult").is_none());
    for (name, value) in [
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", NETNS),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
        ("CNI_PATH", &format!("{}:{}", place.path("none").display(), place.path("bin").display())),
    ] {
        assert_eq!(place.variable("bridge", "ADD", name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(cni.attach(&wanted).await.unwrap_err().kind(), Kind::Exists);
    cni.check("one", Path::new(NETNS)).await.unwrap();
    assert_eq!(place.told("bridge", "CHECK")["prevResult"]["by"], "portmap");

    // Another process takes it back, and the administrator has another network by now.
    place.configure("1.0.0", "", r#"{"type": "other"}"#);
    let cni = place.cni();
    cni.detach("one", Some(Path::new(NETNS))).await.unwrap();
    let told = place.told("bridge", "DEL");
    assert_eq!(told["prevResult"]["by"], "portmap");
    assert_eq!(place.told("portmap", "DEL")["runtimeConfig"], json!({"mac": "02:00:00:00:00:01"}));
    assert_eq!(
        place.variable("bridge", "DEL", "CNI_ARGS").as_deref(),
        Some("IgnoreUnknown=1;K8S_POD_NAME=web")
    );
    let expected =
        ["ADD bridge", "ADD portmap", "CHECK bridge", "CHECK portmap", "DEL portmap", "DEL bridge"];
    assert_eq!(place.log(), expected.map(|line| format!("{line} one")));
    assert!(cached(&place.cache()).unwrap().is_empty());
    cni.detach("one", None).await.unwrap();
    assert_eq!(place.log().len(), 6);
}

#[tokio::test]
async fn a_del_that_fails_can_be_repeated() {
    let place = Place::new();
    place.plugin("first", GOOD);
    place.plugin(
        "second",
        r#"if [ "$CNI_COMMAND" = DEL ]; then
    echo x >>"$dir/tries"
    if [ "$(wc -l <"$dir/tries")" -lt 3 ]; then echo '{"code": 11, "msg": "not now"}'; exit 1; fi
else echo '{}'; fi"#,
    );
    place.configure("1.0.0", "", r#"{"type": "first"}, {"type": "second"}"#);
    let cni = place.cni();
    cni.attach(&pod("one")).await.unwrap();
    place.forget_log();
    for _ in 0..2 {
        let error = cni.detach("one", None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert_eq!(error.to_string(), "plugin second (DEL): not now (code 11)");
        assert_eq!(cached(&place.cache()).unwrap()[0].1.as_ref().unwrap().phase, Phase::Detaching);
    }
    cni.detach("one", None).await.unwrap();
    assert_eq!(place.variable("first", "DEL", "CNI_NETNS").as_deref(), Some(""));
    // None is asked after one that fails.
    assert_eq!(place.log(), ["DEL second one", "DEL second one", "DEL second one", "DEL first one"]);
    assert!(cached(&place.cache()).unwrap().is_empty());
}

#[tokio::test]
async fn an_add_that_fails_leaves_a_record_to_be_taken_back() {
    let place = Place::new();
    place.plugin("first", GOOD);
    place.plugin(
        "second",
        r#"[ "$CNI_COMMAND" = DEL ] || { echo '{"code": 7, "msg": "no", "details": "really"}'; exit 1; }"#,
    );
    place.configure("1.0.0", "", r#"{"type": "first"}, {"type": "second"}, {"type": "third"}"#);
    place.plugin("third", GOOD);
    let cni = place.cni();
    let error = cni.attach(&pod("one")).await.unwrap_err();
    assert_eq!(error.to_string(), "plugin second (ADD): no; really (code 7)");
    assert_eq!(cached(&place.cache()).unwrap()[0].1.as_ref().unwrap().phase, Phase::Adding);
    assert_eq!(cni.check("one", Path::new(NETNS)).await.unwrap_err().kind(), Kind::NotFound);
    cni.detach("one", None).await.unwrap();
    // What there is of a result: some find their rules by the addresses in there.
    assert_eq!(place.told("first", "DEL")["prevResult"]["ips"][0]["address"], "10.1.0.2/24");
    let expected = ["ADD first", "ADD second", "DEL third", "DEL second", "DEL first"];
    assert_eq!(place.log(), expected.map(|line| format!("{line} one")));
}

#[tokio::test]
async fn old_versions_have_less() {
    let place = Place::new();
    place.plugin("old", GOOD);
    place.configure("0.3.1", "", r#"{"type": "old"}"#);
    let cni = place.cni();
    cni.status().await.unwrap();
    cni.attach(&pod("one")).await.unwrap();
    cni.check("one", Path::new(NETNS)).await.unwrap();
    let right = cni.prepare_collection().unwrap();
    cni.collect(right, &["one".to_owned()].into()).await.unwrap();
    cni.detach("one", None).await.unwrap();
    assert!(place.told("old", "DEL").get("prevResult").is_none());
    assert_eq!(place.log(), ["ADD old one", "DEL old one"]);
}

#[tokio::test]
async fn nothing_is_run_for_what_cannot_be() {
    let place = Place::new();
    place.plugin("good", GOOD);
    let cni = place.cni();
    assert_eq!(cni.attach(&pod("one")).await.unwrap_err().kind(), Kind::NotFound);
    place.configure("1.0.0", "", r#"{"type": "good"}"#);
    for (id, interface) in [("../one", "eth0"), ("one", "../eth0"), ("one", ""), ("", "eth0")] {
        let mut wanted = pod(id);
        wanted.interface = interface.into();
        assert_eq!(cni.attach(&wanted).await.unwrap_err().kind(), Kind::Invalid, "{id} {interface}");
    }
    let mut wanted = pod("one");
    wanted.args.push(("K8S_POD_UID".into(), "1;CNI=evil".into()));
    assert_eq!(cni.attach(&wanted).await.unwrap_err().kind(), Kind::Invalid);
    assert!(place.log().is_empty() && cached(&place.cache()).unwrap().is_empty());
}
