//! Addresses of a subnet and the order in which they are given out. Pure.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{Config, Error, Kind, Subnet6};

/// How many freed addresses are remembered, so that they are used last.
const REMEMBERED: usize = 256;

/// An IPv4 subnet whose first host address is the gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Subnet {
    network: u32,
    prefix: u8,
}

impl Subnet {
    /// Any address of the subnet will do. The prefix must leave room for the gateway and a pod: 8 to 30.
    pub(crate) fn new((address, prefix): (Ipv4Addr, u8)) -> Result<Self, Error> {
        if !(8..=30).contains(&prefix) {
            let message = format!("subnet {address}/{prefix}: the prefix length must be 8 to 30");
            return Err(Error::new(Kind::Invalid, message));
        }
        let subnet = Self { network: address.to_bits() & (u32::MAX << (32 - prefix)), prefix };
        let network = subnet.network();
        if network.is_loopback()
            || network.is_multicast()
            || network.is_link_local()
            || network.octets()[0] == 0
        {
            let message = format!("subnet {network}/{prefix}: pods cannot have such addresses");
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(subnet)
    }

    pub(crate) fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network)
    }

    pub(crate) fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - self.prefix))
    }

    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + 1)
    }

    /// How many addresses there are for pods: without those of the network, the gateway and broadcast.
    pub(crate) fn capacity(self) -> u32 {
        (1 << (32 - self.prefix)) - 3
    }

    /// Whether a pod can have this address.
    pub(crate) fn gives(self, ip: Ipv4Addr) -> bool {
        self.number(ip).is_some()
    }

    /// Whether the other subnet has an address in common with this one.
    pub(crate) fn overlaps(self, ip: Ipv4Addr, prefix: u8) -> bool {
        let shift = 32 - u32::from(prefix.min(self.prefix));
        let cut = |bits: u32| bits.checked_shr(shift).unwrap_or(0);
        cut(self.network) == cut(ip.to_bits())
    }

    /// The hardware address that goes with an address: locally administered, `0a:58` and the four bytes.
    ///
    /// A new pod with a used address then answers under the hardware address which the neighbours still remember.
    pub(crate) fn mac(ip: Ipv4Addr) -> [u8; 6] {
        let [a, b, c, d] = ip.octets();
        [0x0a, 0x58, a, b, c, d]
    }

    /// The pods' addresses are numbered from 0.
    fn address(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + 2 + number)
    }

    fn number(self, ip: Ipv4Addr) -> Option<u32> {
        let number = ip.to_bits().checked_sub(self.network + 2)?;
        (number < self.capacity()).then_some(number)
    }
}

/// An IPv6 subnet whose pods have the numbers of their IPv4 addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Range6 {
    network: u128,
    prefix: u8,
}

impl Range6 {
    /// The one that a configuration asks for. `None` when it asks for none.
    pub(crate) fn of(config: &Config, subnet: Subnet) -> Result<Option<Self>, Error> {
        match config.subnet6 {
            Subnet6::Derived => Ok(Some(Self::derived(&config.bridge))),
            Subnet6::Given(address, prefix) => Self::new((address, prefix), subnet).map(Some),
            Subnet6::Off => Ok(None),
        }
    }

    fn new((address, prefix): (Ipv6Addr, u8), subnet: Subnet) -> Result<Self, Error> {
        let host = 32 - subnet.prefix;
        let longest = 128 - host;
        if !(32..=longest).contains(&prefix) {
            let message = format!(
                "subnet {address}/{prefix}: the prefix length must be 32 to {longest}, so that there are as many addresses \
                 as in {}/{}",
                subnet.network(),
                subnet.prefix
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        let range = Self { network: address.to_bits() & (u128::MAX << (128 - prefix)), prefix };
        let network = range.network();
        // Global unicast and unique local addresses; not those that embed IPv4 or mean something of their own.
        let fits = matches!(network.segments()[0], 0x2000..0x4000 | 0xfc00..0xfe00);
        if !fits {
            let message = format!("subnet {network}/{prefix}: pods cannot have such addresses");
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(range)
    }

    /// `fd`, 40 bits that follow from the name, and subnet 0, as RFC 4193 has it but for the randomness: two networks of one
    /// host must differ, and a network must be the same after a reboot. Hosts do not meet, since what leaves is masqueraded.
    fn derived(bridge: &str) -> Self {
        let hash = fnv1a(bridge.bytes()) & 0xff_ffff_ffff;
        Self { network: 0xfd << 120 | u128::from(hash) << 80, prefix: 64 }
    }

    pub(crate) fn network(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network)
    }

    pub(crate) fn mask(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::MAX << (128 - self.prefix))
    }

    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    pub(crate) fn gateway(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network + 1)
    }

    /// The address that goes with one of `subnet`.
    pub(crate) fn address(self, subnet: Subnet, ip: Ipv4Addr) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network | u128::from(ip.to_bits() & !subnet.mask().to_bits()))
    }

    /// Whether the other subnet has an address in common with this one.
    pub(crate) fn overlaps(self, ip: Ipv6Addr, prefix: u8) -> bool {
        let shift = 128 - u32::from(prefix.min(self.prefix));
        let cut = |bits: u128| bits.checked_shr(shift).unwrap_or(0);
        cut(self.network) == cut(ip.to_bits())
    }
}

/// The addresses of one pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Addresses {
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip6: Option<Ipv6Addr>,
}

impl Addresses {
    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.ip == ip,
            IpAddr::V6(ip) => self.ip6 == Some(ip),
        }
    }
}

/// FNV-1a: the same in each version of this program.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Which address is next: those never used in turn, then those freed longest ago.
///
/// A freed address may still be on a dying link, in somebody's connections or caches; it gets as long a rest as the subnet
/// allows (up to 256 other frees).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Pool {
    /// Number of the address after the last one that was given out in turn.
    cursor: u32,
    /// Freed addresses, the longest ago first.
    freed: VecDeque<Ipv4Addr>,
}

impl Pool {
    /// The next address that is not `taken`, or none. It is the caller who takes it.
    pub(crate) fn next(&mut self, subnet: Subnet, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let capacity = subnet.capacity();
        let start = self.cursor % capacity;
        for step in 0..capacity {
            let number = (start + step) % capacity;
            let ip = subnet.address(number);
            if !taken(ip) && !self.freed.contains(&ip) {
                self.cursor = (number + 1) % capacity;
                return Some(ip);
            }
        }
        let index = self.freed.iter().position(|ip| subnet.gives(*ip) && !taken(*ip))?;
        self.freed.remove(index)
    }

    /// Notes that an address was freed just now.
    pub(crate) fn freed(&mut self, ip: Ipv4Addr) {
        self.freed.retain(|other| *other != ip);
        self.freed.push_back(ip);
        while self.freed.len() > REMEMBERED {
            self.freed.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        let (ip, prefix) = text.split_once('/').unwrap();
        Subnet::new((ip.parse().unwrap(), prefix.parse().unwrap())).unwrap()
    }

    #[test]
    fn a_subnet_has_a_gateway_and_pods() {
        let small = subnet("10.1.2.77/30");
        assert_eq!(small.gateway(), Ipv4Addr::new(10, 1, 2, 77));
        assert_eq!(
            (small.capacity(), small.network(), small.mask()),
            (1, "10.1.2.76".parse().unwrap(), "255.255.255.252".parse().unwrap())
        );
        assert!(!small.gives(small.gateway()) && !small.gives("10.1.2.79".parse().unwrap()));
        assert_eq!(Subnet::mac("10.210.0.9".parse().unwrap()), [0x0a, 0x58, 10, 210, 0, 9]);
        for wrong in
            ["10.0.0.0/31", "10.0.0.0/7", "127.0.0.0/16", "224.0.0.0/16", "169.254.0.0/16", "0.1.0.0/16"]
        {
            let (ip, prefix) = wrong.split_once('/').unwrap();
            let error = Subnet::new((ip.parse().unwrap(), prefix.parse().unwrap())).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{wrong}");
        }
    }

    #[test]
    fn an_ipv6_address_has_the_number_of_its_ipv4_address() {
        let four = subnet("10.210.0.0/16");
        let six = Range6::new(("2001:db8:1::7".parse().unwrap(), 64), four).unwrap();
        assert_eq!(
            (six.network(), six.gateway()),
            ("2001:db8:1::".parse().unwrap(), "2001:db8:1::1".parse().unwrap())
        );
        assert_eq!(six.address(four, four.gateway()), six.gateway());
        let pod = six.address(four, "10.210.1.2".parse().unwrap());
        assert_eq!(pod, "2001:db8:1::102".parse::<Ipv6Addr>().unwrap());
        assert_eq!(six.mask(), "ffff:ffff:ffff:ffff::".parse::<Ipv6Addr>().unwrap());
        assert!(six.overlaps(pod, 128) && six.overlaps("2001:db8::".parse().unwrap(), 32));
        assert!(!six.overlaps("2001:db8:2::".parse().unwrap(), 48) && six.overlaps(Ipv6Addr::UNSPECIFIED, 0));
        Range6::new(("fd00::".parse().unwrap(), 112), four).unwrap();
        for (wrong, prefix) in [
            ("fd00::", 113),
            ("fd00::", 31),
            ("fe80::", 64),
            ("ff02::", 64),
            ("::", 64),
            ("::ffff:10.0.0.0", 112),
        ] {
            let error = Range6::new((wrong.parse().unwrap(), prefix), four).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{wrong}/{prefix}");
        }
    }

    #[test]
    fn each_bridge_has_an_ipv6_subnet_of_its_own() {
        let (one, other) = (Range6::derived("vaquita0"), Range6::derived("vaquita1"));
        assert_eq!(one, Range6::derived("vaquita0"), "and always the same");
        assert_ne!(one, other);
        for range in [one, other] {
            assert_eq!((range.network().octets()[0], range.prefix()), (0xfd, 64));
            assert_eq!(range.network().segments()[3..], [0; 5], "subnet 0 of the site");
        }
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        let ours = subnet("10.210.0.0/16");
        let overlaps = |ip: &str, prefix| ours.overlaps(ip.parse().unwrap(), prefix);
        assert!(overlaps("10.210.3.1", 24) && overlaps("10.0.0.1", 8) && overlaps("1.2.3.4", 0));
        assert!(!overlaps("10.211.0.1", 16) && !overlaps("10.209.255.255", 32));
    }

    #[test]
    fn freed_addresses_come_last_and_in_the_order_they_were_freed() {
        let subnet = subnet("10.0.0.0/29");
        let mut pool = Pool::default();
        let mut taken = BTreeSet::new();
        for last in 2..=6 {
            let ip = pool.next(subnet, |ip| taken.contains(&ip)).unwrap();
            assert_eq!(ip.octets()[3], last);
            taken.insert(ip);
        }
        assert_eq!(pool.next(subnet, |ip| taken.contains(&ip)), None);
        for last in [4, 2, 6] {
            let ip = Ipv4Addr::new(10, 0, 0, last);
            taken.remove(&ip);
            pool.freed(ip);
        }
        for last in [4, 2, 6] {
            let ip = pool.next(subnet, |ip| taken.contains(&ip)).unwrap();
            assert_eq!(ip.octets()[3], last);
            taken.insert(ip);
        }
    }

    proptest! {
        /// Whatever is taken and freed in whatever order: an address is given once, is in the subnet, comes as long as there is
        /// one, and rests while others are free.
        #[test]
        fn addresses_are_given_once_and_rest_longest(
            prefix in 26_u8..=30,
            steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..400),
        ) {
            let subnet = Subnet::new((Ipv4Addr::new(10, 9, 8, 0), prefix)).unwrap();
            let mut pool = Pool::default();
            let mut taken: Vec<Ipv4Addr> = Vec::new();
            let mut freed: Vec<Ipv4Addr> = Vec::new();
            for (take, index) in steps {
                if take {
                    let got = pool.next(subnet, |ip| taken.contains(&ip));
                    prop_assert_eq!(got.is_none(), taken.len() == subnet.capacity() as usize);
                    if let Some(ip) = got {
                        prop_assert!(subnet.gives(ip) && !taken.contains(&ip));
                        if let Some(at) = freed.iter().position(|other| *other == ip) {
                            prop_assert_eq!(at, 0, "freed longer ago than all others");
                            prop_assert_eq!(taken.len() + freed.len(), subnet.capacity() as usize, "no fresh one left");
                            freed.remove(at);
                        }
                        taken.push(ip);
                    }
                } else if !taken.is_empty() {
                    let ip = taken.swap_remove(index.index(taken.len()));
                    pool.freed(ip);
                    freed.push(ip);
                }
                let restarted = serde_json::from_str(&serde_json::to_string(&pool).unwrap()).unwrap();
                prop_assert_eq!(&pool, &restarted);
            }
        }
    }
}
