//! Links, addresses and routes: the requests to rtnetlink (rtnetlink(7)).

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_bindings::rt_addr::{Ifaddrmsg, OpGetaddrDump, OpNewaddrDo};
use netlink_bindings::rt_link::{Ifinfomsg, OpDellinkDo, OpGetlinkDo, OpNewlinkDo, PushLinkAttrs};
use netlink_bindings::rt_route::{OpGetrouteDump, OpNewrouteDo, Rtmsg};
use netlink_bindings::traits::NetlinkRequest as _;
use netlink_bindings::utils::{Pusher as _, finalize_nested_header, push_nested_header};

use crate::netlink::{Batch, CREATE_NEW, Socket};
use crate::{Error, Kind};

/// The name of a pod's link inside the pod.
pub(crate) const POD_LINK: &str = "eth0";

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The address is usable at once: nobody is asked whether it is taken (linux/if_addr.h).
const IFA_F_NODAD: u8 = 2;
const IFF_UP: u32 = 1;
/// `NLM_F_CREATE | NLM_F_REPLACE`: for an address, that it may be there already.
const CREATE_OR_KEEP: u16 = 0x500;
const RT_TABLE_MAIN: u8 = 254;
/// Routes made by us have the protocol number of a boot-time script, as those of `ip route add` do.
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
/// Of each end of a pod's link. The kernel would make one per CPU, which takes a fourth of the time of attaching on four of
/// them, and which a veth uses for XDP and threaded GRO only.
const QUEUES: u32 = 1;
/// Nested in IFLA_INFO_DATA of a veth (linux/veth.h); not in the kernel's YAML, so not in the bindings.
const VETH_INFO_PEER: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) alias: String,
    pub(crate) master: Option<u32>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LinkAddress {
    pub(crate) index: u32,
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
}

/// A veth pair to be made.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) alias: &'a str,
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) netns: BorrowedFd<'a>,
}

/// The link with this name.
pub(crate) fn find(socket: &Socket, name: &str) -> Result<Option<Link>, Error> {
    let body = |bytes: &mut Vec<u8>| {
        OpGetlinkDo::encode_request(bytes, &Ifinfomsg::new()).push_ifname_bytes(name.as_bytes());
    };
    socket.find(RTM_GETLINK, &format!("RTM_GETLINK {name}"), body, read_link)
}

/// All links of the namespace.
pub(crate) fn list(socket: &Socket) -> Result<Vec<Link>, Error> {
    let mut links = Vec::new();
    let body = |bytes: &mut Vec<u8>| drop(OpGetlinkDo::encode_request(bytes, &Ifinfomsg::new()));
    socket.dump(RTM_GETLINK, "RTM_GETLINK dump", body, |kind, message| {
        if kind == RTM_NEWLINK {
            links.push(read_link(message));
        }
    })?;
    Ok(links)
}

/// All addresses of the namespace, of both families.
pub(crate) fn addresses(socket: &Socket) -> Result<Vec<LinkAddress>, Error> {
    let mut found = Vec::new();
    let body = |bytes: &mut Vec<u8>| drop(OpGetaddrDump::encode_request(bytes, &Ifaddrmsg::new()));
    socket.dump(RTM_GETADDR, "RTM_GETADDR dump", body, |_, message| {
        let (header, attributes) = OpGetaddrDump::decode_reply(message);
        // An IPv6 address without a peer has this attribute only.
        let ip = attributes.get_local().or_else(|_| attributes.get_address());
        if let Ok(ip) = ip {
            found.push(LinkAddress { index: header.ifa_index, ip, prefix: header.ifa_prefixlen });
        }
    })?;
    Ok(found)
}

/// The index of the device which holds the IPv4 default route of the main table with the best metric.
pub(crate) fn default_device(socket: &Socket) -> Result<Option<u32>, Error> {
    let mut best: Option<(u32, u32)> = None;
    let header = Rtmsg { rtm_family: AF_INET, ..Rtmsg::new() };
    let body = |bytes: &mut Vec<u8>| drop(OpGetrouteDump::encode_request(bytes, &header));
    socket.dump(RTM_GETROUTE, "RTM_GETROUTE dump", body, |_, message| {
        let (header, attributes) = OpGetrouteDump::decode_reply(message);
        if header.rtm_dst_len != 0 || header.rtm_table != RT_TABLE_MAIN || header.rtm_type != RTN_UNICAST {
            return;
        }
        if let Ok(device) = attributes.get_oif() {
            let metric = attributes.get_priority().unwrap_or(0);
            if best.is_none_or(|(least, _)| metric < least) {
                best = Some((metric, device));
            }
        }
    })?;
    Ok(best.map(|(_, device)| device))
}

/// Makes a bridge that keeps its hardware address whatever ports come and go.
pub(crate) fn create_bridge(batch: &mut Batch, name: &str, mac: [u8; 6], mtu: u32) {
    batch.push(RTM_NEWLINK, CREATE_NEW, format!("RTM_NEWLINK bridge {name}"), |bytes| {
        OpNewlinkDo::encode_request(bytes, &Ifinfomsg::new())
            .push_ifname_bytes(name.as_bytes())
            .push_address(&mac)
            .push_mtu(mtu)
            .nested_linkinfo()
            .push_kind(c"bridge");
    });
}

/// Makes a device that passes on what is sent to it as if it had arrived where it came from (ip-link(8), ifb).
pub(crate) fn create_ifb(batch: &mut Batch, name: &str) {
    batch.push(RTM_NEWLINK, CREATE_NEW, format!("RTM_NEWLINK ifb {name} (CONFIG_IFB)"), |bytes| {
        OpNewlinkDo::encode_request(bytes, &Ifinfomsg::new())
            .push_ifname_bytes(name.as_bytes())
            .push_num_tx_queues(QUEUES)
            .push_num_rx_queues(QUEUES)
            .nested_linkinfo()
            .push_kind(c"ifb");
    });
}

/// Writes on a link whose it is.
pub(crate) fn set_alias(batch: &mut Batch, name: &str, alias: &str) {
    batch.push(RTM_NEWLINK, 0, format!("RTM_NEWLINK {name} alias {alias}"), |bytes| {
        OpNewlinkDo::encode_request(bytes, &Ifinfomsg::new())
            .push_ifname_bytes(name.as_bytes())
            .push_ifalias(&CString::new(alias).unwrap_or_default());
    });
}

/// Makes a veth pair whose outer end is a port of the bridge and whose inner end is born inside the pod's namespace, so
/// that the host never has a link by that name. Both ends stay down.
pub(crate) fn create_veth(batch: &mut Batch, veth: &Veth<'_>) {
    let asked = format!("RTM_NEWLINK veth {} with peer {POD_LINK} in the pod", veth.name);
    batch.push(RTM_NEWLINK, CREATE_NEW, asked, |bytes| {
        let mut info = OpNewlinkDo::encode_request(bytes, &Ifinfomsg::new())
            .push_ifname_bytes(veth.name.as_bytes())
            .push_mtu(veth.mtu)
            .push_master(veth.bridge)
            .push_num_tx_queues(QUEUES)
            .push_num_rx_queues(QUEUES)
            .nested_linkinfo()
            .push_kind(c"veth");
        let bytes = info.as_vec_mut();
        let data = push_nested_header(bytes, IFLA_INFO_DATA);
        let peer = push_nested_header(bytes, VETH_INFO_PEER);
        bytes.extend_from_slice(Ifinfomsg::new().as_slice());
        PushLinkAttrs::new(&mut *bytes)
            .push_ifname_bytes(POD_LINK.as_bytes())
            .push_mtu(veth.mtu)
            .push_address(&veth.mac)
            .push_num_tx_queues(QUEUES)
            .push_num_rx_queues(QUEUES)
            .push_net_ns_fd(veth.netns.as_raw_fd().unsigned_abs());
        finalize_nested_header(bytes, peer);
        finalize_nested_header(bytes, data);
    });
}

/// Brings a bridge port up, sending back to it what it sends to itself (a pod that reaches itself through a service
/// address or host port when bridged packets pass the firewall), and writes whose it is on it.
pub(crate) fn configure_port(batch: &mut Batch, veth: &Veth<'_>) {
    let asked = format!("RTM_NEWLINK {} hairpin, up", veth.name);
    batch.push(RTM_NEWLINK, 0, asked, |bytes| {
        let header = Ifinfomsg { ifi_flags: IFF_UP, ifi_change: IFF_UP, ..Ifinfomsg::new() };
        let info = OpNewlinkDo::encode_request(bytes, &header)
            .push_ifname_bytes(veth.name.as_bytes())
            .push_ifalias(&CString::new(veth.alias).unwrap_or_default())
            .nested_linkinfo();
        info.nested_slave_data_bridge().push_mode(1);
    });
}

/// Brings a link up.
pub(crate) fn up(batch: &mut Batch, name: &str) {
    batch.push(RTM_NEWLINK, 0, format!("RTM_NEWLINK {name} up"), |bytes| {
        let header = Ifinfomsg { ifi_flags: IFF_UP, ifi_change: IFF_UP, ..Ifinfomsg::new() };
        OpNewlinkDo::encode_request(bytes, &header).push_ifname_bytes(name.as_bytes());
    });
}

/// Gives a link an address. Nothing changes when it has it.
pub(crate) fn add_address(batch: &mut Batch, link: (&str, u32), ip: IpAddr, prefix: u8) {
    let (name, index) = link;
    batch.push(RTM_NEWADDR, CREATE_OR_KEEP, format!("RTM_NEWADDR {ip}/{prefix} dev {name}"), |bytes| {
        let header = Ifaddrmsg { ifa_prefixlen: prefix, ifa_index: index, ..Ifaddrmsg::new() };
        match ip {
            IpAddr::V4(four) => {
                let header = Ifaddrmsg { ifa_family: AF_INET, ..header };
                let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                OpNewaddrDo::encode_request(bytes, &header)
                    .push_local(ip)
                    .push_address(ip)
                    .push_broadcast(Ipv4Addr::from_bits(four.to_bits() | host));
            }
            IpAddr::V6(_) => {
                let header = Ifaddrmsg { ifa_family: AF_INET6, ifa_flags: IFA_F_NODAD, ..header };
                OpNewaddrDo::encode_request(bytes, &header).push_local(ip).push_address(ip);
            }
        }
    });
}

/// Makes the default route of the gateway's family.
pub(crate) fn add_default_route(batch: &mut Batch, gateway: IpAddr, device: u32) {
    batch.push(RTM_NEWROUTE, CREATE_NEW, format!("RTM_NEWROUTE default via {gateway}"), |bytes| {
        let header = Rtmsg {
            rtm_family: if gateway.is_ipv4() { AF_INET } else { AF_INET6 },
            rtm_table: RT_TABLE_MAIN,
            rtm_protocol: RTPROT_BOOT,
            rtm_scope: RT_SCOPE_UNIVERSE,
            rtm_type: RTN_UNICAST,
            ..Rtmsg::new()
        };
        OpNewrouteDo::encode_request(bytes, &header).push_gateway(gateway).push_oif(device);
    });
}

/// Deletes a link. Takes 35 to 42 ms for a veth, under the kernel's lock of all links: never while a pod waits.
pub(crate) fn delete(batch: &mut Batch, name: &str) {
    batch.push(RTM_DELLINK, 0, format!("RTM_DELLINK {name}"), |bytes| {
        OpDellinkDo::encode_request(bytes, &Ifinfomsg::new()).push_ifname_bytes(name.as_bytes());
    });
}

/// As [`delete`], at once. Nothing happens when there is none.
pub(crate) fn remove(socket: &Socket, name: &str) -> Result<(), Error> {
    let mut batch = Batch::new();
    delete(&mut batch, name);
    socket.run(&batch).or_else(|error| if error.kind() == Kind::NotFound { Ok(()) } else { Err(error) })
}

fn read_link(message: &[u8]) -> Link {
    let (header, attributes) = OpGetlinkDo::decode_reply(message);
    let kind = attributes.get_linkinfo().ok().and_then(|info| info.get_kind().ok());
    let text = |value: Option<&std::ffi::CStr>| {
        value.map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
    };
    Link {
        index: header.ifi_index.unsigned_abs(),
        name: text(attributes.get_ifname().ok()),
        kind: text(kind),
        alias: text(attributes.get_ifalias().ok()),
        master: attributes.get_master().ok(),
        mtu: attributes.get_mtu().unwrap_or(0),
        up: header.ifi_flags & IFF_UP != 0,
    }
}
