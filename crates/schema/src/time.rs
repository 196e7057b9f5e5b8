//! Points in time as Kubernetes writes them, and Go's words for what is none.

use crate::scan::quoted;

const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const LAYOUT_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// A time of whole seconds, in UTC; nothing for the zero time.
pub(crate) fn seconds(text: &str) -> Result<Option<String>, String> {
    Ok(parse(text, false)?.filter(|time| !time.zero()).map(|time| format!("{}Z", time.date_and_time())))
}

/// A time of microseconds, in UTC; nothing for the zero time.
pub(crate) fn micros(text: &str) -> Result<Option<String>, String> {
    let written = |time: Time| format!("{}.{:06}Z", time.date_and_time(), time.micros);
    Ok(parse(text, true)?.filter(|time| !time.zero()).map(written))
}

/// A time by its seconds and microseconds since 1970: a time of microseconds if these are given, else one of whole seconds.
/// Nothing for the zero time and for what four digits of a year cannot tell.
pub(crate) fn of(seconds: i64, micros: Option<u32>) -> Option<String> {
    let days = seconds.div_euclid(86_400) + days(1970, 1, 1);
    let time = Time { days, second: seconds.rem_euclid(86_400), micros: micros.unwrap_or_default() };
    if time.zero() || !(self::days(1, 1, 1)..self::days(10_000, 1, 1)).contains(&days) {
        return None;
    }
    let fraction = micros.map(|micros| format!(".{micros:06}")).unwrap_or_default();
    Some(format!("{}{fraction}Z", time.date_and_time()))
}

struct Time {
    /// Since 0000-03-01.
    days: i64,
    second: i64,
    micros: u32,
}

impl Time {
    /// The first second of the year 1 is what Go has for no time.
    fn zero(&self) -> bool {
        self.days == days(1, 1, 1) && self.second == 0 && self.micros == 0
    }

    fn date_and_time(&self) -> String {
        let (year, month, day) = date(self.days);
        let (hour, minute, second) = (self.second / 3600, self.second / 60 % 60, self.second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

fn parse(text: &str, micro: bool) -> Result<Option<Time>, String> {
    let layout = if micro { LAYOUT_MICRO } else { LAYOUT };
    let mut rest = text;
    let wrong = |rest: &str, element: &str| {
        format!(
            "parsing time {} as {}: cannot parse {} as {}",
            quoted(text),
            quoted(layout),
            quoted(rest),
            quoted(element)
        )
    };
    let outside = |what: &str| format!("parsing time {}: {what} out of range", quoted(text));
    let mut numbers = [0_i64; 6];
    let elements =
        [("2006", 4, "-"), ("01", 2, "-"), ("02", 2, "T"), ("15", 2, ":"), ("04", 2, ":"), ("05", 2, "")];
    for (number, (element, width, separator)) in numbers.iter_mut().zip(elements) {
        let digits = rest.get(..width).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let digits = digits.ok_or_else(|| wrong(rest, element))?;
        *number = digits.parse().map_err(|_| wrong(rest, element))?;
        rest = &rest[width..];
        rest = rest.strip_prefix(separator).ok_or_else(|| wrong(rest, separator))?;
    }
    let [year, month, day, hour, minute, second] = numbers;
    let micros = fraction(&mut rest, micro).ok_or_else(|| wrong(rest, ".000000"))?;
    let offset = zone(&mut rest).ok_or_else(|| wrong(rest, "Z07:00"))?;
    if !rest.is_empty() {
        return Err(format!("parsing time {}: extra text: {}", quoted(text), quoted(rest)));
    }
    let month_days = days(year + month / 12, month % 12 + 1, 1) - days(year, month.max(1), 1);
    for (what, value, least, most) in [
        ("month", month, 1, 12),
        ("day", day, 1, month_days),
        ("hour", hour, 0, 23),
        ("minute", minute, 0, 59),
        ("second", second, 0, 59),
    ] {
        if !(least..=most).contains(&value) {
            return Err(outside(what));
        }
    }
    let total = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Ok(Some(Time { days: total.div_euclid(86_400), second: total.rem_euclid(86_400), micros }))
}

/// Microseconds; a time of seconds may have any fraction, which is cut off, one of microseconds has six digits.
fn fraction(rest: &mut &str, micro: bool) -> Option<u32> {
    let Some(after) = rest.strip_prefix(['.', ',']) else { return (!micro).then_some(0) };
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || (micro && digits != 6) {
        return if micro { None } else { Some(0) };
    }
    let value = format!("{:0<6.6}", &after[..digits]).parse().ok()?;
    *rest = &after[digits..];
    Some(value)
}

/// Seconds east of UTC.
fn zone(rest: &mut &str) -> Option<i64> {
    if let Some(after) = rest.strip_prefix('Z') {
        *rest = after;
        return Some(0);
    }
    let sign = match rest.bytes().next()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let two = |from: usize| rest.get(from..from + 2)?.parse::<i64>().ok().filter(|_| rest.is_ascii());
    let (hours, minutes) = (two(1)?, two(4)?);
    if rest.get(3..4) != Some(":") || hours > 24 || minutes > 60 {
        return None;
    }
    *rest = &rest[6..];
    Some(sign * (hours * 3600 + minutes * 60))
}

/// Days since 0000-03-01 of a day in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year
}

fn date(days: i64) -> (i64, i64, i64) {
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_utc_of_their_own_precision() {
        for (given, wanted) in [
            ("2026-11-21T20:00:00Z", "2026-11-21T20:00:00Z"),
            ("2026-11-21T20:00:00.123456789Z", "2026-11-21T20:00:00Z"),
            ("2026-01-01T00:30:00+01:00", "2025-12-31T23:30:00Z"),
            ("2024-02-28T23:30:00-01:00", "2024-02-29T00:30:00Z"),
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(seconds(given).unwrap().unwrap(), wanted);
        }
        assert_eq!(micros("2026-11-21T20:00:00.000120Z").unwrap().unwrap(), "2026-11-21T20:00:00.000120Z");
        assert_eq!(seconds("0001-01-01T00:00:00Z").unwrap(), None);
    }

    #[test]
    fn what_is_no_time_is_told_as_go_tells_it() {
        let layout = "\"2006-01-02T15:04:05Z07:00\"";
        for (given, why) in [
            ("", format!("parsing time \"\" as {layout}: cannot parse \"\" as \"2006\"")),
            (
                "tomorrow",
                format!("parsing time \"tomorrow\" as {layout}: cannot parse \"tomorrow\" as \"2006\""),
            ),
            ("2026-11", format!("parsing time \"2026-11\" as {layout}: cannot parse \"\" as \"-\"")),
            (
                "2026-11-21T20:00:00",
                format!("parsing time \"2026-11-21T20:00:00\" as {layout}: cannot parse \"\" as \"Z07:00\""),
            ),
            ("2026-13-21T20:00:00Z", "parsing time \"2026-13-21T20:00:00Z\": month out of range".to_owned()),
            ("2026-02-29T20:00:00Z", "parsing time \"2026-02-29T20:00:00Z\": day out of range".to_owned()),
            ("2026-02-28T20:00:00Zx", "parsing time \"2026-02-28T20:00:00Zx\": extra text: \"x\"".to_owned()),
        ] {
            assert_eq!(seconds(given).unwrap_err(), why);
        }
        assert!(micros("2026-11-21T20:00:00Z").unwrap_err().contains("as \".000000\""));
    }

    /// The right side is what `date -u -d @N` prints.
    #[test]
    fn seconds_since_1970_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-62_135_596_799, "0001-01-01T00:00:01Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(of(seconds, None).as_deref(), Some(text));
        }
        assert_eq!(of(0, Some(1)).as_deref(), Some("1970-01-01T00:00:00.000001Z"));
        for seconds in [i64::MIN, -62_135_596_800, 253_402_300_800, i64::MAX] {
            assert_eq!(of(seconds, None), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn anything_may_be_asked(text in "\\PC{0,40}", numbers in proptest::array::uniform6(0..99_u32)) {
            let _ = (seconds(&text), micros(&text));
            let [a, b, c, d, e, f] = numbers;
            let _ = seconds(&format!("{a:04}-{b:02}-{c:02}T{d:02}:{e:02}:{f:02}Z"));
        }

        #[test]
        fn a_date_is_a_number_of_days(day in 0..4_000_000_i64) {
            let (y, m, d) = date(day);
            assert_eq!(days(y, m, d), day);
        }
    }
}
