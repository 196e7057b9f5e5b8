//! Records of an extended header (pax(1), "pax Extended Header"): `<length> <key>=<value>\n`, the length being the whole's.

use crate::{Error, Kind};

use super::unsound;

const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";

/// Keys and values as they were written; of one that comes twice the last counts, as with everybody.
#[derive(Default)]
pub(super) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    pub(super) fn parse(mut text: &[u8]) -> Result<Self, Error> {
        let mut records = Vec::new();
        while !text.is_empty() {
            let (key, value, rest) =
                record(text).ok_or_else(|| unsound("an extended header is malformed"))?;
            let is_name = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
            if key.contains(&0) || is_name && value.contains(&0) {
                return Err(unsound("a name in an extended header contains a NUL byte"));
            }
            records.push((key.to_vec(), value.to_vec()));
            text = rest;
        }
        Ok(Self(records))
    }

    /// The value of this key. An empty one stands for none.
    pub(super) fn value(&self, key: &[u8]) -> Option<&[u8]> {
        let last = self.0.iter().rev().find(|(k, _)| k == key);
        last.map(|(_, value)| &value[..]).filter(|value| !value.is_empty())
    }

    /// A decimal number that is not negative.
    pub(super) fn number(&self, key: &[u8]) -> Result<Option<u64>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number = digits(value).and_then(|text| text.parse::<i64>().ok());
        let number = number.and_then(|number| u64::try_from(number).ok());
        number.map(Some).ok_or_else(|| malformed(key))
    }

    /// The time of the last change.
    pub(super) fn time(&self) -> Result<Option<(i64, u32)>, Error> {
        let Some(value) = self.value(b"mtime") else { return Ok(None) };
        time(value).map(Some).ok_or_else(|| malformed(b"mtime"))
    }

    /// Extended attributes. A key may come twice here as well.
    pub(super) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let named =
            |(key, value): &(Vec<u8>, Vec<u8>)| Some((key.strip_prefix(XATTR)?.to_vec(), value.clone()));
        self.0.iter().filter_map(named).collect()
    }

    /// What is said about a sparse file under this name.
    pub(super) fn sparse(&self, name: &[u8]) -> Option<&[u8]> {
        self.value(&[SPARSE, name].concat())
    }

    /// All that is said about a sparse file, in order.
    pub(super) fn all_sparse(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().filter_map(|(key, value)| Some((key.strip_prefix(SPARSE)?, &value[..])))
    }

    /// Of a header for all entries that follow: some readers apply it, others do not.
    pub(super) fn check_global(&self) -> Result<(), Error> {
        let matters = |key: &[u8]| {
            matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime")
                || key.starts_with(XATTR)
                || key.starts_with(SPARSE)
        };
        match self.0.iter().find(|(key, _)| matters(key)) {
            Some((key, _)) => Err(Error::new(
                Kind::Unsupported,
                format!("a global header of the layer sets {} for all entries", key.escape_ascii()),
            )),
            None => Ok(()),
        }
    }
}

fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().take(20).position(|b| *b == b' ')?;
    let length = digits(&text[..space])?.parse::<usize>().ok()?;
    let (record, rest) = text.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=').filter(|at| *at > 0)?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

pub(super) fn digits(text: &[u8]) -> Option<&str> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| str::from_utf8(text).ok())?
}

/// Seconds since 1970: `-12.5`, `1700000000.123456789`.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    digits(whole.strip_prefix('-').unwrap_or(whole).as_bytes())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (seconds, nanos) = (whole.parse::<i64>().ok()?, nanos.parse::<u32>().ok()?);
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

fn malformed(key: &[u8]) -> Error {
    Error::invalid(format!("malformed {} in the extended header", key.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let time = |text: &str| time(text.as_bytes());
        assert_eq!(time("1700000000.5"), Some((1_700_000_000, 500_000_000)));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("1.1234567899"), Some((1, 123_456_789)));
        for wrong in ["", "x", "1.x", "99999999999999999999", "1.-5", "+1", "--1", " 1"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn records_are_as_long_as_they_say() {
        let read = |text: &[u8]| Records::parse(text);
        let records = read(b"8 a=b\nc\n9 path=x\n9 path=y\n7 uid=\n").unwrap();
        assert_eq!(records.value(b"a"), Some(&b"b\nc"[..]));
        assert_eq!((records.value(b"path"), records.value(b"uid")), (Some(&b"y"[..]), None));
        for wrong in [
            &b"6 a=b"[..],
            b"5 a=b\n",
            b"7 a=b\n",
            b"x a=b\n",
            b"-6 a=b\n",
            b"+6 a=b\n",
            b"5 =b\n",
            b"5 ab\n",
            b"6 a=b\n\0",
        ] {
            assert!(read(wrong).is_err(), "{}", wrong.escape_ascii());
        }
        assert!(read(b"10 path=\0x\n").is_err());
        assert!(read(b"").unwrap().0.is_empty());
    }

    #[test]
    fn numbers() {
        let number = |text: &str| {
            let record = format!("{} size={text}\n", text.len() + 9);
            Records::parse(record.as_bytes()).unwrap().number(b"size").ok().flatten()
        };
        assert_eq!(number("00120"), Some(120));
        for wrong in ["-1", "+1", "1.0", " 1", "0x1", "9223372036854775808", "18446744073709551616"] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }
}
