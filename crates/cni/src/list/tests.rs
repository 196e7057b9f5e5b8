use proptest::prelude::*;

use super::*;

fn list(text: &str) -> Result<List> {
    List::parse(text.as_bytes())
}

#[test]
fn a_list_is_read_and_survives_being_written() {
    let list = list(
        r#"{"cniVersion": "1.0.0", "name": "net", "disableCheck": "True", "x": 1, "plugins": [
            {"type": "bridge", "ipam": {"type": "host-local"}, "mtu": 18446744073709551615},
            {"type": "portmap", "capabilities": {"portMappings": true, "ips": false}}]}"#,
    )
    .unwrap();
    assert_eq!((list.name(), list.version().to_string().as_str()), ("net", "1.0.0"));
    assert!(!list.has_check() && !list.has_gc() && !list.has_status());
    assert_eq!(list.plugins().iter().map(Plugin::program).collect::<Vec<_>>(), ["bridge", "portmap"]);
    assert!(list.plugins()[1].has("portMappings"));
    assert!(!list.plugins()[1].has("ips") && !list.plugins()[0].has("portMappings"));
    assert_eq!(List::parse(list.to_value().to_string().as_bytes()).unwrap(), list);
}

#[test]
fn a_single_plugin_is_a_list_of_one() {
    let one = List::parse_single(br#"{"cniVersion": "0.3.1", "name": "n", "type": "ptp"}"#).unwrap();
    assert_eq!((one.plugins().len(), one.plugins()[0].program()), (1, "ptp"));
    assert!(List::parse_single(br#"{"cniVersion": "0.3.1", "name": "n"}"#).is_err());
    let error = List::parse_single(br#"{"cniVersion": "0.3.1", "name": "n", "plugins": []}"#).unwrap_err();
    assert!(error.to_string().contains(".conflist"), "{error}");
}

#[test]
fn the_highest_version_that_is_spoken_is_taken() {
    let version = |head: &str| {
        list(&format!(r#"{{{head}"name": "n", "plugins": []}}"#)).map(|list| list.version().to_string())
    };
    assert_eq!(version(r#""cniVersion": "0.3.0","#).unwrap(), "0.3.0");
    assert_eq!(version(r#""cniVersions": ["0.4.0", "1.1.0", "1.0.0"],"#).unwrap(), "1.1.0");
    assert_eq!(version(r#""cniVersions": ["0.4.0", "2.0.0"],"#).unwrap(), "0.4.0");
    assert_eq!(version(r#""cniVersion": "1.0.0", "cniVersions": ["0.4.0"],"#).unwrap(), "1.0.0");
    for bad in [r#""cniVersion": "0.2.0","#, r#""cniVersion": "1.2.0","#, r#""cniVersions": ["9.0.0"],"#, ""]
    {
        assert_eq!(version(bad).unwrap_err().kind(), Kind::Unsupported, "{bad}");
    }
    assert_eq!(version(r#""cniVersion": "new","#).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(version(r#""cniVersion": 1,"#).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn what_a_version_has_may_be_disabled() {
    let of = |more: &str| {
        list(&format!(r#"{{"cniVersion": "1.1.0", "name": "n"{more}, "plugins": []}}"#)).unwrap()
    };
    assert!(of("").has_gc() && of("").has_check() && of("").has_status());
    assert!(!of(r#", "disableGC": true"#).has_gc());
    assert!(of(r#", "disableGC": true"#).has_status());
    assert!(!of(r#", "disableCheck": true"#).has_check());
}

/// T48.
#[test]
fn cve_2021_20206_a_type_is_one_path_component() {
    for bad in ["../../bin/sh", "a/b", "/bin/sh", "..", ".", "", "a\\b", "a\0b", "a\nb"] {
        let text = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": bad}]}).to_string();
        let error = list(&text).unwrap_err();
        assert!(error.to_string().starts_with("type: "), "{bad:?}: {error}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    for (text, wrong) in [
        ("", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "name: is missing"),
        (r#"{"name": 1}"#, "name: must be"),
        (r#"{"name": "../n"}"#, "name: \"../n\""),
        (r#"{"name": "n", "plugins": {}}"#, "plugins: must be a list"),
        (r#"{"name": "n", "plugins": [1]}"#, "plugins: each"),
        (r#"{"name": "n", "plugins": [{}]}"#, "type: is missing"),
        (r#"{"name": "n", "plugins": [{"type": "a", "capabilities": []}]}"#, "capabilities of a"),
        (r#"{"name": "n", "loadOnlyInlinedPlugins": true}"#, "plugins: is missing"),
        (r#"{"name": "n", "cniVersion": "1.0.0", "disableGC": 1, "plugins": []}"#, "disableGC"),
    ] {
        let error = list(text).unwrap_err().to_string();
        assert!(error.contains(wrong), "{text}: {error}");
    }
    let many = json!({"cniVersion": "1.0.0", "name": "n", "plugins": vec![json!({"type": "a"}); 65]});
    assert!(list(&many.to_string()).unwrap_err().to_string().contains("more than 64"));
}

#[test]
fn interfaces_and_ids() {
    check_interface("eth0").unwrap();
    check_id(&"ab".repeat(32)).unwrap();
    for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-letters-"] {
        assert!(check_interface(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "-a", "a/b", "a b", "a;b", "a=b"] {
        assert!(check_id(bad).is_err(), "{bad:?}");
    }
}

proptest! {
    /// Whatever is in the file, reading it ends.
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = List::parse(&bytes);
        let _ = List::parse_single(&bytes);
        let _ = Plugin::parse(&bytes);
    }
}
