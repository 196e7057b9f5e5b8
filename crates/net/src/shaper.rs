//! Limits of a pod's bandwidth: token buckets (tc-tbf(8)) on the host's side, where no pod can lift them.
//!
//! What comes to the pod leaves the host by its end of the pod's link: a bucket there limits it. What the pod sends arrives on
//! that end, where the kernel can drop but not delay; so it is led through a device of its own (an `ifb`) whose bucket does.
//! That device has the name of the link with an `i` behind it, and is deleted when the pod is detached.

use netlink_bindings::utils::{finalize_nested_header, push_header, push_nested_header};

use crate::netlink::{Batch, CREATE_NEW, Socket};
use crate::{Bandwidth, Error, Kind, host, link};

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
/// `TC_H_ROOT`, `TC_H_INGRESS` and the handle that the latter's qdisc always has (linux/pkt_sched.h).
const ROOT: u32 = u32::MAX;
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
const FIRST_HANDLE: u32 = 1 << 16;
/// `TC_LINKLAYER_ETHERNET`: no table of times is needed.
const ETHERNET: u8 = 1;
const ETH_P_ALL: u16 = 3;
const TC_U32_TERMINAL: u8 = 1;
/// `TC_ACT_STOLEN` and `TCA_EGRESS_REDIR`: the packet goes on there and nowhere else.
const STOLEN: u32 = 4;
const REDIRECT: u32 = 1;
/// The largest packet that a link hands over in one piece; a smaller bucket would have each cut up.
const LEAST_BURST: u64 = 64 * 1024;
/// A bucket holds what passes in 20 ms, …
const BURSTS_PER_SECOND: u64 = 50;
/// … and what waits for it is dropped when it would wait longer than 25 ms.
const QUEUES_PER_SECOND: u64 = 40;
/// What Kubernetes allows: a thousand bits to a peta of them.
const RATES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// Refuses limits outside of what Kubernetes allows.
pub(crate) fn check(bandwidth: Bandwidth) -> Result<(), Error> {
    for (name, rate) in [("ingress", bandwidth.ingress), ("egress", bandwidth.egress)] {
        if let Some(rate) = rate
            && !RATES.contains(&rate)
        {
            let message = format!("{name} bandwidth of {rate} bit/s: must be 1k to 1P");
            return Err(Error::new(Kind::Invalid, message));
        }
    }
    Ok(())
}

/// The name of the device that the pod's outgoing packets go through.
pub(crate) fn device_name(host_link: &str) -> String {
    format!("{host_link}i")
}

/// Limits what goes through the host's end of a pod's link. `alias` says whose the device is that this makes.
pub(crate) fn limit(socket: &Socket, name: &str, alias: &str, bandwidth: Bandwidth) -> Result<(), Error> {
    let limited = limit_both(socket, name, alias, bandwidth);
    limited.map_err(|error| match error.kind() {
        Kind::NotFound | Kind::Unsupported => {
            error.context("this kernel cannot limit the bandwidth of a pod").with_kind(Kind::Unsupported)
        }
        _ => error,
    })
}

/// Deletes the device. Nothing happens when there is none.
pub(crate) fn remove(socket: &Socket, host_link: &str) -> Result<(), Error> {
    link::remove(socket, &device_name(host_link))
}

fn limit_both(socket: &Socket, name: &str, alias: &str, bandwidth: Bandwidth) -> Result<(), Error> {
    let index = index_of(socket, name)?;
    let mut batch = Batch::new();
    if let Some(rate) = bandwidth.ingress {
        bucket(&mut batch, (name, index), rate);
    }
    if let Some(rate) = bandwidth.egress {
        // One that was left by an attachment of the same owner that is gone.
        remove(socket, name)?;
        let device = device_name(name);
        let mut create = Batch::new();
        link::create_ifb(&mut create, &device);
        link::set_alias(&mut create, &device, alias);
        socket.run(&create)?;
        host::no_ipv6(&device)?;
        let device_index = index_of(socket, &device)?;
        link::up(&mut batch, &device);
        bucket(&mut batch, (&device, device_index), rate);
        redirect(&mut batch, (name, index), (&device, device_index));
    }
    socket.run(&batch)
}

fn index_of(socket: &Socket, name: &str) -> Result<u32, Error> {
    let found = link::find(socket, name)?;
    found.map(|link| link.index).ok_or_else(|| Error::new(Kind::Busy, format!("link {name} is gone at once")))
}

/// A token bucket in front of what leaves by the link.
fn bucket(batch: &mut Batch, (name, index): (&str, u32), bits: u64) {
    let Bucket { rate, burst, limit } = Bucket::new(bits);
    let asked = format!("RTM_NEWQDISC tbf {bits} bit/s on {name} (CONFIG_NET_SCH_TBF)");
    batch.push(RTM_NEWQDISC, CREATE_NEW, asked, |bytes| {
        header(bytes, index, FIRST_HANDLE, ROOT, 0);
        attribute(bytes, TCA_KIND, b"tbf\0");
        let options = push_nested_header(bytes, TCA_OPTIONS);
        // struct tc_tbf_qopt: two times struct tc_ratespec (the second for a peak rate, which there is none of), limit, buffer, mtu.
        let mut parameters = [0_u8; 36];
        parameters[1] = ETHERNET;
        parameters[8..12].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
        parameters[24..28].copy_from_slice(&limit.to_ne_bytes());
        attribute(bytes, TCA_TBF_PARMS, &parameters);
        attribute(bytes, TCA_TBF_BURST, &burst.to_ne_bytes());
        if rate > u64::from(u32::MAX) {
            attribute(bytes, TCA_TBF_RATE64, &rate.to_ne_bytes());
        }
        finalize_nested_header(bytes, options);
    });
}

/// Leads all that arrives on a link through another device, from where it comes back as if nothing had been.
fn redirect(batch: &mut Batch, (name, index): (&str, u32), (to, device): (&str, u32)) {
    let asked = format!("RTM_NEWQDISC ingress on {name} (CONFIG_NET_SCH_INGRESS)");
    batch.push(RTM_NEWQDISC, CREATE_NEW, asked, |bytes| {
        header(bytes, index, INGRESS_HANDLE, INGRESS, 0);
        attribute(bytes, TCA_KIND, b"ingress\0");
    });
    let asked =
        format!("RTM_NEWTFILTER u32 mirred {name} to {to} (CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)");
    batch.push(RTM_NEWTFILTER, CREATE_NEW, asked, |bytes| {
        header(bytes, index, 0, INGRESS_HANDLE, 1 << 16 | u32::from(ETH_P_ALL.to_be()));
        attribute(bytes, TCA_KIND, b"u32\0");
        let options = push_nested_header(bytes, TCA_OPTIONS);
        // struct tc_u32_sel with one key that compares nothing.
        let mut selector = [0_u8; 32];
        selector[0] = TC_U32_TERMINAL;
        selector[2] = 1;
        attribute(bytes, TCA_U32_SEL, &selector);
        let actions = push_nested_header(bytes, TCA_U32_ACT);
        let first = push_nested_header(bytes, 1);
        attribute(bytes, TCA_ACT_KIND, b"mirred\0");
        let action = push_nested_header(bytes, TCA_ACT_OPTIONS);
        // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
        let parameters = [0, 0, STOLEN, 0, 0, REDIRECT, device].map(u32::to_ne_bytes);
        attribute(bytes, TCA_MIRRED_PARMS, parameters.as_flattened());
        for nested in [action, first, actions, options] {
            finalize_nested_header(bytes, nested);
        }
    });
}

/// `struct tcmsg`
fn header(bytes: &mut Vec<u8>, index: u32, handle: u32, parent: u32, info: u32) {
    bytes.extend_from_slice(&[0; 4]);
    for field in [index, handle, parent, info] {
        bytes.extend_from_slice(&field.to_ne_bytes());
    }
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    push_header(bytes, kind, u16::try_from(value.len()).unwrap_or(u16::MAX));
    bytes.extend_from_slice(value);
}

/// A token bucket, in bytes per second and bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Bucket {
    rate: u64,
    burst: u32,
    limit: u32,
}

impl Bucket {
    fn new(bits: u64) -> Self {
        let rate = bits / 8;
        let bytes = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let burst = (rate / BURSTS_PER_SECOND).max(LEAST_BURST);
        Self { rate, burst: bytes(burst), limit: bytes(burst + rate / QUEUES_PER_SECOND) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_follows_from_its_rate() {
        assert_eq!(Bucket::new(8_000_000), Bucket { rate: 1_000_000, burst: 65_536, limit: 90_536 });
        let fast = Bucket::new(10_000_000_000);
        assert_eq!((fast.rate, fast.burst, fast.limit), (1_250_000_000, 25_000_000, 56_250_000));
        let most = Bucket::new(*RATES.end());
        assert_eq!((most.burst, most.limit), (u32::MAX, u32::MAX));
    }

    #[test]
    fn limits_are_those_of_kubernetes() {
        let both = |rate| {
            [Bandwidth { ingress: Some(rate), egress: None }, Bandwidth { ingress: None, egress: Some(rate) }]
        };
        for bandwidth in both(1_000).into_iter().chain(both(1_000_000_000_000_000)) {
            check(bandwidth).unwrap();
        }
        for bandwidth in both(999).into_iter().chain(both(1_000_000_000_000_001)) {
            assert_eq!(check(bandwidth).unwrap_err().kind(), Kind::Invalid, "{bandwidth:?}");
        }
    }
}
