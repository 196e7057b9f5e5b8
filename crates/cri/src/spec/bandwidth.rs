//! How fast a pod's network may be: two annotations that Kubernetes knows.

use vaquita_net::Bandwidth;
use vaquita_proto::cri;

use crate::{Error, Result};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// The limits of a pod, in bits per second.
pub(crate) fn bandwidth(config: &cri::PodSandboxConfig) -> Result<Bandwidth> {
    let rate = |name: &str| {
        let Some(text) = config.annotations.get(name) else { return Ok(None) };
        let rate = bits(text).ok_or_else(|| {
            Error::invalid(format!(
                "annotations[{name}]: {text:?} is not a number of bits per second, as in 10M"
            ))
        })?;
        // As Kubernetes has it: a thousand bits to a peta of them.
        if !(1_000..=1_000_000_000_000_000).contains(&rate) {
            return Err(Error::invalid(format!(
                "annotations[{name}]: {text} is not from 1k to 1P bits per second"
            )));
        }
        Ok(Some(rate))
    };
    Ok(Bandwidth { ingress: rate(INGRESS)?, egress: rate(EGRESS)? })
}

/// A quantity of Kubernetes, rounded up: digits, perhaps with a point, and a suffix (`k`, `Mi`, `m` …) or an exponent.
fn bits(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Longer ones fit no rate, and would not fit below.
    if whole.len() + fraction.len() == 0 || whole.len() > 18 || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (times, over) = factor(suffix)?;
    let over = over.checked_mul(10_u128.pow(u32::try_from(fraction.len()).ok()?))?;
    u64::try_from(mantissa.checked_mul(times)?.div_ceil(over)).ok()
}

/// What a suffix stands for, as a fraction.
fn factor(suffix: &str) -> Option<(u128, u128)> {
    const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const SMALL: [&str; 4] = ["", "m", "u", "n"];
    let place =
        |names: &[&str]| names.iter().position(|name| *name == suffix).and_then(|at| u32::try_from(at).ok());
    if let Some(power) = place(&DECIMAL) {
        return Some((1000_u128.pow(power), 1));
    }
    if let Some(power) = place(&BINARY) {
        return Some((1024_u128.pow(power), 1));
    }
    if let Some(power) = place(&SMALL) {
        return Some((1, 1000_u128.pow(power)));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_u128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 18)?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, value) in [
            ("10M", 10_000_000),
            ("+1k", 1_000),
            ("1.5G", 1_500_000_000),
            ("1Ki", 1_024),
            ("0.5Mi", 524_288),
            ("1000000", 1_000_000),
            ("1e6", 1_000_000),
            ("1E3", 1_000),
            ("2500e-1", 250),
            ("1500m", 2),
            ("1E", 1_000_000_000_000_000_000),
            (".5k", 500),
            ("5.", 5),
            ("0", 0),
        ] {
            assert_eq!(bits(text), Some(value), "{text}");
        }
        for text in [
            "",
            ".",
            "M",
            "-1M",
            "1 M",
            "1MB",
            "10mb",
            "1..2",
            "1e",
            "1e99",
            "1_000",
            "0x10",
            "99999999999999999999",
            "18E1E",
        ] {
            assert_eq!(bits(text), None, "{text}");
        }
    }

    #[test]
    fn a_limit_that_makes_no_sense_is_an_error_that_names_the_annotation() {
        let with = |name: &str, value: &str| {
            let annotations = [(name.to_owned(), value.to_owned())].into_iter().collect();
            bandwidth(&cri::PodSandboxConfig { annotations, ..Default::default() })
        };
        assert_eq!(with(INGRESS, "1M").unwrap(), Bandwidth { ingress: Some(1_000_000), egress: None });
        assert_eq!(
            with(EGRESS, "1P").unwrap(),
            Bandwidth { ingress: None, egress: Some(1_000_000_000_000_000) }
        );
        assert!(with("other", "x").unwrap().is_unlimited());
        for value in ["", "fast", "999", "1.1P", "0", "-1M"] {
            for name in [INGRESS, EGRESS] {
                let error = with(name, value).unwrap_err();
                assert_eq!(error.kind(), crate::Kind::Invalid);
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    }
}
