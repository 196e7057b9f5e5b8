//! A CNI network for the pods of one daemon, and what may be left of it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::AnyError;

/// Writes the configuration of a network that is called as its bridge: with Debian's bridge and host-local, and `more` plugins.
pub(super) fn write(dir: &Path, bridge: &str, subnet: &str, more: &str) -> Result<(), AnyError> {
    let network = CNI
        .replace("@MORE@", more)
        .replace("@DIR@", &dir.display().to_string())
        .replace("@BRIDGE@", bridge)
        .replace("@SUBNET@", subnet);
    std::fs::create_dir_all(dir.join("cni"))?;
    Ok(std::fs::write(dir.join("cni/10-bench.conflist"), network)?)
}

/// Removes a bridge, and what plugins that were killed have left of the network that is called like it.
pub(super) fn remove(bridge: &str) {
    if Path::new("/sys/class/net").join(bridge).exists() {
        let _ = Command::new("ip").args(["link", "delete", bridge]).status();
    }
    let prefix = format!("{bridge}-");
    for entry in std::fs::read_dir(RESULTS).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let _ = remove_rules(bridge);
}

/// The plugin bridge makes a chain for each pod, and a rule that leads there. Comments in both name the network.
fn remove_rules(network: &str) -> Result<(), AnyError> {
    let saved = Command::new("iptables-save").args(["-t", "nat"]).stderr(Stdio::null()).output()?;
    let saved = String::from_utf8_lossy(&saved.stdout);
    let comment = format!(r#"name: \"{network}\""#);
    let (mut rules, mut chains) = (String::new(), Vec::new());
    for rule in saved.lines().filter(|line| line.contains(&comment)) {
        let rule = rule.strip_prefix("-A ").ok_or("not a rule")?;
        rules.push_str(&format!("-D {rule}\n"));
        chains.extend(rule.split(' ').filter(|word| word.starts_with("CNI-")));
    }
    if rules.is_empty() {
        return Ok(());
    }
    chains.sort_unstable();
    chains.dedup();
    let chains: String = chains.iter().map(|chain| format!("-X {chain}\n")).collect();
    let mut restore = Command::new("iptables-restore").arg("--noflush").stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = restore.stdin.take() {
        write!(stdin, "*nat\n{rules}{chains}COMMIT\n")?;
    }
    restore.wait()?;
    Ok(())
}

/// Where libcni keeps what plugins have answered.
const RESULTS: &str = "/var/lib/cni/results";

const CNI: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "@BRIDGE@",
  "plugins": [
    { "type": "bridge", "bridge": "@BRIDGE@", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": { "type": "host-local", "dataDir": "@DIR@/ipam", "ranges": [[{ "subnet": "@SUBNET@" }]],
                "routes": [{ "dst": "0.0.0.0/0" }] } }@MORE@
  ]
}
"#;

/// For `more`.
pub(super) const PORTMAP: &str = r#",
    { "type": "portmap", "capabilities": { "portMappings": true } }"#;
