//! The records of a log: `TIME STREAM TAG CONTENT`, one on each line; the tag P says that the line goes on in the next record.

use std::mem::take;

use jiff::Timestamp;
use vaquita_apiserver::{LogOptions, LogStream};

/// A record that is longer is none of a CRI server.
const LONGEST: usize = 1 << 20;

/// Bytes of files go in, the text that was asked for comes out.
#[derive(Debug)]
pub(super) struct Records {
    since: Option<Timestamp>,
    stream: LogStream,
    timestamps: bool,
    /// Bytes that may be given out still.
    left: Option<u64>,
    /// A record whose end has not been read.
    begun: Vec<u8>,
    /// The last record ended its line.
    line_ended: bool,
}

impl Records {
    pub(super) fn new(options: &LogOptions) -> Self {
        Self {
            since: options.since,
            stream: options.stream,
            timestamps: options.timestamps,
            left: options.limit_bytes,
            begun: Vec::new(),
            line_ended: true,
        }
    }

    /// Whether nothing more is wanted.
    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// What these bytes add.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        for line in &mut lines {
            let Some(whole) = line.strip_suffix(b"\n") else {
                if self.begun.len() < LONGEST {
                    self.begun.extend_from_slice(line);
                }
                break;
            };
            if self.begun.is_empty() {
                self.record(whole, &mut out);
            } else {
                let mut record = take(&mut self.begun);
                record.extend_from_slice(whole);
                self.record(&record, &mut out);
            }
        }
        out
    }

    /// What is left when nothing more comes.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let record = take(&mut self.begun);
        self.record(&record, &mut out);
        out
    }

    fn record(&mut self, record: &[u8], out: &mut Vec<u8>) {
        let mut fields = record.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(stream), Some(tag)) = (fields.next(), fields.next(), fields.next()) else {
            return;
        };
        let content = fields.next().unwrap_or_default();
        let Some(time) = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok())
        else {
            return;
        };
        let wanted = match stream {
            b"stdout" => self.stream != LogStream::Stderr,
            b"stderr" => self.stream != LogStream::Stdout,
            _ => return,
        };
        if !wanted || self.since.is_some_and(|since| time < since) {
            return;
        }
        let goes_on = tag.split(|byte| *byte == b':').next() == Some(b"P");
        let start = out.len();
        if self.timestamps && self.line_ended {
            // With all nine digits, so that lines stand below each other.
            out.extend_from_slice(format!("{time:.9} ").as_bytes());
        }
        out.extend_from_slice(content);
        if !goes_on {
            out.push(b'\n');
        }
        self.line_ended = !goes_on;
        if let Some(left) = &mut self.left {
            let added = out.len() - start;
            let most = usize::try_from(*left).unwrap_or(usize::MAX).min(added);
            out.truncate(start + most);
            *left -= most as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.5Z stdout F one\n2026-01-01T00:00:02.000000001Z stderr P two\n\
        2026-01-01T00:00:03Z stderr F  and\nnonsense\n2026-01-01T00:00:04+01:00 stdout F \n";

    fn read(options: &LogOptions, log: &str) -> String {
        let mut records = Records::new(options);
        let mut out = records.feed(log.as_bytes());
        out.extend(records.finish());
        // In whatever pieces it comes.
        for size in [1, 3, 7] {
            let mut records = Records::new(options);
            let mut other: Vec<u8> =
                log.as_bytes().chunks(size).flat_map(|piece| records.feed(piece)).collect();
            other.extend(records.finish());
            assert_eq!(other, out, "in pieces of {size}");
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn content_comes_out_and_lines_are_joined() {
        assert_eq!(read(&LogOptions::default(), LOG), "one\ntwo and\n\n");
        assert_eq!(
            read(&LogOptions { stream: LogStream::Stderr, ..LogOptions::default() }, LOG),
            "two and\n"
        );
        assert_eq!(read(&LogOptions { stream: LogStream::Stdout, ..LogOptions::default() }, LOG), "one\n\n");
    }

    #[test]
    fn times_stand_once_in_front_of_each_line() {
        let options = LogOptions { timestamps: true, ..LogOptions::default() };
        assert_eq!(
            read(&options, LOG),
            "2026-01-01T00:00:01.500000000Z one\n2026-01-01T00:00:02.000000001Z two and\n\
             2025-12-31T23:00:04.000000000Z \n"
        );
    }

    #[test]
    fn since_and_limit_cut() {
        let since = Some("2026-01-01T00:00:02.5Z".parse().unwrap());
        assert_eq!(read(&LogOptions { since, ..LogOptions::default() }, LOG), " and\n");
        for (limit, want) in [(1, "o"), (4, "one\n"), (6, "one\ntw"), (99, "one\ntwo and\n\n")] {
            let options = LogOptions { limit_bytes: Some(limit), ..LogOptions::default() };
            assert_eq!(read(&options, LOG), want);
        }
    }

    #[test]
    fn a_record_that_was_cut_off_is_told_at_the_end() {
        assert_eq!(read(&LogOptions::default(), "2026-01-01T00:00:01Z stdout F half"), "half\n");
        let mut records = Records::new(&LogOptions::default());
        assert!(records.feed(&vec![b'x'; 3 << 20]).is_empty());
        assert!(records.begun.len() <= 3 << 20);
    }
}
