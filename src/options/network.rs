//! The network of the pods, as it is given on the command line.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use vaquita_cri::{NetworkChoice, Subnet6};

/// An IPv4 network: `10.210.0.0/16`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Subnet {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
}

impl FromStr for Subnet {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, prefix) = text.split_once('/').context("want ADDRESS/PREFIX, as in 10.210.0.0/16")?;
        let address: Ipv4Addr = address.parse().context("the address is not an IPv4 address")?;
        let prefix: u8 = prefix.parse().context("the prefix is not a number")?;
        if !(8..=30).contains(&prefix) {
            bail!("the prefix must be from 8 to 30, so that it holds a gateway and pods");
        }
        let network = address.to_bits() & (u32::MAX << (32 - u32::from(prefix)));
        if network != address.to_bits() {
            bail!("bits behind the prefix are set: did you mean {}/{prefix}?", Ipv4Addr::from_bits(network));
        }
        Ok(Self { address, prefix })
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The IPv6 network of the pods: `auto`, `none`, or `fd00:10::/64`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Six(pub(super) Subnet6);

impl FromStr for Six {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => return Ok(Self(Subnet6::Derived)),
            "none" => return Ok(Self(Subnet6::Off)),
            _ => {}
        }
        let (address, prefix) =
            text.split_once('/').context("want ADDRESS/PREFIX, as in fd00:10::/64, or auto, or none")?;
        let address: Ipv6Addr = address.parse().context("the address is not an IPv6 address")?;
        let prefix: u8 = prefix.parse().context("the prefix is not a number")?;
        if !(32..=126).contains(&prefix) {
            bail!("the prefix must be from 32 to 126, with room for as many pods as --subnet has");
        }
        let network = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - u32::from(prefix))));
        if network != address {
            bail!("bits behind the prefix are set: did you mean {network}/{prefix}?");
        }
        Ok(Self(Subnet6::Given(address, prefix)))
    }
}

impl std::fmt::Display for Six {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Subnet6::Derived => f.write_str("auto"),
            Subnet6::Given(address, prefix) => write!(f, "{address}/{prefix}"),
            Subnet6::Off => f.write_str("none"),
        }
    }
}

/// Which network pods get.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Network {
    /// CNI where it is configured
    #[default]
    Auto,
    /// The bridge
    Builtin,
    /// The plugins of the first configuration in --cni-conf-dir, whether it is there yet or not
    Cni,
}

impl From<Network> for NetworkChoice {
    fn from(network: Network) -> Self {
        match network {
            Network::Auto => Self::Auto,
            Network::Builtin => Self::Builtin,
            Network::Cni => Self::Cni,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_says_what_is_wrong_with_it() {
        let error = |text: &str| text.parse::<Subnet>().unwrap_err().to_string();
        assert_eq!("10.0.0.0/24".parse::<Subnet>().unwrap().to_string(), "10.0.0.0/24");
        assert!(error("10.0.0.0").contains("ADDRESS/PREFIX"));
        assert!(error("10.0.0.7/24").contains("did you mean 10.0.0.0/24?"));
        assert!(error("10.0.0.0/32").contains("from 8 to 30"));
        assert!(error("a/24").contains("IPv4"));
        let error = |text: &str| text.parse::<Six>().unwrap_err().to_string();
        for good in ["auto", "none", "fd00:9::/64"] {
            assert_eq!(good.parse::<Six>().unwrap().to_string(), good);
        }
        assert!(error("fd00::").contains("auto, or none") && error("off").contains("none"));
        assert!(error("fd00::7/64").contains("did you mean fd00::/64?"));
        assert!(error("fd00::/127").contains("from 32 to 126"));
        assert!(error("10.0.0.0/64").contains("IPv6"));
    }
}
