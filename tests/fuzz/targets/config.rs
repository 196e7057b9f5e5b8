//! config.json: any bytes, and specifications with some properties replaced, become a plan or a clean error.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::{Process, Spec};
use serde_json::Value;
use vaquita_cgroup::Resources;
use vaquita_runtime::{Context, ExecPlan, Plan, document};

/// A specification with every property that is planned.
static BASE: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../seeds/base.json")).expect("JSON"));

/// Where it has values, by JSON pointer.
static PLACES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut places = Vec::new();
    collect(&BASE, String::new(), &mut places);
    places
});

/// Values that have been wrong somewhere.
const NASTY: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1",
    "1e3",
    "1.5",
    "7",
    "8",
    "64",
    "255",
    "1000",
    "4096",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "-2147483648",
    "4294967294",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "1e999",
    "\"\"",
    "\"0\"",
    "\"/\"",
    "\".\"",
    "\"..\"",
    "\"/..\"",
    "\"/proc\"",
    "\"/proc/self/../sys\"",
    "\"/dev\"",
    "\"a/b\"",
    "\"\\u0000\"",
    "\"a\\u0000b\"",
    "\"\\n\"",
    "\"=\"",
    "\"A=\"",
    "\"=b\"",
    "\"PATH=\"",
    "\"PATH=::\"",
    "\"bind\"",
    "\"rbind\"",
    "\"ro\"",
    "\"rro\"",
    "\"rnoatime\"",
    "\"size=1%\"",
    "\"idmap\"",
    "\"ridmap\"",
    "\"tmpcopyup\"",
    "\"rshared\"",
    "\"host\"",
    "\"user\"",
    "\"mount\"",
    "\"time\"",
    "\"cgroup\"",
    "\"CAP_SYS_ADMIN\"",
    "\"CAP_X\"",
    "\"a\"",
    "\"c\"",
    "\"b\"",
    "\"p\"",
    "\"rwm\"",
    "\"rwmx\"",
    "\"2.0.0\"",
    "\"🐋\"",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "[\"\"]",
    "[4294967295]",
    "{\"\":\"\"}",
    "{\"a\":null}",
];

fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            collect(value, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), places);
        }),
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(index, value)| collect(value, format!("{at}/{index}"), places));
        }
        _ => {}
    }
    places.push(at);
}

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        // A document begins with a bracket.
        Some((&head, edits)) if head < 0x20 && head != b'\n' => plan(edited(edits).as_bytes()),
        _ => plan(data),
    }
});

/// The base with some values replaced: three bytes each, place and value; or text of the input's, quoted.
fn edited(mut edits: &[u8]) -> String {
    let mut spec = BASE.clone();
    while let [low, high, what, rest @ ..] = edits {
        edits = rest;
        let place = &PLACES[usize::from(u16::from_le_bytes([*low, *high])) % PLACES.len()];
        let value = match usize::from(*what) {
            255 => {
                let (text, behind) = rest.split_at(rest.len().min(12));
                edits = behind;
                Value::String(String::from_utf8_lossy(text).into_owned())
            }
            // The text of a value of another place.
            what if what >= 192 => {
                spec.pointer(&PLACES[what * 31 % PLACES.len()]).cloned().unwrap_or_default()
            }
            what => serde_json::from_str(NASTY[what % NASTY.len()]).unwrap_or_else(|_| Value::from(1e300)),
        };
        if let Some(place) = spec.pointer_mut(place) {
            *place = value;
        }
    }
    spec.to_string()
}

fn plan(bytes: &[u8]) {
    let context = Context { bundle: PathBuf::from("/bundle"), passes_listeners: true, ..Context::default() };
    if let Ok(process) = clean(document::parse::<Process>("process", bytes)) {
        let spec = document::parse_spec("config.json", BASE.to_string().as_bytes()).expect("the base is one");
        let _ = clean(ExecPlan::new(&process, &spec, &context));
    }
    let Ok(spec) = clean(document::parse_spec("config.json", bytes)) else { return };
    if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
        let resources = Resources::from(resources);
        let rules = resources.devices.as_deref().unwrap_or_default();
        let _ = vaquita_cgroup::device::compile(rules);
        let _ = vaquita_cgroup::device::v1_lines(rules);
    }
    let planned = Plan::new(&spec, &context);
    // Else the edits are of something that is refused in any case.
    assert!(planned.is_ok() || bytes != BASE.to_string().as_bytes(), "{planned:?}");
    if clean(planned).is_ok() {
        check(&spec);
    }
    if let Some(process) = spec.process() {
        let _ = clean(ExecPlan::new(process, &spec, &context));
    }
}

/// An error is one line.
fn clean<T>(result: Result<T, vaquita_runtime::Error>) -> Result<T, ()> {
    result.map_err(|error| {
        let text = error.to_string();
        assert!(text.len() < 4096 && !text.contains(|c: char| c.is_control()), "{text:?}");
    })
}

/// What no plan may have been made of.
fn check(spec: &Spec) {
    let Some(process) = spec.process() else { panic!("no process") };
    let user = process.user();
    let groups = user.additional_gids().iter().flatten().copied();
    assert!(groups.chain([user.uid(), user.gid()]).all(|id| id != u32::MAX), "an id that means none");
    let args = process.args().iter().flatten();
    let strings = args.chain(process.env().iter().flatten()).map(String::as_str);
    let strings = strings.chain(spec.hostname().as_deref()).chain(process.cwd().to_str());
    assert!(strings.into_iter().all(|text| !text.contains('\0')), "a NUL character");
    assert!(process.cwd().is_absolute(), "a relative cwd");
    for mount in spec.mounts().iter().flatten() {
        assert!(!mount.destination().to_string_lossy().contains('\0'), "a NUL character in a destination");
        let source = mount.source().as_ref();
        assert!(
            source.is_none_or(|source| !source.to_string_lossy().contains('\0')),
            "a NUL character in a source"
        );
    }
}
