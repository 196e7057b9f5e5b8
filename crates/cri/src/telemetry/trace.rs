//! Which trace a request belongs to (W3C Trace Context, level 1).

use http::HeaderMap;

/// The longest `tracestate` that is passed on; the specification asks for 512 bytes at least.
const STATE: usize = 512;

/// Where a trace goes on, or begins, here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Trace {
    /// 32 hex digits.
    pub(super) id: String,
    /// 16 hex digits; empty where the trace begins here.
    pub(super) parent: String,
    /// 16 hex digits.
    pub(super) own: String,
    /// Whether its spans are recorded.
    pub(super) sampled: bool,
    /// What others have put on the way.
    pub(super) state: String,
}

impl Trace {
    /// The trace of a client.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let (id, parent, sampled) = parse(headers.get("traceparent")?.to_str().ok()?)?;
        let state = headers.get("tracestate").and_then(|state| state.to_str().ok());
        let state = state.filter(|state| state.len() <= STATE).unwrap_or_default().to_owned();
        Some(Self { id: id.to_owned(), parent: parent.to_owned(), own: span_id()?, sampled, state })
    }

    /// A trace that begins here, in so many of a million cases.
    pub(super) fn begin(per_million: u32) -> Option<Self> {
        if per_million == 0 {
            return None;
        }
        let random = u128::from_ne_bytes(random()?).max(1);
        // As everybody decides it who sees the same id (TraceIdRatioBased): by its last 63 bits.
        let low = (random & u128::from(u64::MAX)) >> 1;
        let sampled = low < (u128::from(per_million) << 63) / 1_000_000;
        sampled.then_some(())?;
        Some(Self { id: format!("{random:032x}"), own: span_id()?, sampled, ..Self::default() })
    }
}

fn span_id() -> Option<String> {
    Some(format!("{:016x}", u64::from_ne_bytes(random()?).max(1)))
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).ok()?;
    Some(bytes)
}

/// The trace, the span in it and whether it is recorded: `00-<32 digits>-<16 digits>-<2 digits>`. A later version may
/// have more behind that.
fn parse(text: &str) -> Option<(&str, &str, bool)> {
    let mut parts = text.split('-');
    let mut digits = |length: usize| {
        let part = parts.next()?;
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (part.len() == length && part.bytes().all(lower)).then_some(part)
    };
    let (version, id, parent, flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let more = parts.next().is_some();
    if version == "ff" || (version == "00" && more) || zero(id) || zero(parent) {
        return None;
    }
    Some((id, parent, u8::from_str_radix(flags, 16).ok()? & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_parents() {
        let (id, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert_eq!(parse(&format!("00-{id}-{span}-01")), Some((id, span, true)));
        assert_eq!(parse(&format!("00-{id}-{span}-00")), Some((id, span, false)));
        assert_eq!(parse(&format!("01-{id}-{span}-01-more")), Some((id, span, true)));
        for bad in [
            format!("ff-{id}-{span}-01"),
            format!("00-{id}-{span}-01-more"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{}-{span}-01", id.to_uppercase()),
            format!("00-{id}-{}-01", "0".repeat(16)),
            format!("00-{id}-01"),
            String::new(),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn traces_begin_as_often_as_asked_for() {
        assert_eq!(Trace::begin(0), None);
        let trace = Trace::begin(1_000_000).unwrap();
        assert!(trace.sampled && trace.parent.is_empty());
        assert!(parse(&format!("00-{}-{}-01", trace.id, trace.own)).is_some(), "{trace:?}");
        let begun = (0..20_000).filter(|_| Trace::begin(250_000).is_some()).count();
        assert!((4_000..6_000).contains(&begun), "{begun}");
    }
}
