//! Amounts of resources: `500m`, `1.5Gi`, `2e3` (`k8s.io/apimachinery/pkg/api/resource`).

use std::cmp::Ordering;
use std::fmt;

/// An amount, exact to 10⁻⁹. Its `Display` is the canonical form of Go: no fraction, the largest suffix that needs
/// none, of the family in which it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quantity {
    nanos: i128,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Binary,
    Decimal,
    Exponent,
}

const NANO: i128 = 1_000_000_000;
const DECIMAL: [(i32, &str); 10] =
    [(-9, "n"), (-6, "u"), (-3, "m"), (0, ""), (3, "k"), (6, "M"), (9, "G"), (12, "T"), (15, "P"), (18, "E")];
const BINARY: [(u32, &str); 6] = [(10, "Ki"), (20, "Mi"), (30, "Gi"), (40, "Ti"), (50, "Pi"), (60, "Ei")];

impl Quantity {
    pub(crate) const ZERO: Self = Self { nanos: 0, form: Form::Decimal };
    pub(crate) const ONE: Self = Self { nanos: NANO, form: Form::Decimal };

    /// The amount that a text says; nothing if it says none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(number);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (form, binary, decimal) =
            if let Some((power, _)) = BINARY.iter().find(|(_, name)| *name == suffix) {
                (Form::Binary, *power, 0)
            } else if let Some((power, _)) = DECIMAL.iter().find(|(_, name)| *name == suffix) {
                (Form::Decimal, 0, *power)
            } else {
                (Form::Exponent, 0, suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?)
            };
        // 10^22 units are beyond what Kubernetes keeps (2^63 - 1), and digits beyond nano only round up.
        let digits: String = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        let scale = 9 + i64::from(decimal) - i64::try_from(fraction.len()).ok()?;
        let nanos = scaled(digits, scale, 1_i128 << binary).min(i128::from(i64::MAX) * NANO);
        Some(Self { nanos: if negative { -nanos } else { nanos }, form })
    }

    /// The amount of a field of an object; zero if it is absent or no amount (decoding refuses those).
    pub(crate) fn of(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::String(text) => Self::parse(text).unwrap_or(Self::ZERO),
            serde_json::Value::Number(number) => Self::parse(&number.to_string()).unwrap_or(Self::ZERO),
            _ => Self::ZERO,
        }
    }

    pub(crate) fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub(crate) fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// In thousandths, rounded up.
    pub(crate) fn milli(self) -> i128 {
        up(self.nanos, NANO / 1000)
    }

    /// Rounded up to thousandths, as stored amounts of resources are.
    pub(crate) fn rounded(self) -> Self {
        Self { nanos: self.milli() * (NANO / 1000), ..self }
    }

    pub(crate) fn is_whole(self) -> bool {
        self.milli() % 1000 == 0
    }

    /// Whether it is a multiple of another.
    pub(crate) fn divisible_by(self, unit: Self) -> bool {
        unit.nanos != 0 && self.nanos % unit.nanos == 0
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        let form = if self.is_zero() { other.form } else { self.form };
        Self { nanos: self.nanos.saturating_add(other.nanos), form }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        let form = if self.is_zero() { other.form } else { self.form };
        Self { nanos: self.nanos.saturating_sub(other.nanos), form }
    }
}

/// The digits times 10^scale times a factor, rounded up, saturating.
fn scaled(digits: &str, scale: i64, factor: i128) -> i128 {
    let (mut number, mut scale, mut more) = (0_i128, scale, false);
    for digit in digits.bytes().map(|b| i128::from(b - b'0')) {
        match number.checked_mul(10).and_then(|number| number.checked_add(digit)) {
            Some(next) if next < i128::MAX / (1 << 60) => number = next,
            _ => (scale, more) = (scale + 1, more || digit != 0),
        }
    }
    number = number.saturating_mul(factor);
    let round = i128::from(more && number > 0);
    let power = u32::try_from(scale.unsigned_abs()).ok().and_then(|power| 10_i128.checked_pow(power));
    match (scale >= 0, power) {
        (true, Some(power)) => number.saturating_mul(power).saturating_add(round),
        (true, None) => {
            if number == 0 {
                0
            } else {
                i128::MAX
            }
        }
        (false, Some(power)) => up(number, power).saturating_add(round),
        (false, None) => i128::from(number != 0),
    }
}

fn up(number: i128, unit: i128) -> i128 {
    number.div_euclid(unit) + i128::from(number.rem_euclid(unit) != 0)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.form == Form::Binary && self.nanos % NANO == 0 && self.nanos.abs() >= 1024 * NANO {
            let (mut number, mut suffix) = (self.nanos / NANO, "");
            for (_, name) in BINARY {
                if number % 1024 != 0 {
                    break;
                }
                (number, suffix) = (number / 1024, name);
            }
            return write!(f, "{number}{suffix}");
        }
        let (mut number, mut power) = (self.nanos, -9);
        while number % 1000 == 0 && (power < 18 || self.form == Form::Exponent) {
            (number, power) = (number / 1000, power + 3);
        }
        match self.form {
            Form::Exponent if power != 0 => write!(f, "{number}e{power}"),
            _ => {
                let suffix = DECIMAL.iter().find(|(of, _)| *of == power).map_or("", |(_, name)| name);
                write!(f, "{number}{suffix}")
            }
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("128Mi", "128Mi"),
            ("500Mi", "500Mi"),
            ("1000Ki", "1000Ki"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("100", "100"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("1E", "1E"),
            ("100n", "100n"),
            ("1.0001", "1000100u"),
            ("-1Gi", "-1Gi"),
            ("+2", "2"),
            (".5", "500m"),
            ("1.", "1"),
            ("0.0000000001", "1n"),
            ("1e2", "100"),
            ("2000000", "2M"),
            ("0.1Mi", "104857600m"),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), canonical, "{text}");
        }
        for bad in ["", "Gi", "1 Gi", "1gi", "1.2.3", "--1", "1e", "e3", "1Kii"] {
            assert!(Quantity::parse(bad).is_none(), "{bad}");
        }
        let huge = Quantity::parse("99999999999999999999999999999999999999999999Ei").unwrap();
        assert_eq!(huge.milli(), i128::from(i64::MAX) * 1000);
        assert_eq!(Quantity::parse("1e-400").unwrap().to_string(), "1e-9");
    }

    #[test]
    fn arithmetic() {
        let q = |text| Quantity::parse(text).unwrap();
        assert!(q("1Gi") > q("1G") && q("1000m") == q("1") && q("1u").milli() == 1);
        assert_eq!(q("1Gi").plus(q("512Mi")).to_string(), "1536Mi");
        assert_eq!(Quantity::ZERO.plus(q("64Mi")).to_string(), "64Mi");
        assert_eq!(q("2").minus(q("500m")).to_string(), "1500m");
        assert_eq!(q("1u").rounded().to_string(), "1m");
        assert!(q("4Mi").divisible_by(q("2Mi")) && !q("3Mi").divisible_by(q("2Mi")));
    }
}
