//! Names to addresses, without the C library.
//!
//! A static binary must not load name service modules of the host (they are shared libraries that expect their own libc),
//! so `/etc/hosts` and `/etc/resolv.conf` are read here and the name server is asked directly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const TRIES: u32 = 2;
const WAIT: Duration = Duration::from_secs(3);
const ANSWER_LIMIT: usize = 4096;
const A: u16 = 1;
const AAAA: u16 = 28;

/// The addresses of a host, in the order to try them; empty when it has none.
///
/// # Errors
/// One sentence when no name server answers.
#[expect(clippy::disallowed_methods, reason = "files of the host")]
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    if host == "localhost" || host.ends_with(".localhost") {
        let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        return Ok(both.map(|address| SocketAddr::new(address, port)).to_vec());
    }
    let read = |path: &'static str| async move { tokio::fs::read_to_string(path).await.unwrap_or_default() };
    let known = in_hosts(&read("/etc/hosts").await, host);
    if !known.is_empty() {
        return Ok(known.into_iter().map(|address| SocketAddr::new(address, port)).collect());
    }
    let config = Config::parse(&read("/etc/resolv.conf").await);
    let found = ask_all(&config, host).await?;
    Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// Addresses of a name in the text of `/etc/hosts` (hosts(5)).
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse::<IpAddr>().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    };
    text.lines().filter_map(address).collect()
}

/// What `/etc/resolv.conf` says (resolv.conf(5)).
#[derive(Debug, PartialEq, Eq)]
struct Config {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
}

impl Config {
    fn parse(text: &str) -> Self {
        let mut config = Self { servers: Vec::new(), search: Vec::new() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|w| w.split('%').next()?.parse::<IpAddr>().ok());
                    config.servers.extend(address.map(|address| SocketAddr::new(address, 53)));
                }
                Some("search" | "domain") => config.search = words.take(6).map(str::to_owned).collect(),
                _ => {}
            }
        }
        config.servers.truncate(3);
        if config.servers.is_empty() {
            config.servers.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53));
        }
        config
    }
}

async fn ask_all(config: &Config, host: &str) -> Result<Vec<IpAddr>, String> {
    let mut names = vec![host.to_owned()];
    if !host.contains('.') {
        names.splice(0..0, config.search.iter().map(|domain| format!("{host}.{domain}")));
    }
    for name in &names {
        let (v4, v6) = tokio::join!(ask(config, name, A), ask(config, name, AAAA));
        let mut found = match (v4, v6) {
            (Ok(v4), Ok(v6)) => [v4, v6].concat(),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) if !one.is_empty() => one,
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        found.truncate(16);
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

async fn ask(config: &Config, name: &str, kind: u16) -> Result<Vec<IpAddr>, String> {
    let mut last = String::new();
    for _ in 0..TRIES {
        for server in &config.servers {
            match tokio::time::timeout(WAIT, exchange(*server, name, kind)).await {
                Ok(Ok(addresses)) => return Ok(addresses),
                Ok(Err(error)) => last = format!("name server {}: {error}", server.ip()),
                Err(_) => last = format!("name server {} does not answer", server.ip()),
            }
        }
    }
    Err(last)
}

async fn exchange(server: SocketAddr, name: &str, kind: u16) -> Result<Vec<IpAddr>, String> {
    let mut id = [0; 2];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| "no random number")?;
    let id = u16::from_be_bytes(id);
    let query = query(id, name, kind).ok_or("not a host name")?;
    let text = |e: std::io::Error| e.to_string();
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await.map_err(text)?;
    socket.connect(server).await.map_err(text)?;
    socket.send(&query).await.map_err(text)?;
    let mut buffer = vec![0; ANSWER_LIMIT];
    loop {
        let count = socket.recv(&mut buffer).await.map_err(text)?;
        match answer(&buffer[..count], &query) {
            Answer::Addresses(addresses) => return Ok(addresses),
            Answer::Failed(why) => return Err(why),
            Answer::Truncated => break,
            // Not ours: a late answer, or somebody guessing.
            Answer::Stranger => {}
        }
    }
    let mut stream = TcpStream::connect(server).await.map_err(text)?;
    let length = u16::try_from(query.len()).map_err(|_| "not a host name")?;
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await.map_err(text)?;
    let length = stream.read_u16().await.map_err(text)?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.map_err(text)?;
    match answer(&buffer, &query) {
        Answer::Addresses(addresses) => Ok(addresses),
        Answer::Failed(why) => Err(why),
        Answer::Truncated | Answer::Stranger => Err("malformed answer".to_owned()),
    }
}

/// A recursive question (RFC 1035, 4.1).
fn query(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(64);
    for word in [id, 0x0100, 1, 0, 0, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    for word in [kind, 1] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    (out.len() <= 12 + 255 + 4).then_some(out)
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Addresses(Vec<IpAddr>),
    Failed(String),
    Truncated,
    Stranger,
}

/// Reads an answer to `query`. Every address record counts: the server has followed the aliases.
fn answer(bytes: &[u8], query: &[u8]) -> Answer {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (Some(flags), Some(count)) = (word(2), word(6)) else { return Answer::Stranger };
    let same_question = bytes.get(12..query.len()).is_some_and(|q| q.eq_ignore_ascii_case(&query[12..]));
    if bytes[..2] != query[..2] || flags & 0x8000 == 0 || !same_question {
        return Answer::Stranger;
    }
    if flags & 0x0200 != 0 {
        return Answer::Truncated;
    }
    match flags & 0x000f {
        0 => {}
        3 => return Answer::Addresses(Vec::new()),
        code => return Answer::Failed(format!("error {code}")),
    }
    let mut addresses = Vec::new();
    let mut at = query.len();
    for _ in 0..count {
        let Some(fixed) = skip_name(bytes, at) else { break };
        let (Some(kind), Some(length)) = (word(fixed), word(fixed + 8)) else { break };
        let start = fixed + 10;
        let Some(data) = bytes.get(start..start + usize::from(length)) else { break };
        if let (A, Ok(v4)) = (kind, <[u8; 4]>::try_from(data)) {
            addresses.push(IpAddr::from(v4));
        } else if let (AAAA, Ok(v6)) = (kind, <[u8; 16]>::try_from(data)) {
            addresses.push(IpAddr::from(v6));
        }
        at = start + usize::from(length);
    }
    Answer::Addresses(addresses)
}

/// The position after a name, which may end in a pointer.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let hosts = "127.0.0.1 localhost\n10.0.0.5\tregistry.example registry # x\n::1 ip6\nbad line\n";
        assert_eq!(in_hosts(hosts, "Registry"), ["10.0.0.5".parse::<IpAddr>().unwrap()]);
        assert!(in_hosts(hosts, "x").is_empty());
        let config =
            Config::parse("search a.b c\nnameserver 10.1.1.1\nnameserver fe80::1%eth0\noptions ndots:5\n");
        assert_eq!(config.servers.len(), 2);
        assert_eq!(config.search, ["a.b", "c"]);
        assert_eq!(Config::parse("").servers[0].to_string(), "127.0.0.1:53");
    }

    #[test]
    fn messages() {
        let query = query(7, "a.example", A).unwrap();
        let mut reply = query.clone();
        reply[2] = 0x81;
        reply[3] = 0x80;
        reply[7] = 2;
        // An alias, then the address, both with a pointer for a name.
        reply.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 2, 0xc0, 14]);
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
        assert_eq!(answer(&reply, &query), Answer::Addresses(vec!["10.0.0.1".parse().unwrap()]));
        reply[0] ^= 1;
        assert_eq!(answer(&reply, &query), Answer::Stranger);
        assert!(super::query(1, "a..b", A).is_none());
        assert!(super::query(1, &"a".repeat(64), A).is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(mut bytes: Vec<u8>, id: u16) {
            let query = query(id, "a.b", A).unwrap();
            let _ = answer(&bytes, &query);
            bytes.splice(0..0, query.iter().copied());
            bytes[2] |= 0x80;
            let _ = answer(&bytes, &query);
        }
    }
}
