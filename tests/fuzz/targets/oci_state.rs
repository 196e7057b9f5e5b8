//! state.json of a container: any bytes are a record, which reads back as it was written, or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vaquita_oci::{Id, Record};

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = serde_json::from_slice::<Record>(data) {
        let text = serde_json::to_vec(&record).expect("what was read can be written");
        let again: Record = serde_json::from_slice(&text).expect("what was written can be read");
        assert_eq!(format!("{record:?}"), format!("{again:?}"));
    }
    if let Ok(text) = str::from_utf8(data)
        && let Ok(id) = Id::new(text)
    {
        assert!(!id.as_str().contains(['/', '\0']) && ![".", ".."].contains(&id.as_str()), "{id}");
    }
});
