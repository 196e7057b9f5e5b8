#![allow(clippy::disallowed_methods, reason = "files of the tests")]

use super::*;

/// A directory of settings with one file in it.
struct Settings(tempfile::TempDir);

impl Settings {
    fn new(directory: &str, text: &str) -> Self {
        let all = tempfile::tempdir().unwrap();
        std::fs::create_dir(all.path().join(directory)).unwrap();
        std::fs::write(all.path().join(directory).join(FILE), text).unwrap();
        Self(all)
    }

    fn look_up(&self, registry: &str) -> Result<Vec<Host>, Error> {
        look_up(registry, Some(self.0.path()))
    }
}

/// `https://host/base`, with `*` where credentials go.
fn shown(hosts: &[Host]) -> Vec<String> {
    let one =
        |host: &Host| format!("{}{}{}", host.origin, host.base, if host.is_registry { " *" } else { "" });
    hosts.iter().map(one).collect()
}

#[test]
fn a_registry_without_settings() {
    let own = |registry: &str| {
        let hosts = look_up(registry, None).unwrap();
        (shown(&hosts).remove(0), hosts[0].guessed)
    };
    assert_eq!(own("docker.io"), ("https://registry-1.docker.io/v2 *".into(), false));
    assert_eq!(own("quay.io"), ("https://quay.io/v2 *".into(), false));
    assert_eq!(own("quay.io:5000"), ("https://quay.io:5000/v2 *".into(), false));
    assert_eq!(own("localhost:5000"), ("http://localhost:5000/v2 *".into(), true));
    assert_eq!(own("[::1]:5000"), ("http://[::1]:5000/v2 *".into(), true));
    assert_eq!(own("127.0.0.1"), ("http://127.0.0.1/v2 *".into(), true));
    assert_eq!(own("10.0.0.1"), ("https://10.0.0.1/v2 *".into(), false));
}

#[test]
fn hosts_come_in_the_order_of_the_file_and_the_server_last() {
    let settings = Settings::new(
        "docker.io",
        r#"
server = "https://registry-1.docker.io"

[host."https://z.example"]
  capabilities = ["pull", "resolve"]
[host."http://a.example:5000/prefix/"]
  capabilities = ["Pull"]
  dial_timeout = "3s"
  [host."http://a.example:5000/prefix/".header]
    x-one = "1"
    authorization = ["Basic c2VjcmV0"]
[host."b.example/v2/proxy"]
  override_path = true
[host."https://c.example/v2"]
  capabilities = ["push"]
"#,
    );
    let hosts = settings.look_up("docker.io").unwrap();
    assert_eq!(
        shown(&hosts),
        [
            "https://z.example/v2",
            "http://a.example:5000/prefix/v2",
            "https://b.example/v2/proxy",
            "https://registry-1.docker.io/v2 *"
        ]
    );
    assert_eq!((hosts[0].resolve, hosts[0].pull, hosts[1].resolve, hosts[1].pull), (true, true, false, true));
    assert_eq!((hosts[0].is_proxy, hosts[3].is_proxy), (true, false));
    assert_eq!(hosts[1].connect, Some(Duration::from_secs(3)));
    assert_eq!(hosts[1].headers["x-one"], "1");
    assert_eq!(hosts[1].headers["authorization"], "Basic c2VjcmV0");
    assert!(!format!("{hosts:?}").contains("c2VjcmV0"));
}

/// Directory, registry, and what is asked.
#[test]
fn directories_as_containerd_has_them() {
    let text = "server = \"https://s.example\"\n[host.\"https://m.example\"]\n";
    for (directory, registry, expected) in [
        ("r.example:5000", "r.example:5000", &["https://m.example/v2", "https://s.example/v2 *"][..]),
        ("r.example_5000_", "r.example:5000", &["https://m.example/v2", "https://s.example/v2 *"]),
        ("r.example", "r.example:5000", &["https://r.example:5000/v2 *"]),
        // The server of a file for all registries is not the origin of their credentials.
        ("_default", "r.example", &["https://m.example/v2", "https://s.example/v2"]),
        ("_default", "s.example", &["https://m.example/v2", "https://s.example/v2 *"]),
        ("[::1]_5000_", "[::1]:5000", &["https://m.example/v2", "https://s.example/v2 *"]),
    ] {
        assert_eq!(
            shown(&Settings::new(directory, text).look_up(registry).unwrap()),
            expected,
            "{directory}"
        );
    }
    let mirrors_only = Settings::new("_default", "[host.\"http://m.example\"]\n");
    assert_eq!(
        shown(&mirrors_only.look_up("r.example").unwrap()),
        ["http://m.example/v2", "https://r.example/v2 *"]
    );
    let both = Settings::new("r.example", "");
    std::fs::create_dir(both.0.path().join("_default")).unwrap();
    std::fs::write(both.0.path().join("_default").join(FILE), text).unwrap();
    assert_eq!(shown(&both.look_up("r.example").unwrap()), ["https://r.example/v2 *"]);
}

#[test]
fn what_is_wrong_is_told_with_file_and_line() {
    for (text, line, why) in [
        ("server = \"a\"\nserver = \"b\"", ":2: ", "duplicate key"),
        ("\n\n[host.\"https://a\"]\ncapabilities = \"pull\"", ":4: ", "expected a sequence"),
        ("ca = 5", ":1: ", "a string or a list of strings"),
        ("client = [[\"a\"]]", ":1: ", "pairs of files"),
        ("[header]\nauthorization = {secret = \"secret\"}", ":2: ", "a string or a list"),
        ("[header]\nauthorization = \"secret", ":2: ", ""),
        ("[header]\nauthorization = \"sec\\nret\"", ": ", "its value cannot be sent"),
        ("capabilities = [\"fly\"]", ": ", "unknown capability \"fly\""),
        ("dial_timeout = \"soon\"", ": ", "dial_timeout \"soon\""),
        ("[host.\"ftp://a\"]", ": ", "is not a URL of HTTP"),
        ("server = \"file:///etc/passwd\"", ": ", "is not a URL of HTTP"),
        ("[host.\"https://a/?x=y\"]", ": ", "a user or a query"),
        ("[host.\"https://u:secret@a\"]", ": ", "host \"a\": has a user"),
        ("ca = \"/nonexistent.pem\"", ": ", "certificate file /nonexistent.pem"),
        ("client = [[\"/nonexistent.cert\", \"k\"]]", ": ", "certificate file /nonexistent.cert"),
        ("override_path = true", ": ", "needs a server"),
        ("capabilities = [\"push\"]", ": ", "no host that may be asked"),
    ] {
        let settings = Settings::new("r.example", text);
        let error = settings.look_up("r.example").unwrap_err();
        let named = format!("{}{line}", settings.0.path().join("r.example").join(FILE).display());
        let told = error.to_string();
        assert!(told.starts_with(&named) && told.contains(why), "{text}: {told}");
        assert!(!told.contains("secret"), "{told}");
        assert!(settings.look_up("other.example").is_ok(), "other registries are not concerned");
    }
}

#[test]
fn keys_without_a_meaning_have_none() {
    let settings = Settings::new("r.example", "rate = 5\n[host.\"https://a\"]\nfoo.bar = 1\n");
    assert_eq!(shown(&settings.look_up("r.example").unwrap()), ["https://a/v2", "https://r.example/v2 *"]);
}

#[test]
fn certificates_beside_the_file_are_the_registry_s() {
    let settings = Settings::new("localhost:5000", "[host.\"http://m.example\"]\n");
    let directory = settings.0.path().join("localhost:5000");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(directory.join("ca.crt"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("me.cert"), made.cert.pem()).unwrap();
    let alone = settings.look_up("localhost:5000").unwrap_err();
    assert!(alone.to_string().contains("key file") && alone.to_string().contains("me.key"), "{alone}");
    std::fs::write(directory.join("me.key"), made.signing_key.serialize_pem()).unwrap();
    let hosts = settings.look_up("localhost:5000").unwrap();
    assert!(hosts[0].trust.is_default());
    assert_eq!((hosts[1].trust.authorities.len(), hosts[1].trust.identities.len()), (1, 1));
    assert_eq!(shown(&hosts)[1], "https://localhost:5000/v2 *", "who has certificates speaks TLS");
    std::fs::remove_file(directory.join("me.cert")).unwrap();
    assert!(settings.look_up("localhost:5000").unwrap_err().to_string().contains("me.cert"));
    std::fs::remove_file(directory.join("me.key")).unwrap();
    std::fs::write(directory.join("empty.crt"), "").unwrap();
    assert!(settings.look_up("localhost:5000").unwrap_err().to_string().contains("empty.crt"));
    std::fs::write(directory.join(FILE), "skip_verify = true").unwrap();
    let hosts = settings.look_up("localhost:5000").unwrap();
    assert!(
        hosts[0].trust.skip_verify && hosts[0].trust.authorities.is_empty(),
        "what the file says goes before"
    );
}
