//! From `types.txt` to the blob that the crate embeds.
//!
//! `types.txt` is written by `hack/kube-types`. Its lines:
//!
//! ```text
//! package NAME GROUP VERSION       the types that follow are NAME.Type; GROUP is - for the core group
//! Type [kind] [atomic]             kind: has apiVersion and kind of its own; atomic: is replaced as a whole when applied
//!  field NUMBER SHAPE[=GO] FLAG…   a field with its number in protobuf (0: has none)
//!  + Embedded NUMBER SHAPE         the fields of SHAPE are fields of this type in JSON; a message of its own in protobuf
//! enum PACKAGE Name A|B|C          the values that a named string may have
//! ```
//!
//! A shape is a word, `<Type>` (of the same package, or `meta.`, `core.` or a whole name before it), `[` before the shape of
//! elements or `{` before the shape of the values of a map with string keys. GO is the name of the type in Go where
//! the shape does not tell it, with `!` behind it if an enum line has its values. Flags: `*` pointer, `!` written even when
//! empty, `z` left out when zero, `r` required, `p=` patch strategy, `k=` merge key, `l=` list, map or struct type
//! (`map:` with its keys), `d=` default.
//!
//! The blob has the same lines; but types are sorted, have whole names, group and version, and refer to each other by
//! their index.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// Writes `types.blob` and `index.rs` to `out`.
pub(crate) fn write(facts: &str, out: &Path) {
    let mut packages = Vec::new();
    let mut types: BTreeMap<String, (String, Vec<&str>)> = BTreeMap::new();
    let mut enums = String::new();
    let mut current = None;
    for line in facts.lines() {
        if let Some(package) = line.strip_prefix("package ") {
            let words: Vec<&str> = package.split(' ').collect();
            packages.push(words);
        } else if let Some(values) = line.strip_prefix("enum ") {
            let (package, values) = values.split_once(' ').expect("an enum has a package");
            writeln!(enums, "{package}.{values}").expect("writes to a string");
        } else if line.starts_with(' ') {
            let name: &String = current.as_ref().expect("a field belongs to a type");
            types.get_mut(name).expect("was just added").1.push(line);
        } else {
            let package = packages.last().expect("a type belongs to a package");
            let (name, flags) = line.split_once(' ').unwrap_or((line, ""));
            let full = format!("{}.{name}", package[0]);
            types.insert(full.clone(), (format!("{full} {} {} {flags}", package[1], package[2]), Vec::new()));
            current = Some(full);
        }
    }
    let ids: BTreeMap<&str, usize> = types.keys().enumerate().map(|(id, name)| (name.as_str(), id)).collect();
    let mut blob = String::new();
    let mut index = String::new();
    for (name, (head, fields)) in &types {
        write!(index, "{},", blob.len()).expect("writes to a string");
        blob.push_str(head.trim_end());
        blob.push('\n');
        for line in fields {
            blob.push_str(&numbered(line, name, &ids));
            blob.push('\n');
        }
    }
    let versions: String = packages.iter().map(|words| format!("{}\\n", words.join(" "))).collect();
    let mut digest = DefaultHasher::new();
    (&blob, &enums).hash(&mut digest);
    let rust = format!(
        "static OFFSETS: [u32; {}] = [{index}{}];\nstatic PACKAGES: &str = \"{versions}\";\n\
         pub(crate) const DIGEST: u64 = {:#x};\n",
        types.len() + 1,
        blob.len(),
        digest.finish()
    );
    fs::write(out.join("types.blob"), blob).expect("OUT_DIR can be written");
    fs::write(out.join("enums.txt"), enums).expect("OUT_DIR can be written");
    fs::write(out.join("index.rs"), rust).expect("OUT_DIR can be written");
}

/// The line of a field with the types it refers to by index.
fn numbered(line: &str, of: &str, ids: &BTreeMap<&str, usize>) -> String {
    let Some((before, rest)) = line.split_once('<') else { return line.to_owned() };
    let (name, after) = rest.split_once('>').expect("a reference ends with >");
    let full = if let Some(meta) = name.strip_prefix("meta.") {
        format!("io.k8s.apimachinery.pkg.apis.meta.v1.{meta}")
    } else if let Some(core) = name.strip_prefix("core.") {
        format!("io.k8s.api.core.v1.{core}")
    } else if name.contains('.') {
        name.to_owned()
    } else {
        let package = of.rsplit_once('.').expect("a type's name has a package").0;
        format!("{package}.{name}")
    };
    let id = ids.get(full.as_str()).unwrap_or_else(|| panic!("{of} refers to {full}, which is not there"));
    format!("{before}<{id}{after}")
}
