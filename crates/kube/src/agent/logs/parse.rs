//! The CRI log format: `time stream tags content`, one record per line.

use jiff::Timestamp;

use crate::event::Stream;

/// A whole line of a container's output.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::agent) struct Line {
    /// When its first part was written.
    pub(in crate::agent) time: Option<Timestamp>,
    pub(in crate::agent) stream: Stream,
    pub(in crate::agent) text: String,
}

/// Bytes of a file go in, whole lines come out.
#[derive(Debug, Default)]
pub(in crate::agent) struct Lines {
    /// The beginning of a record whose end has not been read.
    record: Vec<u8>,
    /// Parts of lines, by stream: the two may be interleaved.
    partial: [Option<Part>; 2],
}

#[derive(Debug)]
struct Part {
    time: Option<Timestamp>,
    bytes: Vec<u8>,
}

/// A line without an end is told in pieces of this many bytes.
const LONGEST: usize = 1 << 20;

impl Lines {
    /// The lines that these bytes complete.
    pub(in crate::agent) fn feed(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = rest.split_at(end);
            rest = &tail[1..];
            if self.record.is_empty() {
                lines.extend(self.record(head));
            } else {
                let mut record = std::mem::take(&mut self.record);
                record.extend_from_slice(head);
                lines.extend(self.record(&record));
            }
        }
        if self.record.len() < LONGEST {
            self.record.extend_from_slice(rest);
        }
        lines
    }

    /// What is left when the file is complete: lines that never got their end.
    pub(in crate::agent) fn finish(&mut self) -> Vec<Line> {
        let record = std::mem::take(&mut self.record);
        let mut lines: Vec<Line> = self.record(&record).into_iter().collect();
        for (index, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            lines.extend(self.partial[index].take().map(|part| part.line(stream)));
        }
        lines
    }

    fn record(&mut self, record: &[u8]) -> Option<Line> {
        // A record that is none is skipped, as kubectl skips it.
        let mut fields = record.splitn(4, |byte| *byte == b' ');
        let time = fields.next().and_then(|time| std::str::from_utf8(time).ok()?.parse().ok());
        let (index, stream) = match fields.next()? {
            b"stdout" => (0, Stream::Stdout),
            b"stderr" => (1, Stream::Stderr),
            _ => return None,
        };
        let tag = fields.next()?.split(|byte| *byte == b':').next()?;
        let content = fields.next().unwrap_or_default();
        let part = self.partial[index].get_or_insert_with(|| Part { time, bytes: Vec::new() });
        part.bytes.extend_from_slice(content);
        if tag == b"P" && part.bytes.len() < LONGEST {
            return None;
        }
        self.partial[index].take().map(|part| part.line(stream))
    }
}

impl Part {
    fn line(self, stream: Stream) -> Line {
        Line { time: self.time, stream, text: String::from_utf8_lossy(&self.bytes).into_owned() }
    }
}
