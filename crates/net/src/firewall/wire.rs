//! nftables over netlink: changes as a transaction, and what is there.

use std::ffi::{CStr, CString};

use netlink_bindings::nftables::{
    BitwiseOps, CmpOps, CtKeys, FibFlags, MetaKeys, NatRangeFlags, Nfgenmsg, OpDelsetelemDo, OpDeltableDo,
    OpGetchainDump, OpGetsetelemDump, OpGettableDo, OpNewchainDo, OpNewruleDo, OpNewsetDo, OpNewsetelemDo,
    OpNewtableDo, PushExprAttrs, PushExprMasqAttrs, PushSetelemListAttrs, SetFlags, VerdictCode,
};
use netlink_bindings::traits::NetlinkRequest as _;
use netlink_bindings::utils::{Pusher, finalize_nested_header, push_header, push_nested_header};

use super::{Change, Element, Expr, Family, Map, Request};
use crate::netlink::{Batch, CREATE, CREATE_NEW, Socket};
use crate::{Error, Kind};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`
const NFTABLES: u16 = 10;
const NEWTABLE: u16 = NFTABLES << 8;
const GETTABLE: u16 = NEWTABLE + 1;
const DELTABLE: u16 = NEWTABLE + 2;
const NEWCHAIN: u16 = NEWTABLE + 3;
const GETCHAIN: u16 = NEWTABLE + 4;
const NEWRULE: u16 = NEWTABLE + 6;
const NEWSET: u16 = NEWTABLE + 9;
const NEWSETELEM: u16 = NEWTABLE + 12;
const GETSETELEM: u16 = NEWTABLE + 13;
const DELSETELEM: u16 = NEWTABLE + 14;
const NLM_F_APPEND: u16 = 0x800;

const NFTA_EXPR_DATA: u16 = 2;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;

/// `NF_INET_FORWARD`
const HOOK_FORWARD: u32 = 2;
/// `NF_DROP`
const POLICY_DROP: u32 = 0;
/// `NFT_FIB_RESULT_ADDRTYPE`, which the bindings number one too low.
const FIB_ADDRESS_TYPE: u32 = 3;
/// `NFT_NAT_DNAT`
const DNAT: u32 = 1;
/// The verdict register, and the first of 16 bytes.
const REG_VERDICT: u32 = 0;
/// The numbers that `nft` gives data types, six bits each in a concatenation. The kernel only stores them.
const TYPE_IPV4_ADDR: u32 = 7;
const TYPE_IPV6_ADDR: u32 = 8;
const TYPE_INET_PROTO: u32 = 12;
const TYPE_INET_SERVICE: u32 = 13;
/// `NFTNL_UDATA_SET_ELEM_COMMENT`: where `nft` keeps an element's comment.
const COMMENT: u8 = 0;
/// A message's list of elements has a length of 16 bits; an element with its comment takes up to 254 bytes.
const ELEMENTS_AT_ONCE: usize = 200;

/// A base chain of somebody that drops forwarded packets unless a rule of it accepts them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DroppingChain {
    pub(crate) family: &'static str,
    pub(crate) table: String,
    pub(crate) name: String,
}

/// Carries the changes out, all or none.
pub(crate) fn commit(socket: &Socket, table: &str, asked: &[Request]) -> Result<(), Error> {
    let mut batch = requests(table, asked);
    batch.enclose(BATCH_BEGIN, BATCH_END, &mark());
    socket.run(&batch)
}

/// The features of nf_tables that the table needs and this kernel lacks, with the options that bring them.
pub(crate) fn missing_features(family: Family) -> Vec<&'static str> {
    let [tables, fib] = match family {
        Family::V4 => ["payload, meta, cmp (CONFIG_NF_TABLES_IPV4)", "fib (CONFIG_NFT_FIB_IPV4)"],
        Family::V6 => ["payload, meta, cmp (CONFIG_NF_TABLES_IPV6)", "fib (CONFIG_NFT_FIB_IPV6)"],
    };
    let needed = [
        (tables, "filter", Expr::LayerFourProtocol { to: 8 }),
        ("ct (CONFIG_NFT_CT)", "filter", Expr::ConnectionStatus { to: 8 }),
        (fib, "filter", Expr::DestinationType { to: 8 }),
        ("nat (CONFIG_NFT_NAT)", "nat", Expr::DestinationNat { family, address: 8, port: 12 }),
        ("masq (CONFIG_NFT_MASQ)", "nat", Expr::Masquerade),
    ];
    needed.into_iter().filter(|(_, kind, expr)| !works(family, kind, expr)).map(|(name, ..)| name).collect()
}

/// Whether the kernel takes an expression in a chain of this kind. Changes nothing.
fn works(family: Family, kind: &'static str, expr: &Expr) -> bool {
    let hook = if *expr == Expr::Masquerade { super::Hook::Postrouting } else { super::Hook::Prerouting };
    // A register must be written before it is read.
    let fill = |to| Expr::Payload { base: super::Header::Network, offset: 0, length: 16, to };
    let exprs = vec![fill(8), fill(12), expr.clone()];
    let changes = [
        Change::AddTable,
        Change::AddChain { name: "probe", base: Some(super::Base { kind, hook, priority: 0 }) },
        Change::AddRule { chain: "probe", exprs },
    ];
    let changes = changes.map(|change| Request { family, change });
    let mut batch = requests("vaquita-probe", &changes);
    // Without its end mark a transaction is checked and then dropped.
    batch.begin(BATCH_BEGIN, &mark());
    Socket::netfilter().and_then(|socket| socket.run(&batch)).is_ok()
}

/// Whether the table is there.
pub(crate) fn exists(socket: &Socket, family: Family, table: &str) -> Result<bool, Error> {
    let body = |bytes: &mut Vec<u8>| {
        OpGettableDo::encode_request(bytes, &header(family)).push_name_bytes(table.as_bytes());
    };
    let found = socket.find(GETTABLE, &format!("NFT_MSG_GETTABLE {family} {table}"), body, |_| ());
    match found {
        // Without nf_tables in the kernel there is no table.
        Err(error) if matches!(error.kind(), Kind::Unsupported) => Ok(false),
        found => Ok(found?.is_some()),
    }
}

/// The elements of both maps of both tables; none where there is no table.
pub(crate) fn elements(socket: &Socket, table: &str) -> Result<Vec<Element>, Error> {
    let mut found = Vec::new();
    for (family, map) in
        Family::BOTH.into_iter().flat_map(|family| [(family, Map::Ports), (family, Map::PortsAt)])
    {
        let asked = format!("NFT_MSG_GETSETELEM {family} {table} {}", map.name());
        let body = |bytes: &mut Vec<u8>| {
            OpGetsetelemDump::encode_request(bytes, &header(family))
                .push_table_bytes(table.as_bytes())
                .push_set_bytes(map.name().as_bytes());
        };
        let dumped = socket.dump(GETSETELEM, &asked, body, |_, message| {
            let (_, attributes) = OpGetsetelemDump::decode_reply(message);
            let Ok(list) = attributes.get_elements() else { return };
            for element in list.flatten() {
                let netlink_bindings::nftables::SetelemListElemAttrs::Elem(element) = element;
                let key = element.get_key().and_then(|key| key.get_value()).unwrap_or_default();
                let value = element.get_data().and_then(|data| data.get_value()).unwrap_or_default();
                let owner = comment(element.get_userdata().unwrap_or_default());
                found.extend(Element::decode(family, key, value, owner));
            }
        });
        match dumped {
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unsupported) => {}
            dumped => dumped?,
        }
    }
    Ok(found)
}

/// Chains in the way of forwarded packets: those whose policy is drop.
pub(crate) fn dropping_chains(socket: &Socket) -> Result<Vec<DroppingChain>, Error> {
    let mut found = Vec::new();
    for (number, family) in [(Family::V4.number(), "ip"), (1, "inet"), (Family::V6.number(), "ip6")] {
        let header = Nfgenmsg { nfgen_family: number, ..Nfgenmsg::new() };
        let body = |bytes: &mut Vec<u8>| drop(OpGetchainDump::encode_request(bytes, &header));
        socket.dump(GETCHAIN, "NFT_MSG_GETCHAIN dump", body, |_, message| {
            let (_, chain) = OpGetchainDump::decode_reply(message);
            let forwards =
                chain.get_hook().and_then(|hook| hook.get_num()).is_ok_and(|hook| hook == HOOK_FORWARD);
            if !forwards || chain.get_policy().ok() != Some(POLICY_DROP) {
                return;
            }
            let text = |name: Result<&CStr, _>| name.map(|name| name.to_string_lossy().into_owned());
            if let (Ok(table), Ok(name)) = (text(chain.get_table()), text(chain.get_name())) {
                found.push(DroppingChain { family, table, name });
            }
        })?;
    }
    Ok(found)
}

fn requests(table: &str, asked: &[Request]) -> Batch {
    let mut batch = Batch::new();
    let mut rest = asked;
    while let Some((Request { family, change }, others)) = rest.split_first() {
        rest = others;
        let asked = format!("nftables table {family} {table}: {change}");
        let header = header(*family);
        match change {
            Change::AddTable => batch.push(NEWTABLE, CREATE, asked, |bytes| {
                OpNewtableDo::encode_request(bytes, &header).push_name_bytes(table.as_bytes());
            }),
            Change::DeleteTable => batch.push(DELTABLE, 0, asked, |bytes| {
                OpDeltableDo::encode_request(bytes, &header).push_name_bytes(table.as_bytes());
            }),
            Change::AddMap(map) => {
                batch.push(NEWSET, CREATE_NEW, asked, |bytes| add_map(bytes, *family, table, *map))
            }
            Change::AddChain { name, base } => batch.push(NEWCHAIN, CREATE, asked, |bytes| {
                let chain = OpNewchainDo::encode_request(bytes, &header)
                    .push_table_bytes(table.as_bytes())
                    .push_name_bytes(name.as_bytes());
                if let Some(base) = base {
                    let hook = chain.nested_hook().push_num(base.hook as u32).push_priority(base.priority);
                    hook.end_nested().push_type_bytes(base.kind.as_bytes());
                }
            }),
            Change::AddRule { chain, exprs } => batch.push(NEWRULE, CREATE | NLM_F_APPEND, asked, |bytes| {
                let rule = OpNewruleDo::encode_request(bytes, &header)
                    .push_table_bytes(table.as_bytes())
                    .push_chain_bytes(chain.as_bytes());
                let mut list = rule.nested_expressions();
                for expr in exprs {
                    list = add_expr(list.nested_elem(), expr);
                }
            }),
            Change::AddElement(first) => {
                let same =
                    others.iter().take(ELEMENTS_AT_ONCE - 1).map_while(|request| match &request.change {
                        Change::AddElement(element)
                            if request.family == *family && element.map() == first.map() =>
                        {
                            Some(element)
                        }
                        _ => None,
                    });
                let all: Vec<_> = std::iter::once(first).chain(same).collect();
                rest = &others[all.len() - 1..];
                batch.push(NEWSETELEM, CREATE_NEW, asked, |bytes| {
                    add_elements(OpNewsetelemDo::encode_request(bytes, &header), table, &all);
                });
            }
            Change::DeleteElement(element) => batch.push(DELSETELEM, 0, asked, |bytes| {
                add_elements(OpDelsetelemDo::encode_request(bytes, &header), table, &[element]);
            }),
        }
    }
    batch
}

fn header(family: Family) -> Nfgenmsg {
    Nfgenmsg { nfgen_family: family.number(), ..Nfgenmsg::new() }
}

/// The family header of a transaction's marks, which names the subsystem.
fn mark() -> [u8; 4] {
    let [high, low] = NFTABLES.to_be_bytes();
    [0, 0, high, low]
}

fn add_map(bytes: &mut Vec<u8>, family: Family, table: &str, map: Map) {
    let port = TYPE_INET_PROTO << 6 | TYPE_INET_SERVICE;
    let (address, length) = match family {
        Family::V4 => (TYPE_IPV4_ADDR, 4),
        Family::V6 => (TYPE_IPV6_ADDR, 16),
    };
    let (key_type, key_length) = match map {
        Map::Ports => (port, 8),
        Map::PortsAt => (address << 12 | port, length + 8),
    };
    OpNewsetDo::encode_request(bytes, &header(family))
        .push_table_bytes(table.as_bytes())
        .push_name_bytes(map.name().as_bytes())
        .push_flags(SetFlags::Map as u32)
        .push_key_type(key_type)
        .push_key_len(key_length)
        .push_data_type(address << 6 | TYPE_INET_SERVICE)
        .push_data_len(length + 4)
        .push_id(map as u32 + 1);
}

fn add_elements<P: Pusher>(attributes: PushSetelemListAttrs<P>, table: &str, elements: &[&Element]) {
    let Some(map) = elements.first().map(|element| element.map()) else { return };
    let mut list =
        attributes.push_table_bytes(table.as_bytes()).push_set_bytes(map.name().as_bytes()).nested_elements();
    for element in elements {
        let item = list.nested_elem();
        let item = item.nested_key().push_value(&element.key()).end_nested();
        let item = item.nested_data().push_value(&element.value()).end_nested();
        list = item.push_userdata(&commented(&element.owner)).end_nested();
    }
}

/// User data with a comment as `nft` writes it: type, length, text with its zero byte.
fn commented(text: &str) -> Vec<u8> {
    let text = CString::new(text).unwrap_or_default();
    let text = text.as_bytes_with_nul();
    let mut data = vec![COMMENT, u8::try_from(text.len()).unwrap_or(0)];
    data.extend_from_slice(text);
    data
}

fn comment(mut data: &[u8]) -> String {
    while let [kind, length, rest @ ..] = data {
        let length = usize::from(*length);
        let Some(text) = rest.get(..length) else { break };
        if *kind == COMMENT {
            return String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
        }
        data = &rest[length..];
    }
    String::new()
}

/// Writes one expression into its list element and gives the list back.
fn add_expr<P: Pusher>(element: PushExprAttrs<P>, expr: &Expr) -> P {
    match expr {
        Expr::Compare { from, equal, value } => {
            let op = if *equal { CmpOps::Eq } else { CmpOps::Neq };
            let cmp = element.nested_data_cmp().push_sreg(*from).push_op(op as u32);
            cmp.nested_data().push_value(value).end_nested().end_nested().end_nested()
        }
        Expr::ConnectionStatus { to } => {
            let ct = element.nested_data_ct().push_key(CtKeys::Status as u32).push_dreg(*to);
            ct.end_nested().end_nested()
        }
        Expr::DestinationNat { family, address, port } => {
            let nat = element.nested_data_nat().push_type(DNAT).push_family(u32::from(family.number()));
            nat.push_reg_addr_min(*address).push_reg_proto_min(*port).end_nested().end_nested()
        }
        Expr::DestinationType { to } => {
            let fib = element.nested_data_fib().push_dreg(*to).push_result(FIB_ADDRESS_TYPE);
            fib.push_flags(FibFlags::Daddr as u32).end_nested().end_nested()
        }
        Expr::Drop => verdict(element, VerdictCode::Drop, None),
        Expr::InterfaceName { outgoing, to } => {
            let key = if *outgoing { MetaKeys::Oifname } else { MetaKeys::Iifname };
            element.nested_data_meta().push_key(key as u32).push_dreg(*to).end_nested().end_nested()
        }
        Expr::Jump { chain } => verdict(element, VerdictCode::Jump, Some(chain)),
        Expr::LayerFourProtocol { to } => {
            let meta = element.nested_data_meta().push_key(MetaKeys::L4Proto as u32).push_dreg(*to);
            meta.end_nested().end_nested()
        }
        Expr::Lookup { map, from, to } => {
            // The bindings number these attributes otherwise than the kernel does (linux/netfilter/nf_tables.h).
            by_hand(element, c"lookup", |bytes| {
                let mut name = map.name().as_bytes().to_vec();
                name.push(0);
                for (kind, value) in [
                    (NFTA_LOOKUP_SET, name.as_slice()),
                    (NFTA_LOOKUP_SREG, &from.to_be_bytes()),
                    (NFTA_LOOKUP_DREG, &to.to_be_bytes()),
                ] {
                    push_header(bytes, kind, u16::try_from(value.len()).unwrap_or(u16::MAX));
                    bytes.extend_from_slice(value);
                }
            })
        }
        Expr::Mask { register, mask } => {
            let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
            let bitwise = element.nested_data_bitwise().push_sreg(*register).push_dreg(*register);
            let bitwise = bitwise.push_len(length).push_op(BitwiseOps::MaskXor as u32);
            let bitwise = bitwise.nested_mask().push_value(mask).end_nested();
            bitwise.nested_xor().push_value(&vec![0; mask.len()]).end_nested().end_nested().end_nested()
        }
        Expr::Masquerade => {
            // The bindings have the attributes of masq but not masq itself.
            by_hand(element, c"masq", |bytes| {
                PushExprMasqAttrs::new(bytes).push_flags(NatRangeFlags::ProtoRandomFully as u32);
            })
        }
        Expr::Payload { base, offset, length, to } => {
            let payload = element.nested_data_payload().push_dreg(*to).push_base(*base as u32);
            payload.push_offset(*offset).push_len(*length).end_nested().end_nested()
        }
    }
}

/// An expression by its name, with attributes that `body` writes.
fn by_hand<P: Pusher>(element: PushExprAttrs<P>, name: &CStr, body: impl FnOnce(&mut Vec<u8>)) -> P {
    let mut element = element.push_name(name);
    let bytes = element.as_vec_mut();
    let data = push_nested_header(bytes, NFTA_EXPR_DATA);
    body(bytes);
    finalize_nested_header(bytes, data);
    element.end_nested()
}

fn verdict<P: Pusher>(element: PushExprAttrs<P>, code: VerdictCode, chain: Option<&str>) -> P {
    let verdict = element.nested_data_immediate().push_dreg(REG_VERDICT).nested_data().nested_verdict();
    // The verdict's number is unsigned in the bindings and signed in the kernel; the bits are the same.
    let verdict = verdict.push_code(code as u64 as u32);
    let verdict = match chain {
        Some(chain) => verdict.push_chain_bytes(chain.as_bytes()),
        None => verdict,
    };
    verdict.end_nested().end_nested().end_nested().end_nested()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_what_the_table_needs_and_asking_leaves_nothing() {
        vaquita_testing::require_root();
        let netns = vaquita_sys::ns::new_netns().unwrap();
        let inside = || {
            for family in Family::BOTH {
                assert_eq!(missing_features(family), Vec::<&str>::new());
                let lookup = Expr::Lookup { map: Map::Ports, from: 8, to: 16 };
                assert!(!works(family, "filter", &lookup), "there is no such map");
                assert!(!exists(&Socket::netfilter().unwrap(), family, "vaquita-probe").unwrap());
            }
        };
        vaquita_sys::ns::in_netns(&netns, inside).unwrap();
    }

    #[test]
    fn a_comment_is_found_among_other_user_data() {
        assert_eq!(comment(&commented("owner")), "owner");
        let mut data = vec![7, 2, 1, 1];
        data.extend(commented("later"));
        assert_eq!(comment(&data), "later");
        assert_eq!(comment(&[0, 9, 1]), "");
        assert_eq!(comment(&[]), "");
    }
}
