//! Leases on disk: one file for each address that is given out, so that they survive the daemon.

#![expect(clippy::disallowed_methods, reason = "our own directory, which no container can write")]

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, DirEntryExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, open, renameat_with};
use serde::{Deserialize, Serialize};

use crate::subnet::{Addresses, Pool, Range6, Subnet};
use crate::{Bandwidth, Error, Kind, PortMapping};

/// The order in which addresses come. Losing it loses only the order.
const POOL: &str = ".pool";
/// A file on its way to its name.
const NEW: &str = ".new";

/// Whose an address is, what else its pod has, and which ports of the host lead to it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Lease {
    pub(crate) owner: String,
    /// Kept with the lease and not computed: the pod has it whatever the subnet is by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ip6: Option<Ipv6Addr>,
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub(crate) bandwidth: Bandwidth,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<PortMapping>,
}

impl Lease {
    /// The pod's addresses, of which `ip` is the file's name.
    pub(crate) fn addresses(&self, ip: Ipv4Addr) -> Addresses {
        Addresses { ip, ip6: self.ip6 }
    }
}

/// A lease file: its name, and what it says or why it says nothing.
#[derive(Debug)]
pub(crate) struct OnDisk {
    pub(crate) ip: Ipv4Addr,
    pub(crate) lease: Result<Lease, Error>,
}

/// A lease in memory, and the number of the file it was read from or written to.
#[derive(Debug)]
struct Known {
    lease: Lease,
    inode: u64,
}

/// The directory of leases and what is in it.
///
/// Two processes may share the directory: changes are made under a lock on it, and a lease file comes into being whole
/// and only if its name is free.
#[derive(Debug)]
pub(crate) struct Leases {
    dir: PathBuf,
    subnet: Subnet,
    range6: Option<Range6>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    pool: Pool,
    by_ip: BTreeMap<Ipv4Addr, Known>,
    by_owner: BTreeMap<String, Ipv4Addr>,
}

impl Leases {
    /// Reads the directory; makes it (0700) when absent.
    pub(crate) fn open(dir: &Path, subnet: Subnet, range6: Option<Range6>) -> Result<Self, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| Error::file(&format!("mkdir {}", dir.display()), error))?;
        let leases = Self { dir: dir.to_owned(), subnet, range6, held: Mutex::default() };
        {
            let _lock = leases.lock()?;
            let mut held = leases.held();
            held.pool = read_pool(dir);
            leases.refresh(&mut held)?;
        }
        Ok(leases)
    }

    /// As [`lock`].
    pub(crate) fn lock(&self) -> Result<OwnedFd, Error> {
        lock(&self.dir)
    }

    /// Gives `owner` addresses and the host ports; on disk when this returns.
    pub(crate) fn take(
        &self,
        owner: &str,
        ports: &[PortMapping],
        bandwidth: Bandwidth,
    ) -> Result<Addresses, Error> {
        let _lock = self.lock()?;
        let mut held = self.held();
        if !ports.is_empty() {
            // Another process may have given out the port under an address that does not collide in the kernel's map.
            self.refresh(&mut held)?;
        }
        if let Some(ip) = held.by_owner.get(owner) {
            return Err(Error::new(Kind::Exists, format!("{owner} is attached already, as {ip}")));
        }
        if let Some((port, other)) = taken_port(ports, &held.by_ip) {
            return Err(Error::new(Kind::Busy, format!("host port {port}: taken by {other}")));
        }
        let six = |ip| self.range6.map(|range| range.address(self.subnet, ip));
        let mut lease = Lease { owner: owner.to_owned(), ip6: None, bandwidth, ports: ports.to_vec() };
        loop {
            let Held { pool, by_ip, .. } = &mut *held;
            // A pod that is here since the IPv4 subnet was another may have the same number.
            let used: HashSet<_> = by_ip.values().filter_map(|known| known.lease.ip6).collect();
            let taken = |ip| by_ip.contains_key(&ip) || six(ip).is_some_and(|ip6| used.contains(&ip6));
            let Some(ip) = pool.next(self.subnet, taken) else {
                return Err(self.exhausted());
            };
            lease.ip6 = six(ip);
            if let Some(inode) = self.write(ip, &lease)? {
                let addresses = Addresses { ip, ip6: lease.ip6 };
                held.insert(ip, Known { lease, inode });
                write_pool(&self.dir, &held.pool);
                return Ok(addresses);
            }
            self.refresh(&mut held)?;
        }
    }

    /// Frees the owner's address. Nothing happens when it has none.
    pub(crate) fn release(&self, owner: &str) -> Result<(), Error> {
        let Some((ip, _)) = self.find(owner) else { return Ok(()) };
        self.release_address(ip)
    }

    /// Frees an address whoever has it.
    pub(crate) fn release_address(&self, ip: Ipv4Addr) -> Result<(), Error> {
        let _lock = self.lock()?;
        let mut held = self.held();
        let path = self.dir.join(ip.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file(&format!("unlink {}", path.display()), error));
            }
            _ => {}
        }
        held.remove(ip);
        held.pool.freed(ip);
        write_pool(&self.dir, &held.pool);
        Ok(())
    }

    /// What `owner` has, from memory.
    pub(crate) fn find(&self, owner: &str) -> Option<(Ipv4Addr, Lease)> {
        let held = self.held();
        let ip = held.by_owner.get(owner)?;
        Some((*ip, held.by_ip.get(ip)?.lease.clone()))
    }

    /// All leases, from memory.
    pub(crate) fn all(&self) -> Vec<(Ipv4Addr, Lease)> {
        self.held().by_ip.iter().map(|(ip, known)| (*ip, known.lease.clone())).collect()
    }

    /// Whether a lease has a host port like this, from memory.
    pub(crate) fn any_port(&self, wanted: impl Fn(&PortMapping) -> bool) -> bool {
        self.held().by_ip.values().any(|known| known.lease.ports.iter().any(&wanted))
    }

    /// All files in the directory, read anew.
    pub(crate) fn on_disk(&self) -> Result<Vec<OnDisk>, Error> {
        read_dir(&self.dir)
    }

    /// Reads again what another process may have changed.
    pub(crate) fn reload(&self) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.refresh(&mut self.held())
    }

    /// Reads the files that are new, and forgets those that are gone.
    fn refresh(&self, held: &mut Held) -> Result<(), Error> {
        let mut before = std::mem::take(&mut held.by_ip);
        held.by_owner.clear();
        for file in files(&self.dir)? {
            let known = match before.remove(&file.ip) {
                Some(known) if known.inode == file.inode => known,
                _ => match file.read()? {
                    None => continue,
                    // What cannot be read holds the address until reconciliation frees it.
                    Some(lease) => Known { lease: lease.unwrap_or_default(), inode: file.inode },
                },
            };
            held.insert(file.ip, known);
        }
        Ok(())
    }

    /// Puts a whole lease file in place and gives its number; `None` when there is one.
    fn write(&self, ip: Ipv4Addr, lease: &Lease) -> Result<Option<u64>, Error> {
        let path = self.dir.join(ip.to_string());
        let failed = |error: io::Error| Error::file(&format!("write {}", path.display()), error);
        let new = self.dir.join(NEW);
        let text = serde_json::to_vec(lease).map_err(|error| failed(error.into()))?;
        let inode = write_private(&new, &text).map_err(failed)?;
        match renameat_with(CWD, &new, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(Some(inode)),
            Err(rustix::io::Errno::EXIST) => Ok(None),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    fn exhausted(&self) -> Error {
        let (network, prefix) = (self.subnet.network(), self.subnet.prefix());
        let message = format!(
            "subnet {network}/{prefix}: all {} addresses are in use; remove pods or configure a larger subnet",
            self.subnet.capacity()
        );
        Error::new(Kind::Exhausted, message)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing panics while it is locked; and if, what it holds is read from disk again at the next doubt.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn insert(&mut self, ip: Ipv4Addr, known: Known) {
        if !known.lease.owner.is_empty() {
            self.by_owner.insert(known.lease.owner.clone(), ip);
        }
        self.by_ip.insert(ip, known);
    }

    fn remove(&mut self, ip: Ipv4Addr) {
        if let Some(known) = self.by_ip.remove(&ip) {
            self.by_owner.remove(&known.lease.owner);
        }
    }
}

/// The directory's lock, shared with other processes; held until dropped.
pub(crate) fn lock(dir: &Path) -> Result<OwnedFd, Error> {
    let failed = |errno: rustix::io::Errno| Error::kernel(&format!("lock {}", dir.display()), errno, None);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = open(dir, flags, Mode::empty()).map_err(failed)?;
    flock(&fd, FlockOperation::LockExclusive).map_err(failed)?;
    Ok(fd)
}

/// Removes the directory with what is in it beside leases. The caller has the lock and has seen that no lease is left.
pub(crate) fn remove(dir: &Path) {
    for name in [POOL, NEW] {
        let _ = fs::remove_file(dir.join(name));
    }
    let _ = fs::remove_dir(dir);
}

/// The leases of a directory; empty when there is none. Needs no lock: a file is there whole or not at all.
pub(crate) fn read_dir(dir: &Path) -> Result<Vec<OnDisk>, Error> {
    let mut leases = Vec::new();
    for file in files(dir)? {
        if let Some(lease) = file.read()? {
            leases.push(OnDisk { ip: file.ip, lease });
        }
    }
    leases.sort_by_key(|file| file.ip);
    Ok(leases)
}

/// A file whose name is an address.
#[derive(Debug)]
struct LeaseFile {
    ip: Ipv4Addr,
    inode: u64,
    path: PathBuf,
}

impl LeaseFile {
    /// What it says, or why it says nothing; `None` when it is gone by now.
    fn read(&self) -> Result<Option<Result<Lease, Error>>, Error> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file(&format!("read {}", self.path.display()), error)),
        };
        let lease = serde_json::from_slice(&text)
            .map_err(|error| Error::new(Kind::Corrupt, format!("lease {}: {error}", self.path.display())));
        Ok(Some(lease))
    }
}

fn files(dir: &Path) -> Result<Vec<LeaseFile>, Error> {
    let failed = |error: io::Error| Error::file(&format!("read {}", dir.display()), error);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if let Some(ip) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            files.push(LeaseFile { ip, inode: entry.ino(), path: entry.path() });
        }
    }
    Ok(files)
}

/// The first port that somebody has, and who.
fn taken_port<'a>(
    ports: &[PortMapping],
    leases: &'a BTreeMap<Ipv4Addr, Known>,
) -> Option<(PortMapping, &'a str)> {
    let held = leases
        .values()
        .map(|known| &known.lease)
        .flat_map(|lease| lease.ports.iter().map(|port| (port, lease.owner.as_str())));
    held.into_iter().find_map(|(held, owner)| {
        let port = ports.iter().find(|port| collide(port, held))?;
        Some((*port, owner))
    })
}

/// Whether two mappings want the same port of the host, as `bind` would see it.
pub(crate) fn collide(a: &PortMapping, b: &PortMapping) -> bool {
    let meet = match (a.host_ip, b.host_ip) {
        (None, _) | (_, None) => true,
        (Some(a), Some(b)) => {
            a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())
        }
    };
    meet && a.protocol == b.protocol && a.host_port == b.host_port
}

fn read_pool(dir: &Path) -> Pool {
    fs::read(dir.join(POOL)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn write_pool(dir: &Path, pool: &Pool) {
    let new = dir.join(NEW);
    let written = serde_json::to_vec(pool)
        .map_err(io::Error::from)
        .and_then(|text| write_private(&new, &text))
        .and_then(|_| fs::rename(&new, dir.join(POOL)));
    if let Err(error) = written {
        // The order of addresses is a courtesy; no pod fails for it.
        tracing::debug!(%error, dir = %dir.display(), "the order of addresses was not written");
    }
}

/// Gives the file's number.
fn write_private(path: &Path, text: &[u8]) -> io::Result<u64> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text)?;
    Ok(file.metadata()?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    fn leases(dir: &Path) -> Leases {
        Leases::open(dir, Subnet::new((Ipv4Addr::new(10, 0, 0, 0), 29)).unwrap(), None).unwrap()
    }

    fn take(leases: &Leases, owner: &str, ports: &[PortMapping]) -> Result<Ipv4Addr, Error> {
        leases.take(owner, ports, Bandwidth::default()).map(|addresses| addresses.ip)
    }

    fn port(host_ip: Option<&str>, host_port: u16, protocol: Protocol) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { host_ip, host_port, container_port: 80, protocol }
    }

    #[test]
    fn a_restart_keeps_leases_and_order() {
        let dir = tempfile::tempdir().unwrap();
        let first = leases(dir.path());
        let ports = [port(None, 8080, Protocol::Tcp)];
        assert_eq!(take(&first, "a", &ports).unwrap().octets()[3], 2);
        assert_eq!(take(&first, "b", &[]).unwrap().octets()[3], 3);
        first.release("a").unwrap();
        first.release("a").unwrap();
        let second = leases(dir.path());
        assert_eq!(second.find("b").unwrap().0.octets()[3], 3);
        assert!(second.find("a").is_none());
        for last in [4, 5, 6, 2] {
            assert_eq!(take(&second, &format!("n{last}"), &[]).unwrap().octets()[3], last);
        }
        let error = take(&second, "late", &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted);
        assert_eq!(
            error.to_string(),
            "subnet 10.0.0.0/29: all 5 addresses are in use; remove pods or configure a larger subnet"
        );
        assert_eq!(take(&second, "b", &[]).unwrap_err().kind(), Kind::Exists);
    }

    #[test]
    fn two_that_share_the_directory_never_give_an_address_twice() {
        let dir = tempfile::tempdir().unwrap();
        let both = [leases(dir.path()), leases(dir.path())];
        let mut seen = std::collections::BTreeSet::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = both
                .iter()
                .enumerate()
                .map(|(who, leases)| {
                    scope.spawn(move || {
                        (0..3)
                            .filter_map(|n| take(leases, &format!("{who}-{n}"), &[]).ok())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            for thread in threads {
                for ip in thread.join().unwrap() {
                    assert!(seen.insert(ip), "{ip} twice");
                }
            }
        });
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn a_host_port_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (leases(dir.path()), leases(dir.path()));
        take(&theirs, "web", &[port(Some("192.0.2.1"), 80, Protocol::Tcp)]).unwrap();
        let error = take(&ours, "other", &[port(None, 80, Protocol::Tcp)]).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert_eq!(error.to_string(), "host port *:80/tcp -> 80: taken by web");
        take(&ours, "udp", &[port(None, 80, Protocol::Udp)]).unwrap();
        take(&ours, "elsewhere", &[port(Some("192.0.2.2"), 80, Protocol::Tcp)]).unwrap();
    }

    #[test]
    fn ports_collide_within_a_family() {
        let collide = |a, b| {
            let (a, b) = (port(a, 80, Protocol::Tcp), port(b, 80, Protocol::Tcp));
            assert_eq!(collide(&a, &b), collide(&b, &a));
            collide(&a, &b)
        };
        assert!(collide(None, None) && collide(None, Some("::")) && collide(None, Some("192.0.2.1")));
        assert!(collide(Some("::"), Some("2001:db8::1")) && collide(Some("0.0.0.0"), Some("192.0.2.1")));
        assert!(!collide(Some("::"), Some("0.0.0.0")) && !collide(Some("::"), Some("192.0.2.1")));
        assert!(!collide(Some("2001:db8::1"), Some("2001:db8::2")));
    }

    #[test]
    fn a_lease_of_a_time_before_ipv6_is_read_and_numbers_never_meet() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("10.0.0.2"), br#"{"owner":"old","ports":[]}"#).unwrap();
        fs::write(dir.path().join("10.9.0.3"), br#"{"owner":"moved","ip6":"fd00::3"}"#).unwrap();
        let subnet = Subnet::new((Ipv4Addr::new(10, 0, 0, 0), 29)).unwrap();
        let config = crate::Config {
            bridge: "br0".to_owned(),
            subnet: (subnet.network(), subnet.prefix()),
            subnet6: crate::Subnet6::Given("fd00::".parse().unwrap(), 64),
            mtu: None,
            leases: dir.path().to_owned(),
        };
        let leases = Leases::open(dir.path(), subnet, Range6::of(&config, subnet).unwrap()).unwrap();
        let (ip, lease) = leases.find("old").unwrap();
        assert_eq!(lease.addresses(ip), Addresses { ip: "10.0.0.2".parse().unwrap(), ip6: None });
        let bandwidth = Bandwidth { ingress: Some(1_000_000), egress: None };
        let new = leases.take("new", &[], bandwidth).unwrap();
        assert_eq!(new, Addresses { ip: "10.0.0.4".parse().unwrap(), ip6: Some("fd00::4".parse().unwrap()) });
        let text = fs::read_to_string(dir.path().join("10.0.0.4")).unwrap();
        assert_eq!(text, r#"{"owner":"new","ip6":"fd00::4","bandwidth":{"ingress":1000000}}"#);
    }

    #[test]
    fn a_lease_that_cannot_be_read_keeps_its_address() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("10.0.0.2"), b"").unwrap();
        let leases = leases(dir.path());
        assert_eq!(take(&leases, "a", &[]).unwrap().octets()[3], 3);
        let on_disk = leases.on_disk().unwrap();
        assert_eq!(on_disk[0].lease.as_ref().unwrap_err().kind(), Kind::Corrupt);
        leases.release_address(on_disk[0].ip).unwrap();
        assert_eq!(leases.on_disk().unwrap().len(), 1);
    }
}
