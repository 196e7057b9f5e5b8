//! Numbers with units.

use std::time::Duration;

/// `300ms`, `5s`, `1.5m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("give a number with a unit, such as 500ms, 5s or 1m".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    Duration::try_from_secs_f64(number * seconds)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "it must be above 0".to_owned())
}

/// Bytes, with a unit of 1024 and its powers: `1048576`, `1024k`, `1.5g`, `512MiB`; -1 for no limit.
pub(super) fn bytes(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    let wrong = || "give bytes, or a number with one of the units k, m, g, t, p, or -1".to_owned();
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit = unit.to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let (whole, part) = number.trim_end().split_once('.').unwrap_or((number.trim_end(), ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 9 || !is_number(whole) || !is_number(part) {
        return Err(wrong());
    }
    let whole: i128 = whole.parse().map_err(|_| wrong())?;
    let digits = u32::try_from(part.len()).map_err(|_| wrong())?;
    let part: i128 = if part.is_empty() { 0 } else { part.parse().map_err(|_| wrong())? };
    let total = whole.checked_mul(1 << shift).ok_or_else(wrong)? + ((part << shift) / 10_i128.pow(digits));
    i64::try_from(total).map_err(|_| "it is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, ms) in [("300ms", 300), ("5s", 5000), ("1.5m", 90_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "5", "s", "-1s", "0s", "1d", "1 s", "1e400s", "NaNs"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        let sizes = [
            ("0", 0),
            ("-1", -1),
            ("1048576", 1 << 20),
            ("1024k", 1 << 20),
            ("1.5g", 3 << 29),
            ("512MiB", 1 << 29),
            ("2Kb", 2048),
            ("9223372036854775807", i64::MAX),
        ];
        for (text, size) in sizes {
            assert_eq!(bytes(text).unwrap(), size, "{text}");
        }
        for text in ["", "k", "-2", "1x", "1.2.3", "9223372036854775808", "9999999p", "1e3", "+1", "0x10"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
