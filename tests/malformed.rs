//! Specifications that are wrong in every way anybody could think of: one line that names the property, exit status 1, bounded
//! memory, and nothing left behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use vaquita_testing::{Leaks, TempDir, require_root, temp_dir, unique};

#[path = "malformed/table.rs"]
mod table;

/// Address space that a command gets, in KiB: a read without a bound ends by it.
const MEMORY: u32 = 256 * 1024;

/// A bundle, and a state directory of its own.
struct Bundle {
    dir: TempDir,
    id: String,
    leaks: Leaks,
}

impl Bundle {
    fn new() -> Self {
        require_root();
        let id = unique("mal");
        let leaks = Leaks::of(&id);
        let this = Self { dir: temp_dir(), id, leaks };
        fs::create_dir_all(this.path("rootfs/bin")).unwrap();
        fs::copy("/bin/busybox", this.path("rootfs/bin/busybox")).unwrap();
        fs::create_dir(this.path("state")).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn base(&self) -> Value {
        let mut base: Value = serde_json::from_str(include_str!("malformed/base.json")).unwrap();
        base["linux"]["cgroupsPath"] = json!(format!("/{}", self.id));
        base
    }

    /// The base with the text of a value in one place, which need not be JSON.
    fn with(&self, place: &str, text: &str) -> String {
        let mut config = self.base();
        let parent = place.rsplit_once('/').unwrap();
        // Properties that the base lacks are made, and places behind the end of lists.
        match config.pointer_mut(parent.0).unwrap_or_else(|| panic!("{place}")) {
            Value::Array(list) => list.push(json!("@here@")),
            other => other[parent.1] = json!("@here@"),
        }
        config.to_string().replace("\"@here@\"", text)
    }

    fn write(&self, config: impl AsRef<[u8]>) {
        fs::write(self.path("config.json"), config).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let script = format!("ulimit -v {MEMORY} && exec \"$0\" \"$@\"");
        Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_vaquita"), "oci", "--root"])
            .arg(self.path("state"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn run(&self) -> Output {
        let bundle = self.dir.path().to_str().unwrap();
        self.command(&["run", "--bundle", bundle, &self.id])
    }

    /// What `run` says of the configuration that is there, which is refused; an error is what is wrong with the refusal.
    fn refusal(&self) -> Result<String, String> {
        judge(self, &self.run())
    }

    fn finish(self) {
        self.leaks.assert_none();
    }
}

/// What is said before of capabilities that are none.
const WARNING: &str = "vaquita oci: process.capabilities: ignoring unknown or unavailable capabilities: [";

/// Whether a command failed as it should: with 1, one line that names the container, and nothing left.
fn judge(bundle: &Bundle, output: &Output) -> Result<String, String> {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let line = err.strip_suffix('\n').unwrap_or_default();
    let line = match line.split_once('\n') {
        Some((warning, line)) if warning.starts_with(WARNING) => line,
        _ => line,
    };
    let left = fs::read_dir(bundle.path("state")).unwrap().count();
    let is_one = !line.contains(|c: char| c.is_control()) && line.len() < 4096 && line.contains(&bundle.id);
    if output.status.code() != Some(1) || !is_one || !out.is_empty() || left > 0 {
        return Err(format!("{}, {left} left, {} bytes: {out}{err:.500}", output.status, err.len()));
    }
    Ok(line.to_owned())
}

#[test]
fn the_base_is_fine_and_unknown_properties_are_ignored() {
    let bundle = Bundle::new();
    let mut config = bundle.base();
    config["unheard"] = json!({"of": [1, {"x": null}]});
    config["process"]["unheard"] = json!("of");
    config["linux"]["resources"]["unheard"] = json!(-1);
    bundle.write(config.to_string());
    let output = bundle.run();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bundle.finish();
}

/// Each case of the table: the value, and what the error must say.
#[test]
fn every_wrong_value_is_refused_by_its_name() {
    let bundle = Bundle::new();
    let mut wrong = Vec::new();
    for (place, text, words) in table::CASES {
        let text = table::expand(text);
        bundle.write(bundle.with(place, &text));
        let said = bundle.refusal().and_then(|line| {
            let missing: Vec<_> = words.split('&').filter(|word| !line.contains(word.trim())).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{line:.500}: lacks {missing:?}")) }
        });
        wrong.extend(said.err().map(|why| format!("{place} = {text:.80}: {why}")));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table::CASES.len(), wrong.join("\n"));
    bundle.finish();
}

/// Any value anywhere: it works, or is refused as it should be.
#[test]
fn values_of_other_types_are_refused_or_fine() {
    let bundle = Bundle::new();
    let mut places = Vec::new();
    collect(&bundle.base(), String::new(), &mut places);
    let (mut fine, mut wrong) = (0, Vec::new());
    for place in &places {
        for text in ["null", "7", "\"x\"", "[[]]", "{\"x\":{}}"] {
            let mut config = bundle.base();
            *config.pointer_mut(place).unwrap() = serde_json::from_str(text).unwrap();
            bundle.write(config.to_string());
            let output = bundle.run();
            // busybox has no such applet: the container ran.
            if output.status.success() || place == "/process/args/1" {
                fine += 1;
            } else {
                wrong.extend(judge(&bundle, &output).err().map(|why| format!("{place} = {text}: {why}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(fine > 10 && fine < places.len() * 3, "{fine} of {} times 5", places.len());
    bundle.finish();
}

fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(name, value)| collect(value, format!("{at}/{name}"), places))
        }
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(index, value)| collect(value, format!("{at}/{index}"), places));
        }
        _ => {}
    }
    places.push(at);
}

#[test]
fn a_file_that_is_no_document_is_refused() {
    let bundle = Bundle::new();
    let refused = |words: &str| {
        let line = bundle.refusal().unwrap_or_else(|why| panic!("{words}: {why}"));
        assert!(line.contains("config.json") && line.contains(words), "{words}: {line}");
    };
    let path = bundle.path("config.json");
    refused("ENOENT");

    let text = bundle.base().to_string();
    for end in (0..text.len()).step_by(23) {
        bundle.write(&text[..end]);
        refused("EOF while parsing");
    }
    bundle.write(text.clone() + "}");
    refused("trailing characters");
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        bundle.write(format!("{}0{}", open.repeat(100_000), close.repeat(100_000)));
        refused("recursion limit exceeded");
        bundle.write(bundle.with("/unheard", &format!("{}0{}", open.repeat(100_000), close.repeat(100_000))));
        refused("recursion limit exceeded");
    }
    bundle.write(bundle.with("/hostname", "\"@\"").replace('@', "\0"));
    refused("hostname");
    bundle.write([&b"\xef\xbb\xbf"[..], text.as_bytes()].concat());
    refused("expected value");
    bundle.write(
        text.replace("\"h\"", "\"@\"")
            .bytes()
            .map(|byte| if byte == b'@' { 0xff } else { byte })
            .collect::<Vec<_>>(),
    );
    refused("hostname");
    bundle.write(bundle.with("/unheard", &format!("\"{}\"", "x".repeat(4 << 20))));
    refused("longer than 4194304 bytes");

    fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    refused("longer than 4194304 bytes");
    for (make, words) in [
        ("mkfifo config.json", "a pipe"),
        ("ln -s /dev/zero config.json", "a device"),
        ("mkdir config.json", "a directory"),
        ("ln -s config.json config.json", "ELOOP"),
    ] {
        let script = format!("rm -rf config.json && {make}");
        let made =
            Command::new("bash").args(["-c", &script]).current_dir(bundle.dir.path()).status().unwrap();
        assert!(made.success(), "{make}");
        refused(words);
    }
    bundle.finish();
}

/// T07 (CVE-2021-43784), and whatever else is long but within what the kernel takes: a thousand mounts with sources of more
/// than 64 KiB in all, and thousands of variables, arguments, annotations and groups.
#[test]
fn t07_long_lists_arrive_whole() {
    let bundle = Bundle::new();
    let mut config = bundle.base();
    let long = bundle.path(&"s".repeat(200)).join("t".repeat(200)).join("u".repeat(200));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("last"), "seen").unwrap();
    fs::create_dir(bundle.path("rootfs/dev")).unwrap();
    fs::create_dir(bundle.path("rootfs/proc")).unwrap();
    fs::create_dir(bundle.path("rootfs/m")).unwrap();
    for number in 0..200 {
        fs::create_dir(bundle.path(&format!("rootfs/m/{number}"))).unwrap();
        let mount = json!({"destination": format!("/m/{number}"), "source": long, "options": ["bind"]});
        config["mounts"].as_array_mut().unwrap().push(mount);
    }
    let mut env: Vec<String> = (0..3000).map(|number| format!("V{number}={number}")).collect();
    env.push("LAST=yes".to_owned());
    config["process"]["env"] = json!(env);
    let script = "read text < /m/199/last; echo $text $LAST $V2999 $#";
    let mut args = vec!["/bin/busybox".to_owned(), "sh".into(), "-c".into(), script.into(), "sh".into()];
    args.extend((0..5000).map(|number| number.to_string()));
    config["process"]["args"] = json!(args);
    config["process"]["user"]["additionalGids"] = json!((0..1000).collect::<Vec<_>>());
    config["annotations"] = (0..3000).map(|number| (format!("k{number}"), json!("v".repeat(10)))).collect();
    bundle.write(config.to_string());
    let output = bundle.run();
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(out.trim(), "seen yes 2999 5000", "{}", String::from_utf8_lossy(&output.stderr));
    bundle.finish();
}
