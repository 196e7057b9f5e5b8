//! `vaquita check`: what of ours exists on this host, and whose it is.

use std::process::ExitCode;

use anyhow::{Context, Result};
use vaquita_cri::check::{Resource, inventory};

use crate::options::{Check, Node, Output};
use crate::terminal::{Color, Style};
use crate::{client, table, terminal};

pub(crate) fn main(node: &Node, args: &Check) -> Result<ExitCode> {
    client::need_root("check")?;
    let resources = inventory(&node.config()?).context("cannot take stock of the host")?;
    let orphans = resources.iter().filter(|resource| resource.owner.is_none()).count();
    match args.output {
        Output::Json => terminal::out(&resources.iter().map(json).collect::<String>())?,
        Output::Text => terminal::out(&text(&resources, orphans, Style::of_stdout()))?,
    }
    Ok(if orphans == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(resources: &[Resource], orphans: usize, style: Style) -> String {
    let summary = match (resources.len(), orphans) {
        (0, _) => "nothing of vaquita is on this host\n".to_owned(),
        (all, 0) => style.paint(Color::Good, &format!("{all} resources, no orphan")) + "\n",
        (all, orphans) => {
            style.paint(Color::Bad, &format!("{all} resources, {orphans} without an owner")) + "\n"
        }
    };
    if resources.is_empty() {
        return summary;
    }
    let rows: Vec<Vec<String>> = resources.iter().map(row).collect();
    format!("{}\n{summary}", table::render(&["KIND", "NAME", "OWNER", "NOTE"], &rows))
}

fn row(resource: &Resource) -> Vec<String> {
    let owner = resource.owner.as_deref().unwrap_or("ORPHAN");
    vec![resource.kind.clone(), abridged(&resource.name), short(owner).to_owned(), abridged(&resource.note)]
}

/// A path or a command line with its ids made short.
fn abridged(text: &str) -> String {
    let words = text.split_inclusive(['/', ' ']);
    words
        .map(|word| {
            let id = word.trim_end_matches(['/', ' ']);
            if short(id) == id { word.to_owned() } else { word.replacen(id, &format!("{}…", short(id)), 1) }
        })
        .collect()
}

/// Ids are 64 digits; the first 13 tell them apart, as crictl shows them.
pub(crate) fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    let is_id = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { &hex[..13] } else { id }
}

fn json(resource: &Resource) -> String {
    let object = serde_json::json!({
        "kind": resource.kind,
        "name": resource.name,
        "owner": resource.owner,
        "note": resource.note,
    });
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(owner: Option<&str>) -> Resource {
        Resource {
            kind: "cgroup".into(),
            name: "/vaquita/a".into(),
            owner: owner.map(Into::into),
            note: String::new(),
        }
    }

    #[test]
    fn orphans_stand_out() {
        let shown = text(&[resource(Some(&"ab".repeat(32))), resource(None)], 1, Style::PLAIN);
        assert_eq!(
            shown,
            "KIND    NAME        OWNER          NOTE\n\
             cgroup  /vaquita/a  ababababababa\n\
             cgroup  /vaquita/a  ORPHAN\n\n\
             2 resources, 1 without an owner\n"
        );
        assert_eq!(text(&[], 0, Style::PLAIN), "nothing of vaquita is on this host\n");
    }

    #[test]
    fn ids_in_paths_are_short() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(abridged(&format!("/pods/{id}/shm")), "/pods/0123456789abc…/shm");
        assert_eq!(abridged(&format!("shim /pods/{id} x")), "shim /pods/0123456789abc… x");
        assert_eq!(abridged("/a/bc"), "/a/bc");
    }

    #[test]
    fn json_has_one_object_per_line() {
        let line = json(&resource(None));
        assert_eq!(line, "{\"kind\":\"cgroup\",\"name\":\"/vaquita/a\",\"owner\":null,\"note\":\"\"}\n");
    }
}
