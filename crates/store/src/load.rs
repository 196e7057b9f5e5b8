//! Rows of the log, and what they amount to.

use std::sync::Arc;

use bytes::Bytes;

use crate::file::{Log, Meta, Open, corrupt};
use crate::state::{Event, State, change};
use crate::{Change, Entry, Error, Key, What};

/// Opens a log and reads what there is.
pub(crate) fn load(open: Box<dyn Open>) -> Result<(Log, State), Error> {
    let name = open.name();
    let mut rows = Rows { last: 0, rows: Vec::new() };
    let (log, meta) = Log::open(open, |revision, bytes| rows.add(revision, bytes))?;
    let state = rows.state(meta).map_err(|error| error.context(format!("store {name}")))?;
    Ok((log, state))
}

/// A change as a row.
pub(crate) fn encode(event: &Event) -> Vec<u8> {
    let Event { change: Change { what, entry, .. }, time } = event;
    let key = entry.key.text().as_bytes();
    let mut row = Vec::with_capacity(HEAD + key.len() + entry.body.len());
    row.push(if *what == What::Deleted { DELETE } else { PUT });
    row.extend_from_slice(&time.to_le_bytes());
    // Parts of keys are bounded, so this holds them.
    row.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
    row.extend_from_slice(key);
    row.extend_from_slice(&entry.body);
    row
}

/// A row begins with what was done (1 byte), when (8, seconds since 1970) and the length of the key (2); then come key and body.
const HEAD: usize = 11;
const PUT: u8 = 1;
const DELETE: u8 = 2;

struct Row {
    entry: Entry,
    time: u64,
    is_deletion: bool,
}

/// What was read, by revision.
struct Rows {
    last: u64,
    rows: Vec<Row>,
}

impl Rows {
    fn add(&mut self, revision: u64, bytes: &[u8]) -> Result<(), Error> {
        self.last = revision;
        let row = decode(revision, bytes).ok_or_else(|| {
            corrupt(format!("the row of revision {revision} has another form than it should"))
        })?;
        self.rows.push(row);
        Ok(())
    }

    /// Does again what the rows tell.
    fn state(self, meta: Meta) -> Result<State, Error> {
        if meta.compacted > meta.revision || self.last > meta.revision {
            let Meta { revision, compacted } = meta;
            return Err(corrupt(format!(
                "its counters contradict one another: revision {revision}, compacted {compacted}, last row {}",
                self.last
            )));
        }
        let mut state = State::at(meta.compacted);
        for row in self.rows {
            let before = state.entry(&row.entry.key).cloned();
            let change = change(row.entry, before, row.is_deletion);
            let revision = change.entry.revision;
            if revision <= meta.compacted {
                state.restore(change.entry);
                continue;
            }
            if revision != state.revision + 1 {
                return Err(corrupt(format!("the row of revision {} is missing", state.revision + 1)));
            }
            state.apply(Event { change, time: row.time });
        }
        if state.revision != meta.revision {
            return Err(corrupt(format!("the row of revision {} is missing", meta.revision)));
        }
        Ok(state)
    }
}

fn decode(revision: u64, bytes: &[u8]) -> Option<Row> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let is_deletion = match head[0] {
        PUT => false,
        DELETE => true,
        _ => return None,
    };
    let time = u64::from_le_bytes(head[1..9].try_into().ok()?);
    let length = u16::from_le_bytes(head[9..11].try_into().ok()?);
    let (key, body) = rest.split_at_checked(length.into())?;
    let key = Arc::new(Key::parse(str::from_utf8(key).ok()?)?);
    Some(Row { entry: Entry { key, revision, body: Bytes::copy_from_slice(body) }, time, is_deletion })
}
