//! Quantities: `500m`, `1.5Gi`, `2e3`, parsed exactly.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

super::never_absent!(Quantity);

/// An amount of a resource, exact to 10⁻⁹. Written as it was given.
///
/// The grammar is that of `k8s.io/apimachinery/pkg/api/resource`: a decimal number with a binary suffix (`Ki` to
/// `Ei`), a decimal one (`n`, `u`, `m`, `k` to `E`) or a decimal exponent. Finer fractions round up.
#[derive(Debug, Clone)]
pub struct Quantity {
    text: String,
    nanos: i128,
}

impl Quantity {
    /// The value in whole units (bytes, cores), rounded up.
    pub fn value(&self) -> i64 {
        round_up(self.nanos, NANO)
    }

    /// The value in thousandths, rounded up.
    pub fn milli(&self) -> i64 {
        round_up(self.nanos, NANO / 1000)
    }

    /// The exact value in 10⁻⁹ units.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// Whether it is 0.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// A quantity of whole units.
    pub fn from_value(value: i64) -> Self {
        Self { text: value.to_string(), nanos: i128::from(value) * NANO }
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::from_value(0)
    }
}

impl PartialEq for Quantity {
    /// Amounts are compared, not spellings: `1000m` is `1`.
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseQuantityError(String);

impl fmt::Display for ParseQuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no quantity: write a number such as 500m, 1.5, 64Mi or 2e9", self.0)
    }
}

impl std::error::Error for ParseQuantityError {}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let nanos = parse_nanos(text).ok_or_else(|| ParseQuantityError(text.to_owned()))?;
        Ok(Self { text: text.to_owned(), nanos })
    }
}

const NANO: i128 = 1_000_000_000;
/// Kubernetes caps quantities at the largest 64-bit number.
const MAX: i128 = i64::MAX as i128 * NANO;

fn round_up(nanos: i128, unit: i128) -> i64 {
    let whole = nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) != 0);
    i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
}

fn parse_nanos(text: &str) -> Option<i128> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(number_len);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let scale = Scale::parse(suffix)?;
    let magnitude = scale.apply(whole, fraction);
    Some(if negative { -magnitude } else { magnitude })
}

enum Scale {
    Binary(u32),
    Decimal(i32),
}

impl Scale {
    fn parse(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "" => Self::Decimal(0),
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            "Ki" => Self::Binary(10),
            "Mi" => Self::Binary(20),
            "Gi" => Self::Binary(30),
            "Ti" => Self::Binary(40),
            "Pi" => Self::Binary(50),
            "Ei" => Self::Binary(60),
            _ => Self::Decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
        })
    }

    /// `whole.fraction` times the scale in nanos, rounded up, capped at [`MAX`].
    fn apply(&self, whole: &str, fraction: &str) -> i128 {
        // The digits as one integer, and the power of ten that makes it the number.
        let digits: String = format!("{whole}{fraction}").trim_start_matches('0').to_owned();
        let mut exponent = -i64::try_from(fraction.len()).unwrap_or(i64::MAX) + 9;
        if digits.is_empty() {
            return 0;
        }
        let mut mantissa: i128 = 0;
        let mut inexact = false;
        for (index, digit) in digits.bytes().enumerate() {
            // 30 digits are more than any quantity below the cap needs; the rest only decides the rounding.
            if index < 30 {
                mantissa = mantissa * 10 + i128::from(digit - b'0');
            } else {
                exponent += 1;
                inexact |= digit != b'0';
            }
        }
        match self {
            Self::Decimal(power) => exponent += i64::from(*power),
            Self::Binary(power) => {
                // 2^60 * 10^30 overflows: reduce first what is beyond the cap anyway.
                mantissa = match mantissa.checked_mul(1 << power) {
                    Some(product) => product,
                    None => {
                        exponent += 19;
                        mantissa / 10_i128.pow(19) * (1 << power)
                    }
                };
            }
        }
        scale_decimal(mantissa, exponent, inexact)
    }
}

fn scale_decimal(mantissa: i128, exponent: i64, inexact: bool) -> i128 {
    let round = i128::from(inexact);
    if exponent >= 0 {
        let power = u32::try_from(exponent).ok().and_then(|power| 10_i128.checked_pow(power));
        return power
            .and_then(|power| mantissa.checked_mul(power))
            .map_or(MAX, |nanos| (nanos + round).min(MAX));
    }
    match u32::try_from(-exponent).ok().and_then(|power| 10_i128.checked_pow(power)) {
        Some(power) => {
            let up = i128::from(mantissa % power != 0).max(round);
            (mantissa / power + up).min(MAX)
        }
        // Less than a nano, but not nothing.
        None => 1,
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
                inner.deserialize_any(self)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Quantity::from_value(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
                value.to_string().parse().map_err(E::custom)
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
                // The shortest decimal that reads back as this number is what the manifest said.
                value.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_newtype_struct("Quantity", V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nanos(text: &str) -> i128 {
        text.parse::<Quantity>().unwrap().nanos()
    }

    #[test]
    fn known_values() {
        for (text, value) in [
            ("0", 0),
            ("1", NANO),
            ("100m", 100_000_000),
            ("0.1", 100_000_000),
            ("1.5Gi", 3 * (1 << 29) * NANO),
            ("64Mi", (64 << 20) * NANO),
            ("2e3", 2000 * NANO),
            ("1E3", 1000 * NANO),
            ("1E", 1_000_000_000_000_000_000 * NANO),
            ("12e-3", 12_000_000),
            ("+5k", 5000 * NANO),
            ("-1", -NANO),
            (".5", NANO / 2),
            ("5.", 5 * NANO),
            ("1n", 1),
            ("0.1n", 1),
            ("9223372036854775807", MAX),
            ("99999999999999999999999999999999999999999999", MAX),
            ("16Ei", MAX),
            ("1e1000", MAX),
            ("1e-1000", 1),
            ("0e1000", 0),
        ] {
            assert_eq!(nanos(text), value, "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in
            ["", "-", ".", "1.2.3", "1 Gi", "1gi", "1KI", "Gi", "1e", "abc", "1.5 ", "0x10", "1__0", "1mi"]
        {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn rounds_up() {
        let quantity: Quantity = "1m".parse().unwrap();
        assert_eq!((quantity.value(), quantity.milli()), (1, 1));
        let quantity: Quantity = "1500u".parse().unwrap();
        assert_eq!((quantity.value(), quantity.milli()), (1, 2));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-+]?[0-9.]{0,50}([KMGTPE]i?|[numk]|[eE][-+]?[0-9]{0,12})?") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                prop_assert!(quantity.nanos().abs() <= MAX);
                prop_assert_eq!(quantity.to_string(), text);
            }
        }

        #[test]
        fn whole_numbers_are_exact(value in any::<i64>()) {
            prop_assert_eq!(value.to_string().parse::<Quantity>().unwrap().value(), value);
        }
    }
}
