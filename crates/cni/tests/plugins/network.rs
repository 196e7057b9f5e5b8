//! STATUS, VERSION and GC: what is asked of the whole network.

use serde_json::json;
use vaquita_cni::Kind;

use crate::place::{GOOD, Place, pod};

#[tokio::test]
async fn status_follows_the_directory_and_the_plugins() {
    let place = Place::new();
    let cni = place.cni();
    assert_eq!(cni.status().await.unwrap_err().kind(), Kind::NotFound);
    place.configure("1.1.0", "", r#"{"type": "one"}, {"type": "two"}"#);
    let error = cni.status().await.unwrap_err().to_string();
    assert!(error.contains("10-net.conflist") && error.contains("no plugin one"), "{error}");
    place.plugin("one", "");
    place
        .plugin("two", r#"[ -e "$dir/up" ] || { echo '{"code": 50, "msg": "the agent is away"}'; exit 1; }"#);
    let error = cni.status().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert_eq!(error.to_string(), "plugin two (STATUS): the agent is away (code 50)");
    std::fs::write(place.path("up"), "").unwrap();
    cni.status().await.unwrap();
    assert_eq!((place.told("two", "STATUS")["name"]).as_str(), Some("net"));
    // What was fine goes.
    std::fs::remove_file(place.path("bin").join("two")).unwrap();
    assert_eq!(cni.status().await.unwrap_err().kind(), Kind::NotFound);
    std::fs::write(place.path("conf").join("00-bad.conflist"), "{").unwrap();
    let error = cni.status().await.unwrap_err().to_string();
    assert!(error.contains("00-bad.conflist") && error.contains("is not JSON"), "{error}");
}

#[tokio::test]
async fn a_plugin_must_speak_the_version() {
    let place = Place::new();
    place.configure("1.1.0", "", r#"{"type": "old"}"#);
    let script = place.path("bin").join("old");
    place.plugin("old", "");
    std::fs::write(&script, "#!/bin/sh\necho '{\"supportedVersions\": [\"0.4.0\", \"1.0.0\"]}'\n").unwrap();
    let cni = place.cni();
    let error = cni.status().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(
        error.to_string().contains("plugin old does not speak version 1.1.0, but 0.4.0, 1.0.0"),
        "{error}"
    );
    place.configure("1.0.0", "", r#"{"type": "old"}"#);
    cni.status().await.unwrap();
    std::fs::write(&script, "#!/bin/sh\necho hello\n").unwrap();
    cni.status().await.unwrap();
    place.configure("0.4.0", "", r#"{"type": "old"}"#);
    assert_eq!(cni.status().await.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn only_what_is_attached_and_alive_is_kept() {
    let place = Place::new();
    place.plugin(
        "one",
        &format!(r#"[ "$CNI_COMMAND" = GC ] && {{ sleep 0.3; echo "GC is over" >>"$dir/log"; }}; {GOOD}"#),
    );
    place.plugin(
        "bad",
        r#"case $CNI_COMMAND in ADD) echo '{}';; *) echo '{"code": 1, "msg": "no"}'; exit 1;; esac"#,
    );
    place.configure("1.1.0", "", r#"{"type": "bad"}, {"type": "one"}"#);
    let cni = std::sync::Arc::new(place.cni());
    for id in ["alive", "dead", "going"] {
        cni.attach(&pod(id)).await.unwrap();
    }
    cni.detach("going", None).await.unwrap_err();
    let live = ["alive".to_owned(), "going".to_owned(), "unknown".to_owned()].into();
    let right = cni.prepare_collection().unwrap();
    // Nobody else can attach meanwhile, so whoever is not in the list is not wanted.
    let late = tokio::spawn({
        let cni = cni.clone();
        async move { cni.attach(&pod("late")).await.map(drop) }
    });
    let error = cni.collect(right, &live).await.unwrap_err().to_string();
    assert_eq!(error, "plugin bad (GC): no (code 1)");
    let told = place.told("one", "GC");
    assert_eq!(told["cni.dev/valid-attachments"], json!([{"containerID": "alive", "ifname": "eth0"}]));
    late.await.unwrap().unwrap();
    let log = place.log();
    let at = |wanted: &str| log.iter().position(|line| line == wanted).unwrap();
    assert!(at("GC is over") < at("ADD bad late"), "{log:?}");

    place.forget_log();
    place.configure("1.1.0", r#", "disableGC": true"#, r#"{"type": "one"}"#);
    cni.collect(cni.prepare_collection().unwrap(), &live).await.unwrap();
    assert!(place.log().is_empty());
}
