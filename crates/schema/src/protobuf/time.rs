//! Times, which protobuf carries as seconds and nanoseconds since 1970 and JSON as RFC 3339 text.

use super::unknown;
use super::wire::{Reader, Value as Wire, malformed};
use crate::Error;

/// The seconds of 0001-01-01 and 9999-12-31: what RFC 3339 can write and `Timestamp` may hold.
const RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A `Time`: whole seconds. Nothing if it is not set, which Go encodes as an empty message.
pub(super) fn seconds(message: &[u8]) -> Result<Option<String>, Error> {
    let Some((seconds, _)) = timestamp(message)? else { return Ok(None) };
    Ok(Some(format!("{}Z", civil(seconds))))
}

/// A `MicroTime`: six digits of a second.
pub(super) fn micros(message: &[u8]) -> Result<Option<String>, Error> {
    let Some((seconds, nanos)) = timestamp(message)? else { return Ok(None) };
    Ok(Some(format!("{}.{:06}Z", civil(seconds), nanos / 1000)))
}

fn timestamp(message: &[u8]) -> Result<Option<(i64, i64)>, Error> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Reader::new(message) {
        match field? {
            (1, Wire::Varint(value)) => seconds = value as i64,
            (2, Wire::Varint(value)) => nanos = value as i64,
            (number, value) => unknown(number, value, "Timestamp")?,
        }
    }
    if !RANGE.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return Err(malformed(format!("the time {seconds} s and {nanos} ns after 1970 is out of range")));
    }
    // Go's zero time is the first second of year 1: as little a time as an empty message.
    let unset = message.is_empty() || (seconds, nanos) == (*RANGE.start(), 0);
    Ok((!unset).then_some((seconds, nanos)))
}

/// Date and time of day by the proleptic Gregorian calendar, without a zone.
fn civil(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01: a year that begins in March ends with its leap day.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right side is what `date -u -d @N` prints.
    #[test]
    fn writes_dates_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (-1, "1969-12-31T23:59:59"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (4_107_542_399, "2100-02-28T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (1_795_291_200, "2026-11-21T20:00:00"),
            (-62_135_596_799, "0001-01-01T00:00:01"),
            (253_402_300_799, "9999-12-31T23:59:59"),
        ] {
            assert_eq!(civil(seconds), text);
        }
    }

    #[test]
    fn an_unset_time_is_absent() {
        assert_eq!(seconds(b"").unwrap(), None);
        assert_eq!(micros(b"").unwrap(), None);
        assert_eq!(micros(b"\x08\x80\x92\xb8\xc3\x98\xfe\xff\xff\xff\x01\x10\x00").unwrap(), None);
        assert_eq!(micros(b"\x08\x00\x10\xe8\x07").unwrap().as_deref(), Some("1970-01-01T00:00:00.000001Z"));
        assert!(seconds(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f").is_err());
        assert!(seconds(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").is_err());
    }
}
