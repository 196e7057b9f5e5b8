//! Addresses of a subnet and the order in which they are given out. Pure.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{Error, Kind};

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
