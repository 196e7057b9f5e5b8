//! What a plugin printed: a result, an error, its versions.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::list::check_interface;
use crate::{Error, Kind, Result, Version};

/// The most interfaces, and the most addresses, of one result.
const MOST: usize = 256;
/// How much of a plugin's words goes into a message.
const QUOTED: usize = 600;

/// The result of ADD, as far as a runtime has to understand it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The interfaces that were made, also those on the host.
    pub interfaces: Vec<Interface>,
    /// The addresses that were given, in the order of the plugin.
    pub ips: Vec<Ip>,
    /// All of it, for the next plugin and for DEL.
    document: Map<String, Value>,
}

/// An interface of a result.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address as the plugin wrote it, empty where it has none.
    pub mac: String,
    /// The network namespace that it is in, as it was given in the request. Empty: the host's.
    pub sandbox: String,
}

/// An address of a result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ip {
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// Which of the interfaces has it, where the plugin says so.
    pub interface: Option<usize>,
}

impl Outcome {
    /// Reads the result of a plugin that was asked in `version`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] says what is wrong with it: it is not JSON, has an address that is none, an interface that it does not
    /// list, a version that nobody asked for.
    pub fn parse(bytes: &[u8], version: Version) -> Result<Self> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(document)) => Self::from_document(document, version),
            Ok(_) => Err(corrupt("is not a JSON object")),
            Err(error) => Err(corrupt(format!("is not JSON ({error}): {:?}", excerpt(bytes)))),
        }
    }

    /// As [`Outcome::parse`], of a document that was read already.
    pub(crate) fn from_document(mut document: Map<String, Value>, version: Version) -> Result<Self> {
        match text(&document, "cniVersion")? {
            "" => drop(document.insert("cniVersion".into(), version.to_string().into())),
            own if own.parse().is_ok_and(Version::is_spoken) => {}
            other => return Err(corrupt(format!("cniVersion: {other:?} was not asked for, but {version}"))),
        }
        let interfaces = list(&document, "interfaces")?.iter().map(interface).collect::<Result<Vec<_>>>()?;
        let ips = list(&document, "ips")?.iter().map(ip).collect::<Result<Vec<_>>>()?;
        if let Some(lost) = ips.iter().filter_map(|ip| ip.interface).find(|at| *at >= interfaces.len()) {
            return Err(corrupt(format!("ips: interface {lost} is not among the {}", interfaces.len())));
        }
        Ok(Self { interfaces, ips, document })
    }

    /// The addresses of the pod's interface, IPv4 first, as kubelet wants its primary address by default.
    ///
    /// Those are the ones that the result gives to the interface of this name in a namespace, or to none.
    #[must_use]
    pub fn addresses(&self, interface: &str) -> Vec<IpAddr> {
        let in_pod = |ip: &&Ip| match ip.interface.and_then(|at| self.interfaces.get(at)) {
            None => true,
            Some(of) => of.name == interface && !of.sandbox.is_empty(),
        };
        let mut all: Vec<_> = self.ips.iter().filter(in_pod).map(|ip| ip.address).collect();
        all.sort_by_key(IpAddr::is_ipv6);
        all
    }

    /// All that the plugin said.
    #[must_use]
    pub fn document(&self) -> &Map<String, Value> {
        &self.document
    }
}

/// What a plugin that failed has printed, as an error.
pub(crate) fn refusal(stdout: &[u8], stderr: &[u8], ended: &str) -> Error {
    let document: Option<Map<String, Value>> = serde_json::from_slice(stdout).ok();
    let code = document.as_ref().and_then(|document| document.get("code")).and_then(Value::as_u64);
    let (Some(document), Some(code)) = (document, code) else {
        let said = [stdout, stderr].into_iter().map(excerpt).find(|said| !said.is_empty());
        let said = said.map_or_else(|| "said nothing".to_owned(), |said| format!("said {said:?}"));
        return Error::new(Kind::Plugin, format!("{ended} and {said}"));
    };
    let word = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default();
    let clean = |text: &str| excerpt(text.as_bytes());
    let mut message = clean(word("msg"));
    let details = clean(word("details"));
    if !details.is_empty() {
        message = if message.is_empty() { details } else { format!("{message}; {details}") };
    }
    // The specification's "try again later", "not available" and "containers would have limited connectivity".
    let kind = if matches!(code, 11 | 50 | 51) { Kind::Busy } else { Kind::Plugin };
    Error::new(kind, format!("{message} (code {code})"))
}

/// The versions that a plugin supports, from its answer to VERSION.
pub(crate) fn versions(bytes: &[u8]) -> Result<Vec<String>> {
    let document: Value =
        serde_json::from_slice(bytes).map_err(|error| corrupt(format!("is not JSON ({error})")))?;
    let all = document.get("supportedVersions").and_then(Value::as_array);
    let all = all.ok_or_else(|| corrupt("supportedVersions: is missing"))?;
    Ok(all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// The beginning of what a stranger wrote, on one line and without control characters.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * QUOTED)]);
    let clean: String =
        text.trim().chars().take(QUOTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().chars().count() > QUOTED || bytes.len() > 4 * QUOTED {
        format!("{clean}…")
    } else {
        clean
    }
}

fn interface(value: &Value) -> Result<Interface> {
    let object = value.as_object().ok_or_else(|| corrupt("interfaces: each must be an object"))?;
    let name = text(object, "name")?;
    check_interface(name).map_err(|error| corrupt(format!("interfaces: {error}")))?;
    let (mac, sandbox) = (text(object, "mac")?.to_owned(), text(object, "sandbox")?.to_owned());
    Ok(Interface { name: name.to_owned(), mac, sandbox })
}

fn ip(value: &Value) -> Result<Ip> {
    let object = value.as_object().ok_or_else(|| corrupt("ips: each must be an object"))?;
    let written = text(object, "address")?;
    let (address, prefix) = cidr(written).ok_or_else(|| {
        corrupt(format!("ips: {written:?} is not an address with the length of its prefix"))
    })?;
    let gateway = match text(object, "gateway")? {
        "" => None,
        gateway => {
            let parsed = gateway.parse::<IpAddr>();
            Some(parsed.map_err(|_| corrupt(format!("ips: the gateway {gateway:?} is not an address")))?)
        }
    };
    let interface = match object.get("interface") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
            Some(number.ok_or_else(|| corrupt(format!("ips: interface {value} is not a number of one")))?)
        }
    };
    Ok(Ip { address, prefix, gateway, interface })
}

/// `10.1.2.3/24`.
fn cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= longest).then_some((address, prefix))
}

fn list<'a>(document: &'a Map<String, Value>, key: &str) -> Result<&'a [Value]> {
    match document.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) if list.len() <= MOST => Ok(list),
        Some(Value::Array(list)) => Err(corrupt(format!("{key}: {} are more than {MOST}", list.len()))),
        Some(_) => Err(corrupt(format!("{key}: must be a list"))),
    }
}

fn text<'a>(document: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
    match document.get(key) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(corrupt(format!("{key}: must be text"))),
    }
}

fn corrupt(message: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<Outcome> {
        Outcome::parse(value.to_string().as_bytes(), Version::NEWEST)
    }

    #[test]
    fn a_result_is_understood_and_kept_whole() {
        let document = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "br0", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/proc/7/ns/net"},
                {"name": "net1", "sandbox": "/proc/7/ns/net"},
            ],
            "ips": [
                {"address": "fd00::2/64", "interface": 1},
                {"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1},
                {"address": "10.9.0.2/24", "interface": 2},
                {"address": "10.8.0.2/24", "interface": 0},
            ],
            "somethingElse": {"kept": true},
        });
        let outcome = parse(&document).unwrap();
        let addresses: Vec<IpAddr> = vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(outcome.addresses("eth0"), addresses);
        assert_eq!(Value::Object(outcome.document().clone()), document);
    }

    #[test]
    fn an_address_without_interface_is_the_pods() {
        let outcome = parse(&json!({"ips": [{"version": "4", "address": "10.1.0.2/24"}]})).unwrap();
        assert_eq!(outcome.addresses("eth0").len(), 1);
        assert_eq!(outcome.document()["cniVersion"], "1.1.0");
    }

    #[test]
    fn what_is_wrong_with_a_result_is_said() {
        for (document, wrong) in [
            (json!([]), "not a JSON object"),
            (json!({"cniVersion": "0.2.0"}), "cniVersion"),
            (json!({"cniVersion": 1}), "cniVersion"),
            (json!({"ips": {}}), "ips: must be a list"),
            (json!({"ips": [{"address": "10.1.0.2"}]}), "10.1.0.2"),
            (json!({"ips": [{"address": "10.1.0.2/33"}]}), "10.1.0.2/33"),
            (json!({"ips": [{"address": "10.1.0.2/24", "gateway": "x"}]}), "gateway"),
            (json!({"ips": [{"address": "10.1.0.2/24", "interface": 0}]}), "interface 0 is not among the 0"),
            (json!({"ips": [{"address": "10.1.0.2/24", "interface": -1}]}), "interface -1"),
            (json!({"interfaces": [{"name": "../x"}]}), "../x"),
            (json!({"interfaces": vec![json!({"name": "a"}); 257]}), "more than 256"),
        ] {
            let error = parse(&document).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.to_string().contains(wrong), "{document}: {error}");
        }
        let error = Outcome::parse(b"panic:\n\x1b[31m", Version::NEWEST).unwrap_err().to_string();
        assert!(error.contains("panic:") && !error.contains('\x1b') && !error.contains('\n'), "{error}");
    }

    #[test]
    fn refusals() {
        let refused =
            |stdout: &str, stderr: &str| refusal(stdout.as_bytes(), stderr.as_bytes(), "ended with 1");
        let error = refused(r#"{"code": 7, "msg": "no range", "details": "of 10.0.0.0/30"}"#, "");
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (Kind::Plugin, "no range; of 10.0.0.0/30 (code 7)")
        );
        assert_eq!(refused(r#"{"code": 11, "msg": "later"}"#, "").kind(), Kind::Busy);
        assert_eq!(
            refused("", "iptables: not found\n").to_string(),
            "ended with 1 and said \"iptables: not found\""
        );
        assert_eq!(refused("", "").to_string(), "ended with 1 and said nothing");
        assert!(refused(&"x".repeat(1 << 20), "").to_string().len() < 1000);
    }

    #[test]
    fn versions_of_a_plugin() {
        let all = versions(br#"{"cniVersion": "1.0.0", "supportedVersions": ["0.3.0", "1.0.0"]}"#).unwrap();
        assert_eq!(all, ["0.3.0", "1.0.0"]);
        assert!(versions(b"{}").is_err() && versions(b"x").is_err());
    }

    proptest! {
        /// Whatever a plugin prints, reading it ends, and no message is long.
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Outcome::parse(&bytes, Version::NEWEST);
            let _ = versions(&bytes);
            prop_assert!(refusal(&bytes, &bytes, "ended").to_string().len() < 8 * QUOTED);
        }

        /// An address is in the answer for one interface at most.
        #[test]
        fn interfaces_share_no_address(at in 0_usize..2) {
            let outcome = parse(&json!({
                "interfaces": [{"name": "eth0", "sandbox": "/s"}, {"name": "eth1", "sandbox": "/s"}],
                "ips": [{"address": "10.0.0.1/8", "interface": at}],
            })).unwrap();
            prop_assert_eq!(outcome.addresses("eth0").len() + outcome.addresses("eth1").len(), 1);
        }
    }
}
