//! Points in time as the log has them.

/// A point in time as RFC 3339 with nanoseconds, in UTC and always of the same length:
/// `2016-10-06T00:17:09.669794202Z`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timestamp([u8; Self::LENGTH]);

impl Timestamp {
    /// The length in bytes.
    pub const LENGTH: usize = 30;

    /// The point in time that many nanoseconds after 1970; points before 1970 or after 9999 become those bounds.
    #[must_use]
    pub fn from_unix_ns(ns: i64) -> Self {
        let ns = ns.max(0).unsigned_abs();
        let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        put(&mut text[0..4], year);
        put(&mut text[5..7], month);
        put(&mut text[8..10], day);
        put(&mut text[11..13], second / 3600);
        put(&mut text[14..16], second / 60 % 60);
        put(&mut text[17..19], second % 60);
        put(&mut text[20..29], nanos);
        Self(text)
    }

    /// Date and time to the second as part of a file name: `20161006-001709`.
    pub(super) fn compact(&self) -> String {
        let digits = |range: core::ops::Range<usize>| {
            self.0[range].iter().filter(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte))
        };
        digits(0..10).chain(['-']).chain(digits(11..19)).collect()
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

/// Writes the last digits of `number`, as many as there is room for.
fn put(text: &mut [u8], mut number: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01. The year begins in March here, so that the leap day is its
/// last (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (-1, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399_999_999_999, "2000-02-28T23:59:59.999999999Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800_000_000_001, "2000-03-01T00:00:00.000000001Z"),
            (1_475_713_029_669_794_202, "2016-10-06T00:17:09.669794202Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
        ] {
            let timestamp = Timestamp::from_unix_ns(ns);
            assert_eq!(core::str::from_utf8(timestamp.as_bytes()).unwrap(), text);
        }
    }

    #[test]
    fn days_follow_each_other() {
        let length = |year: u64, month| match month {
            2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..110_000 {
            assert_eq!(civil(days), (year, month, day));
            day += 1;
            if day > length(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }
}
