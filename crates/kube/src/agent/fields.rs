//! The downward API: fields of the pod as text.

use super::context::Context;
use crate::api::{Container, Quantity, ResourceFieldSelector};
use crate::{Error, Result};

/// The value of a `fieldRef`.
pub(super) fn field(context: &Context, path: &str, ips: &[String]) -> Result<String> {
    let pod = &context.pod;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let list = if map == "metadata.labels" { &pod.metadata.labels } else { &pod.metadata.annotations };
        return Ok(list.get(key).cloned().unwrap_or_default());
    }
    // On the host's network the pod has the host's address.
    let pod_ips = || if pod.spec.host_network { std::slice::from_ref(&context.host.ip) } else { ips };
    Ok(match path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "metadata.labels" => format_map(&pod.metadata.labels),
        "metadata.annotations" => format_map(&pod.metadata.annotations),
        "spec.nodeName" => context.host.name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" | "status.hostIPs" => context.host.ip.clone(),
        "status.podIP" => pod_ips().first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips().join(","),
        _ => return Err(Error::invalid(format!("{path:?} is no field of a pod that can be used here"))),
    })
}

/// The value of a `resourceFieldRef`: of the named container, or of the container itself.
pub(super) fn resource(
    context: &Context,
    selector: &ResourceFieldSelector,
    own: Option<&Container>,
) -> Result<String> {
    let spec = &context.pod.spec;
    let named = || {
        let mut all = spec.containers.iter().chain(&spec.init_containers);
        all.find(|container| container.name == selector.container_name)
    };
    let container = if selector.container_name.is_empty() { own } else { named() };
    let container =
        container.ok_or_else(|| Error::not_found(format!("no container {:?}", selector.container_name)))?;
    let (list, name) = selector.resource.split_once('.').unwrap_or((selector.resource.as_str(), ""));
    let amount = match list {
        "requests" => container.resources.requests.get(name),
        _ => container.resources.limits.get(name),
    };
    // Without a limit the machine is the limit.
    let machine = match (list, name) {
        ("limits", "cpu") => Quantity::from_value(context.host.milli_cpu / 1000),
        ("limits", "memory") => Quantity::from_value(context.host.memory),
        _ => Quantity::default(),
    };
    let amount = amount.filter(|amount| !amount.is_zero()).unwrap_or(&machine);
    let one = Quantity::from_value(1);
    let divisor = selector.divisor.as_ref().filter(|divisor| !divisor.is_zero()).unwrap_or(&one);
    let (nanos, divisor) = (amount.nanos(), divisor.nanos());
    Ok((nanos.div_euclid(divisor) + i128::from(nanos.rem_euclid(divisor) != 0)).to_string())
}

/// `key="value"` lines, sorted (`fieldpath.FormatMap`).
fn format_map(map: &std::collections::BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={}", quoted(value))).collect::<Vec<_>>().join("\n")
}

/// A text as Go's `%q` writes it.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::context::tests::context;

    #[test]
    fn fields_of_a_pod() {
        let context = context("hostname: h\ncontainers: [{name: a, image: x}]");
        let ips = ["10.0.0.2".to_owned(), "fd00::2".to_owned()];
        let of = |path| field(&context, path, &ips).unwrap();
        assert_eq!(of("metadata.name"), "web");
        assert_eq!(of("metadata.labels['app']"), "w\"1");
        assert_eq!(of("metadata.labels"), "app=\"w\\\"1\"\ntier=\"a\"");
        assert_eq!(of("status.podIP"), "10.0.0.2");
        assert_eq!(of("status.podIPs"), "10.0.0.2,fd00::2");
        assert_eq!(of("status.hostIP"), "192.0.2.10");
        assert_eq!(of("spec.serviceAccountName"), "default");
    }

    #[test]
    fn resources_are_rounded_up() {
        let context = context(
            "containers: [{name: a, image: x, resources: {limits: {cpu: 250m, memory: 64Mi}}}, {name: b, image: x}]",
        );
        let of = |container: &str, resource: &str, divisor: Option<&str>| {
            let selector = ResourceFieldSelector {
                container_name: container.to_owned(),
                resource: resource.to_owned(),
                divisor: divisor.map(|divisor| divisor.parse().unwrap()),
            };
            resource_of(&context, &selector)
        };
        assert_eq!(of("a", "limits.cpu", None), "1");
        assert_eq!(of("a", "limits.cpu", Some("1m")), "250");
        assert_eq!(of("a", "limits.memory", Some("1Mi")), "64");
        assert_eq!(of("a", "requests.memory", Some("1M")), "68");
        assert_eq!(of("b", "limits.cpu", None), "4");
        assert_eq!(of("b", "limits.memory", None), "4000000000");
        assert_eq!(of("b", "requests.cpu", None), "0");
    }

    fn resource_of(context: &Context, selector: &ResourceFieldSelector) -> String {
        resource(context, selector, None).unwrap()
    }
}
