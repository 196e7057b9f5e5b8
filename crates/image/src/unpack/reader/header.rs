//! The block of 512 bytes that every entry begins with.

use crate::Error;

use super::{BLOCK, unsound, until_nul};

/// Who wrote it; decides what the end of the block means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// GNU tar: long names, sparse files.
    Gnu,
    /// Before POSIX.
    Old,
    /// POSIX: a prefix of the name.
    Ustar,
}

/// A header whose checksum is right.
pub(super) struct Header([u8; BLOCK]);

impl Header {
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Self, Error> {
        let bytes = |at: usize| if (148..156).contains(&at) { b' ' } else { block[at] };
        let unsigned: i64 = (0..BLOCK).map(|at| i64::from(bytes(at))).sum();
        // Some old programs added up signed characters.
        let signed: i64 = (0..BLOCK).map(|at| i64::from(bytes(at).cast_signed())).sum();
        match number(&block[148..156]) {
            Some(sum) if sum == unsigned || sum == signed => Ok(Self(block)),
            _ => Err(unsound("the checksum of a header is wrong")),
        }
    }

    /// The type of the entry, as it is written.
    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn format(&self) -> Format {
        match &self.0[257..265] {
            b"ustar  \0" => Format::Gnu,
            magic if magic.starts_with(b"ustar\0") => Format::Ustar,
            _ => Format::Old,
        }
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = until_nul(&self.0[345..500]);
        if self.format() == Format::Ustar && !prefix.is_empty() {
            return [prefix, b"/", name].concat();
        }
        name.to_vec()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(&self.0[157..257]).to_vec()
    }

    /// Permission bits; the type that some programs write besides is left out.
    pub(super) fn mode(&self) -> Result<u32, Error> {
        Ok(u32::try_from(self.unsigned(100..108, "mode")? & 0o7777).unwrap_or(0))
    }

    pub(super) fn uid(&self) -> Result<u64, Error> {
        self.unsigned(108..116, "uid")
    }

    pub(super) fn gid(&self) -> Result<u64, Error> {
        self.unsigned(116..124, "gid")
    }

    /// Bytes of content that follow.
    pub(super) fn size(&self) -> Result<u64, Error> {
        self.unsigned(124..136, "size")
    }

    pub(super) fn mtime(&self) -> Result<i64, Error> {
        number(&self.0[136..148]).ok_or_else(|| malformed("mtime"))
    }

    /// Major and minor number.
    pub(super) fn device(&self) -> Result<(u32, u32), Error> {
        let half = |range, what| {
            let number = self.unsigned(range, what)?;
            u32::try_from(number).map_err(|_| malformed("device number"))
        };
        Ok((half(329..337, "device number")?, half(337..345, "device number")?))
    }

    /// The size of a sparse file with its holes.
    pub(super) fn real_size(&self) -> Result<u64, Error> {
        self.unsigned(483..495, "size of a sparse file")
    }

    /// The beginning of a sparse file's map, and whether more of it follows.
    pub(super) fn map(&self) -> Result<(Vec<(u64, u64)>, bool), Error> {
        Ok((pieces(&self.0[386..482])?, self.0[482] != 0))
    }

    fn unsigned(&self, range: std::ops::Range<usize>, what: &str) -> Result<u64, Error> {
        number(&self.0[range]).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| malformed(what))
    }
}

/// A further block of a sparse file's map, and whether more of it follows.
pub(super) fn more_map(block: &[u8; BLOCK]) -> Result<(Vec<(u64, u64)>, bool), Error> {
    Ok((pieces(&block[..504])?, block[504] != 0))
}

fn pieces(map: &[u8]) -> Result<Vec<(u64, u64)>, Error> {
    let read = |field: &[u8]| {
        let number = number(field).and_then(|n| u64::try_from(n).ok());
        number.ok_or_else(|| malformed("map of a sparse file"))
    };
    // The first empty one ends it.
    let used = map.chunks_exact(24).take_while(|piece| piece[0] != 0);
    used.map(|piece| Ok((read(&piece[..12])?, read(&piece[12..])?))).collect()
}

/// A number: octal digits between blanks and NUL bytes, none of them being 0; or, with the first bit set, binary with
/// the most significant byte first, in two's complement.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = if negative { -1 } else { i64::from(first & 0x3f) };
        // Of a negative number the first byte is all ones.
        if negative && *first != 0xff {
            return None;
        }
        return rest.iter().try_fold(start, |sum, b| sum.checked_mul(256)?.checked_add(i64::from(*b)));
    }
    let is_blank = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !is_blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let digits = &digits[..digits.iter().position(is_blank).unwrap_or(digits.len())];
    if !field[start + digits.len()..].iter().all(is_blank) {
        return None;
    }
    digits.iter().try_fold(0_i64, |sum, b| match b {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

fn malformed(what: &str) -> Error {
    Error::invalid(format!("malformed {what} in the header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"77777777", Some(0o77_777_777)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"0000 644", None),
            (b"00006x4\0", None),
            (b"-000644\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xc0\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), value, "{}", field.escape_ascii());
        }
    }
}
