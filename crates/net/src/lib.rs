//! The pod network: netlink, nftables, address leases, host ports.
