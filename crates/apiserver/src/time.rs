//! Points in time as objects carry them.

use jiff::Timestamp;
use serde_json::Value;

/// Now, in whole seconds: `2026-11-21T20:00:00Z`.
#[must_use]
pub fn now() -> String {
    format(Timestamp::now())
}

/// Whole seconds, as `meta/v1.Time` is written.
#[must_use]
pub fn format(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// With six digits of a second, as `meta/v1.MicroTime` is written.
#[must_use]
pub fn format_micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The point in time that a value holds; None if it holds none.
#[must_use]
pub fn parse(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// How long ago, as tables show it (`5m30s`, `3h5m`, `2d`); `<unknown>` if there is no time.
#[must_use]
pub fn age(since: &Value, now: Timestamp) -> String {
    parse(since).map_or_else(|| "<unknown>".to_owned(), |since| human(now.as_second() - since.as_second()))
}

/// Seconds in the short form of tables.
#[must_use]
pub fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let two = |whole: i64, unit: char, part: i64, small: char| {
        if part == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{part}{small}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 | 0 => "0s".to_owned(),
        1..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, 'd', hours % 24, 'h'),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_in_kubectl() {
        let told: Vec<String> = [
            0, 59, 119, 120, 150, 600, 10_799, 10_800, 11_100, 28_800, 172_800, 176_400, 700_000, 63_072_000,
        ]
        .into_iter()
        .map(human)
        .collect();
        assert_eq!(
            told,
            ["0s", "59s", "119s", "2m", "2m30s", "10m", "179m", "3h", "3h5m", "8h", "2d", "2d1h", "8d", "2y"]
        );
    }
}
