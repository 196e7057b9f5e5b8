//! `vaquita demo`: a pod that shows what pods can do, without anything from outside.

pub(crate) mod server;

use std::process::ExitCode;

use anyhow::Result;

use crate::options::{Demo, Node};
use crate::{run, terminal};

/// What manifests call the image that is made of this binary.
pub(crate) const IMAGE: &str = "vaquita.local/demo:latest";

/// The built-in manifest.
const MANIFEST: &str = include_str!("demo/pod.yaml");

pub(crate) fn main(node: &Node, args: &Demo) -> Result<ExitCode> {
    if args.print {
        terminal::out(MANIFEST)?;
        return Ok(ExitCode::SUCCESS);
    }
    run::manifests(node, &[("demo.yaml".to_owned(), MANIFEST.to_owned())], args.output, Some(hint))
}

/// What to try, once the pod has its address.
fn hint(address: &str) -> String {
    let url = format!("http://{address}:8080");
    format!(
        "\n  Try, from another terminal of this machine:\n\
         \n    curl {url}/                           the page\
         \n    curl -X POST '{url}/ready?fail=3'     not ready for three probes\
         \n    curl -X POST '{url}/healthy?fail=5'   not healthy: the container is restarted\
         \n    curl -X POST '{url}/mem?mib=100'      more memory than its limit\
         \n    curl {url}/env                        also /fs/work, /mem\n\
         \n  Ctrl-C ends it.\n\n"
    )
}
