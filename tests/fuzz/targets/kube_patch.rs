//! A pod and a patch, two JSON documents one after the other: a new object or an error, and the same again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use vaquita_schema::{encode, patch, type_of};

fuzz_target!(|data: &[u8]| {
    let mut documents = serde_json::Deserializer::from_slice(data).into_iter::<Value>();
    let (Some(Ok(object)), Some(Ok(change))) = (documents.next(), documents.next()) else { return };
    let Some(ty) = type_of("", "v1", "Pod") else { return };
    let _ = patch::json(&object, &change);
    let _ = patch::strategic(&object, &change, ty);
    if let Ok(merged) = patch::merge(&object, &change) {
        assert_eq!(patch::merge(&merged, &change).ok().as_ref(), Some(&merged));
        let text = encode::encode(&merged);
        assert_eq!(serde_json::from_slice::<Value>(&text).ok().map(|value| encode::encode(&value)), Some(text));
    }
});
