//! HTTP proxies, as the environment names them (pure but for [`Proxies::from_env`]).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Uri};

use super::http::Origin;
use super::token;

/// Which proxies registries are reached through.
///
/// Read as Go's programs read it, containerd among them: `HTTPS_PROXY` is for requests by HTTPS, `HTTP_PROXY` for others, `NO_PROXY` has
/// what is reached directly; each also in lower case. This machine (`localhost`, loopback addresses) always is.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<Setting>,
    https: Option<Setting>,
    except: Vec<Exception>,
}

/// A proxy, or why it cannot be one.
#[derive(Clone)]
struct Setting {
    name: &'static str,
    proxy: Result<Arc<Proxy>, &'static str>,
}

/// Where to connect instead.
pub(super) struct Proxy {
    pub(super) origin: Origin,
    /// For `Proxy-Authorization`.
    pub(super) authorization: Option<HeaderValue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    what: What,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Everything,
    /// Address and length of the prefix.
    Network(IpAddr, u8),
    /// With a dot in front; `itself`: also the name without it.
    Domain {
        suffix: String,
        itself: bool,
    },
}

impl Proxies {
    /// Those of this process's environment.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// Those that the variables say which `look` finds.
    ///
    /// A value that is not understood is told when a registry is to be reached through it.
    #[must_use]
    pub fn from_variables(look: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let found = look(name).filter(|value| !value.is_empty());
            found.or_else(|| look(&name.to_ascii_lowercase())).filter(|value| !value.is_empty())
        };
        let setting = |name: &'static str| {
            either(name).map(|text| Setting { name, proxy: Proxy::parse(&text).map(Arc::new) })
        };
        let except = either("NO_PROXY").unwrap_or_default();
        Self {
            http: setting("HTTP_PROXY"),
            https: setting("HTTPS_PROXY"),
            except: except.split([',', ' ']).filter_map(Exception::parse).collect(),
        }
    }

    /// The proxy that leads to an origin; `None` to go directly.
    ///
    /// # Errors
    /// One sentence about a variable whose value is not understood; the value is not repeated, because it may hold a password.
    pub(super) fn to(&self, origin: &Origin) -> Result<Option<Arc<Proxy>>, String> {
        let setting = if origin.https { &self.https } else { &self.http };
        let Some(Setting { name, proxy }) = setting else { return Ok(None) };
        if origin.is_loopback()
            || origin.host.ends_with(".localhost")
            || self.except.iter().any(|exception| exception.holds(origin))
        {
            return Ok(None);
        }
        proxy.clone().map(Some).map_err(|why| format!("the environment variable {name} {why}"))
    }
}

impl fmt::Debug for Proxies {
    /// Without the credentials of the proxies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |setting: &Option<Setting>| {
            setting.as_ref().map(|setting| setting.proxy.as_ref().map(|proxy| proxy.origin.to_string()).ok())
        };
        f.debug_struct("Proxies")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("except", &self.except)
            .finish()
    }
}

impl Proxy {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "is not the URL of an HTTP proxy, as http://proxy.example:3128";
        let text = text.trim();
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = text.parse().map_err(|_| WRONG)?;
        if uri.scheme_str().is_some_and(|scheme| scheme.starts_with("socks")) {
            return Err("names a SOCKS proxy, which is not supported");
        }
        let origin = Origin::of(&uri).ok_or(WRONG)?;
        let authority = uri.authority().map_or("", http::uri::Authority::as_str);
        let authorization = match authority.rsplit_once('@') {
            None => None,
            Some((user, _)) => {
                let (user, password) = user.split_once(':').unwrap_or((user, ""));
                let (user, password) = (decode(user).ok_or(WRONG)?, decode(password).ok_or(WRONG)?);
                let mut value = HeaderValue::from_str(&token::basic(&user, &password)).map_err(|_| WRONG)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { origin, authorization })
    }
}

/// Undoes the percent encoding of a URL's part.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|d| u8::try_from(d).ok());
            out.push(digit(bytes.next())? << 4 | digit(bytes.next())?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

impl Exception {
    /// One part of `NO_PROXY`. What is no host, address or network matches nothing.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Self { what: What::Everything, port: None });
        }
        if let Some((address, length)) = text.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let length = length.parse().ok().filter(|length| *length <= most)?;
            return Some(Self { what: What::Network(address, length), port: None });
        }
        let single = |address: IpAddr| What::Network(address, if address.is_ipv4() { 32 } else { 128 });
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self { what: single(address), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
            _ => (text.as_str(), None),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Self { what: single(address), port });
        }
        let name = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        let itself = !name.starts_with('.');
        let suffix = if itself { format!(".{name}") } else { name.to_owned() };
        (suffix.len() > 1).then_some(Self { what: What::Domain { suffix, itself }, port })
    }

    fn holds(&self, origin: &Origin) -> bool {
        if self.port.is_some_and(|port| port != origin.port) {
            return false;
        }
        let bare = origin.host.trim_start_matches('[').trim_end_matches(']');
        match &self.what {
            What::Everything => true,
            What::Network(network, length) => {
                bare.parse::<IpAddr>().is_ok_and(|address| is_in(address, *network, *length))
            }
            What::Domain { suffix, itself } => {
                bare.ends_with(suffix.as_str()) || (*itself && *bare == suffix[1..])
            }
        }
    }
}

fn is_in(address: IpAddr, network: IpAddr, length: u8) -> bool {
    let shift = |width: u32| width - u32::from(length).min(width);
    match (address.to_canonical(), network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            (a.to_bits() ^ n.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            (a.to_bits() ^ n.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn through(proxies: &Proxies, url: &str) -> Option<String> {
        let origin = Origin::of(&url.parse().unwrap()).unwrap();
        proxies.to(&origin).unwrap().map(|proxy| proxy.origin.to_string())
    }

    #[test]
    fn by_scheme_and_in_either_case() {
        let both = proxies(&[("https_proxy", "http://s:1"), ("HTTP_PROXY", "p"), ("http_proxy", "no")]);
        assert_eq!(through(&both, "https://a").as_deref(), Some("http://s:1"));
        assert_eq!(through(&both, "http://a").as_deref(), Some("http://p"));
        for direct in
            ["https://localhost:5000", "http://127.0.0.9", "https://[::1]:5000", "http://a.localhost"]
        {
            assert_eq!(through(&both, direct), None, "{direct}");
        }
        assert_eq!(through(&proxies(&[("HTTP_PROXY", "p")]), "https://a"), None);
    }

    #[test]
    fn exceptions() {
        let all = [("HTTPS_PROXY", "p"), ("HTTP_PROXY", "p")];
        let direct = |no: &str, url: &str| {
            let mut variables = all.to_vec();
            variables.push(("NO_PROXY", no));
            through(&proxies(&variables), url).is_none()
        };
        for (no, url, expected) in [
            ("*", "https://a", true),
            ("a.example", "https://a.example", true),
            ("a.example", "https://A.Example:5000", true),
            ("a.example", "https://b.a.example", true),
            ("a.example", "https://ba.example", false),
            (".example", "https://a.example", true),
            (".a.example", "https://a.example", false),
            ("*.a.example", "https://b.a.example", true),
            ("*.a.example", "https://a.example", false),
            ("a.example:443", "https://a.example", true),
            ("a.example:80", "https://a.example", false),
            ("a.example:5000", "http://a.example:5000", true),
            ("10.0.0.0/8", "https://10.9.8.7:5000", true),
            ("10.0.0.0/8", "https://11.0.0.1", false),
            ("0.0.0.0/0", "https://11.0.0.1", true),
            ("fd00::/8", "https://[fd00::7]", true),
            ("fd00::/8", "https://[fe00::7]", false),
            ("10.0.0.1", "https://10.0.0.1:5000", true),
            ("10.0.0.1:5000", "https://10.0.0.1:5001", false),
            ("[fd00::1]:5000", "https://[fd00::1]:5000", true),
            ("x, a.example ,y", "https://a.example", true),
            (", .,/8,10.0.0.0/33,:1", "https://a.example", false),
        ] {
            assert_eq!(direct(no, url), expected, "{no} {url}");
        }
    }

    #[test]
    fn credentials_are_sent_and_not_shown() {
        let with = proxies(&[("HTTPS_PROXY", "http://us%40er:p%3Ass@proxy:3128/")]);
        let origin = Origin::of(&"https://a".parse().unwrap()).unwrap();
        let proxy = with.to(&origin).unwrap().unwrap();
        assert_eq!(proxy.origin.to_string(), "http://proxy:3128");
        assert_eq!(proxy.authorization.as_ref().unwrap(), token::basic("us@er", "p:ss").as_str());
        let shown = format!("{with:?}");
        assert!(
            !shown.contains("p%3Ass") && !shown.contains("p:ss") && shown.contains("proxy:3128"),
            "{shown}"
        );
    }

    #[test]
    fn what_is_not_understood_is_told_without_repeating_it() {
        for text in
            ["socks5://u:secret@p", "http://u:secret@", "ftp://secret", "http://u:%zz@p", "a b secret"]
        {
            let wrong = proxies(&[("HTTPS_PROXY", text)]);
            let origin = Origin::of(&"https://a".parse().unwrap()).unwrap();
            let error = wrong.to(&origin).err().unwrap();
            assert!(error.contains("HTTPS_PROXY") && !error.contains("secret"), "{error}");
            assert_eq!(through(&wrong, "http://a"), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(proxy in ".{0,60}", no in ".{0,60}") {
            let odd = proxies(&[("HTTPS_PROXY", &proxy), ("NO_PROXY", &no)]);
            let _ = odd.to(&Origin { https: true, host: "a.example".into(), port: 443 });
        }
    }
}
