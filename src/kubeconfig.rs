//! `vaquita kubeconfig`: how kubectl finds the cluster.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::options::{Kubeconfig, Node};
use crate::terminal;
use crate::up::Place;

/// More than any kubeconfig.
const LARGEST: u64 = 4 << 20;

/// The lists of a kubeconfig, whose entries have names.
const LISTS: [&str; 3] = ["clusters", "contexts", "users"];

pub(crate) fn main(node: &Node, args: &Kubeconfig) -> Result<ExitCode> {
    let path = Place::of(&node.config()?).kubeconfig();
    let Some(own) = read(&path)? else {
        bail!("{} is not there: `vaquita up` makes it when it starts", path.display());
    };
    match &args.merge {
        None => terminal::out(&own)?,
        Some(file) => {
            let target = file.clone().map_or_else(usual, Ok)?;
            merge_into(&target, &own)?;
            terminal::out(&format!(
                "Merged into {}: context vaquita is the current one\n",
                target.display()
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where kubectl looks: the first of `$KUBECONFIG`, else below the home directory.
fn usual() -> Result<PathBuf> {
    let named = std::env::var_os("KUBECONFIG");
    let first = named
        .as_ref()
        .and_then(|paths| std::env::split_paths(paths).find(|path| !path.as_os_str().is_empty()));
    if let Some(path) = first {
        return Ok(path);
    }
    let home = std::env::var_os("HOME").context("HOME is not set: name the file after --merge")?;
    Ok(Path::new(&home).join(".kube/config"))
}

fn read(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let mut text = String::new();
    file.take(LARGEST)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(text))
}

fn merge_into(target: &Path, own: &str) -> Result<()> {
    // Through a link, to where the file is.
    let target = &std::fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    let there = read(target)?.unwrap_or_default();
    let merged = merge(&there, own).with_context(|| format!("cannot merge into {}", target.display()))?;
    replace(target, &merged).with_context(|| format!("cannot write {}", target.display()))
}

/// What is there, with our cluster, context and user, and that context as the current one.
fn merge(there: &str, own: &str) -> Result<String> {
    let parse = |text: &str| serde_saphyr::from_str::<Value>(text).context("it is not YAML");
    let mut all = match there.trim().is_empty() {
        true => json!({ "apiVersion": "v1", "kind": "Config" }),
        false => parse(there)?,
    };
    let Value::Object(mut own) = parse(own)? else { bail!("our own kubeconfig is not a map") };
    let all_map: &mut Map<String, Value> = all.as_object_mut().context("it is not a kubeconfig")?;
    for list in LISTS {
        let entries = all_map.entry(list).or_insert_with(|| json!([]));
        if entries.is_null() {
            *entries = json!([]);
        }
        let entries = entries.as_array_mut().with_context(|| format!("{list} is not a list"))?;
        let Some(Value::Array(ours)) = own.remove(list) else { continue };
        for entry in ours {
            match entries.iter_mut().find(|there| there["name"] == entry["name"]) {
                Some(place) => *place = entry,
                None => entries.push(entry),
            }
        }
    }
    if let Some(context) = own.remove("current-context") {
        all_map.insert("current-context".to_owned(), context);
    }
    // Long values on one line, as kubectl writes them.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    Ok(serde_saphyr::to_string_with_options(&all, options)?)
}

/// In one step, readable for its owner alone, and whole after a power cut.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = dir.join(name);
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        });
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const OWN: &str = "apiVersion: v1\nkind: Config\nclusters:\n- name: vaquita\n  cluster: {server: 'https://127.0.0.1:1'}\n\
        contexts:\n- name: vaquita\n  context: {cluster: vaquita, user: vaquita-admin}\ncurrent-context: vaquita\n\
        users:\n- name: vaquita-admin\n  user: {}\n";

    fn parse(text: &str) -> Value {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn what_is_there_stays() {
        let there = "apiVersion: v1\nkind: Config\nclusters:\n- {name: other, cluster: {server: x}}\nusers: null\n\
            current-context: other\npreferences: {colors: true}\n";
        let merged = parse(&merge(there, OWN).unwrap());
        assert_eq!(merged["clusters"][0]["name"], "other");
        assert_eq!(merged["clusters"][1]["name"], "vaquita");
        assert_eq!(merged["preferences"]["colors"], true);
        assert_eq!(merged["current-context"], "vaquita");
        assert_eq!(merged["users"].as_array().unwrap().len(), 1);
        let again = merge(&merged.to_string(), &OWN.replace(":1'", ":2'")).unwrap();
        let again = parse(&again);
        assert_eq!(again["clusters"].as_array().unwrap().len(), 2);
        assert_eq!(again["clusters"][1]["cluster"]["server"], "https://127.0.0.1:2");
    }

    #[test]
    fn what_is_no_kubeconfig_is_left_alone() {
        for there in ["- a\n", "clusters: 5\n", "\t{", "just words"] {
            merge(there, OWN).unwrap_err();
        }
        assert_eq!(parse(&merge("", OWN).unwrap())["current-context"], "vaquita");
    }

    #[test]
    fn the_file_is_its_owners_and_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/config");
        merge_into(&path, OWN).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        merge_into(&link, OWN).unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }
}
