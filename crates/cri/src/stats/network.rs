//! The interfaces of a pod.

use vaquita_proto::cri;

use super::messages::value;
use crate::kernel;
use crate::model::{Sandbox, SandboxPhase};

/// The interface of Kubernetes' conventions.
const ETH0: &str = "eth0";

/// What a pod's network namespace counts.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Network {
    /// All but loopback.
    pub(crate) interfaces: Vec<Interface>,
    /// The index of the one that reaches the world, if one does.
    default: Option<usize>,
}

/// The counters of one interface.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// The columns of /proc/net/dev (proc_pid_net(5)).
    pub(crate) counters: [u64; 16],
}

/// Read through the pause process. None for a pod that is not ready, or has no network of its own: what the host's
/// interfaces count is not the pod's.
pub(crate) fn of(sandbox: &Sandbox) -> Option<Network> {
    let life = sandbox.life();
    if life.phase != SandboxPhase::Ready || sandbox.namespaces().network() == cri::NamespaceMode::Node {
        return None;
    }
    let pid = life.pid?;
    let read = |file: &str| kernel::text_of_process(pid, &format!("net/{file}"));
    let interfaces = interfaces(&read("dev").ok()?);
    let at = |name: &str| interfaces.iter().position(|interface| interface.name == name);
    let default = at(ETH0)
        .or_else(|| at(default_route(&read("route").unwrap_or_default())?))
        .or_else(|| at(default_route6(&read("ipv6_route").unwrap_or_default())?));
    Some(Network { interfaces, default })
}

impl Network {
    pub(super) fn usage(&self, timestamp: i64) -> cri::NetworkUsage {
        let mut interfaces: Vec<_> = self.interfaces.iter().map(usage).collect();
        cri::NetworkUsage {
            timestamp,
            default_interface: self.default.map(|index| interfaces.remove(index)),
            interfaces,
        }
    }
}

fn usage(interface: &Interface) -> cri::NetworkInterfaceUsage {
    let at = |column: usize| value(interface.counters[column]);
    cri::NetworkInterfaceUsage {
        rx_bytes: at(0),
        rx_errors: at(2),
        tx_bytes: at(8),
        tx_errors: at(10),
        name: interface.name.clone(),
    }
}

fn interfaces(dev: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let name = name.trim();
        (name != "lo").then_some(Interface { name: name.to_owned(), counters: counters.try_into().ok()? })
    };
    dev.lines().filter_map(line).collect()
}

/// The interface of the route to everywhere: lines of name, destination, gateway, flags, ….
fn default_route(route: &str) -> Option<&str> {
    route.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        (words.next()? == "00000000" && words.nth(5)? == "00000000").then_some(name)
    })
}

/// The same of IPv6: lines of destination, its prefix length, … and the name at the end. What cannot be reached is
/// routed to loopback.
fn default_route6(route: &str) -> Option<&str> {
    route.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let everywhere = words.next()?.bytes().all(|byte| byte == b'0') && words.next()? == "00";
        words.last().filter(|name| everywhere && *name != "lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_counters() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n    \
            lo:       1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  \
            eth0: 1000 2 3 4 5 6 7 8 9000 10 11 12 13 14 15 16\n  eth1: 1 2 3\n";
        let interfaces = interfaces(text);
        let usage = Network { interfaces, default: Some(0) }.usage(7);
        assert_eq!(usage.interfaces, []);
        let default = usage.default_interface.unwrap();
        assert_eq!(default.name, ETH0);
        assert_eq!(default.rx_bytes.unwrap().value, 1000);
        assert_eq!(default.tx_bytes.unwrap().value, 9000);
        assert_eq!(default.tx_errors.unwrap().value, 11);
    }

    #[test]
    fn default_routes() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            net1\t0000D20A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            net0\t00000000\t0100D20A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(default_route(text), Some("net0"));
        assert_eq!(default_route("Iface\n"), None);
        let zero = "00000000000000000000000000000000";
        let text = format!(
            "fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 net1\n\
            {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n\
            {zero} 00 {zero} 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003 net0\n"
        );
        assert_eq!(default_route6(&text), Some("net0"));
        assert_eq!(default_route6(""), None);
    }
}
