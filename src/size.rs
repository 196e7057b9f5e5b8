//! Numbers for people.

use std::time::Duration;

/// `4096`, `512Ki`, `64Mi`, `2Gi` as bytes.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let units = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)];
    let (number, unit) = units
        .into_iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))
        .unwrap_or((text, 1));
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// `812 B`, `4.2 MiB`: bytes in powers of 1024, as the limits in manifests are.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value < 9.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// `12 ms`, `3.4 s`, `2 min 5 s`.
pub(crate) fn duration(time: Duration) -> String {
    let millis = time.as_millis();
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..9950 => format!("{:.1} s", time.as_secs_f64()),
        9950..60_000 => format!("{:.0} s", time.as_secs_f64()),
        _ => {
            let seconds = (millis + 500) / 1000;
            match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
                (0, minutes, 0) => format!("{minutes} min"),
                (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
                (hours, minutes, _) => format!("{hours} h {minutes} min"),
            }
        }
    }
}

/// `done/total` as a bar of `width` cells.
pub(crate) fn bar(done: u64, total: u64, width: usize) -> String {
    let cells = u64::try_from(width).unwrap_or(u64::MAX);
    let full = done.min(total).saturating_mul(cells).checked_div(total).unwrap_or(0);
    let full = usize::try_from(full).unwrap_or(width);
    format!("[{}{}]", "#".repeat(full), ".".repeat(width - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_two_or_three_digits() {
        let shown: Vec<String> = [0, 1023, 1024, 10_188, 10_189, 123_456_789].map(bytes).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "9.9 KiB", "10 KiB", "118 MiB"]);
    }

    #[test]
    fn durations_suit_their_length() {
        let shown = [3, 999, 1500, 9949, 12_400, 60_000, 125_000, 3_780_000]
            .map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(shown, ["3 ms", "999 ms", "1.5 s", "9.9 s", "12 s", "1 min", "2 min 5 s", "1 h 3 min"]);
    }

    #[test]
    fn a_bar_never_overflows() {
        assert_eq!(bar(5, 10, 10), "[#####.....]");
        assert_eq!(bar(11, 10, 4), "[####]");
        assert_eq!(bar(1, 0, 4), "[....]");
    }
}
