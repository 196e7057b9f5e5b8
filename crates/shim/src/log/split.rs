//! Output into records.

use super::Timestamp;

/// The longest content of one record in bytes, as containerd has it (`max_container_log_line_size`).
pub const PART: usize = 16 * 1024;

/// Where a line came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Cuts what a container writes to one of its streams into records.
///
/// It holds back an unfinished line, of at most [`PART`] bytes, until the rest comes or the stream ends.
#[derive(Debug)]
pub struct Splitter {
    stream: Stream,
    pending: Vec<u8>,
}

/// Whole records on their way to the file, in memory that the caller provides.
#[derive(Debug)]
pub struct Batch<'a> {
    memory: &'a mut [u8],
    filled: usize,
}

impl Splitter {
    /// Nothing has come from this stream yet.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Which stream it cuts.
    #[must_use]
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// Cuts the front of `input` into records and returns how much of it was used up: all, unless `batch` is full,
    /// which must be written and emptied then before the rest is fed.
    pub fn feed(&mut self, now: &Timestamp, input: &[u8], batch: &mut Batch<'_>) -> usize {
        let full = Prefix::new(now, self.stream, b'F');
        let part = Prefix::new(now, self.stream, b'P');
        let mut rest = input;
        while !rest.is_empty() && batch.has_room() {
            let room = PART - self.pending.len();
            // One byte further than fits, because a line of exactly PART bytes is still a whole one.
            let window = &rest[..rest.len().min(room + 1)];
            if let Some(end) = memchr::memchr(b'\n', window) {
                batch.put(&full, &self.pending, &rest[..end]);
                self.pending.clear();
                rest = &rest[end + 1..];
            } else if rest.len() > room {
                batch.put(&part, &self.pending, &rest[..room]);
                self.pending.clear();
                rest = &rest[room..];
            } else {
                self.pending.extend_from_slice(rest);
                rest = &[];
            }
        }
        input.len() - rest.len()
    }

    /// The stream has ended: an unfinished line becomes a record with tag `P`. The batch must have room
    /// ([`Batch::has_room`]), else nothing happens.
    pub fn end(&mut self, now: &Timestamp, batch: &mut Batch<'_>) {
        if !self.pending.is_empty() && batch.has_room() {
            batch.put(&Prefix::new(now, self.stream, b'P'), &self.pending, &[]);
            self.pending = Vec::new();
        }
    }

    /// Gives back memory that an unfinished line no longer needs.
    pub fn shrink(&mut self) {
        self.pending.shrink_to_fit();
    }
}

impl<'a> Batch<'a> {
    /// The least memory in bytes that a batch can work with: one record of the greatest length.
    pub const LEAST: usize = Prefix::LENGTH + PART + 1;

    /// An empty batch in `memory`, which must be [`Self::LEAST`] bytes at least for anything to fit in.
    pub fn new(memory: &'a mut [u8]) -> Self {
        Self { memory, filled: 0 }
    }

    /// Whether the longest record still fits in.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.memory.len() - self.filled >= Self::LEAST
    }

    /// The records.
    #[must_use]
    pub fn records(&self) -> &[u8] {
        &self.memory[..self.filled]
    }

    /// Forgets the records.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    fn put(&mut self, prefix: &Prefix, head: &[u8], tail: &[u8]) {
        let length = Prefix::LENGTH + head.len() + tail.len() + 1;
        let record = &mut self.memory[self.filled..][..length];
        let (at, rest) = record.split_at_mut(Prefix::LENGTH);
        at.copy_from_slice(&prefix.0);
        let (at, rest) = rest.split_at_mut(head.len());
        at.copy_from_slice(head);
        let (at, rest) = rest.split_at_mut(tail.len());
        at.copy_from_slice(tail);
        rest[0] = b'\n';
        self.filled += length;
    }
}

/// What stands in front of the content.
struct Prefix([u8; Self::LENGTH]);

impl Prefix {
    const LENGTH: usize = Timestamp::LENGTH + " stdout F ".len();

    fn new(now: &Timestamp, stream: Stream, tag: u8) -> Self {
        let mut text = [b' '; Self::LENGTH];
        text[..Timestamp::LENGTH].copy_from_slice(now.as_bytes());
        text[Timestamp::LENGTH + 1..][..6].copy_from_slice(match stream {
            Stream::Stdout => b"stdout",
            Stream::Stderr => b"stderr",
        });
        text[Self::LENGTH - 2] = tag;
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const NOW: &str = "1970-01-01T00:00:00.000000000Z";

    #[test]
    fn lines_and_the_end() {
        assert_eq!(split(&[b"one\ntwo\r\n\nthree"]), ["F:one", "F:two\r", "F:", "P:three"]);
        assert_eq!(split(&[b"o", b"ne", b"\n", b"tw", b"o\n"]), ["F:one", "F:two"]);
        assert_eq!(split(&[b""]), [] as [&str; 0]);
        assert_eq!(split(&[b"\n"]), ["F:"]);
    }

    #[test]
    fn a_record_reads_as_the_format_says() {
        let mut memory = vec![0; Batch::LEAST];
        let mut batch = Batch::new(&mut memory);
        let now = Timestamp::from_unix_ns(1_475_713_029_669_794_202);
        assert_eq!(Splitter::new(Stream::Stderr).feed(&now, b"hi\xff\0\n", &mut batch), 5);
        assert_eq!(batch.records(), b"2016-10-06T00:17:09.669794202Z stderr F hi\xff\0\n");
    }

    #[test]
    fn long_lines_are_parts() {
        for (length, expected) in [
            (PART - 1, vec![('F', PART - 1)]),
            (PART, vec![('F', PART)]),
            (PART + 1, vec![('P', PART), ('F', 1)]),
            (3 * PART, vec![('P', PART), ('P', PART), ('F', PART)]),
        ] {
            let line = [&b"x".repeat(length)[..], b"\n"].concat();
            let shape: Vec<_> =
                split(&[&line]).iter().map(|r| (r.as_bytes()[0] as char, r.len() - 2)).collect();
            assert_eq!(shape, expected, "a line of {length}");
        }
    }

    #[test]
    fn the_last_part_without_an_end_is_told() {
        let records = split(&[&b"y".repeat(PART + 5)]);
        assert_eq!(
            records.iter().map(|r| (&r[..1], r.len() - 2)).collect::<Vec<_>>(),
            [("P", PART), ("P", 5)]
        );
    }

    proptest! {
        #[test]
        fn records_hold_exactly_the_output(chunks in vec(chunk(), 0..12)) {
            let chunks: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk[..]).collect();
            let records = split_bytes(&chunks);
            let mut output = Vec::new();
            for record in &records {
                prop_assert!(record.len() - 2 <= PART);
                output.extend_from_slice(&record[2..]);
                if record[0] == b'F' {
                    output.push(b'\n');
                }
            }
            prop_assert_eq!(&output, &chunks.concat());
            prop_assert_eq!(records, split_bytes(&[&output]), "how the output comes in must not matter");
        }
    }

    fn chunk() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..40),
            (0..40_000usize).prop_map(|length| vec![b'z'; length]),
            (PART - 2..PART + 2).prop_map(|length| [vec![b'z'; length], vec![b'\n']].concat()),
        ]
    }

    fn split(chunks: &[&[u8]]) -> Vec<String> {
        split_bytes(chunks).into_iter().map(|record| String::from_utf8(record).unwrap()).collect()
    }

    /// Tag, colon and content of each record.
    fn split_bytes(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::new(Stream::Stdout);
        let now = Timestamp::from_unix_ns(0);
        let mut memory = vec![0; Batch::LEAST + 100];
        let mut batch = Batch::new(&mut memory);
        let mut file = Vec::new();
        for chunk in chunks {
            let mut used = 0;
            while used < chunk.len() {
                used += splitter.feed(&now, &chunk[used..], &mut batch);
                file.extend_from_slice(batch.records());
                batch.clear();
            }
        }
        splitter.end(&now, &mut batch);
        file.extend_from_slice(batch.records());
        let lines = file.split_inclusive(|byte| *byte == b'\n');
        let prefix = format!("{NOW} stdout ");
        lines
            .map(|line| {
                let rest = line.strip_prefix(prefix.as_bytes()).unwrap().strip_suffix(b"\n").unwrap();
                [&rest[..1], b":", &rest[2..]].concat()
            })
            .collect()
    }
}
