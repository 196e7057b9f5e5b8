//! Files with holes: the old form of GNU tar, and its three forms in extended headers (GNU tar manual, "Storing Sparse
//! Files").

use std::io::Read;

use crate::{Error, Kind};

use super::header::{self, Header};
use super::pax::{Records, digits};
use super::{BLOCK, Entry, Reader, unsound};

/// Digits of a number in a map.
const DIGITS: usize = 20;

impl<R: Read> Reader<R> {
    /// Sets the size of a file with holes, and where its content goes.
    pub(super) fn find_holes(
        &mut self,
        header: &Header,
        pax: &Records,
        entry: &mut Entry,
    ) -> Result<(), Error> {
        let (size, mut pieces) = if header.kind() == b'S' {
            (header.real_size()?, self.old_map(header)?)
        } else if pax.all_sparse().next().is_some() {
            let size = pax.sparse(b"realsize").or_else(|| pax.sparse(b"size"));
            (number(size.unwrap_or_default())?, self.map(pax)?)
        } else {
            return Ok(());
        };
        let mut end = 0;
        for (offset, length) in &pieces {
            let behind = offset.checked_add(*length).filter(|behind| *offset >= end && *behind <= size);
            end = behind.ok_or_else(|| unsound("the map of a sparse file contradicts itself"))?;
        }
        if pieces.iter().map(|(_, length)| length).sum::<u64>() != self.content {
            return Err(unsound("the map of a sparse file has another size than its content"));
        }
        pieces.retain(|(_, length)| *length > 0);
        (entry.size, entry.pieces) = (size, pieces);
        Ok(())
    }

    fn old_map(&mut self, header: &Header) -> Result<Vec<(u64, u64)>, Error> {
        let (mut pieces, mut more) = header.map()?;
        while more {
            let Some(block) = self.block()? else {
                return Err(unsound("it is cut off in the map of a sparse file"));
            };
            let (next, even_more) = header::more_map(&block)?;
            pieces.extend(next);
            more = even_more;
        }
        Ok(pieces)
    }

    fn map(&mut self, pax: &Records) -> Result<Vec<(u64, u64)>, Error> {
        let version = (pax.sparse(b"major").unwrap_or(b"0"), pax.sparse(b"minor").unwrap_or(b"0"));
        let numbers = match version {
            (b"1", b"0") => self.map_in_content()?,
            (b"0", b"0" | b"1") => map_in_header(pax)?,
            _ => {
                let text = "sparse files of a version later than 1.0 are not supported";
                return Err(Error::new(Kind::Unsupported, text));
            }
        };
        match numbers.as_chunks::<2>() {
            (pieces, []) => Ok(pieces.iter().map(|[offset, length]| (*offset, *length)).collect()),
            _ => Err(malformed()),
        }
    }

    /// Version 1.0: decimal numbers at the beginning of the content, a line each: how many pieces there are, and offset and
    /// length of each; filled up to a block.
    fn map_in_content(&mut self) -> Result<Vec<u64>, Error> {
        let (mut numbers, mut line, mut wanted) = (Vec::new(), Vec::new(), None);
        while wanted != Some(numbers.len() as u64) {
            self.content = self.content.checked_sub(BLOCK as u64).ok_or_else(malformed)?;
            let block = self.block()?.ok_or_else(|| unsound("it is cut off in the map of a sparse file"))?;
            for byte in block {
                match byte {
                    _ if wanted == Some(numbers.len() as u64) => break,
                    b'\n' if wanted.is_none() => {
                        wanted = Some(number(&line)?.checked_mul(2).ok_or_else(malformed)?);
                        line.clear();
                    }
                    b'\n' => {
                        numbers.push(number(&line)?);
                        line.clear();
                    }
                    _ if line.len() < DIGITS => line.push(byte),
                    _ => return Err(malformed()),
                }
            }
        }
        Ok(numbers)
    }
}

/// Versions 0.0 and 0.1: records of their own for each number, or one with all of them.
fn map_in_header(pax: &Records) -> Result<Vec<u64>, Error> {
    let mut numbers = Vec::new();
    for (name, value) in pax.all_sparse() {
        let even = numbers.len().is_multiple_of(2);
        match name {
            b"offset" if even => numbers.push(number(value)?),
            b"numbytes" if !even => numbers.push(number(value)?),
            b"map" if numbers.is_empty() && value.is_empty() => {}
            b"map" if numbers.is_empty() => {
                numbers = value.split(|byte| *byte == b',').map(number).collect::<Result<_, _>>()?;
            }
            b"offset" | b"numbytes" | b"map" => return Err(malformed()),
            _ => {}
        }
    }
    let told = pax.sparse(b"numblocks").map(number).transpose()?;
    if told.is_some_and(|told| told != numbers.len() as u64 / 2) {
        return Err(malformed());
    }
    Ok(numbers)
}

fn number(text: &[u8]) -> Result<u64, Error> {
    let number = digits(text).and_then(|text| text.parse::<i64>().ok());
    number.and_then(|number| u64::try_from(number).ok()).ok_or_else(malformed)
}

fn malformed() -> Error {
    unsound("the map of a sparse file is malformed")
}
