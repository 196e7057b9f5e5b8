//! The options of the Kubernetes API.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use clap::builder::BoolishValueParser;

/// How the API is served, and by what node.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes API (with `vaquita up` or --api)")]
pub(crate) struct Cluster {
    /// Where the API is served over HTTPS; several with commas, port 0 takes one that is free
    #[arg(long, hide_env = true, env = "VAQUITA_API_ADDRESS", value_name = "ADDRESS:PORT")]
    #[arg(value_delimiter = ',', default_value = "127.0.0.1:6443")]
    pub(crate) api_address: Vec<SocketAddr>,
    /// A further name or address by which clients call the API, for its certificate; several with commas
    #[arg(long, hide_env = true, env = "VAQUITA_API_SAN", value_name = "NAME", value_delimiter = ',')]
    pub(crate) api_san: Vec<String>,
    /// The name of the node [default: the host's name in small letters]
    #[arg(long, hide_env = true, env = "VAQUITA_NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub(crate) node_name: Option<String>,
    /// A folder of manifests of pods that run whatever the API says
    #[arg(long, hide_env = true, env = "VAQUITA_STATIC_PODS", value_name = "DIR")]
    pub(crate) static_pods: Option<PathBuf>,
    /// Serve every built-in kind of Kubernetes, those that nothing here acts on as plain storage: for controllers from elsewhere
    #[arg(long, hide_env = true, env = "VAQUITA_ALL_KINDS")]
    #[arg(action = clap::ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub(crate) all_kinds: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Kubeconfig {
    /// Write it into FILE beside what is there, and make it the current context [default: ~/.kube/config]
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub(crate) merge: Option<Option<PathBuf>>,
}

/// A DNS subdomain (RFC 1123), as names of nodes are.
fn node_name(text: &str) -> Result<String> {
    let label = |label: &str| {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        bail!("want small letters, digits, `-` and `.`, as in a DNS name");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes_are_dns_names() {
        for good in ["a", "node-1", "n1.example.org", "1"] {
            assert_eq!(node_name(good).unwrap(), good);
        }
        for bad in ["", "Node", "a_b", "-a", "a-", "a..b", "a.", &"a".repeat(254)] {
            node_name(bad).unwrap_err();
        }
    }
}
